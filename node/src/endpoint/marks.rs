//! Keys that tasks of this process work on at the moment: addresses that are asked for by name,
//! blocks that are being given up, pools for which a block is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use runtime::lock;

/// Cheap to clone; a clone shares the marks.
#[derive(Debug)]
pub(super) struct Marks<K> {
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
    ended: Arc<Notify>,
}

impl<K> Clone for Marks<K> {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl<K: Ord + Clone> Marks<K> {
    /// `ended` is notified whenever a mark is dropped.
    pub(super) fn new(ended: Arc<Notify>) -> Self {
        Self {
            counts: Arc::default(),
            ended,
        }
    }

    /// Marks the key until the returned [`Mark`] is dropped. A key that was marked twice is marked until both
    /// are dropped.
    pub(super) fn mark(&self, key: K) -> Mark<K> {
        *lock(&self.counts).entry(key.clone()).or_default() += 1;
        Mark {
            marks: self.clone(),
            key,
        }
    }

    /// `None`: it is marked already.
    pub(super) fn try_mark(&self, key: K) -> Option<Mark<K>> {
        let mut counts = lock(&self.counts);
        if counts.contains_key(&key) {
            return None;
        }
        counts.insert(key.clone(), 1);
        Some(Mark {
            marks: self.clone(),
            key,
        })
    }

    pub(super) fn count(&self, key: &K) -> usize {
        lock(&self.counts).get(key).copied().unwrap_or_default()
    }

    pub(super) fn all(&self) -> BTreeSet<K> {
        lock(&self.counts).keys().cloned().collect()
    }
}

/// The key is marked until this is dropped.
#[derive(Debug)]
pub(super) struct Mark<K: Ord + Clone> {
    marks: Marks<K>,
    key: K,
}

impl<K: Ord + Clone> Drop for Mark<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.marks.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
        drop(counts);
        self.marks.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_marked_until_its_last_mark_is_dropped() {
        let marks = Marks::new(Arc::default());
        let (first, second) = (marks.mark(1), marks.mark(1));
        drop(first);
        assert_eq!(marks.all(), [1].into());
        assert!(marks.try_mark(1).is_none());
        drop(second);
        assert!(marks.all().is_empty());
        assert!(marks.try_mark(1).is_some());
    }
}
