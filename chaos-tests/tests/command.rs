//! `netctl command show` follows a command to every node's kernel.

use chaos_tests::{Outcome, WAIT_TIMEOUT, two_nodes};
use lab::{Error, Lab, Signal, wait_until};
use serde_json::Value;

fn show(lab: &Lab, id: &str) -> Result<Value, Error> {
    let text = lab.netctl_ok(&["command", "show", id, "-o", "json"])?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// The progress on one node.
fn on<'a>(shown: &'a Value, node: &str) -> &'a Value {
    let nodes = shown["nodes"].as_array();
    let mut nodes = nodes.into_iter().flatten();
    nodes.find(|it| it["node"] == node).unwrap_or(&Value::Null)
}

/// The note of one node; empty while there is none.
fn note(lab: &Lab, id: &str, node: &str) -> String {
    let shown = show(lab, id).unwrap_or_default();
    let note = on(&shown, node)["note"].as_str();
    note.unwrap_or_default().to_owned()
}

#[test]
fn command_is_followed_to_the_last_kernel() -> Outcome {
    let mut lab = two_nodes()?;
    let create = ["net", "create", "net", "--subnet=20.1.1.0/24"];
    let said = lab.netctl_ok(&create)?;
    let id = said
        .split_whitespace()
        .last()
        .unwrap_or_default()
        .to_owned();
    lab.run_workload("node-1", "net", "web")?;
    let shown = show(&lab, &id)?;
    assert_eq!(shown["decidedBy"], "netmaster-1", "{shown}");
    let kinds = shown["events"].as_array().cloned().unwrap_or_default();
    assert!(
        kinds.iter().any(|it| it["kind"] == "network-created"),
        "{shown}"
    );
    for node in ["node-1", "node-2"] {
        let progress = on(&shown, node);
        let applied = progress["appliedMilliseconds"].as_f64();
        // The machine has one clock, and the log's server has the event before a node can apply it.
        assert!(
            applied.is_some_and(|ms| (0.0..10_000.0).contains(&ms)),
            "{shown}"
        );
        assert!(progress["readMilliseconds"].as_f64() <= applied, "{shown}");
        assert_eq!(progress["note"], "", "{shown}");
    }
    let table = lab.netctl_ok(&["command", "show", &id])?;
    for says in [
        "decided ",
        " by netmaster-1",
        "in the log after ",
        "network-created",
        "node-2",
    ] {
        assert!(table.contains(says), "{says}: {table}");
    }

    let unknown = lab.netctl(&["command", "show", "0198c5a2-8f2e-7d31-b2a4-4f0a52b8f1d7"])?;
    assert_eq!(unknown.status, 1);
    assert!(
        unknown.stderr.contains("no event in the log has the id"),
        "{}",
        unknown.stderr
    );
    assert_eq!(lab.netctl(&["command", "show", "nonsense"])?.status, 64);

    // A netplugin that was restarted doesn't remember the command.
    lab.stop("netplugin@node-1", Signal::Term)?;
    lab.start("netplugin@node-1")?;
    lab.await_node("node-1")?;
    wait_until("node-1 doesn't remember", WAIT_TIMEOUT, || {
        note(&lab, &id, "node-1").contains("before netplugin started")
    })?;
    lab.stop("netplugin@node-2", Signal::Kill)?;
    wait_until("the silent node is reported", WAIT_TIMEOUT, || {
        note(&lab, &id, "node-2").contains("isn't on the bus")
    })
}
