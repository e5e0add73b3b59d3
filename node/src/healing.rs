//! Counts healings: changes that other programs made to our kernel objects, and that were reverted. The
//! node's status has the counts; `bus` publishes each healing for `netctl events`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bus_schema::healing::{Healed, Healing};
use tokio::sync::watch;

use runtime::lock;
use runtime::now;

/// The counts of healings. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Healings {
    counted: watch::Sender<Healing>,
    /// The counts at the last publication.
    reported: Arc<Mutex<Healing>>,
}

impl Healings {
    pub fn subscribe(&self) -> watch::Receiver<Healing> {
        self.counted.subscribe()
    }

    /// Counts healings, each by its kind and its text.
    pub fn note(&self, healed: Vec<(&str, String)>) {
        let Some((_, what)) = healed.last().cloned() else {
            return;
        };
        let at = now();
        self.counted.send_modify(|healing| {
            for (kind, _) in healed {
                *healing.kinds.entry(kind.to_owned()).or_default() += 1;
            }
            healing.last = Some(Healed { what, at });
        });
    }

    /// The healings since the last publication: counts by kind, the last one, and the new total.
    pub fn unreported(&self) -> Option<(BTreeMap<String, u64>, Healed, Healing)> {
        let now = self.counted.borrow().clone();
        let news = now.since(&self.reported());
        let last = now.last.clone().filter(|_| !news.is_empty())?;
        Some((news, last, now))
    }

    pub fn set_reported(&self, healing: Healing) {
        *self.reported() = healing;
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, Healing> {
        lock(&self.reported)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healings_are_reported_once_also_after_a_failed_publication() {
        let healings = Healings::default();
        assert!(healings.unreported().is_none());
        healings.note(vec![("route", "r1".to_owned()), ("fdb", "f1".to_owned())]);
        // This publication failed.
        healings.unreported().unwrap();
        healings.note(vec![("route", "r2".to_owned())]);
        let (news, last, total) = healings.unreported().unwrap();
        let expected: BTreeMap<String, u64> =
            [("fdb".to_owned(), 1), ("route".to_owned(), 2)].into();
        assert_eq!((news, last.what.as_str()), (expected, "r2"));
        healings.set_reported(total);
        assert!(healings.unreported().is_none());
    }
}
