//! Estimates when a request arrived. All times are milliseconds since this machine booted, the time of a
//! suspension included: setting the clock is no standstill.
//!
//! A process that was stopped (SIGSTOP, a suspended machine) finds requests in its socket whose
//! askers gave up long ago. So a request that is read just after a standstill counts as arrived when
//! the standstill began.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Milliseconds between two ticks.
pub(super) const TICK_MS: u64 = 250;
/// A longer pause between two ticks is a standstill. A request that is read so soon after it may have
/// arrived during it.
const STANDSTILL_MS: u64 = 1_000;

/// No request keeps its place longer.
const MAX_WAIT_MS: u64 = 60_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Arrivals {
    ticked: u64,
    /// The last standstill's begin and end.
    standstill: Option<(u64, u64)>,
}

impl Arrivals {
    pub(super) fn new(now: u64) -> Self {
        Self {
            ticked: now,
            standstill: None,
        }
    }

    /// To be called every [`TICK_MS`].
    pub(super) fn tick(&mut self, now: u64) {
        if now > self.ticked.saturating_add(STANDSTILL_MS) {
            self.standstill = Some((self.ticked, now));
        }
        self.ticked = now;
    }

    /// The milliseconds that a request that is read at `now` has waited at most.
    pub(super) fn waited(&self, now: u64) -> u64 {
        let mut seen = *self;
        seen.tick(now);
        match seen.standstill {
            Some((begin, end)) if now <= end.saturating_add(STANDSTILL_MS) => {
                now.saturating_sub(begin)
            }
            _ => 0,
        }
    }
}

/// The deadline of a request that is read at `now`, both in milliseconds since 1970: at most
/// [`MAX_WAIT_MS`] away, however long its asker waits.
pub(super) fn bounded(deadline: u64, now: u64) -> u64 {
    deadline.min(now.saturating_add(MAX_WAIT_MS))
}

/// `CLOCK_BOOTTIME`; 0 where it can't be read, which Linux has since 2.6.39.
pub(super) fn since_boot() -> u64 {
    let read = clock_gettime(ClockId::CLOCK_BOOTTIME);
    let read = read.map(Duration::from).unwrap_or_default();
    u64::try_from(read.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_deadline_is_longer_than_a_minute() {
        assert_eq!(bounded(3_600_000, 1_000), 61_000);
        assert_eq!(bounded(u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(bounded(2_000, 1_000), 2_000);
    }

    #[test]
    fn a_request_read_after_a_standstill_counts_from_its_begin() {
        let mut arrivals = Arrivals::new(10_000);
        assert_eq!(arrivals.waited(10_200), 0);
        arrivals.tick(10_250);
        // Read before the first tick after the standstill, and behind it.
        assert_eq!(arrivals.waited(70_000), 59_750);
        arrivals.tick(70_000);
        assert_eq!(arrivals.waited(70_900), 60_650);
        arrivals.tick(70_750);
        arrivals.tick(71_500);
        assert_eq!(arrivals.waited(71_600), 0);
    }
}
