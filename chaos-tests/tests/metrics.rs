//! The daemons' metrics, and the trace of a command in their logs.

use chaos_tests::metrics::{NETMASTER_PORT, NETPLUGIN_PORT, metric};
use chaos_tests::{DnsClient, Outcome, Scene, WAIT_TIMEOUT};
use lab::{CTL, wait_until};
use serde_json::Value;

#[test]
fn events_are_counted_by_the_daemon_concerned() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let on_node = |name| metric(lab, "node-1", NETPLUGIN_PORT, name, "");
    let created = |result: &str| {
        let labels = format!(r#"noun="net",verb="create",result="{result}""#);
        metric(
            lab,
            CTL,
            NETMASTER_PORT,
            "contiv_master_command_seconds_count",
            &labels,
        )
    };
    assert_eq!(created("accepted")?, 1.0);
    let refused = lab.netctl(&["net", "create", "other", "--subnet=20.1.1.0/25"])?;
    assert_eq!(refused.status, 1, "{refused:?}");
    assert_eq!(created("rejected")?, 1.0);

    wait_until("the status is reported", WAIT_TIMEOUT, || {
        on_node("contiv_node_endpoints").is_ok_and(|it| it == 1.0)
    })?;
    assert_eq!(on_node("contiv_node_in_sync")?, 1.0);
    assert_eq!(
        on_node("contiv_node_drift_total")?,
        0.0,
        "our own changes are no drift"
    );
    let end = metric(
        lab,
        CTL,
        NETMASTER_PORT,
        "contiv_master_applied_revision",
        "",
    )?;
    wait_until(
        "the node has applied what netmaster has read",
        WAIT_TIMEOUT,
        || on_node("contiv_node_applied_revision").is_ok_and(|it| it >= end),
    )?;

    assert!(lab.ping("web", "machine.lab")?);
    for direction in ["out", "in"] {
        let labels = format!(r#"tenant="default",direction="{direction}""#);
        wait_until("the packet is counted", WAIT_TIMEOUT, || {
            let name = "contiv_node_uplink_packets_total";
            let packets = metric(lab, "node-1", NETPLUGIN_PORT, name, &labels);
            packets.is_ok_and(|it| it > 0.0)
        })?;
    }
    assert_eq!(on_node("contiv_node_uplink_addresses_free")?, 131_070.0);

    let delete = "for n in /run/netns/contiv-*; do nsenter --net=$n ip route flush proto 201; done; \
                  ip route flush table all proto 201; true";
    lab.run("node-1", &["sh", "-c", delete])?;
    wait_until("the drift is counted", WAIT_TIMEOUT, || {
        on_node("contiv_node_drift_total").is_ok_and(|it| it > 0.0)
    })?;
    Ok(())
}

#[test]
fn messages_to_a_name_server_are_counted_by_outcome() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let messages = |outcome: &str| {
        let labels = format!(r#"outcome="{outcome}""#);
        let name = "contiv_node_dns_messages_total";
        metric(lab, "node-1", NETPLUGIN_PORT, name, &labels)
    };
    let web = DnsClient::new(lab, "web")?;
    assert_eq!(web.addresses("web"), [scene.web.address.to_string()]);
    assert!(!web.addresses("machine.lab").is_empty());
    let garbage = "for n in 1 2 3; do echo no question > /dev/udp/169.254.53.53/53; done";
    lab.exec_in("web", &["bash", "-c", garbage])?;
    for (outcome, least) in [("answered", 1.0), ("forwarded", 1.0), ("malformed", 3.0)] {
        wait_until(&format!("{outcome} is counted"), WAIT_TIMEOUT, || {
            messages(outcome).is_ok_and(|it| it >= least)
        })?;
    }
    let shown = lab.netctl_ok(&["node", "inspect", "node-1"])?;
    assert!(shown.contains("malformed"), "{shown}");
    Ok(())
}

#[test]
fn command_is_found_in_the_logs_by_its_id() -> Outcome {
    let mut scene = Scene::open()?;
    let arguments = ["run", "--name", "netmaster-1", "--log-format", "json"];
    scene
        .lab
        .set_arguments("netmaster-1", arguments.map(str::to_owned).to_vec())?;
    scene.lab.restart("netmaster-1", lab::Signal::Term)?;
    scene.lab.await_netmaster("netmaster-1")?;
    let id = "7f2c1bfe-0f3a-4c36-9d6e-4c1f0b8f6a11";
    let create = [
        "net",
        "create",
        "other",
        "--subnet=20.1.2.0/24",
        "--command-id",
        id,
    ];
    scene.lab.netctl_ok(&create)?;
    let log = scene.lab.log("netmaster-1")?;
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let told: Vec<Value> = lines.filter(|line| line["span"]["command"] == id).collect();
    assert!(
        told.iter()
            .any(|line| line["message"] == "accepted" && line["revision"].is_string()),
        "{log}"
    );
    Ok(())
}
