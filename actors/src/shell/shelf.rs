//! A bounded map: when it is full, the entry that was used longest ago is dropped.

use std::collections::BTreeMap;

/// Entries that are kept.
const MAX_ENTRIES: usize = 4_096;

/// Values by key, with the time of each one's last use, counted in uses.
#[derive(Debug)]
pub(super) struct Shelf<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    uses: u64,
}

impl<K, V> Default for Shelf<K, V> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            uses: 0,
        }
    }
}

impl<K: Ord + Clone, V> Shelf<K, V> {
    /// The value, if there is one. This isn't a use.
    pub(super) fn peek(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// The value, which `build` makes if there is none.
    pub(super) fn get_or_build(&mut self, key: &K, build: impl FnOnce() -> V) -> &V {
        self.uses += 1;
        if self.entries.len() >= MAX_ENTRIES && !self.entries.contains_key(key) {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&oldest);
            }
        }
        let entry = self
            .entries
            .entry(key.clone())
            .or_insert_with(|| (0, build()));
        entry.0 = self.uses;
        &entry.1
    }
}
