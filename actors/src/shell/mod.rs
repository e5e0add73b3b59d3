//! All of actix: the actors around the aggregates, and their supervision.
//!
//! A [`Registry`] builds one [`decider::Decider`] for each aggregate when it is first asked for.
//! Each decides one command at a time on its fold of the log and appends fenced. They ask each
//! other for snapshots in the order tenant → network → cluster only, so nobody waits in a circle.

mod decider;
mod facts;
mod fold;
mod registry;
mod supervise;

pub use registry::{External, Registry, Settings};
pub use supervise::{Away, Busy, Health, Supervised, supervise};

#[cfg(test)]
mod tests;
