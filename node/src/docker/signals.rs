//! The signals that running containers were sent since their start. They outlive a connection to the
//! engine, as a container that was told to stop does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use runtime::lock;

/// Signals by the container's id.
#[derive(Debug, Default)]
pub(super) struct Signals(Mutex<BTreeMap<String, Sent>>);

#[derive(Debug, Default)]
struct Sent {
    numbers: BTreeSet<i32>,
    /// The time of the container's start as the engine writes it; absent until the first inspection.
    started_at: Option<String>,
}

impl Signals {
    pub(super) fn note(&self, container: &str, signal: i32) {
        let mut all = lock(&self.0);
        let sent = all.entry(container.to_owned()).or_default();
        sent.numbers.insert(signal);
    }

    /// Forgets the signals of a container that starts or has ended.
    pub(super) fn forget(&self, container: &str) {
        lock(&self.0).remove(container);
    }

    /// Forgets signals to containers that weren't inspected since: after a lost connection an
    /// inspection may show their next start.
    pub(super) fn forget_unread(&self) {
        lock(&self.0).retain(|_, sent| sent.started_at.is_some());
    }

    pub(super) fn any(&self, container: &str) -> bool {
        lock(&self.0).contains_key(container)
    }

    /// The signals since this start. Those of an earlier one are forgotten: its end and this start
    /// weren't seen.
    pub(super) fn since(&self, container: &str, started_at: &str) -> BTreeSet<i32> {
        let mut all = lock(&self.0);
        let Some(sent) = all.get_mut(container) else {
            return BTreeSet::new();
        };
        let known = sent.started_at.get_or_insert_with(|| started_at.to_owned());
        if known == started_at {
            return sent.numbers.clone();
        }
        all.remove(container);
        BTreeSet::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_outlive_a_connection_and_end_with_the_containers_start() {
        let signals = Signals::default();
        signals.note("c1", 15);
        assert_eq!(signals.since("c1", "9:00"), BTreeSet::from([15]));
        signals.forget_unread();
        assert_eq!(signals.since("c1", "9:00"), BTreeSet::from([15]));
        assert_eq!(signals.since("c1", "9:05"), BTreeSet::new(), "it restarted");
        assert!(!signals.any("c1"));
    }

    #[test]
    fn signals_that_no_inspection_followed_are_forgotten_with_the_connection() {
        let signals = Signals::default();
        signals.note("c1", 15);
        signals.forget_unread();
        assert!(!signals.any("c1"));
    }
}
