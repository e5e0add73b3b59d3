//! When everything is looked at: once asked for, but not again right after it failed.
//!
//! Pure; the time is an argument. Until the next look is due, events are worked off in part.

use std::time::Duration;

use tokio::time::Instant;

/// Before a failed change is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Look {
    wanted: bool,
    not_before: Instant,
}

impl Look {
    pub(super) fn wanted(now: Instant) -> Self {
        Self {
            wanted: true,
            not_before: now,
        }
    }

    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.wanted && now >= self.not_before
    }

    /// It is under way: what is asked for from now on is another one.
    pub(super) fn begin(&mut self) {
        self.wanted = false;
    }

    /// A change failed, in a look or in part: that doesn't put off a look that is waited for.
    pub(super) fn failed(&mut self, looked: bool, now: Instant) {
        if looked || !self.wanted {
            self.not_before = now + RETRY;
        }
        self.wanted = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_failing_is_looked_at_now_and_then_not_at_each_event() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut look = Look::wanted(start);
        assert!(look.is_due(start));
        look.begin();
        look.failed(true, at(10));
        let events = [20, 300, 700, 1_000];
        for event in events {
            assert!(!look.is_due(at(event)));
            look.failed(false, at(event));
        }
        assert!(look.is_due(at(1_010)));
    }

    #[test]
    fn what_is_asked_for_by_others_is_due_at_once() {
        let start = Instant::now();
        let mut look = Look::wanted(start);
        look.begin();
        assert!(!look.is_due(start));
        look.want();
        assert!(look.is_due(start));
    }
}
