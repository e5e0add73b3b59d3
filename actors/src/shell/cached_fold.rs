//! A fold that is shared on one thread: its actor decides on it, and appended events are folded in at
//! once, whatever its actor waits for.
//!
//! It never has a hole: otherwise a fence on its last event would accept a decision that missed one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bus_schema::{CommandId, Rejection, Revision};

use super::fold::{Fold, Panicked};
use crate::aggregate::Aggregate;
use crate::journal::Record;

/// An aggregate's state, and up to where it reaches.
#[derive(Debug, Clone)]
pub(super) struct Snapshot<A> {
    pub(super) state: Arc<A>,
    pub(super) revision: Revision,
    pub(super) blind: Option<Rejection>,
}

#[derive(Debug)]
pub(super) struct CachedFold<A> {
    fold: Fold<A>,
    /// The event on which `evolve` panicked last.
    panicked: Option<Revision>,
    /// It was read from the log to the log's end.
    pub(super) loaded: bool,
}

pub(super) type SharedFold<A> = Rc<RefCell<CachedFold<A>>>;

/// How folding records in ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TakenIn {
    All,
    /// Messages are missing before the first record: nothing was folded in.
    Gap,
    /// `evolve` panicked: the fold is empty again.
    Panicked,
    /// `evolve` panicked twice on the same event, so it isn't an accident.
    PanickedAgain {
        revision: Revision,
        subject: String,
    },
}

impl<A: Aggregate> Default for CachedFold<A> {
    fn default() -> Self {
        Self {
            fold: Fold::default(),
            panicked: None,
            loaded: false,
        }
    }
}

impl<A: Aggregate> CachedFold<A> {
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

    /// The revision of the first event of a command that was carried out in the last 24 h.
    pub(super) fn done(&self, id: CommandId) -> Option<Revision> {
        self.fold.done(id)
    }

    /// Folds in `records`, which are all messages of the aggregate behind `after`, up to the last of
    /// them.
    pub(super) fn take_in(&mut self, after: Revision, records: &[Record]) -> TakenIn {
        if self.fold.revision < after {
            return TakenIn::Gap;
        }
        for record in records {
            let Err(Panicked(revision)) = self.fold.apply(record) else {
                continue;
            };
            let again = self.panicked == Some(revision);
            self.panicked = Some(revision);
            self.forget();
            return match again {
                false => TakenIn::Panicked,
                true => TakenIn::PanickedAgain {
                    revision,
                    subject: record.subject.clone(),
                },
            };
        }
        TakenIn::All
    }

    pub(super) fn forget(&mut self) {
        self.fold = Fold::default();
        self.loaded = false;
    }
}
