//! `netctl command show`: when a command was decided, written to the log, and applied on each node.
//!
//! The events in the log contain the command's id, so old commands are found too. Nodes remember only
//! their last revisions.

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
use super::read::{self, StartAt};
use crate::client::{Session, node_refusal};
use crate::command::flags::ListFlags;
use crate::command::{node, time};
use crate::failure::Failure;
use crate::output::{self, Format, Table, printable};

/// An id of netctl (a version 7 UUID) contains its time. The search starts this much earlier, since the
/// clock may be wrong.
const MAX_CLOCK_ERROR: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Subcommand)]
pub(crate) enum CommandVerb {
    /// Show when a command was decided, written to the log, and applied on each node
    #[command(
        after_help = "Each command prints its id; its events contain it (`netctl events -o json`, \"cause\").\nTimes on nodes are by the nodes' clocks, counted from the event's arrival in the log.\n\nExample:\n  netctl command show 0198c5a2-8f2e-7d31-b2a4-4f0a52b8f1d7"
    )]
    Show {
        id: CommandId,
        #[command(flatten)]
        flags: ListFlags,
    },
}

pub(crate) async fn run(session: &mut Session, verb: CommandVerb) -> Result<(), Failure> {
    let CommandVerb::Show { id, flags } = verb;
    let events = events_of(session, id).await?;
    let revisions: Vec<Revision> = events.iter().map(|it| Revision(it.sequence())).collect();
    let Some(last) = events.last() else {
        return Err(Failure::Refused(format!(
            "no event in the log has the id {id}: the command was refused, changed nothing, never reached a netmaster, or went to another cluster"
        )));
    };
    let nodes = node::list(session, None).await?;
    let asked = nodes
        .iter()
        .map(|info| ask(session, &info.node, &revisions));
    let answers = join_all(asked).await;
    let progress: Vec<NodeProgress> = nodes
        .into_iter()
        .zip(answers)
        .map(|(info, answers)| {
            NodeProgress::of(
                info.node,
                Revision(last.sequence()),
                last.stored_at(),
                answers,
            )
        })
        .collect();
    let text = match flags.format() {
        _ if flags.quiet => revisions.iter().map(|it| format!("{it}\n")).collect(),
        format if format.is_text() => text(id, &events, &progress, format),
        format => output::document(&document(id, &events, &progress), format)?,
    };
    output::print(&text)
}

/// The events of a command, in order.
async fn events_of(session: &Session, id: CommandId) -> Result<Vec<Item>, Failure> {
    let context = jetstream::new(session.bus.clone());
    let asked = id.0.get_timestamp().map(|time| time.to_unix());
    let from = asked.and_then(|(seconds, _)| {
        let asked = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
        asked.checked_sub(MAX_CLOCK_ERROR).ok()
    });
    let from = from.map_or(StartAt::Start, StartAt::Time);
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
        reply => Err(node_refusal(node, "doesn't report its progress", reply)),
    }
}

/// The progress of the command on one node.
#[derive(Debug, PartialEq)]
struct NodeProgress {
    node: NodeName,
    /// Milliseconds since the log had the event.
    read: Option<f64>,
    applied: Option<f64>,
    ops: Option<u64>,
    last: Option<String>,
    /// The reason why a time is missing.
    note: String,
}

impl NodeProgress {
    /// `stored`: when the log's server had the command's last event, in microseconds since 1970.
    fn of(node: NodeName, last: Revision, stored: u64, answers: Result<Steps, Failure>) -> Self {
        let unknown = |node, note| Self {
            node,
            read: None,
            applied: None,
            ops: None,
            last: None,
            note,
        };
        let Steps { steps, read } = match answers {
            Ok(steps) => steps,
            Err(failure) => return unknown(node, failure.to_string()),
        };
        let step = steps.into_iter().find(|it| it.revision == last);
        let Some(step) = step else {
            let note = match read >= last {
                true => "not remembered: it was applied before netplugin started, or long ago",
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

fn text(id: CommandId, events: &[Item], progress: &[NodeProgress], format: Format) -> String {
    let mut text = format!("command {id}\n");
    if let Some(first) = events.first() {
        let by = printable(first.actor().unwrap_or("?"));
        text += &format!("decided {} by {by}\n", time::show(first.time));
    }
    if let Some(last) = events.last() {
        let took = last.stored_at() / 1_000;
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
            "Last change",
            "Note",
        ],
        &[],
    );
    let ms = |it: Option<f64>| it.map(|it| format!("{it:.1}")).unwrap_or_default();
    for node in progress {
        table.row(vec![
            node.node.to_string(),
            ms(node.read),
            ms(node.applied),
            node.ops.map(|it| it.to_string()).unwrap_or_default(),
            node.last.clone().unwrap_or_default(),
            node.note.clone(),
        ]);
    }
    text + &table.render(format)
}

fn document(id: CommandId, events: &[Item], progress: &[NodeProgress]) -> Value {
    let nodes = progress.iter().map(|node| {
        json!({
            "node": node.node,
            "readMilliseconds": node.read,
            "appliedMilliseconds": node.applied,
            "changes": node.ops,
            "lastChange": node.last,
            "note": node.note,
        })
    });
    json!({
        "command": id,
        "decidedBy": events.first().and_then(Item::actor),
        "decided": events.first().map(|it| time::show(it.time)),
        "written": events.last().map(|it| time::show(it.stored_at() / 1_000)),
        "events": events.iter().map(Item::json).collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(steps: Vec<Step>, read: u64) -> NodeProgress {
        let read = Revision(read);
        let steps = Steps { steps, read };
        NodeProgress::of("n1".parse().unwrap(), Revision(17), 1_000_000, Ok(steps))
    }

    #[test]
    fn times_count_from_the_log_and_missing_ones_have_a_reason() {
        let step = Step {
            revision: Revision(17),
            read: 1_001_500,
            applied: Some(1_012_000),
            ops: 3,
            last: Some("+ a route".to_owned()),
        };
        let done = progress(vec![step.clone()], 17);
        assert_eq!(
            (done.read, done.applied, done.ops),
            (Some(1.5), Some(12.0), Some(3))
        );
        assert_eq!(done.note, "");
        let open = Step {
            applied: None,
            ..step
        };
        let open = progress(vec![open], 17);
        assert_eq!((open.applied, open.ops), (None, None));
        assert!(open.note.contains("not applied yet"), "{}", open.note);
        assert!(
            progress(Vec::new(), 18)
                .note
                .contains("before netplugin started")
        );
        assert!(progress(Vec::new(), 16).note.contains("not read yet"));
        let silent = Failure::Unreachable("node n1 isn't on the bus".to_owned());
        let silent = NodeProgress::of("n1".parse().unwrap(), Revision(17), 0, Err(silent));
        assert!(silent.note.contains("isn't on the bus"), "{}", silent.note);
    }
}
