//! The commands of one attempt, each decided as if the events of those before it were in the log.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bus_schema::{AggregateId, CommandId, Event, Rejection};

use super::cached_fold::Snapshot;
use super::facts::{Gather, Gathered};

pub(super) struct Draft<A: Gather> {
    pub(super) own: Snapshot<A>,
    pub(super) gathered: Gathered<A::Facts>,
    pub(super) decided: Vec<(CommandId, Vec<Event>)>,
    /// The number of commands in `decided` that are folded into `own` and the facts.
    folded: usize,
    /// The earliest deadline of these commands: nothing is appended behind it.
    pub(super) deadline: u64,
}

impl<A: Gather> Draft<A> {
    pub(super) fn new(own: Snapshot<A>) -> Self {
        Self {
            own,
            gathered: Gathered::default(),
            decided: vec![],
            folded: 0,
            deadline: u64::MAX,
        }
    }

    pub(super) fn holds(&self, id: CommandId) -> bool {
        self.decided.iter().any(|(other, _)| *other == id)
    }

    pub(super) fn add(&mut self, id: CommandId, events: Vec<Event>, deadline: u64) {
        self.decided.push((id, events));
        self.deadline = self.deadline.min(deadline);
    }

    /// Folds in the decided events, and answers whether `evolve` didn't panic.
    pub(super) fn fold(&mut self, id: &AggregateId) -> bool {
        let events = self.decided[self.folded..].iter().flat_map(|(_, it)| it);
        let (state, facts) = (&mut self.own.state, &mut self.gathered.facts);
        let folded = catch_unwind(AssertUnwindSafe(|| {
            for event in events {
                match event.aggregate() {
                    Some(of) if of == *id => Arc::make_mut(state).evolve(event),
                    Some(of) => A::foresee(facts, &of, event),
                    None => {}
                }
            }
        }));
        self.folded = self.decided.len();
        folded.is_ok()
    }

    /// Decides behind everything that is folded in. `None`: `decide` panicked.
    pub(super) fn decide(&self, command: &A::Command) -> Option<Result<Vec<Event>, Rejection>> {
        let (state, facts) = (&self.own.state, &self.gathered.facts);
        let decided = catch_unwind(AssertUnwindSafe(|| state.decide(command, facts)));
        if decided.is_err() {
            tracing::error!(?command, "decide panicked");
        }
        decided.ok()
    }
}
