//! When everything is read: as soon as it is wanted, but not again right after a failure.
//!
//! Pure; the time is an argument. Until the next resync is due, steps are incremental.

use std::time::Duration;

/// From a failed change to the next try.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Resync {
    is_wanted: bool,
    not_before: Duration,
    /// The present step is one.
    is_running: bool,
    /// A plan left ops out; a resync follows when the node is in sync.
    wanted_in_sync: bool,
}

impl Default for Resync {
    /// The first step is a resync.
    fn default() -> Self {
        Self {
            is_wanted: true,
            not_before: Duration::ZERO,
            is_running: false,
            wanted_in_sync: false,
        }
    }
}

impl Resync {
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    pub(super) fn want_in_sync(&mut self) {
        self.wanted_in_sync = true;
    }

    /// The node is in sync.
    pub(super) fn in_sync(&mut self, is_first: bool) {
        let was_wanted = std::mem::take(&mut self.wanted_in_sync);
        self.is_wanted |= is_first || was_wanted;
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    pub(super) fn is_running(&self) -> bool {
        self.is_running
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.is_wanted && now >= self.not_before
    }

    pub(super) fn begin(&mut self) {
        self.is_running = true;
    }

    /// Everything was read: from now on another resync is wanted for later changes.
    pub(super) fn has_read(&mut self) {
        self.is_wanted = false;
    }

    /// The step ended. A failure of an incremental step doesn't defer a resync that is waited for.
    pub(super) fn end(&mut self, succeeded: bool, now: Duration) {
        let was_running = std::mem::take(&mut self.is_running);
        if succeeded {
            return;
        }
        if was_running || !self.is_wanted {
            self.not_before = now + RETRY_INTERVAL;
        }
        self.is_wanted = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(resync: &mut Resync) {
        resync.begin();
        resync.has_read();
    }

    #[test]
    fn failing_resync_is_repeated_at_intervals_not_at_each_event() {
        let at = Duration::from_millis;
        let mut resync = Resync::default();
        assert!(resync.is_due(at(0)));
        begin(&mut resync);
        resync.end(false, at(10));
        let events = [20, 300, 700, 1_000];
        for event in events {
            assert!(!resync.is_due(at(event)));
            resync.end(false, at(event));
        }
        assert!(resync.is_due(at(1_010)));
    }

    #[test]
    fn wanted_resync_is_due_at_once() {
        let at = Duration::from_millis;
        let mut resync = Resync::default();
        begin(&mut resync);
        resync.end(true, at(0));
        assert!(!resync.is_due(at(0)));
        resync.want();
        assert!(resync.is_due(at(0)));
    }
}
