//! The clocks of other machines, compared with one another and with this machine's.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC, by this machine's clock.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// The time of another clock, with the times of request and answer by ours; milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) sent: u64,
    pub(crate) time: u64,
    pub(crate) received: u64,
}

impl Clock {
    /// The milliseconds by which it is certainly ahead of ours; negative: behind.
    pub(crate) fn skew(self) -> i64 {
        let ms = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        match (self.time > self.received, self.time < self.sent) {
            (true, _) => ms(self.time - self.received),
            (_, true) => -ms(self.sent - self.time),
            _ => 0,
        }
    }
}

/// A skew up to this many milliseconds isn't reported.
pub(crate) const MAX_SKEW_MS: u64 = 1_000;

/// The milliseconds by which each clock is ahead of most others; negative: behind. If most clocks agree
/// with one another but not with this machine's, then this machine's is wrong and comes first.
pub(crate) fn skews(clocks: &[(String, Clock)]) -> Vec<(String, i64)> {
    let mut all: Vec<i64> = clocks.iter().map(|(_, clock)| clock.skew()).collect();
    all.sort_unstable();
    // An even number has two medians; take the one nearer to this machine's clock.
    let middle = [all.len().saturating_sub(1) / 2, all.len() / 2];
    let middle = middle.iter().filter_map(|at| all.get(*at));
    let middle = middle.min_by_key(|skew| skew.abs());
    let most = middle.copied().filter(|it| it.unsigned_abs() > MAX_SKEW_MS);
    let ours = most.map(|most| ("this machine".to_owned(), -most));
    let others = clocks.iter().map(|(of, clock)| {
        let skew = clock.skew() - most.unwrap_or(0);
        (of.clone(), skew)
    });
    ours.into_iter().chain(others).collect()
}

/// The text for a wrong clock, with the remedy.
pub(crate) fn skewed(skew: i64) -> String {
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let skew = skew.unsigned_abs();
    format!(
        "{}.{:03} s {direction} most others: times in events are wrong, and commands of older builds time out; let chrony or systemd-timesyncd set it",
        skew / 1_000,
        skew % 1_000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_leaves_out_the_round_trip() {
        let skew = |time| {
            let (sent, received) = (1_000, 1_100);
            Clock {
                sent,
                time,
                received,
            }
            .skew()
        };
        assert_eq!((skew(1_050), skew(1_000), skew(1_100)), (0, 0, 0));
        assert_eq!((skew(1_300), skew(900)), (200, -100));
    }

    #[test]
    fn wrong_clock_is_the_one_that_differs_from_most() {
        let clock = |of: &str, time| {
            let (sent, received) = (100_000, 100_100);
            (
                of.to_owned(),
                Clock {
                    sent,
                    time,
                    received,
                },
            )
        };
        let off = |clocks: &[(String, Clock)]| -> Vec<(String, i64)> {
            let mut all = skews(clocks);
            all.retain(|(_, skew)| skew.unsigned_abs() > MAX_SKEW_MS);
            all
        };
        let (same, slow) = (100_050, 40_000);
        let named = |of: &str, skew| vec![(of.to_owned(), skew)];
        assert_eq!(off(&[clock("a", same), clock("b", same)]), []);
        assert_eq!(
            off(&[clock("a", same), clock("b", slow), clock("c", same)]),
            named("b", -60_000)
        );
        assert_eq!(
            off(&[clock("a", same), clock("b", slow)]),
            named("b", -60_000),
            "it is one of two"
        );
        assert_eq!(
            off(&[clock("a", slow), clock("b", slow), clock("c", slow)]),
            named("this machine", 60_000)
        );
        assert_eq!(off(&[]), []);
    }
}
