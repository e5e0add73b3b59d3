use bus_schema::node::{Alarm, DomainKind, EngineStatus};
use bus_schema::{MachineId, NodeName};

use super::*;
use crate::survey::Server;

fn node(applied: u64, log: LogState) -> NodeInfo {
    let node = NodeName::new("n1").unwrap();
    let vtep = "10.0.0.1".parse().unwrap();
    let machine = MachineId("m".to_owned());
    NodeInfo {
        node: node.clone(),
        machine: machine.clone(),
        vtep,
        status: Some(NodeStatus {
            node,
            machine,
            vtep,
            version: "1".to_owned(),
            applied: Revision(applied),
            log,
            engine: None,
            domain: DomainKind::Vrf,
            endpoints: 0,
            unpublished: 0,
            blocks: 0,
            drained: false,
            left: false,
            alarms: Vec::new(),
            dns: None,
            healing: None,
            at: None,
            surroundings: None,
            carries: vec![],
        }),
        age: Some(100),
        alive: true,
        drained: false,
        left: false,
        usage: vec![],
    }
}

fn status(nodes: Vec<NodeInfo>) -> Status {
    let server = Server {
        name: "s".to_owned(),
        leads: true,
        behind: None,
    };
    Status {
        cluster: "c".to_owned(),
        log: Log {
            revision: Revision(9),
            replicas: 1,
            servers: vec![server],
            clock: None,
            config: Value::Null,
        },
        netmasters: vec![Netmaster {
            name: "m".to_owned(),
            version: "1".to_owned(),
            revision: Some(Revision(9)),
            refusal: None,
            clock: None,
            write_error: None,
        }],
        streams: Vec::new(),
        nodes,
        open_networks: Vec::new(),
        clocks: Vec::new(),
    }
}

#[test]
fn node_at_the_end_of_the_log_does_not_lag() {
    assert!(lags(&status(Vec::new())).is_empty());
    assert!(lags(&status(vec![node(9, LogState::InSync)])).is_empty());
    assert!(lags(&status(vec![node(12, LogState::InSync)])).is_empty());
}

#[test]
fn alarm_of_grade_wrong_is_unsound_and_a_warning_is_not() {
    for (grade, sound, quiet) in [
        (Grade::Wrong, false, "wrong    node n1 disk: no room\n"),
        (Grade::Warning, true, ""),
    ] {
        let mut alarmed = node(9, LogState::InSync);
        if let Some(status) = &mut alarmed.status {
            status.alarms = vec![Alarm::new(grade, "disk", "no room")];
        }
        let all = status(vec![alarmed]);
        assert_eq!(is_sound(&all), sound);
        assert_eq!(alarm_lines(&all, |grade| grade == Grade::Wrong), quiet);
        let line = format!("\n{grade:8} node n1 disk: no room\n");
        let shown = text(&all, &lags(&all), Format::Table);
        assert!(shown.contains(": converged\n"), "{shown}");
        assert!(shown.contains(&line), "{shown}");
    }
}

#[test]
fn wrong_clock_is_a_warning_only() {
    let mut info = node(9, LogState::InSync);
    let listed = (100_000, 100_010);
    assert_eq!(
        reported_clock(&info, listed),
        None,
        "an older node reports no time"
    );
    if let Some(status) = &mut info.status {
        status.at = Some(40_000);
    }
    info.age = Some(500);
    let clock = reported_clock(&info, listed).unwrap();
    assert_eq!(clock.skew(), -59_500);
    let same = Clock {
        time: 100_005,
        ..clock
    };
    let mut all = status(vec![info]);
    all.clocks = vec![("bus".to_owned(), same), ("node n1".to_owned(), clock)];
    assert!(is_sound(&all));
    let text = text(&all, &[], Format::Table);
    assert!(text.contains("warning  node n1 clock: 59."), "{text}");
    let value = value(&all, &[]);
    assert_eq!(value["clocks"][0]["of"], "node n1");
}

#[test]
fn lagging_parts_are_named_with_their_reasons() {
    let reason = || "gone".to_owned();
    let mut silent = node(9, LogState::InSync);
    (silent.alive, silent.age) = (false, Some(12_000));
    let mut engine = node(9, LogState::InSync);
    if let Some(status) = &mut engine.status {
        status.engine = Some(EngineStatus {
            answers: true,
            applied: Revision(7),
            version: None,
        });
    }
    for (info, says) in [
        (node(8, LogState::InSync), "node n1: at 8 of 9"),
        (node(9, LogState::CatchingUp), "reading the log"),
        (node(9, LogState::Disconnected { reason: reason() }), "gone"),
        (node(9, LogState::Foreign { reason: reason() }), "gone"),
        (silent.clone(), "no status for 12 s"),
        (engine, "its engine's networks are at 7"),
    ] {
        let lags = lags(&status(vec![info]));
        assert!(
            lags.len() == 1 && lags[0].contains(says),
            "{says}: {lags:?}"
        );
    }
    silent.drained = true;
    assert_eq!(lags(&status(vec![silent.clone()])).len(), 1);
    assert_eq!(node::state(&silent), "drained, silent 12s");
    silent.left = true;
    assert!(lags(&status(vec![silent.clone()])).is_empty());
    silent.alive = true;
    assert_eq!(node::state(&silent), "drained, left");
    let mut all = status(Vec::new());
    all.netmasters[0].revision = Some(Revision(8));
    all.log.servers[0].behind = Some("offline".to_owned());
    all.log.servers[0].leads = false;
    assert_eq!(lags(&all).len(), 3, "{:?}", lags(&all));
    all.netmasters.clear();
    assert!(lags(&all).contains(&"no netmaster answers".to_owned()));
}

#[test]
fn node_that_knows_no_ways_out_is_named_while_a_network_has_one() {
    let mut all = status(vec![node(9, LogState::InSync)]);
    let named = |all: &Status| {
        let text = text(all, &lags(all), Format::Table);
        let mut lines = text.lines();
        lines.find(|it| it.contains("way out")).map(str::to_owned)
    };
    assert_eq!(named(&all), None);
    all.open_networks = vec!["default:front".to_owned(), "blue:web".to_owned()];
    let line = "warning  node n1 egress: containers here have no way out of network default:front and another network, because its netplugin is older than that: upgrade it";
    assert_eq!(named(&all).as_deref(), Some(line));
    assert_eq!(value(&all, &[])["withoutWaysOut"][0]["node"], "n1");
    assert!(is_sound(&all), "a warning");
    let reported = all.nodes[0].status.as_mut().unwrap();
    reported.carries = vec![EGRESS.to_owned()];
    assert_eq!(named(&all), None);
}
