//! Brings a fold as far as a decision needs it.

use bus_schema::{AggregateId, Rejection, Revision, subject};

use super::cached_fold::{SharedFold, Snapshot};
use super::log::Log;
use crate::aggregate::Aggregate;
use crate::journal::LoadError;

/// Messages that are loaded at once.
const MAX_PAGE: usize = 10_000;

/// How much of the log a fold must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Any part; an append is fenced anyway.
    Cached,
    /// Everything up to here, which was the log's end when it was read.
    End(Revision),
}

/// Why nothing was decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Undecided {
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Blind(Rejection),
}

impl From<LoadError> for Undecided {
    fn from(e: LoadError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

impl Log {
    /// Brings the fold to `freshness`. Fed messages are in it already, the others are read.
    pub(super) async fn refresh<A: Aggregate>(
        &self,
        id: &AggregateId,
        fold: &SharedFold<A>,
        freshness: Freshness,
    ) -> Result<Snapshot<A>, Undecided> {
        let wanted = match freshness {
            Freshness::Cached => Revision(0),
            Freshness::End(end) => end,
        };
        let fed = self.fed_to(wanted).await;
        let complete = fed && fold.borrow().revision() >= self.last_fed(id).0;
        let cached = freshness == Freshness::Cached && fold.borrow().loaded;
        if !complete && !cached {
            self.load(id, fold).await?;
            self.must_hold(wanted).await?;
            self.must_be_whole(id, fold)?;
        }
        let snapshot = fold.borrow().snapshot();
        Ok(snapshot)
    }

    /// Checks that the loaded messages include all fed ones: a server whose copy has holes may have
    /// sent them.
    fn must_be_whole<A: Aggregate>(
        &self,
        id: &AggregateId,
        fold: &SharedFold<A>,
    ) -> Result<(), Undecided> {
        let (_, fed) = self.last_fed(id);
        let mut fold = fold.borrow_mut();
        if fold.count() >= fed {
            return Ok(());
        }
        fold.forget();
        let reason = "the server that answers lacks messages of the log: see `netctl doctor`";
        Err(Undecided::Unavailable(reason.to_owned()))
    }

    /// Reads the log from the end of the fold to its own end. After a panic the fold begins at the
    /// log's start.
    async fn load<A: Aggregate>(
        &self,
        id: &AggregateId,
        fold: &SharedFold<A>,
    ) -> Result<(), LoadError> {
        let filter = subject::of_aggregate(id);
        loop {
            let after = fold.borrow().revision();
            let records = self.journal().load(&filter, after, MAX_PAGE).await?;
            let full = records.len() == MAX_PAGE;
            if self.take_in(fold, after, &records) && !full {
                fold.borrow_mut().loaded = true;
                return Ok(());
            }
        }
    }
}
