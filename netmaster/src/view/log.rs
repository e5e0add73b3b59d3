//! Checks whether the log is whole: its leader's copy may lack messages, and nodes may have applied more
//! than it holds.

use std::collections::BTreeMap;

use bus_schema::node::{LogState, NodeStatus};
use bus_schema::{NodeName, Rejection, Revision};

use super::View;

/// How long a node must report a foreign log before netmaster believes it without a proof: the node may
/// have asked a former leader that wasn't replaced yet, and checks again every two seconds.
const FOREIGN_LOG_MS: u64 = 5_000;

/// Nodes, and the last revision that each has applied.
pub(crate) type Applied = BTreeMap<NodeName, Revision>;

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LogView {
    /// The server that leads it, if the bus names one.
    pub(crate) server: Option<String>,
    /// The messages that the leader's copy lacks.
    pub(crate) lacks: Option<String>,
    /// The reason why it can't be read on.
    pub(crate) unread: Option<String>,
    /// Nodes that had applied more than the log held when its end was proved.
    ahead: Applied,
    /// Nodes that report a foreign log, and since when, in milliseconds since 1970.
    foreign: BTreeMap<NodeName, u64>,
    /// Nodes whose applied revision is ignored: an operator accepted the log.
    pub(crate) accepted: Applied,
}

impl LogView {
    /// The reason why the leader's copy can't be read from its first to its last revision.
    pub(crate) fn hole(&self) -> Option<&String> {
        self.lacks.as_ref().or(self.unread.as_ref())
    }

    /// Takes a status. A node that has applied another revision since is checked anew.
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

    /// Live nodes that have applied more than was read here. An append proves whether the log holds it.
    pub(crate) fn suspects(&self, now: u64) -> Applied {
        let suspects = self.live(now).filter(|status| {
            let known = self.log.ahead.get(&status.node);
            status.applied > self.applied && known != Some(&status.applied)
        });
        suspects.map(|it| (it.node.clone(), it.applied)).collect()
    }

    /// Notes that the log was proved to end at `end` after the statuses of `suspects` came.
    pub(crate) fn proved(&mut self, suspects: Applied, end: Revision) {
        let ahead = suspects.into_iter().filter(|(_, applied)| *applied > end);
        self.log.ahead.extend(ahead);
    }

    /// Live nodes that have applied revisions that this log doesn't hold: by a proof, or because they report
    /// a foreign log, and have applied more than was read here or have reported it for a while.
    pub(crate) fn ahead(&self, now: u64) -> Applied {
        let ahead = self.live(now).filter(|status| {
            let foreign = self.log.foreign.get(&status.node).is_some_and(|since| {
                status.applied > self.applied || now.saturating_sub(*since) >= FOREIGN_LOG_MS
            });
            let ahead = foreign || self.log.ahead.contains_key(&status.node);
            let accepted = self.log.accepted.get(&status.node);
            ahead && accepted.is_none_or(|it| *it < status.applied)
        });
        ahead.map(|it| (it.node.clone(), it.applied)).collect()
    }

    /// The reason why netmaster must not decide or answer. One node alone of several live ones is none.
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

/// The messages that a copy of the log lacks. A log begins at sequence 1, and nothing is removed from it.
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
