//! What is wrong, worst first. No I/O.

use std::collections::BTreeSet;

use bus_schema::node::{Grade, LogState};
use bus_schema::query::NodeInfo;

use super::copies::Copies;
use super::monitor::Syncs;
use super::{Seen, addresses};
use crate::survey::{self, Log};

/// The oldest server that has atomic batches and message TTLs.
const OLDEST_SERVER: (u32, u32) = (2, 12);
/// Milliseconds.
const MUCH_SKEW: u64 = 5_000;

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Complaint {
    pub(super) grade: Grade,
    pub(super) of: String,
    pub(super) text: String,
}

pub(super) fn said(grade: Grade, of: impl Into<String>, text: impl Into<String>) -> Complaint {
    Complaint {
        grade,
        of: of.into(),
        text: text.into(),
    }
}

pub(super) fn judge(seen: &Seen) -> Vec<Complaint> {
    let mut all = vec![server(&seen.server_version), syncs(seen.syncs)];
    all.extend(copies(&seen.copies));
    match &seen.log {
        Ok(it) => all.extend(log(it)),
        Err(why) => all.push(said(Grade::Wrong, "log", why)),
    }
    let wrong = |of: &'static str| move |why: &String| said(Grade::Wrong, of, why);
    all.extend(seen.streams.iter().map(wrong("streams")));
    all.extend(seen.health.iter().map(wrong("bus health")));
    all.push(masters(seen));
    all.extend(hindered(seen));
    match &seen.nodes {
        Ok(nodes) => all.extend(nodes.iter().flat_map(node)),
        Err(why) => all.push(said(Grade::Unknown, "nodes", why)),
    }
    for (node, examined) in &seen.examinations {
        let of = |about: &str| format!("node {node} {about}");
        match examined {
            Ok((examination, _)) => {
                let found = examination.findings.iter();
                all.extend(found.map(|it| said(it.grade, of(&it.about), &it.text)));
            }
            Err(why) => all.push(said(Grade::Unknown, of("examination"), why)),
        }
    }
    all.extend(addresses::judge(&seen.pools));
    all.extend(clocks(seen));
    all.extend(versions(seen));
    all.sort();
    all
}

fn server(version: &str) -> Complaint {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    let found = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    match found >= OLDEST_SERVER {
        true => said(Grade::Fine, "bus", format!("nats-server {version}")),
        false => said(
            Grade::Wrong,
            "bus",
            format!("nats-server {version} is too old: take 2.12 or newer, all servers"),
        ),
    }
}

fn syncs(syncs: Syncs) -> Complaint {
    let of = "bus sync_interval";
    match syncs {
        Syncs::Always => said(Grade::Fine, of, "what is acknowledged is on disk"),
        Syncs::Later => said(
            Grade::Wrong,
            of,
            "the server acknowledges what isn't on disk yet, a power cut loses it: set `jetstream { sync_interval: always }` as this project's nats.conf does, on all servers",
        ),
        Syncs::NotShown => said(
            Grade::Unknown,
            of,
            "only the server's monitoring page tells, which isn't open on port 8222: add `http: 127.0.0.1:8222` to nats.conf and run this on the server's host, or see that nats.conf says `sync_interval: always`",
        ),
    }
}

/// Of one server alone netmaster itself sees whether its copy has holes.
fn copies(copies: &Copies) -> Vec<Complaint> {
    let mut all = Vec::new();
    for (host, why) in copies.short() {
        let text = format!(
            "{why}: stop this nats-server, remove its JetStream store and start it again, it copies the log from the others"
        );
        all.push(said(Grade::Wrong, format!("log copy of {host}"), text));
    }
    if !copies.closed.is_empty() {
        let text = format!(
            "the copies can't be compared: {} shows no monitoring page on port 8222, which `http: 8222` in nats.conf opens",
            copies.closed.join(", ")
        );
        all.push(said(Grade::Unknown, "log copies", text));
    } else if all.is_empty() && copies.later.len() > 1 {
        all.push(said(
            Grade::Fine,
            "log copies",
            "all servers hold the same number of messages",
        ));
    }
    all
}

fn log(log: &Log) -> Vec<Complaint> {
    let mut all = Vec::new();
    let servers = log.servers.len();
    if !log.has_quorum() {
        all.push(said(
            Grade::Wrong,
            "log quorum",
            format!(
                "no leader, or no majority of {} servers: nothing can be changed until more of them run",
                log.replicas
            ),
        ));
    }
    for server in &log.servers {
        if let Some(why) = &server.behind {
            let text = format!("{why}: see that nats-server runs there and reaches the others");
            all.push(said(Grade::Wrong, format!("server {}", server.name), text));
        }
    }
    match log.replicas {
        1 => all.push(said(
            Grade::Warning,
            "log replicas",
            "one server has the log: what happens to its disk happens to all intent; three servers and `netmaster init --replicas 3` survive the loss of one",
        )),
        even if even % 2 == 0 => all.push(said(
            Grade::Warning,
            "log replicas",
            format!("{even} replicas survive no more losses than {} do: use an odd number", even - 1),
        )),
        replicas => all.push(said(
            Grade::Fine,
            "log replicas",
            format!("{servers} of {replicas} servers have the log"),
        )),
    }
    for (key, wanted) in [
        ("allow_direct", false),
        ("deny_delete", true),
        ("deny_purge", true),
    ] {
        let found = log.config[key].as_bool().unwrap_or(false);
        if found != wanted {
            all.push(said(
                Grade::Wrong,
                "log settings",
                format!("{key} of the stream LOG is {found}: somebody changed it; it must be {wanted}, `nats stream edit LOG` sets it"),
            ));
        }
    }
    all
}

fn masters(seen: &Seen) -> Complaint {
    let of = "netmasters";
    match seen.masters.len() {
        0 => said(
            Grade::Wrong,
            of,
            "none answers, nothing can be changed or asked: start one with `netmaster run`",
        ),
        1 => said(
            Grade::Warning,
            of,
            "one runs: while it is away nothing can be changed; run another on another machine",
        ),
        several => said(Grade::Fine, of, format!("{several} run")),
    }
}

/// Netmasters whose last write the log refused, and those that refuse to decide.
fn hindered(seen: &Seen) -> impl Iterator<Item = Complaint> {
    seen.masters.iter().flat_map(|master| {
        let reasons = master.unwritten.iter().chain(&master.refuses);
        let of = format!("netmaster {}", master.name);
        reasons.map(move |why| said(Grade::Wrong, of.clone(), why))
    })
}

fn clocks(seen: &Seen) -> Vec<Complaint> {
    let mut all = survey::clocks(seen.log.as_ref().ok(), &seen.masters);
    all.extend(seen.examinations.iter().filter_map(|(node, examined)| {
        let (_, clock) = examined.as_ref().ok()?;
        Some((format!("node {node}"), *clock))
    }));
    let skews = survey::skews(&all).into_iter();
    skews.map(|(of, skew)| clock(of + " clock", skew)).collect()
}

fn clock(of: String, skew: i64) -> Complaint {
    match skew.unsigned_abs() {
        0..=survey::SKEW => said(Grade::Fine, of, "the same time as most others"),
        it if it <= MUCH_SKEW => said(Grade::Warning, of, survey::skewed(skew)),
        _ => said(Grade::Wrong, of, survey::skewed(skew)),
    }
}

fn node(info: &NodeInfo) -> Vec<Complaint> {
    let of = format!("node {}", info.node);
    let Some(status) = info.status.as_ref().filter(|_| info.alive) else {
        if info.left {
            let text = format!(
                "it has left the cluster and is stopped: `netctl node rm {}` removes it, the next start of its netplugin joins again",
                info.node
            );
            return vec![said(Grade::Fine, of, text)];
        }
        let since = info
            .age
            .map_or_else(String::new, |age| format!(" for {} s", age / 1_000));
        return vec![said(
            Grade::Wrong,
            of,
            format!(
                "nothing is heard of it{since}: is netplugin running there, and does it reach the bus? A machine that won't come back: `netctl node rm {} --lost`",
                info.node
            ),
        )];
    };
    let mut all = Vec::new();
    match &status.log {
        LogState::InSync => {}
        LogState::CatchingUp => all.push(said(Grade::Warning, &of, "it is still reading the log")),
        // Foreign and refused are alarms as well, which say what to do.
        LogState::Disconnected { reason } => all.push(said(Grade::Wrong, &of, reason)),
        LogState::Foreign { .. } | LogState::Refused { .. } | LogState::Removed => {}
    }
    if status.engine.as_ref().is_some_and(|engine| !engine.answers) {
        all.push(said(
            Grade::Warning,
            format!("{of} engine"),
            "its Docker Engine doesn't answer: `systemctl status docker` there; a node without one runs netplugin with --engine none",
        ));
    }
    let alarms = status.alarms.iter();
    all.extend(alarms.map(|it| said(it.grade, format!("{of} {}", it.code), &it.text)));
    if all.is_empty() {
        let text = match (info.left, info.drained) {
            (true, _) => {
                "alive, has left the cluster: it takes no new endpoints until its netplugin is restarted"
            }
            (false, true) => {
                "alive, drained: it takes no new endpoints until `netctl node uncordon`"
            }
            (false, false) => "alive, without alarms",
        };
        all.push(said(Grade::Fine, of, text));
    }
    all
}

fn versions(seen: &Seen) -> Option<Complaint> {
    let masters = seen.masters.iter().map(|it| it.version.as_str());
    let nodes = seen.nodes.iter().flatten();
    let nodes = nodes.filter_map(|it| it.status.as_ref().map(|it| it.version.as_str()));
    let all: BTreeSet<&str> = masters
        .chain(nodes)
        .chain([env!("CARGO_PKG_VERSION")])
        .collect();
    let all: Vec<&str> = all.into_iter().collect();
    (all.len() > 1).then(|| {
        said(
            Grade::Warning,
            "versions",
            format!(
                "{} run side by side: upgrade netmasters first, then the nodes; `netctl status` says which is which",
                all.join(", ")
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bus_schema::Revision;
    use bus_schema::node::{Examination, Finding};
    use serde_json::json;

    use super::*;
    use crate::survey::Clock;
    use crate::survey::{Master, Server};

    fn time(says: u64) -> Clock {
        Clock {
            asked: 10_000,
            says,
            heard: 10_010,
        }
    }

    fn seen() -> Seen {
        let server = |name: &str, leads| Server {
            name: name.to_owned(),
            leads,
            behind: None,
        };
        let master = |name: &str| Master {
            name: name.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: Some(Revision(1)),
            refuses: None,
            clock: Some(time(10_005)),
            unwritten: None,
        };
        Seen {
            server_version: "2.12.8".to_owned(),
            syncs: Syncs::Always,
            copies: Copies::default(),
            log: Ok(Log {
                revision: Revision(1),
                replicas: 3,
                servers: vec![server("a", true), server("b", false), server("c", false)],
                clock: Some(time(10_000)),
                config: json!({"deny_delete": true, "deny_purge": true}),
            }),
            streams: Vec::new(),
            health: Vec::new(),
            masters: vec![master("m1"), master("m2")],
            nodes: Ok(Vec::new()),
            examinations: BTreeMap::new(),
            pools: Ok(Vec::new()),
        }
    }

    fn worst(change: impl FnOnce(&mut Seen)) -> Complaint {
        let mut seen = seen();
        change(&mut seen);
        judge(&seen).remove(0)
    }

    #[test]
    fn a_sound_cluster_is_fine() {
        assert_eq!(worst(|_| {}).grade, Grade::Fine, "{:?}", judge(&seen()));
    }

    fn with_log(change: impl FnOnce(&mut Log)) -> Complaint {
        worst(|seen| {
            if let Ok(log) = &mut seen.log {
                change(log);
            }
        })
    }

    #[test]
    fn each_thing_that_is_wrong_comes_first_and_says_what_to_do() {
        use Grade::{Unknown, Warning, Wrong};
        let examined = |grade| {
            move |seen: &mut Seen| {
                let findings = vec![Finding::new(grade, "underlay", "lower the MTU")];
                let examination = Examination { at: 0, findings };
                let node = "n1".parse().expect("a name");
                seen.examinations
                    .insert(node, Ok((examination, time(10_000))));
            }
        };
        for (complaint, grade, of, says) in [
            (
                worst(|it| it.server_version = "2.9.10".into()),
                Wrong,
                "bus",
                "2.12",
            ),
            (
                worst(|it| it.syncs = Syncs::Later),
                Wrong,
                "bus sync_interval",
                "always",
            ),
            (
                worst(|it| it.syncs = Syncs::NotShown),
                Unknown,
                "bus sync_interval",
                "8222",
            ),
            (
                worst(|it| it.log = Err("gone".into())),
                Wrong,
                "log",
                "gone",
            ),
            (
                worst(|it| it.streams = vec!["gone".into()]),
                Wrong,
                "streams",
                "gone",
            ),
            (
                worst(|it| it.health = vec!["no space".into()]),
                Wrong,
                "bus health",
                "no space",
            ),
            (
                worst(|it| it.masters[1].unwritten = Some("no space".into())),
                Wrong,
                "netmaster m2",
                "no space",
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
                    it.config =
                        json!({"allow_direct": true, "deny_delete": true, "deny_purge": true});
                }),
                Wrong,
                "log settings",
                "allow_direct",
            ),
            (
                with_log(|it| it.clock = Some(time(99_000))),
                Wrong,
                "bus clock",
                "88.990 s ahead",
            ),
            (
                with_log(|it| it.clock = Some(time(8_000))),
                Warning,
                "bus clock",
                "2.000 s behind",
            ),
            (
                worst(|it| it.masters[0].clock = Some(time(70_000))),
                Wrong,
                "netmaster m1 clock",
                "59.990 s ahead",
            ),
            (
                worst(|it| {
                    it.masters[0].clock = Some(time(70_010));
                    it.masters[1].clock = Some(time(70_010));
                }),
                Wrong,
                "bus clock",
                "60.000 s behind",
            ),
            (
                worst(|it| it.masters.clear()),
                Wrong,
                "netmasters",
                "netmaster run",
            ),
            (
                worst(|it| it.masters.truncate(1)),
                Warning,
                "netmasters",
                "another",
            ),
            (
                worst(|it| it.masters[0].version = "9".into()),
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
        ] {
            assert_eq!(
                (complaint.grade, complaint.of.as_str()),
                (grade, of),
                "{complaint:?}"
            );
            assert!(complaint.text.contains(says), "{complaint:?}");
        }
    }
}
