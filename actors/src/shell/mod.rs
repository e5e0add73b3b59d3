//! All of actix: the actors around the aggregates, and their supervision.
//!
//! A [`Registry`] builds one [`decider::Decider`] for each aggregate when it is first needed. Each
//! decides its commands in turn on its fold of the log, and appends fenced. A decision reads the folds
//! of other aggregates from the [`Log`], which netmaster feeds. Files depend on those below them only:
//!
//! ```text
//! registry ── one decider for each aggregate, supervised
//! decider ── attempt, append ── the queue of one actor; one batch of its commands
//! facts, draft ── the input of a decision
//! proof ── barriers that prove the log's end
//! log, refresh ── the feed, and folds that are read on when it is behind
//! cached_fold, fold, shelf
//! ```

mod append;
mod attempt;
mod cached_fold;
mod decider;
mod draft;
mod facts;
mod fold;
mod log;
mod proof;
mod refresh;
mod registry;
mod shelf;
mod supervise;

pub use log::{Log, Settings};
pub use proof::{Proof, Unproved};
pub use registry::{External, Registry};

#[cfg(test)]
mod tests;
