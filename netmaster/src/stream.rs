//! The settings of the three streams, and how an existing stream differs from them.

use async_nats::jetstream::stream::{Config, DiscardPolicy, Republish, Source, StorageType};
use bus_schema::streams::{self, MAX_CONSUMERS, StreamSettings};
use bus_schema::subject;

fn config(settings: StreamSettings, replicas: usize) -> Config {
    let size = settings.max_msg_size.map(i32::try_from);
    Config {
        name: settings.name.to_owned(),
        storage: StorageType::File,
        num_replicas: replicas,
        max_consumers: MAX_CONSUMERS,
        max_messages_per_subject: settings.max_msgs_per_subject,
        max_message_size: size.map_or(0, |it| it.unwrap_or(i32::MAX)),
        max_age: settings.max_age,
        allow_direct: settings.is_on("allow_direct"),
        deny_delete: settings.is_on("deny_delete"),
        deny_purge: settings.is_on("deny_purge"),
        allow_atomic_publish: settings.is_on("allow_atomic"),
        allow_message_ttl: settings.is_on("allow_msg_ttl"),
        ..Default::default()
    }
}

fn republish(source: &str, destination: &str) -> Option<Republish> {
    Some(Republish {
        source: source.to_owned(),
        destination: destination.to_owned(),
        headers_only: false,
    })
}

/// The log: append-only, never edited, republished once committed.
pub(crate) fn log(replicas: usize) -> Config {
    Config {
        description: Some(
            "Contiv: what happened, in order; nothing here is ever edited".to_owned(),
        ),
        subjects: vec![subject::LOG_ALL.to_owned()],
        discard: DiscardPolicy::New,
        republish: republish(subject::LOG_ALL, subject::EVENTS_LOG),
        ..config(streams::LOG, replicas)
    }
}

/// Endpoints, published by their nodes: the last message of each counts.
pub(crate) fn endpoints(replicas: usize) -> Config {
    Config {
        description: Some("Contiv: endpoints, the last word on each".to_owned()),
        subjects: vec![subject::ENDPOINT_ALL.to_owned()],
        republish: republish(subject::ENDPOINT_ALL, subject::EVENTS_ENDPOINT),
        ..config(streams::ENDPOINTS, replicas)
    }
}

/// The events of endpoints, kept for a week.
pub(crate) fn history(replicas: usize) -> Config {
    Config {
        description: Some("Contiv: what endpoints did, for a while".to_owned()),
        sources: Some(vec![Source {
            name: subject::ENDPOINTS.to_owned(),
            ..Default::default()
        }]),
        ..config(streams::HISTORY, replicas)
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
