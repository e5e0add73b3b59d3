//! Counts messages by outcome, over all of a node's servers.

use std::sync::atomic::{AtomicU64, Ordering};

use bus_schema::node::DnsCounters;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) answered: AtomicU64,
    pub(super) forwarded: AtomicU64,
    pub(super) cached: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) malformed: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> DnsCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsCounters {
            answered: read(&self.answered),
            forwarded: read(&self.forwarded),
            cached: read(&self.cached),
            failed: read(&self.failed),
            refused: read(&self.refused),
            malformed: read(&self.malformed),
        }
    }
}
