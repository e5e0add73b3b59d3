//! Reverted drift is counted, shown and published; drift without a notification is found by the resync.

use std::time::Duration;

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, sh};
use lab::{Error, Lab, Spec, wait_until};
use serde_json::Value;

/// The number of reverted drifts of a kind on node-1.
fn healed(lab: &Lab, kind: &str) -> Result<u64, Error> {
    let text = lab.netctl_ok(&["node", "inspect", "node-1"])?;
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let kinds = &value["Oper"]["healed"]["kinds"];
    Ok(kinds[kind].as_u64().unwrap_or_default())
}

const FLUSH_ROUTES: &str = "ip -n contiv-default route flush proto 201";
const ROUTES_EXIST: &str = "ip -n contiv-default route show proto 201 | grep -q 'dev cv' && \
     ip -n contiv-default route show proto 201 | grep -q 'dev cx'";

#[test]
fn healed_drift_is_counted_shown_and_published() -> Outcome {
    let mut scene = Scene::open()?;
    // Our own changes are no drift.
    scene.lab.run_workload("node-1", "contiv-net", "more")?;
    scene.lab.remove_workload("more")?;
    assert_eq!(healed(&scene.lab, "route")?, 0);
    assert!(sh(&scene.lab, "node-1", FLUSH_ROUTES));
    let lab = &scene.lab;
    wait_until("the routes are counted", WAIT_TIMEOUT, || {
        healed(lab, "route").is_ok_and(|count| count >= 2)
    })?;
    assert!(sh(lab, "node-1", ROUTES_EXIST));
    let inspected = lab.netctl_ok(&["node", "inspect", "node-1"])?;
    let inspected: Value = serde_json::from_str(&inspected).unwrap_or_default();
    let told = &inspected["Oper"]["healed"];
    assert!(
        told["last"]
            .as_str()
            .is_some_and(|it| it.contains("20.1.1.")),
        "{told}"
    );
    assert!(
        told["lastTime"]
            .as_str()
            .is_some_and(|it| it.ends_with('Z')),
        "{told}"
    );
    wait_until("events shows it", WAIT_TIMEOUT, || {
        let tail = lab.netctl(&["events"]);
        tail.is_ok_and(|tail| tail.stdout.contains("node-healed        node-1: "))
    })
}

#[test]
fn resync_finds_drift_that_the_monitor_missed() -> Outcome {
    let deaf = Spec::test(2).node_flags(&["--no-monitor", "--resync", "2"]);
    let scene = Scene::of(&deaf)?;
    let deeds = [
        ("route", FLUSH_ROUTES, ROUTES_EXIST),
        (
            "fdb",
            "for m in $(bridge -n contiv-default fdb show dev cx1 | awk '/dst/ {print $1}'); do \
             bridge -n contiv-default fdb del $m dev cx1; done",
            "bridge -n contiv-default fdb show dev cx1 | grep -q dst",
        ),
        (
            // The kernel sends no notification of settings.
            "setting",
            "ip netns exec contiv-default sysctl -qw net.ipv4.ip_forward=0",
            "test $(ip netns exec contiv-default sysctl -n net.ipv4.ip_forward) = 1",
        ),
        (
            "device",
            "ip -n contiv-default link del cx1",
            "ip -n contiv-default link show cx1 | grep -q ,UP",
        ),
    ];
    for (kind, deed, well) in deeds {
        assert!(sh(&scene.lab, "node-1", well), "before: {well}");
        assert!(sh(&scene.lab, "node-1", deed), "{deed}");
        wait_until(deed, WAIT_TIMEOUT, || sh(&scene.lab, "node-1", well))?;
        wait_until("it is counted", WAIT_TIMEOUT, || {
            healed(&scene.lab, kind).is_ok_and(|count| count >= 1)
        })?;
    }
    assert!(scene.pings_both_ways()?);
    let log = scene.lab.log_tail("netplugin@node-1");
    assert!(
        !log.contains("another program changed"),
        "it was heard: {log}"
    );
    Ok(())
}

#[test]
fn underlay_may_go_down_and_up() -> Outcome {
    let scene = Scene::open()?;
    let silent = || scene.pings_both_ways().is_ok_and(|talks| !talks);
    let talking = || scene.pings_both_ways().is_ok_and(|talks| talks);
    assert!(talking());
    assert!(sh(&scene.lab, "node-1", "ip link set eth0 down"));
    wait_until("the workloads don't reach each other", WAIT_TIMEOUT, silent)?;
    assert!(sh(&scene.lab, "node-1", "ip link set eth0 up"));
    wait_until(
        "the workloads reach each other again",
        Duration::from_secs(10),
        talking,
    )
}

#[test]
fn renamed_device_gets_its_name_back() -> Outcome {
    let scene = Scene::open()?;
    let port = "$(ip -n contiv-default -o link show type veth | grep -o 'cv[0-9a-f]*' | head -1)";
    let name = scene
        .lab
        .run("node-1", &["sh", "-c", &format!("echo -n {port}")])?;
    let name = name.stdout;
    for device in ["cx1", &name] {
        let is_up = format!("ip -n contiv-default link show {device} | grep -q ,UP");
        assert!(sh(&scene.lab, "node-1", &is_up), "before: {is_up}");
        let deed = format!(
            "ip -n contiv-default link set {device} down && \
             ip -n contiv-default link set {device} name other0"
        );
        assert!(sh(&scene.lab, "node-1", &deed), "{deed}");
        wait_until(&deed, Duration::from_secs(10), || {
            sh(&scene.lab, "node-1", &is_up)
        })?;
        assert!(!sh(
            &scene.lab,
            "node-1",
            "ip -n contiv-default link show other0"
        ));
        wait_until("the workloads reach each other again", WAIT_TIMEOUT, || {
            scene.pings_both_ways().is_ok_and(|talks| talks)
        })?;
    }
    Ok(())
}
