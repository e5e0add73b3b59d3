//! A fold as all of this thread share it: its actor decides on it, and what was appended goes into it
//! at once, whatever its actor is waiting for.
//!
//! It never has a hole, else a fence on its last event would let a decision pass that missed one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bus_schema::{CommandId, Revision};

use super::facts::Snapshot;
use super::fold::{Fold, Panicked};
use super::registry::Registry;
use crate::aggregate::Aggregate;
use crate::journal::Record;

#[derive(Debug)]
pub(super) struct Ledger<A> {
    fold: Fold<A>,
    /// The event on which `evolve` panicked last.
    panicked: Option<Revision>,
    /// It was read from the log to its end.
    pub(super) loaded: bool,
}

pub(super) type Shared<A> = Rc<RefCell<Ledger<A>>>;

impl<A: Aggregate> Default for Ledger<A> {
    fn default() -> Self {
        Self {
            fold: Fold::default(),
            panicked: None,
            loaded: false,
        }
    }
}

impl<A: Aggregate> Ledger<A> {
    pub(super) fn revision(&self) -> Revision {
        self.fold.revision
    }

    /// How many messages were folded in.
    pub(super) fn count(&self) -> u64 {
        self.fold.count
    }

    pub(super) fn snapshot(&self) -> Snapshot<A> {
        Snapshot {
            state: Arc::clone(&self.fold.state),
            revision: self.fold.revision,
            blind: self.fold.blind.clone(),
        }
    }

    /// Where the first event of a command lies that was carried out in the last 24 h.
    pub(super) fn done(&self, id: CommandId) -> Option<Revision> {
        self.fold.done(id)
    }

    /// Whether `records` are folded in now, which are all of the aggregate behind `after`, up to the
    /// last of these. Not if others are missing before them, nor if `evolve` panicked: then the fold
    /// starts over. The second panic on the same event is no accident: the process ends.
    pub(super) fn take_in(
        &mut self,
        after: Revision,
        records: &[Record],
        registry: &Registry,
    ) -> bool {
        if self.fold.revision < after {
            return false;
        }
        for record in records {
            if let Err(Panicked(revision)) = self.fold.apply(record) {
                if self.panicked == Some(revision) {
                    registry.give_up(format!(
                        "folding the event at revision {revision} ({}) panicked twice: this netmaster can't go on with this log; run another version of it",
                        record.subject
                    ));
                }
                self.panicked = Some(revision);
                self.forget();
                return false;
            }
        }
        true
    }

    pub(super) fn forget(&mut self) {
        self.fold = Fold::default();
        self.loaded = false;
    }
}
