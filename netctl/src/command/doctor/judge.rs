//! Judges the observations of `netctl doctor`. No I/O.

use std::collections::BTreeSet;

use bus_schema::node::{Grade, LogState};
use bus_schema::query::NodeInfo;

use super::check::{CheckResult, result};
use super::copies::LogCopies;
use super::monitor::SyncSetting;
use super::{Observations, addresses, streams};
use crate::clocks;
use crate::survey::{self, Log};

/// The oldest nats-server with atomic batches and message TTLs.
const MIN_SERVER_VERSION: (u32, u32) = (2, 12);
/// A larger skew is wrong, a smaller one a warning.
const MAX_WARNING_SKEW_MS: u64 = 5_000;

/// Turns the observations into check results, the worst first.
pub(super) fn judge(observed: &Observations) -> Vec<CheckResult> {
    let mut all = vec![server(&observed.server_version), syncs(observed.syncs)];
    all.extend(copies(&observed.copies));
    match &observed.log {
        Ok(it) => all.extend(log(it)),
        Err(why) => all.push(result(Grade::Wrong, "log", why)),
    }
    let wrong = |of: &'static str| move |why: &String| result(Grade::Wrong, of, why);
    let (configs, errors): (Vec<_>, Vec<_>) = observed.streams.iter().partition(|it| it.is_ok());
    all.extend(
        errors
            .into_iter()
            .filter_map(|it| it.as_ref().err())
            .map(wrong("streams")),
    );
    let configs = configs.into_iter().filter_map(|it| it.as_ref().ok());
    all.extend(configs.flat_map(streams::judge));
    all.extend(observed.health.iter().map(wrong("bus health")));
    all.push(netmasters(observed));
    all.extend(netmaster_errors(observed));
    match &observed.nodes {
        Ok(nodes) => all.extend(nodes.iter().flat_map(node)),
        Err(why) => all.push(result(Grade::Unknown, "nodes", why)),
    }
    for (node, examined) in &observed.examinations {
        let of = |about: &str| format!("node {node} {about}");
        match examined {
            Ok((examination, _)) => {
                let found = examination.findings.iter();
                all.extend(found.map(|it| result(it.grade, of(&it.about), &it.text)));
            }
            Err(why) => all.push(result(Grade::Unknown, of("examination"), why)),
        }
    }
    all.extend(addresses::judge(&observed.pools));
    all.extend(clocks(observed));
    all.extend(versions(observed));
    all.sort();
    all
}

fn server(version: &str) -> CheckResult {
    let mut numbers = version.split(['.', '-']).map(str::parse::<u32>);
    let found = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    match found >= MIN_SERVER_VERSION {
        true => result(Grade::Fine, "bus", format!("nats-server {version}")),
        false => result(
            Grade::Wrong,
            "bus",
            format!("nats-server {version} is too old: take 2.12 or newer, all servers"),
        ),
    }
}

fn syncs(syncs: SyncSetting) -> CheckResult {
    let of = "bus sync_interval";
    match syncs {
        SyncSetting::Always => result(Grade::Fine, of, "acknowledged messages are on disk"),
        SyncSetting::Later => result(
            Grade::Wrong,
            of,
            "the server acknowledges messages before they are on disk, so a power cut loses them: set `jetstream { sync_interval: always }` as this project's nats.conf does, on all servers",
        ),
        SyncSetting::NotShown => result(
            Grade::Unknown,
            of,
            "unknown, since the server's monitoring page isn't open on port 8222: add `http: 127.0.0.1:8222` to nats.conf and run this on the server's host, or check that nats.conf has `sync_interval: always`",
        ),
    }
}

/// Compares the servers' copies. netmaster itself detects holes in the copy of a single server.
fn copies(copies: &LogCopies) -> Vec<CheckResult> {
    let mut all = Vec::new();
    for (host, why) in copies.short() {
        let text = format!(
            "{why}: stop this nats-server, remove its JetStream store and start it again; it then copies the log from the others"
        );
        all.push(result(Grade::Wrong, format!("log copy of {host}"), text));
    }
    if !copies.closed.is_empty() {
        let text = format!(
            "the copies can't be compared: {} shows no monitoring page on port 8222, which `http: 8222` in nats.conf opens",
            copies.closed.join(", ")
        );
        all.push(result(Grade::Unknown, "log copies", text));
    } else if all.is_empty() && copies.later.len() > 1 {
        all.push(result(
            Grade::Fine,
            "log copies",
            "all servers hold the same number of messages",
        ));
    }
    all
}

fn log(log: &Log) -> Vec<CheckResult> {
    let mut all = Vec::new();
    let servers = log.servers.len();
    if !log.has_quorum() {
        all.push(result(
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
            let text = format!("{why}: check that nats-server runs there and reaches the others");
            all.push(result(
                Grade::Wrong,
                format!("server {}", server.name),
                text,
            ));
        }
    }
    match log.replicas {
        1 => all.push(result(
            Grade::Warning,
            "log replicas",
            "only one server has the log, so a loss of its disk loses the whole configuration; three servers and `netmaster init --replicas 3` survive the loss of one",
        )),
        even if even % 2 == 0 => all.push(result(
            Grade::Warning,
            "log replicas",
            format!("{even} replicas survive no more losses than {} do: use an odd number", even - 1),
        )),
        replicas => all.push(result(
            Grade::Fine,
            "log replicas",
            format!("{servers} of {replicas} servers have the log"),
        )),
    }
    all.extend(streams::judge(&log.config));
    all
}

fn netmasters(observed: &Observations) -> CheckResult {
    let of = "netmasters";
    match observed.netmasters.len() {
        0 => result(
            Grade::Wrong,
            of,
            "none answers, so nothing can be changed or queried: start one with `netmaster run`",
        ),
        1 => result(
            Grade::Warning,
            of,
            "only one runs, so nothing can be changed while it is down: run another on another machine",
        ),
        several => result(Grade::Fine, of, format!("{several} run")),
    }
}

/// The errors of netmasters whose last write the log refused, and of those that decide nothing.
fn netmaster_errors(observed: &Observations) -> impl Iterator<Item = CheckResult> {
    observed.netmasters.iter().flat_map(|netmaster| {
        let reasons = netmaster.write_error.iter().chain(&netmaster.refusal);
        let of = format!("netmaster {}", netmaster.name);
        reasons.map(move |why| result(Grade::Wrong, of.clone(), why))
    })
}

fn clocks(observed: &Observations) -> Vec<CheckResult> {
    let mut all = survey::reported_clocks(observed.log.as_ref().ok(), &observed.netmasters);
    all.extend(observed.examinations.iter().filter_map(|(node, examined)| {
        let (_, clock) = examined.as_ref().ok()?;
        Some((format!("node {node}"), *clock))
    }));
    let skews = clocks::skews(&all).into_iter();
    skews.map(|(of, skew)| clock(of + " clock", skew)).collect()
}

fn clock(of: String, skew: i64) -> CheckResult {
    match skew.unsigned_abs() {
        0..=clocks::MAX_SKEW_MS => result(Grade::Fine, of, "the same time as most others"),
        it if it <= MAX_WARNING_SKEW_MS => result(Grade::Warning, of, clocks::skewed(skew)),
        _ => result(Grade::Wrong, of, clocks::skewed(skew)),
    }
}

fn node(info: &NodeInfo) -> Vec<CheckResult> {
    let of = format!("node {}", info.node);
    let Some(status) = info.status.as_ref().filter(|_| info.alive) else {
        if info.left {
            let text = format!(
                "it has left the cluster and is stopped: `netctl node rm {}` removes it; the next start of its netplugin joins again",
                info.node
            );
            return vec![result(Grade::Fine, of, text)];
        }
        let since = info
            .age
            .map_or_else(String::new, |age| format!(" for {} s", age / 1_000));
        return vec![result(
            Grade::Wrong,
            of,
            format!(
                "no status received{since}: is netplugin running there, and does it reach the bus? If the machine won't come back: `netctl node rm {} --lost`",
                info.node
            ),
        )];
    };
    let mut all = Vec::new();
    match &status.log {
        LogState::InSync => {}
        LogState::CatchingUp => {
            all.push(result(Grade::Warning, &of, "it is still reading the log"));
        }
        // A node with these states also raises an alarm, which contains the remedy.
        LogState::Disconnected { reason } => all.push(result(Grade::Wrong, &of, reason)),
        LogState::Foreign { .. } | LogState::Refused { .. } | LogState::Removed => {}
    }
    if status.engine.as_ref().is_some_and(|engine| !engine.answers) {
        all.push(result(
            Grade::Warning,
            format!("{of} engine"),
            "its Docker Engine doesn't answer: `systemctl status docker` there; on a node without Docker, run netplugin with --engine none",
        ));
    }
    let alarms = status.alarms.iter();
    all.extend(alarms.map(|it| result(it.grade, format!("{of} {}", it.code), &it.text)));
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
        all.push(result(Grade::Fine, of, text));
    }
    all
}

fn versions(observed: &Observations) -> Option<CheckResult> {
    let netmasters = observed.netmasters.iter().map(|it| it.version.as_str());
    let nodes = observed.nodes.iter().flatten();
    let nodes = nodes.filter_map(|it| it.status.as_ref().map(|it| it.version.as_str()));
    let all: BTreeSet<&str> = netmasters
        .chain(nodes)
        .chain([env!("CARGO_PKG_VERSION")])
        .collect();
    let all: Vec<&str> = all.into_iter().collect();
    (all.len() > 1).then(|| {
        result(
            Grade::Warning,
            "versions",
            format!(
                "several versions run: {}; upgrade the netmasters first, then the nodes; `netctl status` shows the version of each",
                all.join(", ")
            ),
        )
    })
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
