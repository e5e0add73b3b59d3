//! The settings of the three streams: `netmaster init` makes them, and `netctl doctor` compares them.

use std::time::Duration;

use crate::{limits, subject};

/// The limit of a stream's consumers: every node and every netmaster reads with one of its own.
/// nats-server 2.15 allows 1,000 on a stream without a limit (`default_max_consumers`), and takes -1 for no
/// limit.
pub const MAX_CONSUMERS: i32 = 1 << 16;

/// How long HISTORY keeps the events of endpoints.
const HISTORY_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The settings of a stream that decide about its messages, by their names in JetStream's API. None limits
/// the number of messages or bytes (`max_msgs`, `max_bytes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamSettings {
    pub name: &'static str,
    /// The settings that are true; all others of [`SWITCHES`] are false.
    pub switches: &'static [&'static str],
    /// Zero: no limit.
    pub max_msgs_per_subject: i64,
    /// Zero: no limit.
    pub max_age: Duration,
    /// Bytes of a message.
    pub max_msg_size: Option<usize>,
}

/// The settings that are true or false.
pub const SWITCHES: [&str; 5] = [
    "allow_direct",
    "deny_delete",
    "deny_purge",
    "allow_atomic",
    "allow_msg_ttl",
];

/// Append-only, never edited.
pub const LOG: StreamSettings = StreamSettings {
    name: subject::LOG,
    switches: &["deny_delete", "deny_purge", "allow_atomic"],
    max_msgs_per_subject: 0,
    max_age: Duration::ZERO,
    max_msg_size: Some(limits::MAX_EVENT_BYTES),
};

/// The last message of each endpoint counts.
pub const ENDPOINTS: StreamSettings = StreamSettings {
    name: subject::ENDPOINTS,
    switches: &["allow_msg_ttl"],
    max_msgs_per_subject: 1,
    max_age: Duration::ZERO,
    max_msg_size: Some(limits::MAX_ENDPOINT_BYTES),
};

/// The events of endpoints, kept for a week.
pub const HISTORY: StreamSettings = StreamSettings {
    name: subject::HISTORY,
    switches: &["allow_msg_ttl"],
    max_msgs_per_subject: 0,
    max_age: HISTORY_AGE,
    max_msg_size: None,
};

impl StreamSettings {
    /// The settings of the stream with this name.
    pub fn of(name: &str) -> Option<Self> {
        [LOG, ENDPOINTS, HISTORY]
            .into_iter()
            .find(|it| it.name == name)
    }

    /// Whether a setting of [`SWITCHES`] is true.
    pub fn is_on(&self, switch: &str) -> bool {
        self.switches.contains(&switch)
    }
}
