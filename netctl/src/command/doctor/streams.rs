//! Judges the settings of the streams: as `netmaster init` makes them. No I/O.

use bus_schema::node::Grade;
use bus_schema::streams::{MAX_CONSUMERS, SWITCHES, StreamSettings};
use bus_schema::subject;
use serde_json::{Value, json};

use super::check::{CheckResult, result};

/// The settings that differ, each with its remedy.
pub(super) fn judge(config: &Value) -> Vec<CheckResult> {
    let name = config["name"].as_str().unwrap_or(subject::LOG);
    let of = match name {
        subject::LOG => "log settings".to_owned(),
        name => format!("stream {name} settings"),
    };
    let wanted = wanted(name);
    let differing = wanted
        .iter()
        .filter(|(key, wanted)| !same(config, key, wanted));
    let differing = differing.map(|(key, wanted)| {
        let found = match (&config[*key], wanted) {
            (Value::Null, Value::Bool(_)) => &json!(false),
            (Value::Null, _) => &json!(0),
            (found, _) => found,
        };
        result(
            Grade::Wrong,
            of.clone(),
            format!("{key} of the stream {name} was changed to {found}; it must be {wanted}, `nats stream edit {name}` sets it"),
        )
    });
    let limits = limits(name, config).into_iter().map(|text| {
        let text = format!("{text}: `netmaster init`, with the cluster's --replicas, sets it");
        result(Grade::Warning, of.clone(), text)
    });
    differing.chain(limits).collect()
}

/// Settings without which the stream loses messages, or takes what nobody reads.
fn wanted(name: &str) -> Vec<(&'static str, Value)> {
    let Some(settings) = StreamSettings::of(name) else {
        return vec![];
    };
    let switches = SWITCHES.map(|it| (it, json!(settings.is_on(it))));
    let age = u64::try_from(settings.max_age.as_nanos()).unwrap_or(u64::MAX);
    let numbers = [
        ("max_msgs_per_subject", json!(settings.max_msgs_per_subject)),
        ("max_age", json!(age)),
        ("max_msgs", json!(-1)),
        ("max_bytes", json!(-1)),
    ];
    switches.into_iter().chain(numbers).collect()
}

/// The server leaves out what is false; -1 and 0 are no limit.
fn same(config: &Value, key: &str, wanted: &Value) -> bool {
    match (wanted, &config[key]) {
        (Value::Bool(wanted), found) => found.as_bool().unwrap_or(false) == *wanted,
        (wanted, found) => {
            let number = |it: &Value| it.as_i64().unwrap_or_default().max(0);
            number(wanted) == number(found)
        }
    }
}

/// The limits that an older `init` didn't set, or that somebody changed.
fn limits(name: &str, config: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let bytes = StreamSettings::of(name).and_then(|it| it.max_msg_size);
    let found = config["max_msg_size"].as_i64().unwrap_or(-1);
    if let Some(bytes) = bytes
        && i64::try_from(bytes).ok() != Some(found)
    {
        let found = match found {
            ..=0 => "not limited".to_owned(),
            found => format!("{found} bytes"),
        };
        all.push(format!(
            "a message of the stream {name} should have at most {bytes} bytes, and its size is {found}"
        ));
    }
    let consumers = config["max_consumers"].as_i64().unwrap_or(-1);
    if (1..i64::from(MAX_CONSUMERS)).contains(&consumers) {
        all.push(format!(
            "the stream {name} takes {consumers} readers, fewer than a cluster may have nodes"
        ));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_an_older_init_are_named() {
        let log = json!({
            "name": "LOG", "deny_delete": true, "deny_purge": true, "allow_atomic": true,
            "max_msg_size": -1, "max_consumers": 1000,
        });
        let found = judge(&log);
        let texts: Vec<&str> = found.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(found.len(), 2, "{texts:?}");
        assert!(texts[0].contains("at most 1048576 bytes"), "{texts:?}");
        assert!(texts[1].contains("1000 readers"), "{texts:?}");
        assert!(found.iter().all(|it| it.grade == Grade::Warning));

        let endpoints = json!({
            "name": "ENDPOINTS", "allow_msg_ttl": true, "max_msgs_per_subject": 1,
            "max_msg_size": 49152, "max_consumers": 65536, "max_age": 1000,
        });
        let found = judge(&endpoints);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].text.starts_with("max_age of the stream ENDPOINTS"),
            "{found:?}"
        );
    }

    #[test]
    fn setting_that_the_server_leaves_out_has_its_default() {
        let log = json!({
            "name": "LOG", "deny_delete": true, "deny_purge": true, "max_msg_size": 1_048_576,
        });
        let found = judge(&log);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0]
                .text
                .contains("allow_atomic of the stream LOG was changed to false"),
            "{found:?}"
        );
    }
}
