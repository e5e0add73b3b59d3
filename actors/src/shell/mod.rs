//! All of actix: the actors around the aggregates, and their supervision.
//!
//! A [`Registry`] builds one [`decider::Decider`] for each aggregate when it is first asked for.
//! Each decides its commands in turn on its fold of the log and appends fenced. They ask each
//! other for snapshots in the order tenant → network → cluster only, so nobody waits in a circle.
//! Whoever follows the log feeds it to the registry, which keeps the folds up to date.

mod attempt;
mod decider;
mod facts;
mod fold;
mod ledger;
mod proof;
mod registry;
mod supervise;

pub use proof::{Proof, Unproved};
pub use registry::{External, Registry, Settings};
pub use supervise::{Away, Busy, Health, Supervised, supervise};

#[cfg(test)]
mod tests;
