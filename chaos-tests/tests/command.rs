//! A command can be followed from netctl to every node's kernel.

use chaos_tests::{Outcome, SOON, two_nodes};
use lab::{Error, Lab, Signal, wait_until};
use serde_json::Value;

fn show(lab: &Lab, id: &str) -> Result<Value, Error> {
    let text = lab.netctl_ok(&["command", "show", id, "-o", "json"])?;
    Ok(serde_json::from_str(&text).unwrap_or_default())
}

/// The note and the other facts of one node.
fn on<'a>(shown: &'a Value, node: &str) -> &'a Value {
    let nodes = shown["nodes"].as_array();
    let mut nodes = nodes.into_iter().flatten();
    nodes.find(|it| it["node"] == node).unwrap_or(&Value::Null)
}

#[test]
fn a_command_is_followed_to_the_last_kernel() -> Outcome {
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
        let stay = on(&shown, node);
        let applied = stay["appliedMilliseconds"].as_f64();
        // One machine has one clock; the log's server has it before anybody can apply it.
        assert!(
            applied.is_some_and(|ms| (0.0..10_000.0).contains(&ms)),
            "{shown}"
        );
        assert!(stay["readMilliseconds"].as_f64() <= applied, "{shown}");
        assert_eq!(stay["note"], "", "{shown}");
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
        unknown.stderr.contains("no event in the log bears the id"),
        "{}",
        unknown.stderr
    );
    assert_eq!(lab.netctl(&["command", "show", "nonsense"])?.status, 64);

    // A netplugin that starts again remembers nothing of it.
    lab.stop("netplugin@node-1", Signal::Term)?;
    lab.start("netplugin@node-1")?;
    lab.await_node("node-1")?;
    wait_until("node-1 says that it doesn't remember", SOON, || {
        let note = |shown: Value| on(&shown, "node-1")["note"].as_str().map(str::to_owned);
        let note = show(&lab, &id).ok().and_then(note).unwrap_or_default();
        note.contains("before netplugin started")
    })?;
    lab.stop("netplugin@node-2", Signal::Kill)?;
    wait_until("the silent node is told", SOON, || {
        let note = |shown: Value| on(&shown, "node-2")["note"].as_str().map(str::to_owned);
        let note = show(&lab, &id).ok().and_then(note).unwrap_or_default();
        note.contains("isn't on the bus")
    })
}
