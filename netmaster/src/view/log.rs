//! Whether the log can be relied on: what its leader's copy lacks, and which nodes have applied more
//! than it holds.

use std::collections::BTreeMap;

use bus_schema::node::{LogState, NodeStatus};
use bus_schema::{NodeName, Rejection, Revision};

use super::View;

/// How long a node says that the log is another one before it is believed without a proof, in
/// milliseconds: it may have asked a server that didn't know yet that it leads no more, and looks
/// again every two seconds.
const FOREIGN_MS: u64 = 5_000;

/// Nodes, and up to where they have applied the log.
pub(crate) type Applied = BTreeMap<NodeName, Revision>;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LogView {
    /// Who leads it, if the bus says so.
    pub(crate) server: Option<String>,
    /// What the leader's copy lacks.
    pub(crate) lacks: Option<String>,
    /// Why it can't be read on.
    pub(crate) unread: Option<String>,
    /// Nodes that had applied more than the log held when its end was proved.
    ahead: Applied,
    /// Nodes that say that it is another log, and since when, in milliseconds since 1970.
    foreign: BTreeMap<NodeName, u64>,
    /// Nodes whose applied revision counts no more: an operator accepted the log.
    pub(crate) accepted: Applied,
}

impl LogView {
    /// Why the leader's copy can't be read from its first to its last revision.
    pub(crate) fn hole(&self) -> Option<&String> {
        self.lacks.as_ref().or(self.unread.as_ref())
    }

    /// A node that goes on with another revision is judged anew.
    pub(super) fn hear(&mut self, status: &NodeStatus, now: u64) {
        let NodeStatus { node, applied, .. } = status;
        match status.log {
            LogState::Foreign { .. } => {
                self.foreign.entry(node.clone()).or_insert(now);
            }
            _ => {
                self.foreign.remove(node);
            }
        }
        self.ahead
            .retain(|other, it| other != node || it == applied);
        if status.log == LogState::InSync {
            self.accepted
                .retain(|other, it| other != node || *it <= *applied);
        }
    }
}

impl View {
    fn live(&self, now: u64) -> impl Iterator<Item = &NodeStatus> {
        let members = self
            .nodes
            .iter()
            .filter(move |(name, _)| self.alive(name, now));
        members.filter_map(|(name, member)| {
            let status = &self.statuses.get(name)?.status;
            (status.machine == member.machine).then_some(status)
        })
    }

    /// Live nodes that say they have applied more than was read here: whether the log holds it, an
    /// append proves.
    pub(crate) fn suspects(&self, now: u64) -> Applied {
        let suspects = self.live(now).filter(|status| {
            let known = self.log.ahead.get(&status.node);
            status.applied > self.applied && known != Some(&status.applied)
        });
        suspects.map(|it| (it.node.clone(), it.applied)).collect()
    }

    /// The log was proved to end at `end` after `suspects` were heard.
    pub(crate) fn proved(&mut self, suspects: Applied, end: Revision) {
        let ahead = suspects.into_iter().filter(|(_, applied)| *applied > end);
        self.log.ahead.extend(ahead);
    }

    /// Live nodes that have applied what this log doesn't hold: by a proof, or because they say that it
    /// is another log, and have applied more than was read here or have said so for a while.
    pub(crate) fn ahead(&self, now: u64) -> Applied {
        let ahead = self.live(now).filter(|status| {
            let foreign = self.log.foreign.get(&status.node).is_some_and(|since| {
                status.applied > self.applied || now.saturating_sub(*since) >= FOREIGN_MS
            });
            let ahead = foreign || self.log.ahead.contains_key(&status.node);
            let accepted = self.log.accepted.get(&status.node);
            ahead && accepted.is_none_or(|it| *it < status.applied)
        });
        ahead.map(|it| (it.node.clone(), it.applied)).collect()
    }

    /// Why netmaster must not decide or answer. One node alone of several that live is no reason.
    pub(crate) fn damage(&self, now: u64) -> Option<Rejection> {
        let server = self.log.server.clone();
        if let Some(reason) = self.log.hole().cloned() {
            let hole = true;
            return Some(Rejection::LogDamaged {
                server,
                reason,
                hole,
            });
        }
        let ahead = self.ahead(now);
        let alone = ahead.len() == 1 && self.live(now).nth(1).is_some();
        if ahead.is_empty() || alone {
            return None;
        }
        let ahead = ahead
            .iter()
            .map(|(node, applied)| format!("node {node} has applied revision {applied}"));
        let ahead = ahead.collect::<Vec<_>>().join(", ");
        let reason = format!("{ahead}, which it doesn't hold");
        let hole = false;
        Some(Rejection::LogDamaged {
            server,
            reason,
            hole,
        })
    }
}

/// What a copy of the log lacks that holds so many messages from its first to its last sequence. A
/// log begins at 1 and nothing is removed from it.
pub(crate) fn lacks(messages: u64, first: u64, last: u64) -> Option<String> {
    match (last, last.saturating_sub(messages)) {
        (0, _) | (_, 0) => None,
        (_, _) if messages == 0 => Some(format!("none of its {last} messages is left")),
        (_, missing) if first > 1 => Some(format!(
            "{missing} of its {last} messages are missing, the first ones among them"
        )),
        (_, missing) => Some(format!("{missing} of its {last} messages are missing")),
    }
}
