//! The fold of one aggregate's events: the state, the last folded revision, and the ids of the commands
//! in it.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bus_schema::codec::Decoded;
use bus_schema::{CommandId, Rejection, Revision};

use crate::aggregate::Aggregate;
use crate::journal::Record;

/// How long a command's id is kept, by the events' time.
const ID_RETENTION_MS: u64 = 24 * 60 * 60 * 1_000;
/// So many ids are kept however old they look: events of netmasters whose clocks differ lie side by
/// side, and one of a clock that is a day ahead must not make all others look old.
const MIN_KEPT_IDS: usize = 1_024;

/// `evolve` panicked on the event at this revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Panicked(pub(super) Revision);

#[derive(Debug, Clone, Default)]
pub(super) struct Fold<A> {
    pub(super) state: Arc<A>,
    /// The last message of the aggregate's subjects, readable or not. Appends are fenced on it.
    pub(super) revision: Revision,
    /// How many messages were folded in.
    pub(super) count: u64,
    /// The reason why nothing can be decided: an event that this build can't read.
    pub(super) blind: Option<Rejection>,
    /// The revision of each command's first event.
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

    /// The revision of the first event of a command that was carried out in the last 24 h.
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
            if self.by_time.len() <= MIN_KEPT_IDS || old.saturating_add(ID_RETENTION_MS) >= time {
                break;
            }
            self.done.remove(id);
            self.by_time.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::aggregate::Cluster;

    fn id(n: usize) -> CommandId {
        CommandId(Uuid::from_u128(n as u128))
    }

    #[test]
    fn an_event_of_a_clock_that_is_days_ahead_forgets_no_command() {
        let mut fold = Fold::<Cluster>::default();
        fold.remember(id(1), 1_000, Revision(1));
        fold.remember(id(2), 1_000 + 2 * ID_RETENTION_MS, Revision(2));
        fold.remember(id(3), 2_000, Revision(3));
        assert_eq!(fold.done(id(1)), Some(Revision(1)));
    }

    #[test]
    fn ids_older_than_a_day_are_forgotten_when_there_are_many() {
        let mut fold = Fold::<Cluster>::default();
        for n in 0..=MIN_KEPT_IDS {
            fold.remember(id(n), 1_000, Revision(1));
        }
        assert!(fold.done(id(0)).is_some());
        fold.remember(id(MIN_KEPT_IDS + 1), 2_000 + ID_RETENTION_MS, Revision(2));
        assert_eq!((fold.done(id(0)), fold.done(id(1))), (None, None));
        assert!(fold.done(id(2)).is_some());
    }
}
