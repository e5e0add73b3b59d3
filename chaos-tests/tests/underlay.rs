//! The underlay's address changes under a running node.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, sh};
use lab::wait_until;

#[test]
fn node_reports_a_new_underlay_address_and_follows_it() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let old = lab.address("node-1")?.to_string();
    let prefix = old.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    let new = format!("{prefix}.112");
    // A second address, such as one of keepalived, doesn't change the underlay.
    let second = format!("ip addr add {prefix}.200/32 dev eth0");
    lab.run("node-1", &["sh", "-c", &second])?;
    let gone = format!("ip addr del {old}/24 dev eth0");
    lab.run("node-1", &["sh", "-c", &gone])?;
    wait_until("status shows the alarm", WAIT_TIMEOUT, || {
        let shown = lab.netctl(&["status"]);
        shown.is_ok_and(|it| {
            it.status == 1
                && it
                    .stdout
                    .contains("wrong    node node-1 underlay-address: ")
        }) || lab
            .status("node-1")
            .is_ok_and(|it| it["vtep"] != old.as_str())
    })?;
    let given = format!("ip addr del {prefix}.200/32 dev eth0; ip addr add {new}/24 dev eth0");
    lab.run("node-1", &["sh", "-c", &given])?;
    wait_until("packets pass by the new address", WAIT_TIMEOUT, || {
        lab.status("node-1")
            .is_ok_and(|it| it["vtep"] == new.as_str())
            && scene.pings_both_ways().is_ok_and(|talks| talks)
    })?;
    wait_until("no alarm is left", WAIT_TIMEOUT, || {
        lab.netctl(&["status"]).is_ok_and(|it| it.success())
    })?;
    let smaller = "ip link set eth0 mtu 1400";
    for node in ["node-1", "node-2"] {
        lab.run(node, &["sh", "-c", smaller])?;
    }
    let follows = "ip -n contiv-default link show cx1 | grep -q 'mtu 1350'";
    wait_until("the VTEPs have the new MTU", WAIT_TIMEOUT, || {
        sh(lab, "node-1", follows) && sh(lab, "node-2", follows)
    })?;
    // A container keeps its MTU, at both ends of its veth.
    let kept = "ip -n contiv-default -o link | grep 'cv[0-9a-f]*' | grep -q 'mtu 1450'";
    assert!(sh(lab, "node-1", kept));
    let full = format!("ping -c 1 -W 5 -M dont -s 1422 {}", scene.db.address);
    wait_until("full packets pass", WAIT_TIMEOUT, || {
        let ping = lab.exec_in("web", &full.split(' ').collect::<Vec<_>>());
        ping.is_ok_and(|it| it.success())
    })
}
