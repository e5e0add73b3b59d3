//! Golden files: what is on disks and on the bus of other versions stays readable.
//!
//! `golden/<kind>.<type>.msgpack` is a message as this schema encodes it. A change of these
//! bytes is a change of the contract. `UPDATE_GOLDEN=1 cargo test -p bus-schema` rewrites them.

mod samples;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;

use bus_schema::codec::{Decoded, decode, from_bytes, to_bytes};
use bus_schema::command::Request;
use bus_schema::node::{Grade, NodeStatus};
use bus_schema::{Answer, Command, Event, Query, Rejection, Reply, Revision, subject};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{name}.msgpack"))
}

/// The golden bytes of `name`; `bytes` become them when the files are rewritten.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = path(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, bytes).expect("golden file is writable");
    }
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{name}: {error}; UPDATE_GOLDEN=1 writes the golden files"))
}

/// The value of the field `type` of `value` or of its body, else `message`.
fn type_of<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).expect("a value of the contract is JSON, too");
    let body = value.get("body").unwrap_or(&value);
    let kind = body
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("message");
    kind.to_owned()
}

/// `values` encode to their golden files and come back as they were; each type occurs once.
fn check<T>(kind: &str, values: Vec<T>) -> BTreeSet<String>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let mut types = BTreeSet::new();
    for value in values {
        let kind_of_value = type_of(&value);
        let name = format!("{kind}.{kind_of_value}");
        let bytes = to_bytes(&value);
        let golden = golden(&name, &bytes);
        let told = from_bytes::<T>(&golden).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(told, value, "{name} decodes to something else");
        // Says more than bytes do; numbers as keys, as in counters, are beyond JSON.
        if let (Ok(now), Ok(then)) = (from_bytes::<Value>(&bytes), from_bytes::<Value>(&golden)) {
            assert_eq!(now, then, "{name} is encoded otherwise than before");
        }
        assert_eq!(bytes, golden, "{name} is encoded otherwise than before");
        for length in 0..golden.len() {
            assert!(
                from_bytes::<T>(&golden[..length]).is_err(),
                "{name}: {length} of {} bytes decode",
                golden.len()
            );
        }
        assert!(types.insert(kind_of_value), "{name} occurs twice");
    }
    types
}

/// The variants of an enum without a catch-all, as serde lists them in its error.
fn variants<T: DeserializeOwned + Debug>() -> BTreeSet<String> {
    let error = from_bytes::<T>(&to_bytes(&json!({ "type": "nonsense" })))
        .expect_err("nonsense is no variant")
        .to_string();
    let (_, list) = error
        .split_once("expected")
        .expect("serde lists what it expected");
    list.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn events() {
    check(
        "event",
        samples::events()
            .into_iter()
            .map(samples::enveloped)
            .collect(),
    );
}

#[test]
fn events_of_groups_with_a_pool_need_a_reader_that_knows_of_them() {
    let events = samples::pooled_events();
    assert!(events.iter().all(|event| event.min_reader() == 3));
    let enveloped = events.into_iter().map(samples::enveloped);
    check("event-of-a-pool", enveloped.collect());
}

#[test]
fn limits_of_connections_keep_their_encoding() {
    check("command-with-limit", samples::limited_commands());
    let event = samples::enveloped(samples::limited_event());
    check("event-with-limit", vec![event]);
    check("answer-with-limit", vec![samples::limited_answer()]);
}

#[test]
fn ways_out_keep_their_encoding() {
    check("command-with-way-out", samples::outside_commands());
    let events = samples::outside_events().into_iter();
    check(
        "event-with-way-out",
        events.map(samples::enveloped).collect(),
    );
    check("answer-with-way-out", samples::outside_answers());
    check("node-reply-with-way-out", vec![samples::trace_outside()]);
    check(
        "node-status-with-way-out",
        vec![samples::status_of_a_node_with_ways_out()],
    );
}

/// A reader that knows no ways out has none, so it may read on; but it must not guess a rule's peer.
#[test]
fn only_rules_about_the_world_need_a_reader_that_knows_of_it() {
    let readers = samples::outside_events();
    let readers: Vec<u16> = readers.iter().map(Event::min_reader).collect();
    assert_eq!(readers, [1, 1, 1, 4]);
}

#[test]
fn every_event_has_a_golden_file_named_by_its_kind() {
    let samples = samples::events();
    let mut sampled: BTreeSet<&str> = samples.iter().map(Event::kind).collect();
    sampled.insert(Event::Unknown.kind());
    assert_eq!(sampled, Event::KINDS.iter().copied().collect());
    for event in &samples {
        assert_eq!(event.kind(), type_of(event));
    }
}

#[test]
fn every_verb_occurs_once() {
    let all: Vec<_> = Command::VERBS.iter().chain(Query::VERBS).collect();
    let each: BTreeSet<_> = all.iter().collect();
    assert_eq!(each.len(), all.len());
}

#[test]
fn commands() {
    let types = check("command", samples::commands());
    assert_eq!(types, variants::<Command>());
}

#[test]
fn queries() {
    let types = check("query", samples::queries());
    assert_eq!(types, variants::<Query>());
}

#[test]
fn replies() {
    let types = check("reply", samples::replies());
    assert_eq!(types, variants::<Reply>());
}

#[test]
fn answers() {
    let types = check("answer", samples::answers());
    assert_eq!(types, variants::<Answer>());
}

/// The enum has a catch-all, so its variants are read from its source.
#[test]
fn rejections() {
    let types = check("rejection", samples::rejections());
    let source = include_str!("../src/rejection.rs");
    let (_, body) = source.split_once("pub enum Rejection {").expect("the enum");
    let (body, _) = body.split_once("\n}").expect("its end");
    let names = body.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.split([',', ' ']).next()?;
        name.starts_with(char::is_uppercase).then(|| kebab(name))
    });
    let mut sampled = types;
    sampled.insert("unknown".to_owned());
    assert_eq!(sampled, names.collect());
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(c.to_lowercase());
    }
    text
}

#[test]
fn a_request_says_how_long_its_asker_waits() {
    check("request-within", vec![samples::request_within()]);
    let request = samples::request_within().arrived(7_000);
    assert_eq!(request.deadline, 12_000, "counted from its arrival");
    let older = Request {
        within: None,
        ..samples::request_within()
    };
    assert_eq!(older.clone().arrived(7_000), older);
}

#[test]
fn replies_carry_the_text_of_a_rejection() {
    let revision = Revision(42);
    for rejection in samples::rejections() {
        let text = Some(rejection.to_string());
        let reply = Reply::rejected(rejection.clone(), revision);
        assert!(matches!(&reply, Reply::Rejected { text: it, .. } if *it == text));
        let answer = Answer::rejected(rejection, revision);
        assert!(matches!(&answer, Answer::Rejected { text: it, .. } if *it == text));
    }
    let shorter = Rejection::LogShorter {
        end: Revision(40),
        seen: Revision(41),
    };
    check(
        "reply-with-text",
        vec![Reply::rejected(shorter.clone(), revision)],
    );
    check(
        "answer-with-text",
        vec![Answer::rejected(shorter, revision)],
    );
}

#[test]
fn the_text_of_an_unknown_rejection_is_shown() {
    let bytes = golden(
        "future.unknown-rejection",
        &to_bytes(&json!({
            "type": "rejected",
            "rejection": { "type": "moon-phase-wrong", "phase": { "days": [1, 2] } },
            "revision": 42,
            "text": "wait for the full moon",
        })),
    );
    let reply = from_bytes::<Reply>(&bytes);
    let Ok(Reply::Rejected {
        rejection, text, ..
    }) = reply
    else {
        panic!("{reply:?}");
    };
    assert_eq!(rejection, Rejection::Unknown);
    assert!(rejection.is_undecided());
    assert_eq!(rejection.told(text), "wait for the full moon");
    assert!(rejection.told(None).contains("upgrade"));
}

#[test]
fn endpoint_events() {
    check("endpoint", samples::endpoint_events());
}

#[test]
fn node_messages() {
    check("node-status", vec![samples::status()]);
    check(
        "node-status-surroundings",
        vec![samples::status_with_surroundings()],
    );
    check(
        "node-status-mark-rules",
        vec![samples::status_with_mark_rules()],
    );
    let types = check("node-request", samples::node_requests());
    assert_eq!(types, variants::<bus_schema::node::NodeRequest>());
    check("node-reply-engine", vec![samples::engine_reply()]);
    let types = check("node-reply", samples::node_replies());
    assert_eq!(types, variants::<bus_schema::node::NodeReply>());
}

#[test]
fn an_alarm_of_an_older_node_has_no_grade_and_is_a_warning() {
    let mut status = serde_json::to_value(samples::status()).expect("JSON");
    let alarm = status["alarms"][0].as_object_mut().expect("an alarm");
    assert_eq!(alarm.remove("grade"), Some(json!("wrong")));
    let status: NodeStatus = from_bytes(&to_bytes(&status)).expect("a status");
    assert_eq!(status.alarms[0].grade, Grade::Warning);
}

/// A truncated or garbled envelope is malformed, never newer and never a panic.
#[test]
fn a_truncated_envelope_is_malformed() {
    for event in samples::events() {
        let bytes = to_bytes(&samples::enveloped(event));
        assert!(matches!(decode::<Event>(&bytes), Ok(Decoded::Known(_))));
        for length in 0..bytes.len() {
            assert!(
                decode::<Event>(&bytes[..length]).is_err(),
                "{length} bytes decode"
            );
        }
        for position in 0..bytes.len() {
            for value in [0x00, 0x7f, 0xc1, 0xdf, 0xff] {
                let mut garbled = bytes.clone();
                garbled[position] = value;
                let _any_answer_but_a_panic = decode::<Event>(&garbled);
            }
        }
        let mut longer = bytes;
        longer.push(0xc0);
        assert!(
            decode::<Event>(&longer).is_err(),
            "bytes behind the message are accepted"
        );
    }
}

/// Maps and arrays nested deeper than any message of ours end in an error, not in the stack.
#[test]
fn deep_nesting_is_malformed() {
    for opener in [&[0x91][..], &[0x81, 0xa1, b'x'][..]] {
        let bytes = opener.repeat(100_000);
        assert!(decode::<Event>(&bytes).is_err());
        assert!(from_bytes::<Event>(&bytes).is_err());
    }
}

fn from_the_future(min_reader: u16, body: &Value) -> Vec<u8> {
    let mut message = serde_json::to_value(samples::enveloped(Event::Barrier)).expect("JSON");
    message["schema"] = json!(99);
    message["min_reader"] = json!(min_reader);
    message["signature"] = json!({ "by": "netmaster-9", "over": [1, 2, 3] });
    message["body"] = body.clone();
    to_bytes(&message)
}

#[test]
fn an_event_with_unknown_fields_is_read_by_what_is_known() {
    let mut body = serde_json::to_value(
        samples::events()
            .into_iter()
            .find(|event| matches!(event, Event::NetworkCreated(_)))
            .expect("a sample"),
    )
    .expect("JSON");
    body["network"]["colour"] = json!({ "deep": [null, true, "x"] });
    body["reason"] = json!("because");
    let bytes = golden(
        "future.known-event-with-unknown-fields",
        &from_the_future(1, &body),
    );
    let Ok(Decoded::Known(envelope)) = decode::<Event>(&bytes) else {
        panic!("{:?}", decode::<Event>(&bytes));
    };
    assert_eq!(envelope.header.schema, 99);
    assert!(
        samples::events().contains(&envelope.body),
        "{:?}",
        envelope.body
    );
}

#[test]
fn an_unknown_event_that_may_be_skipped_is_unknown() {
    let body = json!({ "type": "moon-phase-changed", "phase": { "name": "full", "days": [1, 2] } });
    let bytes = golden("future.skippable", &from_the_future(1, &body));
    let Ok(Decoded::Known(envelope)) = decode::<Event>(&bytes) else {
        panic!("{:?}", decode::<Event>(&bytes));
    };
    assert_eq!(envelope.body, Event::Unknown);
    assert_eq!(envelope.body.aggregate(), None);
    assert_eq!(subject::of_event(&envelope.body), None);
}

#[test]
fn an_event_for_newer_readers_is_not_guessed_at() {
    for (name, body) in [
        (
            "unknown-event",
            json!({ "type": "policy-attached", "policy": 7 }),
        ),
        (
            "known-event",
            json!({ "type": "tenant-created", "tenant": { "now": "a map" } }),
        ),
        ("other-body", json!(["positional"])),
    ] {
        let bytes = golden(
            &format!("future.min-reader-99.{name}"),
            &from_the_future(99, &body),
        );
        let Ok(Decoded::Newer(header)) = decode::<Event>(&bytes) else {
            panic!("{name}: {:?}", decode::<Event>(&bytes));
        };
        assert_eq!(header.min_reader, 99);
        for length in 0..bytes.len() {
            assert!(
                decode::<Event>(&bytes[..length]).is_err(),
                "{name}: {length} bytes decode"
            );
        }
    }
}

/// Whether a subject matches a filter, by the rules of NATS.
fn matches(filter: &str, subject: &str) -> bool {
    let mut subject = subject.split('.');
    for token in filter.split('.') {
        match (token, subject.next()) {
            (_, None) => return false,
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    subject.next().is_none()
}

#[test]
fn each_event_lies_under_the_fence_of_its_aggregate_alone() {
    let events = samples::events();
    let aggregates = events.iter().filter_map(Event::aggregate);
    let fences: BTreeSet<String> = aggregates.map(|it| subject::of_aggregate(&it)).collect();
    assert_eq!(
        fences.len(),
        3,
        "one for each kind of aggregate: {fences:?}"
    );
    for event in &events {
        let subject = subject::of_event(event).expect("known");
        // A barrier lies under none: it must not refuse anybody's append.
        let fence = event.aggregate().map(|it| subject::of_aggregate(&it));
        let under: Vec<_> = fences.iter().filter(|f| matches(f, &subject)).collect();
        let fence: Vec<_> = fence.iter().collect();
        assert_eq!(under, fence, "{subject}");
        assert!(matches(subject::LOG_ALL, &subject), "{subject}");
        let tenant = subject::tenant_of(&subject).map(|t| t.to_string());
        let in_tenant = !subject.starts_with("contiv.log._");
        assert_eq!(tenant.is_some(), in_tenant, "{subject}");
    }
}
