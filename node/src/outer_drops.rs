//! Counts packets to VXLAN's outer port that the kernel dropped, by reason: for Prometheus since
//! netplugin's start, and for `netctl doctor` in the last hour.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::metrics::{self, increase};
use node_core::resource::OuterDrop;
use node_datapath::{Datapath, DatapathError};
use runtime::lock;
use runtime::pause;

/// Time between two readings of the kernel's counters. Prometheus usually reads as often.
const READ_INTERVAL: Duration = Duration::from_secs(15);
const HISTORY_DURATION: Duration = Duration::from_secs(3600);

/// Dropped packets by reason; reasons without packets may be missing.
pub type Drops = BTreeMap<OuterDrop, u64>;

/// Reads the kernel's counters. It is cheap to clone; clones share their history.
#[derive(Debug, Clone)]
pub struct OuterDrops {
    datapath: Datapath,
    history: Arc<Mutex<History>>,
}

/// The drops in the last hour, or since netplugin's start if that is less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentDrops {
    pub drops: Drops,
    pub during: Duration,
}

impl OuterDrops {
    pub fn new(datapath: Datapath) -> Self {
        Self {
            datapath,
            history: Arc::default(),
        }
    }

    /// Reads the counters every [`READ_INTERVAL`], for ever.
    pub async fn run(self) {
        loop {
            if let Err(error) = self.recent().await {
                tracing::debug!(%error, "can't read the outer port's counters");
            }
            pause(READ_INTERVAL).await;
        }
    }

    /// Reads the counters now.
    pub async fn recent(&self) -> Result<RecentDrops, DatapathError> {
        let counted = self.datapath.outer_drops().await?;
        let now = Instant::now();
        let mut history = lock(&self.history);
        metrics::outer_drops(&history.take(now, counted));
        Ok(history.recent(now))
    }
}

/// The kernel's counters over time. A table that is created again counts from zero.
#[derive(Debug, Default)]
struct History {
    start: Option<Instant>,
    last: Drops,
    /// The readings with new drops, at most an hour old.
    new: VecDeque<(Instant, Drops)>,
}

impl History {
    /// Adds a reading; returns the drops since the last one. Drops before the first reading are of an
    /// unknown time, and aren't new.
    fn take(&mut self, now: Instant, counted: Drops) -> Drops {
        let last = std::mem::replace(&mut self.last, counted);
        if self.start.is_none() {
            self.start = Some(now);
            return Drops::new();
        }
        let new: Drops = self
            .last
            .iter()
            .map(|(reason, count)| {
                let before = last.get(reason).copied().unwrap_or_default();
                (*reason, increase(before, *count))
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        if !new.is_empty() {
            self.new.push_back((now, new.clone()));
        }
        while self
            .new
            .front()
            .is_some_and(|(at, _)| now - *at > HISTORY_DURATION)
        {
            self.new.pop_front();
        }
        new
    }

    fn recent(&self, now: Instant) -> RecentDrops {
        let mut drops = Drops::new();
        for (reason, count) in self.new.iter().flat_map(|(_, new)| new) {
            *drops.entry(*reason).or_default() += count;
        }
        let start = self.start.unwrap_or(now);
        RecentDrops {
            drops,
            during: HISTORY_DURATION.min(now - start),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_the_last_hour_are_counted_also_with_a_new_table() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let sender = |count| Drops::from([(OuterDrop::Sender, count)]);
        let mut history = History::default();
        // Counted before netplugin was restarted.
        assert_eq!(history.take(at(0), sender(100)), Drops::new());
        assert_eq!(history.take(at(1), sender(105)), sender(5));
        let recent = history.recent(at(2));
        assert_eq!(recent.drops, sender(5));
        assert_eq!(recent.during, Duration::from_secs(120));
        // The table is gone, then there is another one.
        assert_eq!(history.take(at(30), Drops::new()), Drops::new());
        assert_eq!(history.take(at(40), sender(3)), sender(3));
        assert_eq!(history.recent(at(40)).drops, sender(8));
        assert_eq!(history.take(at(50), sender(1)), sender(1));
        assert_eq!(history.take(at(62), sender(1)), Drops::new());
        let recent = history.recent(at(62));
        assert_eq!((recent.drops, recent.during), (sender(4), HISTORY_DURATION));
    }
}
