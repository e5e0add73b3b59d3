//! Each asker's share of a server: of the queries that wait for an answer, and of the packets that are
//! read. Pure but for a lock; the time is an argument.
//!
//! An asker is a source address. Anti-spoofing lets an endpoint send from its own addresses only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use runtime::lock;

/// Limits the waiting queries of one asker.
const MAX_ASKER_QUERIES: usize = 128;
/// Limits the waiting queries of one server, so that a tenant's flood takes neither memory nor sockets
/// from the others.
const MAX_QUERIES: usize = 1_024;
/// An asker may have so many waiting queries, whatever the others have.
const RESERVED_QUERIES: usize = 4;
/// Limits the queries of one asker in a second while others ask, too: a fifth of what a server answers.
const MAX_ASKER_RATE: u32 = 10_000;
/// The time for which an asker counts after its last query, and in which its rate is counted.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// The waiting queries of one server.
#[derive(Debug, Default)]
pub(super) struct Shares {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    of: BTreeMap<IpAddr, usize>,
}

/// The place of a waiting query; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    asker: IpAddr,
}

impl Shares {
    /// Takes a place for a query; `None` if the asker's share is used up.
    pub(super) fn take(self: &Arc<Self>, asker: IpAddr) -> Option<Share> {
        let mut waiting = lock(&self.waiting);
        let all = waiting.all;
        let own = waiting.of.entry(asker).or_default();
        let free = *own < RESERVED_QUERIES || *own < MAX_ASKER_QUERIES && all < MAX_QUERIES;
        if !free {
            return None;
        }
        *own += 1;
        waiting.all += 1;
        Some(Share {
            shares: self.clone(),
            asker,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut waiting = lock(&self.shares.waiting);
        waiting.all -= 1;
        if let Some(own) = waiting.of.get_mut(&self.asker) {
            *own -= 1;
            if *own == 0 {
                waiting.of.remove(&self.asker);
            }
        }
    }
}

/// The rates at which one server is asked. A single asker has no limit.
#[derive(Debug, Default)]
pub(super) struct Rates {
    since: Option<Instant>,
    now: BTreeMap<IpAddr, u32>,
    /// The number of askers in the window before.
    askers_before: usize,
}

impl Rates {
    /// Counts a query; false if the asker has asked too much while others wait.
    pub(super) fn admit(&mut self, asker: IpAddr, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + RATE_WINDOW) {
            self.since = Some(now);
            self.askers_before = std::mem::take(&mut self.now).len();
        }
        let count = self.now.entry(asker).or_default();
        *count = count.saturating_add(1);
        let is_over = *count > MAX_ASKER_RATE;
        !is_over || self.now.len().max(self.askers_before) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(number: u8) -> IpAddr {
        [20, 1, 1, number].into()
    }

    #[test]
    fn share_of_one_asker_is_free_whatever_the_others_have() {
        let shares = Arc::new(Shares::default());
        let mut held: Vec<Share> = Vec::new();
        for number in 1..=u8::MAX {
            held.extend((0..MAX_ASKER_QUERIES + 1).map_while(|_| shares.take(asker(number))));
            if number == 1 {
                assert_eq!(held.len(), MAX_ASKER_QUERIES);
            }
        }
        assert!(held.len() <= MAX_QUERIES + usize::from(u8::MAX) * RESERVED_QUERIES);
        let late: Vec<Share> = std::iter::from_fn(|| shares.take(asker(0))).collect();
        assert_eq!(late.len(), RESERVED_QUERIES);
        drop((held, late));
        assert_eq!(lock(&shares.waiting).all, 0);
        assert!(lock(&shares.waiting).of.is_empty());
    }

    #[test]
    fn rate_of_an_asker_is_limited_while_others_ask() {
        let (mut rates, begin) = (Rates::default(), Instant::now());
        let flood = |rates: &mut Rates, at| {
            let all = (0..3 * MAX_ASKER_RATE).filter(|_| rates.admit(asker(1), at));
            all.count() as u32
        };
        assert_eq!(flood(&mut rates, begin), 3 * MAX_ASKER_RATE, "nobody waits");
        assert!(rates.admit(asker(2), begin));
        let next = begin + RATE_WINDOW;
        assert_eq!(flood(&mut rates, next), MAX_ASKER_RATE);
        assert!(rates.admit(asker(2), next));
        let later = next + 3 * RATE_WINDOW;
        assert_eq!(flood(&mut rates, later), MAX_ASKER_RATE, "one window later");
        assert_eq!(flood(&mut rates, later + RATE_WINDOW), 3 * MAX_ASKER_RATE);
    }
}
