//! The fold of one aggregate's events: its state, how far it reaches, and which commands it
//! holds.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bus_schema::codec::Decoded;
use bus_schema::{CommandId, Rejection, Revision};

use crate::aggregate::Aggregate;
use crate::journal::Record;

/// How long a command's id is kept, in milliseconds of the events' time.
const REMEMBERED: u64 = 24 * 60 * 60 * 1_000;

/// `evolve` panicked on the event at this revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked(pub(super) Revision);

#[derive(Debug, Clone, Default)]
pub(super) struct Fold<A> {
    pub(super) state: Arc<A>,
    /// The last message of the aggregate's subjects, whatever it was: what appends are fenced on.
    pub(super) revision: Revision,
    /// How many messages were folded in.
    pub(super) count: u64,
    /// Why nothing can be decided on this log: an event that this build mustn't guess at.
    pub(super) blind: Option<Rejection>,
    /// Where a command's first event lies.
    done: BTreeMap<CommandId, Revision>,
    by_time: VecDeque<(u64, CommandId)>,
}

impl<A: Aggregate> Fold<A> {
    /// Folds a message in; one that was folded in before changes nothing.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), Panicked> {
        if record.revision <= self.revision {
            return Ok(());
        }
        match &record.event {
            Ok(Decoded::Known(envelope)) => {
                let state = Arc::make_mut(&mut self.state);
                catch_unwind(AssertUnwindSafe(|| state.evolve(&envelope.body)))
                    .map_err(|_| Panicked(record.revision))?;
                self.remember(envelope.header.cause, envelope.header.time, record.revision);
            }
            Ok(Decoded::Newer(_)) => self.go_blind(Rejection::OlderThanLog {
                revision: record.revision,
            }),
            Err(e) => self.go_blind(Rejection::LogUnreadable {
                revision: record.revision,
                reason: e.to_string(),
            }),
        }
        self.revision = record.revision;
        self.count += 1;
        Ok(())
    }

    /// Where the first event of a command lies that was carried out in the last 24 h.
    pub(super) fn done(&self, id: CommandId) -> Option<Revision> {
        self.done.get(&id).copied()
    }

    fn go_blind(&mut self, why: Rejection) {
        tracing::error!("{why}");
        self.blind.get_or_insert(why);
    }

    fn remember(&mut self, id: CommandId, time: u64, revision: Revision) {
        if let Entry::Vacant(first) = self.done.entry(id) {
            first.insert(revision);
            self.by_time.push_back((time, id));
        }
        while let Some((old, id)) = self.by_time.front() {
            if old.saturating_add(REMEMBERED) >= time {
                break;
            }
            self.done.remove(id);
            self.by_time.pop_front();
        }
    }
}
