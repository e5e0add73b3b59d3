//! A node's repairs in its kernel and engine, and its progress with single revisions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Revision;

/// The changes by others to Contiv's objects that the node reverted since its netplugin started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healing {
    /// How many, by their kind: `route`, `device`, …
    pub kinds: BTreeMap<String, u64>,
    /// Absent: nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Healed>,
}

/// One repair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// In words of `ip`, `nft` and `docker`.
    pub what: String,
    /// Milliseconds since 1970-01-01 UTC by the node's clock.
    pub at: u64,
}

impl Healing {
    pub fn total(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// The repairs since `earlier`.
    pub fn since(&self, earlier: &Self) -> BTreeMap<String, u64> {
        let news = self.kinds.iter().filter_map(|(kind, count)| {
            let known = earlier.kinds.get(kind).copied().unwrap_or_default();
            let news = count.saturating_sub(known);
            (news > 0).then(|| (kind.clone(), news))
        });
        news.collect()
    }
}

/// One revision on its way through a node. Times are microseconds since 1970-01-01 UTC by the
/// node's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub revision: Revision,
    /// When the node had read it.
    pub read: u64,
    /// When the kernel reflected it; absent: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u64>,
    /// Changes of the kernel in the batch that applied it, perhaps with adjacent revisions.
    pub ops: u64,
    /// The last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
}

/// The revisions that were asked for, as far as the node remembers them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    pub steps: Vec<Step>,
    /// It has read the log up to here, and forgotten what isn't in `steps`.
    pub read: Revision,
}

/// The objects that a node found of an earlier run, and its actions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cleanup {
    /// In the order in which it was done.
    pub done: Vec<String>,
    /// The objects that couldn't be examined or returned, with the reasons.
    pub failed: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healing_since_an_earlier_state_counts_the_difference() {
        let of = |kinds: &[(&str, u64)]| Healing {
            kinds: kinds.iter().map(|(k, n)| ((*k).to_owned(), *n)).collect(),
            last: None,
        };
        let (before, now) = (
            of(&[("route", 2), ("fdb", 1)]),
            of(&[("route", 5), ("fdb", 1)]),
        );
        assert_eq!(now.since(&before), of(&[("route", 3)]).kinds);
        assert_eq!(now.since(&Healing::default()), now.kinds);
        assert_eq!(now.total(), 6);
    }
}
