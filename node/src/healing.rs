//! What others changed of what is ours, and was put right: counted by whoever put it right, told
//! in the node's status and, by `bus`, in the tail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bus_schema::healing::{Healed, Healing};
use tokio::sync::watch;

use runtime::lock;
use runtime::now;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Healings {
    counted: watch::Sender<Healing>,
    /// How it stood when the tail was last told.
    told: Arc<Mutex<Healing>>,
}

impl Healings {
    pub fn subscribe(&self) -> watch::Receiver<Healing> {
        self.counted.subscribe()
    }

    /// These were put right: of each its kind, and what it is.
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

    /// What the tail wasn't told of yet, and how it stands then.
    pub fn untold(&self) -> Option<(BTreeMap<String, u64>, Healed, Healing)> {
        let now = self.counted.borrow().clone();
        let news = now.since(&self.told());
        let last = now.last.clone().filter(|_| !news.is_empty())?;
        Some((news, last, now))
    }

    pub fn is_told(&self, healing: Healing) {
        *self.told() = healing;
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Healing> {
        lock(&self.told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_also_when_telling_failed_before() {
        let healings = Healings::default();
        assert!(healings.untold().is_none());
        healings.note(vec![("route", "r1".to_owned()), ("fdb", "f1".to_owned())]);
        // Nobody heard it.
        healings.untold().unwrap();
        healings.note(vec![("route", "r2".to_owned())]);
        let (news, last, told) = healings.untold().unwrap();
        let expected: BTreeMap<String, u64> =
            [("fdb".to_owned(), 1), ("route".to_owned(), 2)].into();
        assert_eq!((news, last.what.as_str()), (expected, "r2"));
        healings.is_told(told);
        assert!(healings.untold().is_none());
    }
}
