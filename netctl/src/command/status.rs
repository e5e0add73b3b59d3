//! `netctl status`: what there is, what lags and why, whether all is converged, which alarms there
//! are.

use std::time::{Duration, Instant};

use bus_schema::Revision;
use bus_schema::node::{Alarm, Grade, LogState, NodeReply, NodeRequest, NodeStatus};
use bus_schema::query::NodeInfo;
use clap::Args;
use futures::future::join;
use serde_json::{Value, json};

use super::node;
use crate::bus_url::BusUrl;
use crate::cli::Listing;
use crate::client::{self, Session};
use crate::failure::Failure;
use crate::output::{self, Format, Table, printable};
use crate::survey::{self, Clock, Log, Master};

/// What changes all the time is converged a moment later.
const MOMENT: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 converged and no alarm of grade wrong, 1 otherwise (the output says what lags\nand shows the alarms), 2 unreachable. Warnings are printed and don't change the exit code.\n\nExamples:\n  netctl status\n  netctl status -q || echo not yet\n  netctl status -o json"
)]
pub(crate) struct Options {
    #[command(flatten)]
    listing: Listing,
}

/// All that is known at one moment.
#[derive(Debug)]
struct Status {
    cluster: String,
    log: Log,
    /// What is wrong with the streams beside the log.
    streams: Vec<String>,
    masters: Vec<Master>,
    nodes: Vec<NodeInfo>,
    /// Of the bus, the netmasters and the nodes.
    clocks: Vec<(String, Clock)>,
}

pub(crate) async fn run(url: BusUrl, linearizable: bool, options: Options) -> Result<(), Failure> {
    let bus = client::connect(&url).await?;
    let until = Instant::now() + MOMENT;
    let status = loop {
        // The log's end first: who has applied at least that has applied all there was.
        let log = survey::log(&bus).await.map_err(Failure::Unreachable)?;
        let (streams, masters) = join(survey::troubles(&bus), survey::masters(&bus)).await;
        let masters = masters?;
        let mut session = Session::open(url.clone(), linearizable).await?;
        session.take_any_revision();
        let asked = client::now();
        let mut nodes = node::list(&mut session, None).await?;
        let heard = client::now();
        let mut clocks = survey::clocks(Some(&log), &masters);
        clocks.extend(refresh(&session, &mut nodes, log.revision, (asked, heard)).await);
        let status = Status {
            cluster: session
                .cluster()
                .map_or_else(String::new, |it| it.to_string()),
            log,
            streams,
            masters,
            nodes,
            clocks,
        };
        if is_sound(&status) || Instant::now() >= until {
            break status;
        }
        pause().await;
    };
    output::print(&shown(&status, &lags(&status), &options.listing)?)?;
    match is_sound(&status) {
        true => Ok(()),
        false => Err(Failure::Negative),
    }
}

/// Nothing lags, and no node has an alarm of grade wrong.
fn is_sound(status: &Status) -> bool {
    lags(status).is_empty() && !status.nodes.iter().any(has_wrong_alarm)
}

#[expect(clippy::disallowed_methods, reason = "the pause between two looks")]
async fn pause() {
    tokio::time::sleep(AGAIN).await;
}

/// What netmaster heard may be a second old; a node that seems behind, to have an alarm, or to have
/// a clock that is off, is asked itself. `listed`: when netmaster was asked about the nodes, and when
/// it answered. Gives the nodes' clocks.
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
        let mut clock = heard_clock(info, listed);
        let is_off = clock.is_some_and(|it| it.skew().unsigned_abs() > survey::SKEW);
        if !converged || has_wrong_alarm(info) || is_off {
            let asked = client::now();
            let reply = session.node(&info.node, &NodeRequest::Status).await;
            let heard = client::now();
            if let Ok(NodeReply::Status(status)) = reply {
                clock = status.at.map(|says| Clock { asked, says, heard });
                info.status = Some(*status);
            }
        }
        clocks.extend(clock.map(|it| (format!("node {}", info.node), it)));
    }
    clocks
}

/// A node's clock by the status that netmaster heard. How long the status was under way isn't known,
/// so a clock may look slow by that.
fn heard_clock(info: &NodeInfo, (asked, heard): (u64, u64)) -> Option<Clock> {
    let age = info.age?;
    Some(Clock {
        asked: asked.saturating_sub(age),
        says: info.status.as_ref()?.at?,
        heard: heard.saturating_sub(age),
    })
}

/// Clocks that are off, with what to do.
fn skewed(status: &Status) -> Vec<(String, String)> {
    let mut all = survey::skews(&status.clocks);
    all.retain(|(_, skew)| skew.unsigned_abs() > survey::SKEW);
    let texts = all.into_iter();
    texts.map(|(of, skew)| (of, survey::skewed(skew))).collect()
}

/// What isn't where the log is, and why; empty: converged.
fn lags(status: &Status) -> Vec<String> {
    let revision = status.log.revision;
    let mut lags = Vec::new();
    if !status.log.has_quorum() {
        lags.push(
            "the log has no leader, or no majority of its servers: nothing is decided".to_owned(),
        );
    }
    for server in &status.log.servers {
        let behind = server.behind.as_ref();
        lags.extend(behind.map(|why| format!("server {}: {why}", server.name)));
    }
    lags.extend(status.streams.iter().cloned());
    if status.masters.is_empty() {
        lags.push("no netmaster answers".to_owned());
    }
    for master in &status.masters {
        match master.revision {
            Some(read) if read < revision => lags.push(format!(
                "netmaster {} has read the log up to {read}",
                master.name
            )),
            Some(_) | None => {}
        }
        let unwritten = master.unwritten.as_ref();
        lags.extend(unwritten.map(|why| format!("netmaster {}: {why}", master.name)));
        let refuses = master.refuses.as_ref();
        lags.extend(refuses.map(|why| format!("netmaster {} decides nothing: {why}", master.name)));
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

/// One line for each alarm of a grade that `show` wants.
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
        // It said so before it was stopped.
        _ if info.left => None,
        (_, _, Some(age)) => Some(format!("nothing heard for {} s", age / 1_000)),
        (_, _, None) => Some("nothing heard of it".to_owned()),
    }
}

fn lag(status: &NodeStatus, revision: Revision) -> Option<String> {
    let why = match &status.log {
        LogState::InSync if status.has_applied(revision) => return unpublished(status),
        LogState::InSync => None,
        LogState::CatchingUp => Some("it is reading the log".to_owned()),
        LogState::Disconnected { reason } => Some(format!("it lost the bus: {reason}")),
        LogState::Foreign { reason } => Some(format!("it doesn't follow this log: {reason}")),
        LogState::Refused { reason } => Some(format!("it isn't let in: {reason}")),
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

/// Other nodes don't know these endpoints as they are.
fn unpublished(status: &NodeStatus) -> Option<String> {
    let count = status.unpublished;
    (count > 0).then(|| format!("endpoints that aren't published yet: {count}"))
}

fn shown(status: &Status, lags: &[String], listing: &Listing) -> Result<String, Failure> {
    if listing.quiet {
        let lags = lags.iter().map(|lag| format!("{lag}\n"));
        let alarms = alarm_lines(status, |grade| grade == Grade::Wrong);
        return Ok(lags.chain([alarms]).collect());
    }
    match listing.format() {
        format @ (Format::Table | Format::Wide) => Ok(text(status, lags, format)),
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
    let mut masters = Table::new(&["Netmaster", "Read", "Version"], &[]);
    for master in &status.masters {
        let read = master.revision.map(|it| it.to_string());
        let (name, version) = (master.name.clone(), master.version.clone());
        masters.row(vec![name, read.unwrap_or_default(), version]);
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
    for table in [servers, masters, nodes] {
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
        "netmasters": status.masters.iter().map(Master::value).collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
        "clocks": skewed(status)
            .iter()
            .map(|(of, why)| json!({"of": of, "text": why}))
            .collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
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
            masters: vec![Master {
                name: "m".to_owned(),
                version: "1".to_owned(),
                revision: Some(Revision(9)),
                refuses: None,
                clock: None,
                unwritten: None,
            }],
            streams: Vec::new(),
            nodes,
            clocks: Vec::new(),
        }
    }

    #[test]
    fn who_has_applied_the_logs_end_does_not_lag() {
        assert!(lags(&status(Vec::new())).is_empty());
        assert!(lags(&status(vec![node(9, LogState::InSync)])).is_empty());
        assert!(lags(&status(vec![node(12, LogState::InSync)])).is_empty());
    }

    #[test]
    fn an_alarm_of_grade_wrong_is_not_sound_and_a_warning_is() {
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
    fn a_clock_that_is_off_is_named_and_a_warning_only() {
        let mut info = node(9, LogState::InSync);
        let listed = (100_000, 100_010);
        assert_eq!(
            heard_clock(&info, listed),
            None,
            "an older node tells no time"
        );
        if let Some(status) = &mut info.status {
            status.at = Some(40_000);
        }
        info.age = Some(500);
        let clock = heard_clock(&info, listed).unwrap();
        assert_eq!(clock.skew(), -59_500);
        let same = Clock {
            says: 100_005,
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
    fn each_that_lags_is_named_with_its_reason() {
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
            (silent.clone(), "nothing heard for 12 s"),
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
        all.masters[0].revision = Some(Revision(8));
        all.log.servers[0].behind = Some("offline".to_owned());
        all.log.servers[0].leads = false;
        assert_eq!(lags(&all).len(), 3, "{:?}", lags(&all));
        all.masters.clear();
        assert!(lags(&all).contains(&"no netmaster answers".to_owned()));
    }
}
