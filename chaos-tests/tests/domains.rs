//! Both kinds of domains on a kernel that has both: the choice, a mixed cluster, and a change.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, invariant, sh};
use lab::{Lab, Signal, wait_until};

/// Restarts the node's netplugin with another `--domain`.
fn move_to(lab: &mut Lab, node: &str, kind: &str) -> Outcome {
    lab.set_domain(node, kind)?;
    lab.restart(&format!("netplugin@{node}"), Signal::Term)?;
    lab.await_node(node)
}

/// Creates foreign objects with names similar to ours.
const CREATE_FOREIGN_OBJECTS: &str = "ip link add vrf-mine type vrf table 77 && ip link add cx-mine type bridge && \
                      ip netns add mine && nft add table inet mine && \
                      nft add chain inet mine contiv && ip route add 192.0.2.0/24 dev cx-mine || true";
const FOREIGN_OBJECTS_EXIST: &str = "ip link show vrf-mine && ip link show cx-mine && ip netns exec mine true && \
                                nft list chain inet mine contiv";

#[test]
fn auto_uses_vrf_devices_if_the_kernel_has_them_and_reports_it() -> Outcome {
    let mut scene = Scene::open()?;
    let has_vrf = sh(
        &scene.lab,
        "node-1",
        "ip link add probe type vrf table 99 && ip link del probe",
    );
    move_to(&mut scene.lab, "node-1", "auto")?;
    let kind = if has_vrf { "vrf" } else { "netns" };
    assert_eq!(scene.lab.domain("node-1")?, kind);
    wait_until("netmaster shows it", WAIT_TIMEOUT, || {
        let said = scene.lab.netctl_ok(&["node", "inspect", "node-1"]);
        said.is_ok_and(|said| said.contains(kind))
    })
}

#[test]
fn node_moves_between_kinds_and_both_work_in_one_cluster() -> Outcome {
    let mut scene = Scene::open()?;
    if scene.lab.domain("node-2")? != "vrf" {
        return Ok(());
    }
    let lab = &mut scene.lab;
    lab.netctl_ok(&["policy", "create", "p"])?;
    let deny = ["-direction=in", "-protocol=tcp", "-port=81", "-action=deny"];
    lab.netctl_ok(&[&["policy", "rule-add", "p", "1"], &deny[..]].concat())?;
    lab.netctl_ok(&["group", "create", "contiv-net", "g", "-policy=p"])?;
    lab.run_workload_with("node-2", "contiv-net", "member", &["--group", "g"])?;
    assert!(sh(lab, "node-2", CREATE_FOREIGN_OBJECTS));
    for (kind, other) in [("netns", "vrf"), ("vrf", "netns")] {
        move_to(&mut scene.lab, "node-2", kind)?;
        let lab = &scene.lab;
        assert_eq!(lab.domain("node-2")?, kind);
        assert_eq!(lab.domain("node-1")?, "vrf");
        wait_until(
            "the workloads reach each other across both kinds",
            WAIT_TIMEOUT,
            || scene.pings_both_ways().is_ok_and(|talks| talks),
        )?;
        assert!(lab.ping("web", "db")? && lab.ping("db", "web")?, "by name");
        let member = lab.address_of("member")?.to_string();
        let _servers = [lab.listen("member", 80)?, lab.listen("member", 81)?];
        assert!(lab.connects("web", &member, 80)?);
        assert!(!lab.connects("web", &member, 81)?, "the rules hold");
        assert!(!lab.connects("db", &member, 81)?, "on the node itself, too");
        let vrfs = "ip -br link show type vrf | grep -q ^cd";
        let namespaces = "ip netns | grep -q ^contiv-";
        for (of, there) in [("vrf", vrfs), ("netns", namespaces)] {
            assert_eq!(sh(lab, "node-2", there), of != other, "{of} in {kind}");
        }
        assert!(
            sh(lab, "node-2", FOREIGN_OBJECTS_EXIST),
            "others' are untouched"
        );
        invariant::converged(lab)?;
        let alarms = lab.alarms("node-2")?;
        assert!(!alarms.iter().any(|it| it == "datapath"), "{alarms:?}");
    }
    Ok(())
}
