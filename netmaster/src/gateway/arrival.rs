//! When a request arrived. No clock: whoever asks says what time it is.
//!
//! A process that stood still (SIGSTOP, a suspended machine) finds requests in its socket whose
//! askers gave up long ago. So what is read just after a standstill counts as arrived when the
//! standstill began.

/// Milliseconds between two ticks.
pub(super) const TICK_MS: u64 = 250;
/// A longer pause between two ticks, in milliseconds, is a standstill. What is read so soon after
/// it may have arrived during it.
const STANDSTILL_MS: u64 = 1_000;

/// All times are milliseconds since 1970-01-01 UTC.
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

    /// When a request arrived that is read at `now`; at the latest, if that isn't known.
    pub(super) fn of(&self, now: u64) -> u64 {
        let mut seen = *self;
        seen.tick(now);
        match seen.standstill {
            Some((begin, end)) if now <= end.saturating_add(STANDSTILL_MS) => begin.min(now),
            _ => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_read_after_a_standstill_counts_from_its_begin() {
        let mut arrivals = Arrivals::new(10_000);
        assert_eq!(arrivals.of(10_200), 10_200);
        arrivals.tick(10_250);
        // Read before the first tick after the standstill, and behind it.
        assert_eq!(arrivals.of(70_000), 10_250);
        arrivals.tick(70_000);
        assert_eq!(arrivals.of(70_900), 10_250);
        arrivals.tick(70_750);
        arrivals.tick(71_500);
        assert_eq!(arrivals.of(71_600), 71_600);
    }

    #[test]
    fn a_clock_set_back_is_no_standstill() {
        let mut arrivals = Arrivals::new(70_000);
        arrivals.tick(80_000);
        arrivals.tick(10_000);
        assert_eq!(arrivals.of(10_100), 10_100);
    }
}
