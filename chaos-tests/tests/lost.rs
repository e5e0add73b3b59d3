//! Nodes that are cut off, removed as lost, or come back.

use std::time::{Duration, Instant};

use chaos_tests::{DnsAnswer, DnsClient, Outcome, Scene, WAIT_TIMEOUT, invariant};
use lab::{Lab, wait_until};

fn is(lab: &Lab, node: &str, state: &str) -> bool {
    lab.log_state(node).is_ok_and(|now| now == state)
}

#[test]
fn node_cut_off_notices_continues_and_comes_back() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.partition(&["node-2"], &["ctl"])?;
    let cut = Instant::now();
    wait_until("node-2 notices the silence", WAIT_TIMEOUT, || {
        is(&scene.lab, "node-2", "disconnected")
    })?;
    // A node is silent after 3 s, and each request for its status takes 1 s.
    assert!(
        cut.elapsed() < Duration::from_secs(8),
        "{:?}",
        cut.elapsed()
    );
    assert!(scene.pings_both_ways()?);
    let more = scene.lab.run_workload("node-2", "contiv-net", "more")?;
    assert!(scene.lab.ping("web", &more.address.to_string())?);

    scene.lab.repair()?;
    let mended = Instant::now();
    invariant::converged(&scene.lab)?;
    assert!(
        mended.elapsed() < Duration::from_secs(12),
        "{:?}",
        mended.elapsed()
    );
    wait_until(
        "containers started meanwhile have names",
        WAIT_TIMEOUT,
        || scene.lab.ping("web", "more").unwrap_or(false),
    )
}

#[test]
fn lost_node_that_comes_back_closes_reassigned_endpoints() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.kill("netplugin@node-2")?;
    wait_until(
        "the node is taken for dead and removed",
        WAIT_TIMEOUT,
        || {
            let removed = scene.lab.netctl(&["node", "rm", "node-2", "--lost"]);
            removed.is_ok_and(|removed| removed.success())
        },
    )?;
    wait_until("node-1 has no route to it any more", WAIT_TIMEOUT, || {
        scene.pings_both_ways().is_ok_and(|talks| !talks)
    })?;
    // Its addresses may belong to other nodes by now.
    let inherits = ["--ip", &scene.db.address.to_string()];
    let heir = scene
        .lab
        .run_workload_with("node-1", "contiv-net", "heir", &inherits)?;
    let web = DnsClient::new(&scene.lab, "web")?;
    assert_eq!(web.addresses("heir"), [heir.address.to_string()]);
    scene.lab.start("netplugin@node-2")?;
    wait_until("node-2 shows what it closed", WAIT_TIMEOUT, || {
        let alarms = scene.lab.alarms("node-2");
        alarms.is_ok_and(|codes| codes.iter().any(|code| code == "block-revoked"))
    })?;
    invariant::converged(&scene.lab)?;
    assert!(scene.lab.ping("web", &heir.address.to_string())?);
    wait_until(
        "db is known, and no address of it is told",
        WAIT_TIMEOUT,
        || web.ask("db") == DnsAnswer::Addresses(Vec::new()),
    )?;
    assert_eq!(web.addresses("heir"), [heir.address.to_string()]);
    let to_heir = ["dns", "query", &heir.address.to_string(), "--from", "web"];
    assert!(scene.lab.netctl_ok(&to_heir)?.contains("heir.contiv-net"));

    scene.lab.remove_workload("db")?;
    scene.db = scene.lab.run_workload("node-2", "contiv-net", "db")?;
    wait_until("it is reached again", WAIT_TIMEOUT, || {
        scene.pings_both_ways().is_ok_and(|talks| talks)
    })?;
    assert_eq!(web.addresses("db"), [scene.db.address.to_string()]);
    wait_until("the alarm is over", WAIT_TIMEOUT, || {
        scene
            .lab
            .alarms("node-2")
            .is_ok_and(|codes| codes.is_empty())
    })
}
