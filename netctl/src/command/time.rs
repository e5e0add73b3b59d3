//! The text form of times and durations.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Parses `30s`, `2m`, `1h30m`, or a plain number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    text.parse::<SignedDuration>()
        .ok()
        .and_then(|d| Duration::try_from(d).ok())
        .ok_or_else(|| "a duration looks like 30s, 2m or 1h30m".to_owned())
}

/// Shows milliseconds since 1970-01-01 UTC as RFC 3339 with milliseconds.
pub(crate) fn show(millis: u64) -> String {
    i64::try_from(millis)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| "?".to_owned(), |t| format!("{t:.3}"))
}
