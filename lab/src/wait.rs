//! Waits for a condition with a deadline; the lab pauses nowhere else.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// Polls `condition` until it yields a value. After `deadline` it fails with an error that names `what`.
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
        self::pause(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Like [`poll`], for a condition without a value.
pub fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<()> {
    poll(what, deadline, || condition().then_some(()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause between two polls of a condition without a notification"
)]
fn pause(pause: Duration) {
    std::thread::sleep(pause);
}
