//! Differences of persistent maps that share most of their entries. Pure.

use imbl::OrdMap;

/// A key and its value.
type Entry<'a, K, V> = (&'a K, &'a V);
/// An entry of before and of after.
type Pair<'a, K, V> = (Option<Entry<'a, K, V>>, Option<Entry<'a, K, V>>);

/// The entries that differ: as they are in `before`, and as they are in `after`. Shared parts are
/// skipped, not compared.
pub fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Pair<'a, K, V>> {
    use imbl::ordmap::DiffItem::{Add, Remove, Update};
    before.diff(after).map(|item| match item {
        Add(key, new) => (None, Some((key, new))),
        Remove(key, old) => (Some((key, old)), None),
        Update { old, new } => (Some(old), Some(new)),
    })
}

/// The same entries, each once: as it is in `after`, or in `before` if it was removed.
pub fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Entry<'a, K, V>> {
    differing(before, after).filter_map(|(old, new)| new.or(old))
}
