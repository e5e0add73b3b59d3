//! One command's journey: decided, written to the log, and applied on each node.
//!
//! The log's own events bear the command's id, so that it is found however long ago it was; nodes
//! remember their last revisions only.

use std::time::Duration;

use async_nats::jetstream;
use bus_schema::healing::{Step, Steps};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{CommandId, NodeName, Revision, subject};
use clap::Subcommand;
use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::item::Item;
use super::read::{self, From};
use crate::cli::Listing;
use crate::client::{Session, refused};
use crate::command::{node, time};
use crate::failure::Failure;
use crate::output::{self, Format, Table, printable};

/// Ids of netctl's own making tell when; clocks may be this wrong.
const SKEW: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show what became of a command: decided, written, applied on each node
    #[command(
        after_help = "Commands say their id when they are done; events bear it (`netctl events -o json`, \"cause\").\nTimes on nodes are by their own clocks, from when the log's server had the event.\n\nExample:\n  netctl command show 0198c5a2-8f2e-7d31-b2a4-4f0a52b8f1d7"
    )]
    Show {
        id: CommandId,
        #[command(flatten)]
        listing: Listing,
    },
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    let Verb::Show { id, listing } = verb;
    let events = events_of(session, id).await?;
    let revisions: Vec<Revision> = events.iter().map(|it| Revision(it.sequence)).collect();
    let Some(last) = events.last() else {
        return Err(Failure::Refused(format!(
            "no event in the log bears the id {id}: the command was refused, changed nothing, never got to a netmaster, or was another cluster's"
        )));
    };
    let nodes = node::list(session, None).await?;
    let asked = nodes
        .iter()
        .map(|info| ask(session, &info.node, &revisions));
    let told = join_all(asked).await;
    let stays: Vec<Stay> = nodes
        .into_iter()
        .zip(told)
        .map(|(info, told)| Stay::of(info.node, Revision(last.sequence), last.stored, told))
        .collect();
    let text = match listing.format() {
        _ if listing.quiet => revisions.iter().map(|it| format!("{it}\n")).collect(),
        format @ (Format::Table | Format::Wide) => tell(id, &events, &stays, format),
        format => output::document(&document(id, &events, &stays), format)?,
    };
    output::print(&text)
}

/// What it wrote, in order.
async fn events_of(session: &Session, id: CommandId) -> Result<Vec<Item>, Failure> {
    let context = jetstream::new(session.bus.clone());
    let asked = id.0.get_timestamp().map(|time| time.to_unix());
    let from = asked.and_then(|(seconds, _)| {
        let asked = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
        asked.checked_sub(SKEW).ok()
    });
    let from = from.map_or(From::Start, From::Time);
    let mut items = read::stream(&context, subject::LOG, from).await?;
    items.retain(|it| it.cause() == Some(id));
    Ok(items)
}

async fn ask(session: &Session, node: &NodeName, revisions: &[Revision]) -> Result<Steps, Failure> {
    let revisions = revisions.to_vec();
    match session
        .node(node, &NodeRequest::Steps { revisions })
        .await?
    {
        NodeReply::Steps(steps) => Ok(steps),
        reply => Err(refused(node, "doesn't say", reply)),
    }
}

/// What became of it on one node.
#[derive(Debug, PartialEq)]
struct Stay {
    node: NodeName,
    /// Milliseconds from when the log had it.
    read: Option<f64>,
    applied: Option<f64>,
    ops: Option<u64>,
    last: Option<String>,
    /// Why it isn't known, or not over.
    note: String,
}

impl Stay {
    /// `stored`: when the log's server had its last event, in microseconds since 1970.
    fn of(node: NodeName, last: Revision, stored: u64, told: Result<Steps, Failure>) -> Self {
        let unknown = |node, note| Self {
            node,
            read: None,
            applied: None,
            ops: None,
            last: None,
            note,
        };
        let Steps { steps, read } = match told {
            Ok(steps) => steps,
            Err(failure) => return unknown(node, failure.to_string()),
        };
        let step = steps.into_iter().find(|it| it.revision == last);
        let Some(step) = step else {
            let note = match read >= last {
                true => "not remembered: it was before netplugin started, or long ago",
                false => "not read yet: see `netctl status`",
            };
            let note = note.to_owned();
            return unknown(node, note);
        };
        let Step {
            read, applied, ops, ..
        } = step;
        let after = |at: u64| (at as f64 - stored as f64) / 1e3;
        Self {
            node,
            read: Some(after(read)),
            applied: applied.map(after),
            ops: applied.map(|_| ops),
            last: step.last,
            note: match applied {
                Some(_) => String::new(),
                None => "not applied yet: see `netctl status`".to_owned(),
            },
        }
    }
}

fn tell(id: CommandId, events: &[Item], stays: &[Stay], format: Format) -> String {
    let mut text = format!("command {id}\n");
    if let Some(first) = events.first() {
        let by = printable(first.actor().unwrap_or("?"));
        text += &format!("decided {} by {by}\n", time::show(first.time));
    }
    if let Some(last) = events.last() {
        let took = last.stored / 1_000;
        let took = took.saturating_sub(last.time);
        text += &format!("in the log after {took} ms:\n");
    }
    text.extend(events.iter().map(Item::line));
    text.push('\n');
    let mut table = Table::new(
        &[
            "Node",
            "Read, ms",
            "Applied, ms",
            "Changes",
            "The last of them",
            "Note",
        ],
        &[],
    );
    let ms = |it: Option<f64>| it.map(|it| format!("{it:.1}")).unwrap_or_default();
    for stay in stays {
        table.row(vec![
            stay.node.to_string(),
            ms(stay.read),
            ms(stay.applied),
            stay.ops.map(|it| it.to_string()).unwrap_or_default(),
            stay.last.clone().unwrap_or_default(),
            stay.note.clone(),
        ]);
    }
    text + &table.render(format)
}

fn document(id: CommandId, events: &[Item], stays: &[Stay]) -> Value {
    let nodes = stays.iter().map(|stay| {
        json!({
            "node": stay.node,
            "readMilliseconds": stay.read,
            "appliedMilliseconds": stay.applied,
            "changes": stay.ops,
            "lastChange": stay.last,
            "note": stay.note,
        })
    });
    json!({
        "command": id,
        "decidedBy": events.first().and_then(Item::actor),
        "decided": events.first().map(|it| time::show(it.time)),
        "written": events.last().map(|it| time::show(it.stored / 1_000)),
        "events": events.iter().map(Item::json).collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(steps: Vec<Step>, read: u64) -> Stay {
        let read = Revision(read);
        let steps = Steps { steps, read };
        Stay::of("n1".parse().unwrap(), Revision(17), 1_000_000, Ok(steps))
    }

    #[test]
    fn times_count_from_the_log_and_what_is_not_known_says_why() {
        let step = Step {
            revision: Revision(17),
            read: 1_001_500,
            applied: Some(1_012_000),
            ops: 3,
            last: Some("+ a route".to_owned()),
        };
        let done = stay(vec![step.clone()], 17);
        assert_eq!(
            (done.read, done.applied, done.ops),
            (Some(1.5), Some(12.0), Some(3))
        );
        assert_eq!(done.note, "");
        let open = Step {
            applied: None,
            ..step
        };
        let open = stay(vec![open], 17);
        assert_eq!((open.applied, open.ops), (None, None));
        assert!(open.note.contains("not applied yet"), "{}", open.note);
        assert!(
            stay(Vec::new(), 18)
                .note
                .contains("before netplugin started")
        );
        assert!(stay(Vec::new(), 16).note.contains("not read yet"));
        let silent = Failure::Unreachable("node n1 isn't on the bus".to_owned());
        let silent = Stay::of("n1".parse().unwrap(), Revision(17), 0, Err(silent));
        assert!(silent.note.contains("isn't on the bus"), "{}", silent.note);
    }
}
