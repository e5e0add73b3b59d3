//! The searches for addresses that run on this netmaster, and their outcomes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bus_schema::node::ALIVE_MS;
use bus_schema::{CommandId, NodeName, PoolKey, Reply};
use tokio::sync::{Mutex, OnceCell};

/// How long an outcome is kept for a command that is sent again. Nodes send one for four seconds.
const MAX_KEPT_MS: u64 = 10_000;

/// The searches of this netmaster.
#[derive(Debug, Default)]
pub(super) struct Searches {
    /// By command, with the time until which it is kept, in milliseconds since 1970.
    outcomes: RefCell<BTreeMap<CommandId, (u64, Outcome)>>,
    turns: RefCell<BTreeMap<PoolKey, Arc<Mutex<()>>>>,
    /// Nodes that didn't answer, with the time until which that counts, in milliseconds since 1970.
    unresponsive: RefCell<BTreeMap<NodeName, u64>>,
}

/// The reply of a search; empty until the search is over.
pub(super) type Outcome = Rc<OnceCell<Reply>>;

impl Searches {
    pub(super) fn outcome(&self, id: CommandId) -> Option<Outcome> {
        let outcomes = self.outcomes.borrow();
        outcomes.get(&id).map(|(_, outcome)| Rc::clone(outcome))
    }

    /// The outcome of the command's search, which may be under way.
    pub(super) fn begin(&self, id: CommandId, now: u64) -> Outcome {
        let mut outcomes = self.outcomes.borrow_mut();
        outcomes.retain(|_, (until, _)| now < *until);
        let until = now.saturating_add(MAX_KEPT_MS);
        let (_, outcome) = outcomes.entry(id).or_insert_with(|| (until, Rc::default()));
        Rc::clone(outcome)
    }

    pub(super) fn is_unresponsive(&self, node: &NodeName, now: u64) -> bool {
        let unresponsive = self.unresponsive.borrow();
        unresponsive.get(node).is_some_and(|until| now < *until)
    }

    pub(super) fn heard(&self, node: &NodeName, answered: bool, now: u64) {
        let mut unresponsive = self.unresponsive.borrow_mut();
        match answered {
            true => unresponsive.remove(node),
            false => unresponsive.insert(node.clone(), now.saturating_add(ALIVE_MS)),
        };
    }

    pub(super) fn turn(&self, pool: &PoolKey) -> Arc<Mutex<()>> {
        let mut turns = self.turns.borrow_mut();
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(turns.entry(pool.clone()).or_default())
    }
}
