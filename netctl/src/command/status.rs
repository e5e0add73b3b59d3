//! `netctl status`: servers, netmasters and nodes, whether they have converged, the reasons of those
//! that lag, and the alarms.

use std::time::{Duration, Instant};

use bus_schema::node::{Alarm, EGRESS, Grade, LogState, NodeReply, NodeRequest, NodeStatus};
use bus_schema::query::{NetworkInfo, NodeInfo};
use bus_schema::{Egress, NodeName, Revision};
use clap::Args;
use futures::future::join;
use serde_json::{Value, json};

use super::flags::ListFlags;
use super::{network, node};
use crate::bus_url::BusUrl;
use crate::client::Session;
use crate::clocks::{self, Clock};
use crate::connection;
use crate::failure::Failure;
use crate::output::{self, Format, Table, printable};
use crate::survey::{self, Log, Netmaster};

/// The status is polled for this long: a cluster that changes all the time converges a moment later.
const CONVERGENCE_TIMEOUT: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 converged and no alarm of grade wrong, 1 otherwise (the output names the lagging\nparts and the alarms), 2 unreachable. Warnings are printed and don't change the exit code.\n\nExamples:\n  netctl status\n  netctl status -q || echo not yet\n  netctl status -o json"
)]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    flags: ListFlags,
}

/// The state of the cluster at one moment.
#[derive(Debug)]
struct Status {
    cluster: String,
    log: Log,
    /// The errors of the streams other than the log.
    streams: Vec<String>,
    netmasters: Vec<Netmaster>,
    nodes: Vec<NodeInfo>,
    /// The networks with a way out; none if every node knows ways out.
    open_networks: Vec<String>,
    /// The clocks of the bus, the netmasters and the nodes.
    clocks: Vec<(String, Clock)>,
}

pub(crate) async fn run(
    url: BusUrl,
    linearizable: bool,
    options: StatusOptions,
) -> Result<(), Failure> {
    let bus = connection::connect(&url).await?;
    let until = Instant::now() + CONVERGENCE_TIMEOUT;
    let status = loop {
        // Read the log's end first: a node that has applied at least that revision doesn't lag.
        let log = survey::log(&bus).await.map_err(Failure::Unreachable)?;
        let (streams, netmasters) =
            join(survey::stream_errors(&bus), survey::netmasters(&bus)).await;
        let netmasters = netmasters?;
        let mut session = Session::open(url.clone(), linearizable).await?;
        session.accept_any_revision();
        let sent = clocks::now();
        let mut nodes = node::list(&mut session, None).await?;
        let received = clocks::now();
        let mut clocks = survey::reported_clocks(Some(&log), &netmasters);
        clocks.extend(refresh(&session, &mut nodes, log.revision, (sent, received)).await);
        let networks = match nodes.iter().any(knows_no_ways_out) {
            true => network::list(&mut session, None, None).await?,
            false => vec![],
        };
        let status = Status {
            cluster: session
                .cluster()
                .map_or_else(String::new, |it| it.to_string()),
            log,
            streams,
            netmasters,
            nodes,
            open_networks: open(&networks),
            clocks,
        };
        if is_sound(&status) || Instant::now() >= until {
            break status;
        }
        pause().await;
    };
    output::print(&shown(&status, &lags(&status), &options.flags)?)?;
    match is_sound(&status) {
        true => Ok(()),
        false => Err(Failure::Negative),
    }
}

/// Whether nothing lags and no node has an alarm of grade wrong.
fn is_sound(status: &Status) -> bool {
    lags(status).is_empty() && !status.nodes.iter().any(has_wrong_alarm)
}

#[expect(clippy::disallowed_methods, reason = "the pause between two polls")]
async fn pause() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

/// Asks the nodes that seem to lag, to have an alarm or a wrong clock, since netmaster's status of them
/// may be a second old. `listed`: the times of the request for the nodes and of netmaster's answer.
/// Returns the nodes' clocks.
async fn refresh(
    session: &Session,
    nodes: &mut [NodeInfo],
    revision: Revision,
    listed: (u64, u64),
) -> Vec<(String, Clock)> {
    let mut clocks = Vec::new();
    for info in nodes.iter_mut().filter(|info| info.alive) {
        let status = info.status.as_ref();
        let converged = status.is_some_and(|it| lag(it, revision).is_none());
        let mut clock = reported_clock(info, listed);
        let is_wrong = clock.is_some_and(|it| it.skew().unsigned_abs() > clocks::MAX_SKEW_MS);
        if !converged || has_wrong_alarm(info) || is_wrong {
            let sent = clocks::now();
            let reply = session.node(&info.node, &NodeRequest::Status).await;
            let received = clocks::now();
            if let Ok(NodeReply::Status(status)) = reply {
                clock = status.at.map(|time| Clock {
                    sent,
                    time,
                    received,
                });
                info.status = Some(*status);
            }
        }
        clocks.extend(clock.map(|it| (format!("node {}", info.node), it)));
    }
    clocks
}

/// A node's clock by the status that netmaster has. The status's time in transit is unknown, so the clock
/// may look slow by it.
fn reported_clock(info: &NodeInfo, (sent, received): (u64, u64)) -> Option<Clock> {
    let age = info.age?;
    Some(Clock {
        sent: sent.saturating_sub(age),
        time: info.status.as_ref()?.at?,
        received: received.saturating_sub(age),
    })
}

/// The wrong clocks, each with the remedy.
fn skewed(status: &Status) -> Vec<(String, String)> {
    let mut all = clocks::skews(&status.clocks);
    all.retain(|(_, skew)| skew.unsigned_abs() > clocks::MAX_SKEW_MS);
    let texts = all.into_iter();
    texts.map(|(of, skew)| (of, clocks::skewed(skew))).collect()
}

/// The networks with a way out, as `TENANT:NETWORK`.
fn open(networks: &[NetworkInfo]) -> Vec<String> {
    let specs = networks.iter().map(|it| &it.spec);
    let open = specs.filter(|it| it.egress() != Egress::None);
    open.map(|it| format!("{}:{}", it.tenant, it.name))
        .collect()
}

/// Whether the node's netplugin is older than ways out.
fn knows_no_ways_out(node: &NodeInfo) -> bool {
    let status = node.status.as_ref();
    status.is_some_and(|it| !it.carries(EGRESS))
}

/// The nodes on which networks have no way out although they should: their netplugin is older than that.
fn without_ways_out(status: &Status) -> Vec<(&NodeName, String)> {
    let Some((first, more)) = status.open_networks.split_first() else {
        return vec![];
    };
    let more = match more.len() {
        0 => String::new(),
        1 => " and another network".to_owned(),
        count => format!(" and {count} other networks"),
    };
    let text = format!(
        "containers here have no way out of network {first}{more}, because its netplugin is older than that: upgrade it"
    );
    let older = status.nodes.iter().filter(|it| knows_no_ways_out(it));
    older.map(|info| (&info.node, text.clone())).collect()
}

/// The parts that are behind the log's end, each with the reason; empty: converged.
fn lags(status: &Status) -> Vec<String> {
    let revision = status.log.revision;
    let mut lags = Vec::new();
    if !status.log.has_quorum() {
        lags.push(
            "the log has no leader, or no majority of its servers: nothing can be changed"
                .to_owned(),
        );
    }
    for server in &status.log.servers {
        let behind = server.behind.as_ref();
        lags.extend(behind.map(|why| format!("server {}: {why}", server.name)));
    }
    lags.extend(status.streams.iter().cloned());
    if status.netmasters.is_empty() {
        lags.push("no netmaster answers".to_owned());
    }
    for netmaster in &status.netmasters {
        match netmaster.revision {
            Some(read) if read < revision => lags.push(format!(
                "netmaster {} has read the log up to {read}",
                netmaster.name
            )),
            Some(_) | None => {}
        }
        let write_error = netmaster.write_error.as_ref();
        lags.extend(write_error.map(|why| format!("netmaster {}: {why}", netmaster.name)));
        let refusal = netmaster.refusal.as_ref();
        lags.extend(
            refusal.map(|why| format!("netmaster {} decides nothing: {why}", netmaster.name)),
        );
    }
    for info in &status.nodes {
        if let Some(why) = node_lag(info, revision) {
            lags.push(format!("node {}: {why}", info.node));
        }
    }
    lags
}

fn alarms(info: &NodeInfo) -> impl Iterator<Item = &Alarm> {
    info.status.iter().flat_map(|it| &it.alarms)
}

fn has_wrong_alarm(info: &NodeInfo) -> bool {
    alarms(info).any(|it| it.grade == Grade::Wrong)
}

/// One line for each alarm of a grade that `show` accepts.
fn alarm_lines(status: &Status, show: impl Fn(Grade) -> bool) -> String {
    let all = status
        .nodes
        .iter()
        .flat_map(|info| alarms(info).map(move |it| (&info.node, it)));
    let shown = all.filter(|(_, alarm)| show(alarm.grade));
    shown
        .map(|(node, alarm)| {
            let Alarm { grade, code, text } = alarm;
            format!("{grade:8} node {node} {code}: {}\n", printable(text))
        })
        .collect()
}

fn node_lag(info: &NodeInfo, revision: Revision) -> Option<String> {
    match (&info.status, info.alive, info.age) {
        (Some(status), true, _) => lag(status, revision),
        // It announced that before it was stopped.
        _ if info.left => None,
        (_, _, Some(age)) => Some(format!("no status for {} s", age / 1_000)),
        (_, _, None) => Some("no status received".to_owned()),
    }
}

fn lag(status: &NodeStatus, revision: Revision) -> Option<String> {
    let why = match &status.log {
        LogState::InSync if status.has_applied(revision) => return unpublished(status),
        LogState::InSync => None,
        LogState::CatchingUp => Some("it is reading the log".to_owned()),
        LogState::Disconnected { reason } => Some(format!("it lost the bus: {reason}")),
        LogState::Foreign { reason } => Some(format!("it doesn't follow this log: {reason}")),
        LogState::Refused { reason } => Some(format!("netmaster refuses it: {reason}")),
        LogState::Removed => Some(LogState::REMOVED.to_owned()),
    };
    let engine = || {
        let engine = status.engine.as_ref()?;
        (engine.answers && engine.applied < revision)
            .then(|| format!("its engine's networks are at {}", engine.applied))
    };
    let why = why.or_else(engine);
    let why = why.map_or_else(String::new, |why| format!(", {why}"));
    Some(format!("at {} of {revision}{why}", status.applied))
}

/// The endpoints whose current state other nodes don't have yet.
fn unpublished(status: &NodeStatus) -> Option<String> {
    let count = status.unpublished;
    (count > 0).then(|| format!("endpoints that aren't published yet: {count}"))
}

fn shown(status: &Status, lags: &[String], flags: &ListFlags) -> Result<String, Failure> {
    if flags.quiet {
        let lags = lags.iter().map(|lag| format!("{lag}\n"));
        let alarms = alarm_lines(status, |grade| grade == Grade::Wrong);
        return Ok(lags.chain([alarms]).collect());
    }
    match flags.format() {
        format if format.is_text() => Ok(text(status, lags, format)),
        format => output::document(&value(status, lags), format),
    }
}

fn text(status: &Status, lags: &[String], format: Format) -> String {
    let converged = match lags.is_empty() {
        true => "converged",
        false => "not converged",
    };
    let mut text = format!(
        "Cluster {} at revision {}: {converged}\n",
        status.cluster, status.log.revision
    );
    text.extend(lags.iter().map(|lag| format!("  {lag}\n")));
    text += &alarm_lines(status, |_| true);
    let older = without_ways_out(status).into_iter();
    text.extend(
        older.map(|(node, why)| format!("{:8} node {node} egress: {why}\n", Grade::Warning)),
    );
    let clocks = skewed(status).into_iter();
    text.extend(clocks.map(|(of, why)| format!("{:8} {of} clock: {why}\n", Grade::Warning)));
    let mut servers = Table::new(&["Server", "Log"], &[]);
    for server in &status.log.servers {
        let state = match (&server.behind, server.leads) {
            (Some(why), _) => why.clone(),
            (None, true) => "leads".to_owned(),
            (None, false) => "follows".to_owned(),
        };
        servers.row(vec![server.name.clone(), state]);
    }
    let mut netmasters = Table::new(&["Netmaster", "Read", "Version"], &[]);
    for netmaster in &status.netmasters {
        let read = netmaster.revision.map(|it| it.to_string());
        let (name, version) = (netmaster.name.clone(), netmaster.version.clone());
        netmasters.row(vec![name, read.unwrap_or_default(), version]);
    }
    let mut nodes = Table::new(&["Node", "State", "Applied", "Version", "Alarms"], &["Log"]);
    for info in &status.nodes {
        let of = |cell: fn(&NodeStatus) -> String| info.status.as_ref().map(cell);
        nodes.row(vec![
            info.node.to_string(),
            node::state(info),
            of(|it| it.applied.to_string()).unwrap_or_default(),
            of(|it| it.version.clone()).unwrap_or_default(),
            of(|it| {
                let codes: Vec<&str> = it.alarms.iter().map(|it| it.code.as_str()).collect();
                codes.join(",")
            })
            .unwrap_or_default(),
            of(|it| node::log(&it.log).to_owned()).unwrap_or_default(),
        ]);
    }
    for table in [servers, netmasters, nodes] {
        text += "\n";
        text += &table.render(format);
    }
    text
}

fn value(status: &Status, lags: &[String]) -> Value {
    let nodes = status.nodes.iter().map(|info| {
        json!({
            "name": info.node,
            "alive": info.alive,
            "drained": info.drained,
            "left": info.left,
            "lag": node_lag(info, status.log.revision),
            "status": info.status,
        })
    });
    json!({
        "cluster": status.cluster,
        "revision": status.log.revision,
        "converged": lags.is_empty(),
        "lags": lags,
        "servers": status.log.servers.iter().map(survey::Server::value).collect::<Vec<_>>(),
        "netmasters": status.netmasters.iter().map(Netmaster::value).collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
        "withoutWaysOut": without_ways_out(status)
            .iter()
            .map(|(node, why)| json!({"node": node, "text": why}))
            .collect::<Vec<_>>(),
        "clocks": skewed(status)
            .iter()
            .map(|(of, why)| json!({"of": of, "text": why}))
            .collect::<Vec<_>>(),
    })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
