//! Nodes that are drained, leave, or are removed while their netplugin runs.

use std::time::Instant;

use chaos_tests::{DnsAnswer, DnsClient, Outcome, Scene, WAIT_TIMEOUT, invariant, two_nodes};
use lab::{Lab, Signal, wait_until};

fn log_state_is(lab: &Lab, node: &str, state: &str) -> bool {
    lab.log_state(node).is_ok_and(|now| now == state)
}

/// Runs `netctl`, which must be refused, and returns the error text.
fn refused(lab: &Lab, typed: &[&str]) -> Result<String, lab::Error> {
    let output = lab.netctl(typed)?;
    assert!(!output.success(), "{typed:?}: {output:?}");
    Ok(output.stderr)
}

/// Tries an attach on node-2, which must be refused, and returns the error text.
fn refused_attach(lab: &mut Lab) -> Result<String, lab::Error> {
    let output = lab.try_workload("node-2", "contiv-net", "more", &[])?;
    assert!(!output.success(), "{output:?}");
    Ok(output.stderr)
}

fn state_of(lab: &Lab, node: &str) -> Result<String, lab::Error> {
    let listed = lab.netctl_ok(&["node", "ls", "-o", "json"])?;
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let nodes = listed.as_array().expect("nodes").iter();
    let of = |it: &&serde_json::Value| it["nodeName"] == node;
    let found = nodes.clone().find(of).map(|it| {
        let words = ["alive", "drained", "left"].into_iter();
        let words: Vec<&str> = words.filter(|word| it["Oper"][*word] == true).collect();
        words.join(" ")
    });
    Ok(found.unwrap_or_default())
}

#[test]
fn drained_node_keeps_endpoints_accepts_none_and_is_uncordoned() -> Outcome {
    let mut scene = Scene::open()?;
    let drained = scene.lab.netctl_ok(&["node", "drain", "node-2"])?;
    assert!(
        drained.contains("db") && !drained.contains("web"),
        "{drained}"
    );
    assert_eq!(state_of(&scene.lab, "node-2")?, "alive drained");
    invariant::converged(&scene.lab)?;
    let refusal = refused_attach(&mut scene.lab)?;
    assert!(refusal.contains("netctl node uncordon node-2"), "{refusal}");
    // Restarts of netmaster and netplugin keep the drain, and endpoints continue.
    scene.lab.restart("netmaster-1", Signal::Kill)?;
    scene.lab.await_netmaster("netmaster-1")?;
    scene.lab.restart("netplugin@node-2", Signal::Kill)?;
    scene.lab.await_node("node-2")?;
    assert!(scene.pings_both_ways()?);
    assert_eq!(state_of(&scene.lab, "node-2")?, "alive drained");
    invariant::converged(&scene.lab)?;
    let refusal = refused(&scene.lab, &["node", "rm", "node-2"])?;
    assert!(refusal.contains("db (20.1.1."), "{refusal}");
    assert_eq!(state_of(&scene.lab, "node-2")?, "alive drained");

    let wait = ["node", "drain", "node-2", "--wait", "--timeout", "1s"];
    let refusal = refused(&scene.lab, &wait)?;
    assert!(refusal.contains("db (default:contiv-net)"), "{refusal}");
    scene.lab.remove_workload("db")?;
    let begun = Instant::now();
    let wait = ["node", "drain", "node-2", "--wait", "--timeout", "1m"];
    let done = scene.lab.netctl_ok(&wait)?;
    assert!(done.contains("no endpoint runs on node node-2"), "{done}");
    assert!(begun.elapsed() < WAIT_TIMEOUT, "{:?}", begun.elapsed());

    scene.lab.netctl_ok(&["node", "uncordon", "node-2"])?;
    invariant::converged(&scene.lab)?;
    let again = scene.lab.run_workload("node-2", "contiv-net", "again");
    again.map(drop)
}

#[test]
fn removed_live_node_stays_out_until_it_is_restarted() -> Outcome {
    let mut scene = Scene::open()?;
    let refusal = refused(&scene.lab, &["node", "rm", "node-2"])?;
    assert!(refusal.contains("db (20.1.1."), "{refusal}");
    assert_eq!(state_of(&scene.lab, "node-2")?, "alive", "undrained again");
    scene.lab.remove_workload("db")?;
    scene.lab.netctl_ok(&["node", "rm", "node-2"])?;
    wait_until("the node has read its removal", WAIT_TIMEOUT, || {
        log_state_is(&scene.lab, "node-2", "removed")
    })?;
    let text = scene.lab.status("node-2")?.to_string();
    assert!(text.contains("restart its netplugin"), "{text}");
    let refusal = refused_attach(&mut scene.lab)?;
    assert!(
        refusal.contains("was removed from the cluster"),
        "{refusal}"
    );

    scene.lab.restart("nats", Signal::Kill)?;
    scene.lab.await_bus()?;
    scene.lab.await_netmaster("netmaster-1")?;
    chaos_tests::create(&scene.lab, "later", "20.2.1.0/24")?;
    scene.lab.netctl_ok(&["wait", "--converged"])?;
    assert_eq!(state_of(&scene.lab, "node-2")?, "", "it stays out");
    assert!(log_state_is(&scene.lab, "node-2", "removed"));

    scene.lab.restart("netplugin@node-2", Signal::Term)?;
    scene.lab.await_node("node-2")?;
    scene.db = scene.lab.run_workload("node-2", "contiv-net", "db")?;
    assert_eq!(state_of(&scene.lab, "node-2")?, "alive");
    wait_until("the workload is reachable again", WAIT_TIMEOUT, || {
        scene.pings_both_ways().unwrap_or(false)
    })?;
    invariant::converged(&scene.lab)
}

#[test]
fn node_removed_as_lost_during_a_partition_closes_its_endpoints() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.partition(&["node-2"], &["ctl"])?;
    wait_until(
        "the node is taken for dead and removed",
        WAIT_TIMEOUT,
        || {
            let removed = scene.lab.netctl(&["node", "rm", "node-2", "--lost"]);
            removed.is_ok_and(|removed| removed.success())
        },
    )?;
    scene.lab.repair()?;
    wait_until("the node has read its removal", WAIT_TIMEOUT, || {
        log_state_is(&scene.lab, "node-2", "removed")
    })?;
    wait_until("its endpoint is closed", WAIT_TIMEOUT, || {
        let alarms = scene.lab.alarms("node-2");
        let closed = alarms.is_ok_and(|it| it.iter().any(|code| code == "block-revoked"));
        closed
            && scene
                .lab
                .ping("db", &scene.web.address.to_string())
                .is_ok_and(|it| !it)
    })?;
    let web = DnsClient::new(&scene.lab, "web")?;
    wait_until("its name is withdrawn", WAIT_TIMEOUT, || {
        !matches!(web.ask("db"), DnsAnswer::Addresses(_))
    })?;
    scene.lab.netctl_ok(&["wait", "--converged"])?;
    assert_eq!(state_of(&scene.lab, "node-2")?, "");
    scene.lab.restart("netplugin@node-2", Signal::Term)?;
    scene.lab.await_node("node-2")?;
    scene.lab.remove_workload("db")?;
    scene.db = scene.lab.run_workload("node-2", "contiv-net", "db")?;
    wait_until("the workload is reachable again", WAIT_TIMEOUT, || {
        scene.pings_both_ways().unwrap_or(false)
    })
}

#[test]
fn node_that_left_and_stopped_blocks_no_wait_and_is_removed() -> Outcome {
    let mut lab = two_nodes()?;
    chaos_tests::create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.run_workload("node-2", "contiv-net", "db")?;
    let left = lab.run("node-2", &["netplugin", "leave"])?.stdout;
    assert!(left.contains("db: endpoint"), "{left}");
    assert_eq!(state_of(&lab, "node-2")?, "alive left");
    let refusal = refused_attach(&mut lab)?;
    assert!(refusal.contains("has left the cluster"), "{refusal}");
    // It publishes no endpoint, so it must be asked for them.
    let drained = lab.netctl_ok(&["node", "drain", "node-2"])?;
    assert!(drained.contains("doesn't publish them: db ("), "{drained}");
    lab.netctl_ok(&["node", "uncordon", "node-2"])?;
    // A new connection doesn't end the state.
    lab.restart("nats", Signal::Kill)?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    invariant::converged(&lab)?;
    assert_eq!(state_of(&lab, "node-2")?, "alive left");

    lab.remove_workload("db")?;
    let left = lab.run("node-2", &["netplugin", "leave"])?.stdout;
    assert!(
        !left.contains("endpoint ") && !left.contains("still holds"),
        "{left}"
    );
    lab.stop("netplugin@node-2", Signal::Term)?;
    wait_until("it is silent", WAIT_TIMEOUT, || {
        state_of(&lab, "node-2").is_ok_and(|state| state == "left")
    })?;
    assert!(lab.netctl(&["status"])?.success());
    let waited = lab.netctl(&["wait", "--converged"])?;
    assert!(waited.success() && waited.stderr.is_empty(), "{waited:?}");
    lab.netctl_ok(&["node", "rm", "node-2"])?;
    lab.start("netplugin@node-2")?;
    lab.await_node("node-2")?;
    assert_eq!(state_of(&lab, "node-2")?, "alive");
    lab.run_workload("node-2", "contiv-net", "db").map(drop)
}

/// Starts node-2's netplugin again while no netmaster runs.
fn start_without_netmaster(lab: &mut Lab) -> Outcome {
    lab.stop("netmaster-1", Signal::Term)?;
    lab.restart("netplugin@node-2", Signal::Term)?;
    wait_until("it follows the log as a member", WAIT_TIMEOUT, || {
        log_state_is(lab, "node-2", "in-sync")
    })?;
    lab.start("netmaster-1")?;
    lab.await_netmaster("netmaster-1")
}

#[test]
fn node_started_without_netmaster_is_removed_and_stays_out_until_it_is_restarted() -> Outcome {
    let mut lab = two_nodes()?;
    chaos_tests::create(&lab, "contiv-net", "20.1.1.0/24")?;
    start_without_netmaster(&mut lab)?;
    lab.netctl_ok(&["node", "rm", "node-2"])?;
    wait_until("the node has read its removal", WAIT_TIMEOUT, || {
        log_state_is(&lab, "node-2", "removed")
    })?;
    lab.restart("nats", Signal::Kill)?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    chaos_tests::create(&lab, "later", "20.2.1.0/24")?;
    lab.netctl_ok(&["wait", "--converged"])?;
    assert_eq!(state_of(&lab, "node-2")?, "", "it stays out");

    lab.restart("netplugin@node-2", Signal::Term)?;
    lab.await_node("node-2")?;
    start_without_netmaster(&mut lab)?;
    lab.run("node-2", &["netplugin", "leave"])?;
    lab.restart("nats", Signal::Kill)?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    wait_until("the node is alive", WAIT_TIMEOUT, || {
        state_of(&lab, "node-2").is_ok_and(|state| state.contains("alive"))
    })?;
    invariant::converged(&lab)?;
    assert_eq!(state_of(&lab, "node-2")?, "alive left");
    Ok(())
}
