//! Netmaster's decisions about the blocks that this node gives up.

use std::sync::{Arc, Mutex};

use bus_schema::Revision;

use super::due::{BlockKey, Decisions};
use runtime::lock;

/// The decisions that every task and the manager use. A clone shares them.
///
/// A command that was rejected is accepted when it is sent again and the node holds the block by then. So
/// a rejection counts only as long as the command isn't sent again.
#[derive(Debug, Clone, Default)]
pub(super) struct SharedDecisions(Arc<Mutex<Decisions>>);

impl SharedDecisions {
    pub(super) fn all(&self) -> Decisions {
        lock(&self.0).clone()
    }

    /// Forgets the decision, because the command is sent, or because its outcome is unknown.
    pub(super) fn forget(&self, held: &BlockKey) {
        lock(&self.0).remove(held);
    }

    /// Records a decision. Of several the latest counts.
    pub(super) fn record(&self, held: &BlockKey, at: Revision) {
        let mut all = lock(&self.0);
        let latest = all.entry(held.clone()).or_insert(at);
        *latest = at.max(*latest);
    }

    pub(super) fn retain(&self, is_kept: impl Fn(&BlockKey) -> bool) {
        lock(&self.0).retain(|held, _| is_kept(held));
    }

    /// Whether facts that have read the log up to `applied` have the decision.
    pub(super) fn is_in(&self, held: &BlockKey, applied: Revision) -> bool {
        lock(&self.0).get(held).is_some_and(|at| applied >= *at)
    }
}
