//! One message of the log or of the endpoints' streams, as a line or as JSON. Any build may have written
//! it.

use async_nats::{HeaderMap, Message, header, jetstream};
use bus_schema::codec::{self, Decoded};
use bus_schema::{
    CommandId, EndpointEvent, Envelope, Event, Header, Revision, TenantName, subject,
};
use serde_json::{Value, json};

use super::super::time;
use super::text;
use crate::output::printable;

#[derive(Debug)]
pub(super) struct Item {
    origin: Origin,
    /// Milliseconds since 1970-01-01 UTC by the writer's clock, or else by the server's.
    pub(super) time: u64,
    header: Option<Header>,
    body: Body,
    payload: Vec<u8>,
}

/// The place of a message in its stream.
#[derive(Debug)]
struct Origin {
    stream: String,
    sequence: u64,
    subject: String,
    /// Microseconds since 1970-01-01 UTC by the server's clock.
    stored: u64,
}

#[derive(Debug)]
enum Body {
    Log(Box<Event>),
    Endpoint(Box<EndpointEvent>),
    /// An event for newer readers only, or of a type that this build lacks.
    Newer(String),
    Unreadable(String),
}

/// The header with the origin of a sourced message: stream, sequence and more, separated by spaces.
const SOURCE_HEADER: &str = "Nats-Stream-Source";

impl Item {
    /// Decodes a message that a consumer delivered.
    pub(super) fn stored(message: &jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        let stored = u64::try_from(info.published.unix_timestamp_nanos() / 1_000).unwrap_or(0);
        let source = message.headers.as_ref().and_then(|h| h.get(SOURCE_HEADER));
        let (stream, sequence) = match source.and_then(|s| source_of(s.as_str())) {
            Some(source) => source,
            None => (info.stream.to_owned(), info.stream_sequence),
        };
        let origin = Origin {
            stream,
            sequence,
            subject: message.subject.to_string(),
            stored,
        };
        let payload = message.payload.to_vec();
        Some(Self::decode(origin, payload, message.headers.as_ref()))
    }

    /// Decodes a message of `contiv.events.>`; `None`: no stream republished it.
    pub(super) fn republished(message: &Message) -> Option<Self> {
        let headers = message.headers.as_ref()?;
        let text = |name| headers.get(name).map(|v| v.as_str().to_owned());
        let stored = text(header::NATS_TIME_STAMP)
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .and_then(|t| u64::try_from(t.as_microsecond()).ok())
            .unwrap_or_default();
        let origin = Origin {
            stream: text(header::NATS_STREAM)?,
            sequence: text(header::NATS_SEQUENCE)?.parse().ok()?,
            subject: text(header::NATS_SUBJECT)?,
            stored,
        };
        Some(Self::decode(
            origin,
            message.payload.to_vec(),
            Some(headers),
        ))
    }

    fn decode(origin: Origin, payload: Vec<u8>, headers: Option<&HeaderMap>) -> Self {
        let subject = &origin.subject;
        let (header, body) = if subject.starts_with("contiv.log.") {
            log(&payload)
        } else if payload.is_empty() {
            (None, removed(subject, headers))
        } else {
            endpoint(&payload)
        };
        Self {
            time: header.as_ref().map_or(origin.stored / 1_000, |h| h.time),
            origin,
            header,
            body,
            payload,
        }
    }

    pub(super) fn stream(&self) -> &str {
        &self.origin.stream
    }

    pub(super) fn sequence(&self) -> u64 {
        self.origin.sequence
    }

    /// Microseconds since 1970-01-01 UTC by the server's clock.
    pub(super) fn stored_at(&self) -> u64 {
        self.origin.stored
    }

    /// The program that wrote it.
    pub(super) fn actor(&self) -> Option<&str> {
        self.header.as_ref().map(|it| it.actor.as_str())
    }

    /// The command that caused it.
    pub(super) fn cause(&self) -> Option<CommandId> {
        self.header.as_ref().map(|it| it.cause)
    }

    /// Whether a netmaster appended it only to prove the log's end.
    pub(super) fn is_barrier(&self) -> bool {
        matches!(&self.body, Body::Log(event) if **event == Event::Barrier)
    }

    pub(super) fn applied(&self) -> Option<Revision> {
        match &self.body {
            Body::Endpoint(event) => match event.as_ref() {
                EndpointEvent::Up { applied, .. }
                | EndpointEvent::Down { applied, .. }
                | EndpointEvent::Healed { applied, .. } => Some(*applied),
                EndpointEvent::Unknown => None,
            },
            _ => None,
        }
    }

    pub(super) fn concerns(&self, tenant: &TenantName) -> bool {
        if let Body::Log(event) = &self.body {
            let named = match event.as_ref() {
                Event::TenantCreated(e) => Some(&e.tenant),
                Event::TenantRemoved(e) => Some(&e.tenant),
                Event::VniAssigned(e) => Some(&e.tenant),
                Event::VniReleased(e) => Some(&e.tenant),
                _ => None,
            };
            if named == Some(tenant) {
                return true;
            }
        }
        self.origin.subject.split('.').nth(2) == Some(tenant.as_str())
    }

    /// `REVISION  TIME  KIND  TEXT`, the revision empty for endpoints.
    pub(super) fn line(&self) -> String {
        let revision = match self.origin.stream == subject::LOG {
            true => self.origin.sequence.to_string(),
            false => String::new(),
        };
        let text = match &self.body {
            Body::Log(event) => text::of_event(event),
            Body::Endpoint(event) => text::of_endpoint_event(event),
            Body::Newer(what) => format!(
                "{what}; upgrade netctl to read it ({})",
                self.origin.subject
            ),
            Body::Unreadable(reason) => format!("{reason} ({})", self.origin.subject),
        };
        let line = format!(
            "{revision:>6}  {}  {:<17}  {}",
            time::show(self.time),
            self.kind(),
            printable(&text)
        );
        line.trim_end().to_owned() + "\n"
    }

    fn kind(&self) -> &'static str {
        match &self.body {
            Body::Log(event) => event.kind(),
            Body::Endpoint(event) => match event.as_ref() {
                EndpointEvent::Up { .. } => "endpoint-up",
                EndpointEvent::Down { .. } => "endpoint-down",
                EndpointEvent::Healed { .. } => "node-healed",
                EndpointEvent::Unknown => "unknown",
            },
            Body::Newer(_) => "newer",
            Body::Unreadable(_) => "unreadable",
        }
    }

    pub(super) fn json(&self) -> Value {
        let is_log = self.origin.stream == subject::LOG;
        let mut value = json!({
            "revision": is_log.then_some(self.origin.sequence),
            "stream": self.origin.stream,
            "sequence": self.origin.sequence,
            "subject": self.origin.subject,
            "time": time::show(self.time),
            "kind": self.kind(),
        });
        if let Some(header) = &self.header {
            value["id"] = json!(header.id);
            value["actor"] = json!(header.actor);
            value["cause"] = json!(header.cause);
            value["schema"] = json!(header.schema);
        }
        match &self.body {
            Body::Log(event) => value["event"] = json!(event),
            Body::Endpoint(event) => value["event"] = json!(event),
            // Programs that are newer than this build can read it.
            Body::Newer(_) => value["event"] = body(&self.payload),
            Body::Unreadable(reason) => value["reason"] = json!(reason),
        }
        value
    }
}

/// The text for a message on the public subjects that no stream republished.
pub(super) fn foreign(message: &Message, as_json: bool) -> String {
    let (bytes, subject) = (message.payload.len(), printable(&message.subject));
    let reason = format!("{bytes} bytes that no stream republished");
    match as_json {
        true => format!(
            "{}\n",
            json!({ "kind": "unreadable", "subject": subject, "reason": reason })
        ),
        false => format!(
            "{:>6}  {:24}  {:<17}  {reason} ({subject})\n",
            "", "", "unreadable"
        ),
    }
}

fn source_of(source: &str) -> Option<(String, u64)> {
    let mut words = source.split(' ');
    let stream = words.next()?;
    Some((stream.to_owned(), words.next()?.parse().ok()?))
}

fn log(payload: &[u8]) -> (Option<Header>, Body) {
    match codec::decode::<Event>(payload) {
        Ok(Decoded::Known(Envelope {
            header,
            body: event,
        })) => {
            let what = match event {
                Event::Unknown => Body::Newer(format!("an event `{}`", type_of(payload))),
                event => Body::Log(Box::new(event)),
            };
            (Some(header), what)
        }
        Ok(Decoded::Newer(header)) => {
            let what = format!(
                "an event `{}` for readers of schema {} and newer",
                type_of(payload),
                header.min_reader
            );
            (Some(header), Body::Newer(what))
        }
        Err(error) => (None, Body::Unreadable(error.to_string())),
    }
}

fn endpoint(payload: &[u8]) -> (Option<Header>, Body) {
    let (header, event) = match codec::decode::<EndpointEvent>(payload) {
        Ok(Decoded::Known(Envelope { header, body })) => (Some(header), body),
        Ok(Decoded::Newer(header)) => {
            return (Some(header), Body::Newer("an endpoint's event".to_owned()));
        }
        Err(_) => match codec::from_bytes(payload) {
            Ok(event) => (None, event),
            Err(error) => return (None, Body::Unreadable(error.to_string())),
        },
    };
    let what = match event {
        EndpointEvent::Unknown => Body::Newer("an endpoint's event".to_owned()),
        event => Body::Endpoint(Box::new(event)),
    };
    (header, what)
}

/// The body of an empty message: the marker by which the server removes an expired message.
fn removed(subject: &str, headers: Option<&HeaderMap>) -> Body {
    let why = headers
        .and_then(|h| h.get("Nats-Marker-Reason"))
        .map_or("an empty message", |reason| reason.as_str());
    Body::Unreadable(format!("no endpoint at {subject}: {why}"))
}

/// The body of an envelope without this build's types.
fn body(payload: &[u8]) -> Value {
    codec::from_bytes::<Value>(payload)
        .ok()
        .and_then(|mut envelope| envelope.get_mut("body").map(Value::take))
        .unwrap_or_default()
}

fn type_of(payload: &[u8]) -> String {
    match body(payload).get("type") {
        Some(Value::String(kind)) => kind.clone(),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::EventId;
    use bus_schema::event::TenantCreated;
    use uuid::Uuid;

    use super::*;

    fn header(min_reader: u16) -> Header {
        let cause = CommandId(Uuid::nil());
        let mut header = Header::new(EventId(Uuid::nil()), 1_000, "m1", cause);
        header.min_reader = min_reader;
        header
    }

    fn item(subject: &str, payload: Vec<u8>) -> Item {
        let origin = Origin {
            stream: "LOG".into(),
            sequence: 7,
            subject: subject.into(),
            stored: 0,
        };
        Item::decode(origin, payload, None)
    }

    #[test]
    fn known_event_is_one_line() {
        let tenant: TenantName = "blue".parse().unwrap();
        let body = Event::TenantCreated(TenantCreated {
            tenant: tenant.clone(),
        });
        let payload = codec::to_bytes(&Envelope {
            header: header(1),
            body,
        });
        let item = item("contiv.log._cluster.tenant.blue", payload);
        assert_eq!(
            item.line(),
            "     7  1970-01-01T00:00:01.000Z  tenant-created     blue\n"
        );
        assert!(item.concerns(&tenant));
        assert!(!item.concerns(&TenantName::default_tenant()));
        assert_eq!(item.json()["event"]["tenant"], "blue");
    }

    #[test]
    fn newer_event_is_shown_as_such() {
        for min_reader in [1, 99] {
            let body = json!({ "type": "volcano-erupted", "height": 3 });
            let payload = codec::to_bytes(&Envelope {
                header: header(min_reader),
                body,
            });
            let item = item("contiv.log.blue.intent.volcano.etna", payload);
            assert!(item.line().contains("newer"), "{}", item.line());
            assert!(item.line().contains("volcano-erupted"), "{}", item.line());
            assert_eq!(item.json()["event"]["height"], 3);
        }
    }

    #[test]
    fn garbage_is_shown_as_unreadable() {
        for payload in [b"\xc1garbage\x1b[2J".to_vec(), vec![], b"{}".to_vec()] {
            for subject in ["contiv.log.blue.intent.x.y", "contiv.endpoint.blue.n.e"] {
                let line = item(subject, payload.clone()).line();
                assert!(line.contains("unreadable"), "{line}");
                assert_eq!(line.lines().count(), 1);
            }
        }
    }

    #[test]
    fn healed_drift_is_listed_by_kind() {
        let event = EndpointEvent::Healed {
            node: "n1".parse().unwrap(),
            kinds: [("fdb".to_owned(), 2), ("route".to_owned(), 1)].into(),
            last: bus_schema::healing::Healed {
                what: "20.1.1.0/28 via 198.18.0.12 dev cx1".to_owned(),
                at: 0,
            },
            applied: Revision(7),
        };
        let subject = subject::healed_by(&"n1".parse().unwrap());
        let line = item(&subject, codec::to_bytes(&event)).line();
        let says =
            "node-healed        n1: fdb 2, route 1; last: 20.1.1.0/28 via 198.18.0.12 dev cx1";
        assert!(line.contains(says), "{line}");
    }

    #[test]
    fn sourced_message_has_the_sequence_of_its_source() {
        assert_eq!(
            source_of("ENDPOINTS 12 > > contiv.endpoint.a.b.c"),
            Some(("ENDPOINTS".to_owned(), 12))
        );
        assert_eq!(source_of("ENDPOINTS"), None);
    }
}
