//! Keys of operations in progress in this process: addresses that are requested by name, blocks that
//! are being given up, pools for which a block is being leased.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use runtime::lock;

/// Counts the operations in progress of each key. A clone shares the counts.
#[derive(Debug)]
pub(super) struct InProgress<K> {
    counts: Arc<Mutex<BTreeMap<K, usize>>>,
    ended: Arc<Notify>,
}

impl<K> Clone for InProgress<K> {
    fn clone(&self) -> Self {
        Self {
            counts: self.counts.clone(),
            ended: self.ended.clone(),
        }
    }
}

impl<K: Ord + Clone> InProgress<K> {
    /// `ended` is notified whenever a guard is dropped.
    pub(super) fn new(ended: Arc<Notify>) -> Self {
        Self {
            counts: Arc::default(),
            ended,
        }
    }

    /// Begins an operation, which ends when the returned guard is dropped. A key may have several.
    pub(super) fn begin(&self, key: K) -> InProgressGuard<K> {
        *lock(&self.counts).entry(key.clone()).or_default() += 1;
        InProgressGuard {
            operations: self.clone(),
            key,
        }
    }

    /// Begins an operation unless one with this key is in progress.
    pub(super) fn try_begin(&self, key: K) -> Option<InProgressGuard<K>> {
        let mut counts = lock(&self.counts);
        if counts.contains_key(&key) {
            return None;
        }
        counts.insert(key.clone(), 1);
        Some(InProgressGuard {
            operations: self.clone(),
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

/// One operation in progress; dropping it ends the operation.
#[derive(Debug)]
pub(super) struct InProgressGuard<K: Ord + Clone> {
    operations: InProgress<K>,
    key: K,
}

impl<K: Ord + Clone> Drop for InProgressGuard<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.operations.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
        drop(counts);
        self.operations.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_in_progress_until_its_last_guard_is_dropped() {
        let operations = InProgress::new(Arc::default());
        let (first, second) = (operations.begin(1), operations.begin(1));
        drop(first);
        assert_eq!(operations.all(), [1].into());
        assert!(operations.try_begin(1).is_none());
        drop(second);
        assert!(operations.all().is_empty());
        assert!(operations.try_begin(1).is_some());
    }
}
