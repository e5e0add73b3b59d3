//! The settings of the three streams, and how an existing stream differs from them.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, Source, StorageType};
use bus_schema::{limits, subject};

/// How long HISTORY keeps the events of endpoints.
const HISTORY_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The limit of consumers: every node and every netmaster reads with one of its own. nats-server 2.15
/// allows 1,000 on a stream without a limit (`default_max_consumers`), and takes -1 for no limit.
const MAX_CONSUMERS: i32 = 1 << 16;

fn message_size(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// The log: append-only, never edited, republished once committed.
pub(crate) fn log(replicas: usize) -> Config {
    Config {
        name: subject::LOG.to_owned(),
        description: Some(
            "Contiv: what happened, in order; nothing here is ever edited".to_owned(),
        ),
        subjects: vec![subject::LOG_ALL.to_owned()],
        storage: StorageType::File,
        num_replicas: replicas,
        max_consumers: MAX_CONSUMERS,
        max_message_size: message_size(limits::MAX_EVENT_BYTES),
        discard: DiscardPolicy::New,
        allow_direct: false,
        deny_delete: true,
        deny_purge: true,
        allow_atomic_publish: true,
        republish: Some(Republish {
            source: subject::LOG_ALL.to_owned(),
            destination: subject::EVENTS_LOG.to_owned(),
            headers_only: false,
        }),
        ..Default::default()
    }
}

/// Endpoints, published by their nodes: the last message of each counts.
pub(crate) fn endpoints(replicas: usize) -> Config {
    Config {
        name: subject::ENDPOINTS.to_owned(),
        description: Some("Contiv: endpoints, the last word on each".to_owned()),
        subjects: vec![subject::ENDPOINT_ALL.to_owned()],
        storage: StorageType::File,
        num_replicas: replicas,
        max_consumers: MAX_CONSUMERS,
        max_messages_per_subject: 1,
        max_message_size: message_size(limits::MAX_ENDPOINT_BYTES),
        allow_message_ttl: true,
        republish: Some(Republish {
            source: subject::ENDPOINT_ALL.to_owned(),
            destination: subject::EVENTS_ENDPOINT.to_owned(),
            headers_only: false,
        }),
        ..Default::default()
    }
}

/// The events of endpoints, kept for a week.
pub(crate) fn history(replicas: usize) -> Config {
    Config {
        name: subject::HISTORY.to_owned(),
        description: Some("Contiv: what endpoints did, for a while".to_owned()),
        storage: StorageType::File,
        num_replicas: replicas,
        max_consumers: MAX_CONSUMERS,
        max_age: HISTORY_AGE,
        allow_message_ttl: true,
        sources: Some(vec![Source {
            name: subject::ENDPOINTS.to_owned(),
            ..Default::default()
        }]),
        ..Default::default()
    }
}

/// The settings of `wanted` that `found` lacks. An older server drops settings that it doesn't know
/// without an error.
pub(crate) fn differences(wanted: &Config, found: &Config) -> Vec<&'static str> {
    let checks = [
        (wanted.subjects == found.subjects, "subjects"),
        (wanted.storage == found.storage, "storage"),
        (wanted.num_replicas == found.num_replicas, "replicas"),
        (wanted.retention == found.retention, "retention"),
        (wanted.allow_direct == found.allow_direct, "allow_direct"),
        (wanted.deny_delete == found.deny_delete, "deny_delete"),
        (wanted.deny_purge == found.deny_purge, "deny_purge"),
        (
            wanted.allow_atomic_publish == found.allow_atomic_publish,
            "allow_atomic",
        ),
        (
            wanted.allow_message_ttl == found.allow_message_ttl,
            "allow_msg_ttl",
        ),
        (
            wanted.max_messages_per_subject.max(0) == found.max_messages_per_subject.max(0),
            "max_msgs_per_subject",
        ),
        (wanted.max_age == found.max_age, "max_age"),
        (found.max_messages <= 0, "max_msgs"),
        (found.max_bytes <= 0, "max_bytes"),
        (wanted.republish == found.republish, "republish"),
        (source_names(wanted) == source_names(found), "sources"),
    ];
    checks
        .iter()
        .filter(|(same, _)| !same)
        .map(|(_, what)| *what)
        .collect()
}

fn source_names(config: &Config) -> Vec<&str> {
    let sources = config.sources.iter().flatten();
    sources.map(|source| source.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_an_older_server_dropped_are_named() {
        let forgetful = Config {
            allow_atomic_publish: false,
            allow_direct: true,
            ..log(1)
        };
        assert_eq!(
            differences(&log(1), &forgetful),
            ["allow_direct", "allow_atomic"]
        );
        assert!(differences(&log(1), &log(1)).is_empty());
    }
}
