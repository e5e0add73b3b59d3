//! One message of the log or of the endpoints, whatever build wrote it.

use async_nats::{HeaderMap, Message, header, jetstream};
use bus_schema::codec::{self, Decoded};
use bus_schema::{
    AggregateId, CommandId, EndpointEvent, Envelope, Event, Header, PolicyName, Revision,
    TenantName, subject,
};
use serde_json::{Value, json};

use super::super::{pool, rule, time};
use crate::output::printable;

#[derive(Debug)]
pub(super) struct Item {
    pub(super) stream: String,
    pub(super) sequence: u64,
    subject: String,
    /// Milliseconds since 1970-01-01 UTC: the writer's clock, else the server's.
    pub(super) time: u64,
    /// Microseconds since 1970-01-01 UTC, by the server's clock.
    pub(super) stored: u64,
    header: Option<Header>,
    what: What,
    payload: Vec<u8>,
}

#[derive(Debug)]
enum What {
    Log(Box<Event>),
    Endpoint(Box<EndpointEvent>),
    /// For newer readers only, or of a kind that this build doesn't know.
    Newer(String),
    Unreadable(String),
}

/// Where a sourced message came from: stream, sequence and more, apart by spaces.
const SOURCE: &str = "Nats-Stream-Source";

impl Item {
    /// A message that a consumer brought.
    pub(super) fn stored(message: &jetstream::Message) -> Option<Self> {
        let info = message.info().ok()?;
        let stored = u64::try_from(info.published.unix_timestamp_nanos() / 1_000).unwrap_or(0);
        let source = message.headers.as_ref().and_then(|h| h.get(SOURCE));
        let (stream, sequence) = match source.and_then(|s| origin(s.as_str())) {
            Some(origin) => origin,
            None => (info.stream.to_owned(), info.stream_sequence),
        };
        Some(Self::decode(
            stream,
            sequence,
            message.subject.to_string(),
            stored,
            message.payload.to_vec(),
            message.headers.as_ref(),
        ))
    }

    /// A message of `contiv.events.>`; `None`: no stream republished it.
    pub(super) fn republished(message: &Message) -> Option<Self> {
        let headers = message.headers.as_ref()?;
        let text = |name| headers.get(name).map(|v| v.as_str().to_owned());
        let stored = text(header::NATS_TIME_STAMP)
            .and_then(|t| t.parse::<jiff::Timestamp>().ok())
            .and_then(|t| u64::try_from(t.as_microsecond()).ok())
            .unwrap_or_default();
        Some(Self::decode(
            text(header::NATS_STREAM)?,
            text(header::NATS_SEQUENCE)?.parse().ok()?,
            text(header::NATS_SUBJECT)?,
            stored,
            message.payload.to_vec(),
            Some(headers),
        ))
    }

    fn decode(
        stream: String,
        sequence: u64,
        subject: String,
        stored: u64,
        payload: Vec<u8>,
        headers: Option<&HeaderMap>,
    ) -> Self {
        let (header, what) = if subject.starts_with("contiv.log.") {
            log(&payload)
        } else if payload.is_empty() {
            (None, removed(&subject, headers))
        } else {
            endpoint(&payload)
        };
        Self {
            time: header.as_ref().map_or(stored / 1_000, |h| h.time),
            stored,
            stream,
            sequence,
            subject,
            header,
            what,
            payload,
        }
    }

    /// Who wrote it.
    pub(super) fn actor(&self) -> Option<&str> {
        self.header.as_ref().map(|it| it.actor.as_str())
    }

    /// The command that led to it.
    pub(super) fn cause(&self) -> Option<CommandId> {
        self.header.as_ref().map(|it| it.cause)
    }

    /// A netmaster appended it to prove the log's end; nothing happened.
    pub(super) fn is_barrier(&self) -> bool {
        matches!(&self.what, What::Log(event) if **event == Event::Barrier)
    }

    pub(super) fn applied(&self) -> Option<Revision> {
        match &self.what {
            What::Endpoint(event) => match event.as_ref() {
                EndpointEvent::Up { applied, .. }
                | EndpointEvent::Down { applied, .. }
                | EndpointEvent::Healed { applied, .. } => Some(*applied),
                EndpointEvent::Unknown => None,
            },
            _ => None,
        }
    }

    pub(super) fn concerns(&self, tenant: &TenantName) -> bool {
        if let What::Log(event) = &self.what {
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
        self.subject.split('.').nth(2) == Some(tenant.as_str())
    }

    /// `REVISION  TIME  KIND  TEXT`, the revision empty for endpoints.
    pub(super) fn line(&self) -> String {
        let revision = match self.stream == subject::LOG {
            true => self.sequence.to_string(),
            false => String::new(),
        };
        let text = match &self.what {
            What::Log(event) => log_text(event),
            What::Endpoint(event) => endpoint_text(event),
            What::Newer(what) => format!("{what}; upgrade netctl to read it ({})", self.subject),
            What::Unreadable(reason) => format!("{reason} ({})", self.subject),
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
        match &self.what {
            What::Log(event) => event.kind(),
            What::Endpoint(event) => match event.as_ref() {
                EndpointEvent::Up { .. } => "endpoint-up",
                EndpointEvent::Down { .. } => "endpoint-down",
                EndpointEvent::Healed { .. } => "node-healed",
                EndpointEvent::Unknown => "unknown",
            },
            What::Newer(_) => "newer",
            What::Unreadable(_) => "unreadable",
        }
    }

    pub(super) fn json(&self) -> Value {
        let is_log = self.stream == subject::LOG;
        let mut value = json!({
            "revision": is_log.then_some(self.sequence),
            "stream": self.stream,
            "sequence": self.sequence,
            "subject": self.subject,
            "time": time::show(self.time),
            "kind": self.kind(),
        });
        if let Some(header) = &self.header {
            value["id"] = json!(header.id);
            value["actor"] = json!(header.actor);
            value["cause"] = json!(header.cause);
            value["schema"] = json!(header.schema);
        }
        match &self.what {
            What::Log(event) => value["event"] = json!(event),
            What::Endpoint(event) => value["event"] = json!(event),
            // Readable for who knows more than this build.
            What::Newer(_) => value["event"] = body(&self.payload),
            What::Unreadable(reason) => value["reason"] = json!(reason),
        }
        value
    }
}

/// Something on the public subjects that no stream republished.
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

fn origin(source: &str) -> Option<(String, u64)> {
    let mut words = source.split(' ');
    let stream = words.next()?;
    Some((stream.to_owned(), words.next()?.parse().ok()?))
}

fn log(payload: &[u8]) -> (Option<Header>, What) {
    match codec::decode::<Event>(payload) {
        Ok(Decoded::Known(Envelope {
            header,
            body: event,
        })) => {
            let what = match event {
                Event::Unknown => What::Newer(format!("an event `{}`", type_of(payload))),
                event => What::Log(Box::new(event)),
            };
            (Some(header), what)
        }
        Ok(Decoded::Newer(header)) => {
            let what = format!(
                "an event `{}` for readers of schema {} and newer",
                type_of(payload),
                header.min_reader
            );
            (Some(header), What::Newer(what))
        }
        Err(error) => (None, What::Unreadable(error.to_string())),
    }
}

fn endpoint(payload: &[u8]) -> (Option<Header>, What) {
    let (header, event) = match codec::decode::<EndpointEvent>(payload) {
        Ok(Decoded::Known(Envelope { header, body })) => (Some(header), body),
        Ok(Decoded::Newer(header)) => {
            return (Some(header), What::Newer("an endpoint's event".to_owned()));
        }
        Err(_) => match codec::from_bytes(payload) {
            Ok(event) => (None, event),
            Err(error) => return (None, What::Unreadable(error.to_string())),
        },
    };
    let what = match event {
        EndpointEvent::Unknown => What::Newer("an endpoint's event".to_owned()),
        event => What::Endpoint(Box::new(event)),
    };
    (header, what)
}

/// An empty message: the mark by which the server itself removed what expired.
fn removed(subject: &str, headers: Option<&HeaderMap>) -> What {
    let why = headers
        .and_then(|h| h.get("Nats-Marker-Reason"))
        .map_or("an empty message", |reason| reason.as_str());
    What::Unreadable(format!("no endpoint at {subject}: {why}"))
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

/// Whose blocks it is about: `TENANT:NETWORK`, or `TENANT:NETWORK/GROUP`.
fn pool_of(event: &Event) -> String {
    let Some(AggregateId::Leases(pool)) = event.aggregate() else {
        return String::new();
    };
    let network = format!("{}:{}", pool.tenant, pool.network);
    match pool.group {
        None => network,
        Some(group) => format!("{network}/{group}"),
    }
}

fn log_text(event: &Event) -> String {
    match event {
        Event::ClusterCreated(e) => format!("cluster {}", e.cluster),
        Event::Barrier | Event::Unknown => String::new(),
        Event::LogAccepted(e) => {
            let ahead = e
                .ahead
                .iter()
                .map(|(node, it)| format!("{node} had applied {it}"));
            format!(
                "that ended at {}: {}",
                e.end,
                ahead.collect::<Vec<_>>().join(", ")
            )
        }
        Event::TenantCreated(e) => e.tenant.to_string(),
        Event::TenantRemoved(e) => e.tenant.to_string(),
        Event::TenantOpened(e) => e.tenant.to_string(),
        Event::TenantClosed(e) => e.tenant.to_string(),
        Event::NodeJoined(e) => format!("{} VTEP {} machine {}", e.node, e.vtep, e.machine),
        Event::NodeRemoved(e) if e.lost => format!("{} as lost", e.node),
        Event::NodeRemoved(e) => e.node.to_string(),
        Event::NodeDrained(e) => format!("{} takes no new endpoints", e.node),
        Event::NodeUncordoned(e) => format!("{} takes new endpoints again", e.node),
        Event::NodeLeft(e) => format!("{} takes no new endpoints and withdrew its names", e.node),
        Event::VniAssigned(e) => format!("{} to {}:{}", e.vni, e.tenant, e.network),
        Event::VniReleased(e) => format!("{} of {}:{}", e.vni, e.tenant, e.network),
        Event::NetworkCreated(e) => {
            let spec = &e.network;
            let pools: Vec<String> = spec
                .pools()
                .map(|p| format!("subnet {} gateway {}", pool::show(p), p.gateway))
                .collect();
            let name = format!("{}:{}", spec.tenant, spec.name);
            format!("{name} {} packet tag {}", pools.join(" "), spec.vni)
        }
        Event::NetworkClosing(e) => format!("{}:{}", e.tenant, e.network),
        Event::NetworkReopened(e) => format!("{}:{}", e.tenant, e.network),
        Event::NetworkRemoved(e) if e.forced => format!("{}:{} by force", e.tenant, e.network),
        Event::NetworkRemoved(e) => format!("{}:{}", e.tenant, e.network),
        Event::GroupCreated(e) => {
            let spec = &e.group;
            let name = format!("{}:{} in {}", spec.tenant, spec.name, spec.network);
            let pool = spec.pool.map(|range| format!(" pool {range}"));
            let pool = pool.unwrap_or_default();
            format!("{name} id {}{pool}{}", spec.id.0, under(&spec.policies))
        }
        Event::GroupUpdated(e) => format!("{}:{}{}", e.tenant, e.group, under(&e.policies)),
        Event::GroupClosing(e) => format!("{}:{}", e.tenant, e.group),
        Event::GroupReopened(e) => format!("{}:{}", e.tenant, e.group),
        Event::GroupRemoved(e) if e.forced => format!("{}:{} by force", e.tenant, e.group),
        Event::GroupRemoved(e) => format!("{}:{}", e.tenant, e.group),
        Event::PolicyCreated(e) => format!("{}:{}", e.tenant, e.policy),
        Event::PolicyRemoved(e) => format!("{}:{}", e.tenant, e.policy),
        Event::PolicyApplied(e) => format!("{}:{} to connections", e.tenant, e.policy),
        Event::RuleAdded(e) => {
            let rule = rule::say(&e.rule.spec);
            format!("{}:{} {}: {rule}", e.tenant, e.policy, e.rule.id)
        }
        Event::RuleRemoved(e) => format!("{}:{} {}", e.tenant, e.policy, e.rule),
        Event::LeasesOpened(_)
        | Event::LeasesClosing(_)
        | Event::LeasesReopened(_)
        | Event::LeasesClosed(_) => pool_of(event),
        Event::BlockLeased(e) => format!("{} {} to {}", pool_of(event), e.block, e.node),
        Event::BlockReturned(e) => format!("{} {} by {}", pool_of(event), e.block, e.node),
        Event::PoolReserved(e) => format!("{}:{} {} for {}", e.tenant, e.network, e.range, e.group),
        Event::PoolReleased(e) => format!("{}:{} of {}", e.tenant, e.network, e.group),
        Event::BlockCeded(e) => {
            let address = format!("{} {}", pool_of(event), e.address);
            format!("{address} by {} to {}", e.from, e.to)
        }
        Event::BlockRevoked(e) => {
            format!("{}:{} {} from {}", e.tenant, e.network, e.block, e.node)
        }
    }
}

fn under(policies: &[PolicyName]) -> String {
    let names: Vec<&str> = policies.iter().map(PolicyName::as_str).collect();
    match names.as_slice() {
        [] => " under no policy".to_owned(),
        names => format!(" under {}", names.join(",")),
    }
}

fn endpoint_text(event: &EndpointEvent) -> String {
    match event {
        EndpointEvent::Up { endpoint: e, .. } => {
            let addresses: Vec<String> = e.addresses().map(|a| a.to_string()).collect();
            let name = e.name.as_deref().unwrap_or(e.id.as_str());
            let addresses = addresses.join(",");
            let group = e.group.as_ref().map(|g| format!("{g}."));
            format!(
                "{}:{}{} {name} {addresses} on {}",
                e.tenant,
                group.unwrap_or_default(),
                e.network,
                e.node
            )
        }
        EndpointEvent::Down {
            tenant,
            network,
            node,
            id,
            ..
        } => format!("{tenant}:{network} {id} on {node}"),
        EndpointEvent::Healed {
            node, kinds, last, ..
        } => {
            let kinds = kinds.iter().map(|(kind, count)| format!("{kind} {count}"));
            let kinds: Vec<String> = kinds.collect();
            format!("{node}: {}; last: {}", kinds.join(", "), last.what)
        }
        EndpointEvent::Unknown => String::new(),
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
        Item::decode("LOG".into(), 7, subject.into(), 0, payload, None)
    }

    #[test]
    fn a_known_event_is_one_line() {
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
    fn what_is_newer_is_shown_as_such() {
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
    fn garbage_is_shown_and_harms_nothing() {
        for payload in [b"\xc1garbage\x1b[2J".to_vec(), vec![], b"{}".to_vec()] {
            for subject in ["contiv.log.blue.intent.x.y", "contiv.endpoint.blue.n.e"] {
                let line = item(subject, payload.clone()).line();
                assert!(line.contains("unreadable"), "{line}");
                assert_eq!(line.lines().count(), 1);
            }
        }
    }

    #[test]
    fn what_a_node_put_right_is_told_by_kind() {
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
    fn a_sourced_message_is_known_by_its_origin() {
        assert_eq!(
            origin("ENDPOINTS 12 > > contiv.endpoint.a.b.c"),
            Some(("ENDPOINTS".to_owned(), 12))
        );
        assert_eq!(origin("ENDPOINTS"), None);
    }
}
