use std::collections::BTreeMap;

use bus_schema::Revision;
use bus_schema::node::{Examination, Finding};
use serde_json::json;

use Grade::{Unknown, Warning, Wrong};

use super::*;
use crate::clocks::Clock;
use crate::survey::{Netmaster, Server};

fn at(time: u64) -> Clock {
    Clock {
        sent: 10_000,
        time,
        received: 10_010,
    }
}

fn sound() -> Observations {
    let server = |name: &str, leads| Server {
        name: name.to_owned(),
        leads,
        behind: None,
    };
    let netmaster = |name: &str| Netmaster {
        name: name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: Some(Revision(1)),
        refusal: None,
        clock: Some(at(10_005)),
        write_error: None,
    };
    Observations {
        server_version: "2.12.8".to_owned(),
        syncs: SyncSetting::Always,
        copies: LogCopies::default(),
        log: Ok(Log {
            revision: Revision(1),
            replicas: 3,
            servers: vec![server("a", true), server("b", false), server("c", false)],
            clock: Some(at(10_000)),
            config: json!({
                "name": "LOG", "deny_delete": true, "deny_purge": true, "allow_atomic": true,
                "max_msg_size": bus_schema::limits::MAX_EVENT_BYTES,
            }),
        }),
        streams: Vec::new(),
        health: Vec::new(),
        netmasters: vec![netmaster("m1"), netmaster("m2")],
        nodes: Ok(Vec::new()),
        examinations: BTreeMap::new(),
        pools: Ok(Vec::new()),
    }
}

fn worst(change: impl FnOnce(&mut Observations)) -> CheckResult {
    let mut observed = sound();
    change(&mut observed);
    judge(&observed).remove(0)
}

#[test]
fn sound_cluster_is_fine() {
    assert_eq!(worst(|_| {}).grade, Grade::Fine, "{:?}", judge(&sound()));
}

fn with_log(change: impl FnOnce(&mut Log)) -> CheckResult {
    worst(|observed| {
        if let Ok(log) = &mut observed.log {
            change(log);
        }
    })
}

/// Each case: the worst result, its grade, its subject, and a part of its text.
fn check_worst<const N: usize>(cases: [(CheckResult, Grade, &str, &str); N]) {
    for (worst, grade, of, text) in cases {
        assert_eq!((worst.grade, worst.of.as_str()), (grade, of), "{worst:?}");
        assert!(worst.text.contains(text), "{worst:?}");
    }
}

fn examined(grade: Grade) -> impl FnOnce(&mut Observations) {
    move |observed: &mut Observations| {
        let findings = vec![Finding::new(grade, "underlay", "lower the MTU")];
        let examination = Examination { at: 0, findings };
        let node = "n1".parse().expect("a name");
        observed
            .examinations
            .insert(node, Ok((examination, at(10_000))));
    }
}

#[test]
fn bus_problem_comes_first_with_its_remedy() {
    check_worst([
        (
            worst(|it| it.server_version = "2.9.10".into()),
            Wrong,
            "bus",
            "2.12",
        ),
        (
            worst(|it| it.syncs = SyncSetting::Later),
            Wrong,
            "bus sync_interval",
            "always",
        ),
        (
            worst(|it| it.syncs = SyncSetting::NotShown),
            Unknown,
            "bus sync_interval",
            "8222",
        ),
        (
            worst(|it| it.health = vec!["no space".into()]),
            Wrong,
            "bus health",
            "no space",
        ),
    ]);
}

#[test]
fn log_problem_comes_first_with_its_remedy() {
    check_worst([
        (
            worst(|it| it.log = Err("gone".into())),
            Wrong,
            "log",
            "gone",
        ),
        (
            worst(|it| it.streams = vec![Err("gone".into())]),
            Wrong,
            "streams",
            "gone",
        ),
        (
            with_log(|it| it.servers[0].leads = false),
            Wrong,
            "log quorum",
            "majority",
        ),
        (
            with_log(|it| it.servers[1].behind = Some("offline".into())),
            Wrong,
            "server b",
            "offline",
        ),
        (
            with_log(|it| it.replicas = 1),
            Warning,
            "log replicas",
            "--replicas 3",
        ),
        (
            with_log(|it| it.replicas = 2),
            Warning,
            "log replicas",
            "odd",
        ),
        (
            with_log(|it| {
                it.config["allow_direct"] = json!(true);
            }),
            Wrong,
            "log settings",
            "allow_direct",
        ),
    ]);
}

#[test]
fn wrong_clock_comes_first_with_its_skew() {
    check_worst([
        (
            with_log(|it| it.clock = Some(at(99_000))),
            Wrong,
            "bus clock",
            "88.990 s ahead",
        ),
        (
            with_log(|it| it.clock = Some(at(8_000))),
            Warning,
            "bus clock",
            "2.000 s behind",
        ),
        (
            worst(|it| it.netmasters[0].clock = Some(at(70_000))),
            Wrong,
            "netmaster m1 clock",
            "59.990 s ahead",
        ),
        (
            worst(|it| {
                it.netmasters[0].clock = Some(at(70_010));
                it.netmasters[1].clock = Some(at(70_010));
            }),
            Wrong,
            "bus clock",
            "60.000 s behind",
        ),
    ]);
}

#[test]
fn netmaster_or_node_problem_comes_first_with_its_remedy() {
    check_worst([
        (
            worst(|it| it.netmasters[1].write_error = Some("no space".into())),
            Wrong,
            "netmaster m2",
            "no space",
        ),
        (
            worst(|it| it.netmasters.clear()),
            Wrong,
            "netmasters",
            "netmaster run",
        ),
        (
            worst(|it| it.netmasters.truncate(1)),
            Warning,
            "netmasters",
            "another",
        ),
        (
            worst(|it| it.netmasters[0].version = "9".into()),
            Warning,
            "versions",
            "upgrade",
        ),
        (
            worst(|it| it.nodes = Err("away".into())),
            Unknown,
            "nodes",
            "away",
        ),
        (worst(examined(Wrong)), Wrong, "node n1 underlay", "MTU"),
        (worst(examined(Unknown)), Unknown, "node n1 underlay", "MTU"),
    ]);
}
