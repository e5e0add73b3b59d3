//! Waiting for a condition with a deadline: the only pause in the lab.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Asks `condition` until it gives a value; fails after `deadline`, naming `what` was waited for.
pub fn poll<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if start.elapsed() >= deadline {
            return Err(Error::TimedOut {
                what: what.to_owned(),
                after: deadline,
                detail: String::new(),
            });
        }
        rest(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// [`poll`] for a condition without a value.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    poll(what, deadline, || condition().then_some(()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two looks at a condition that nobody announces"
)]
fn rest(pause: Duration) {
    std::thread::sleep(pause);
}
