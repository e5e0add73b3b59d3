//! One user's requests and messages take neither the others' places nor everybody's memory.

use async_nats::jetstream::{self, stream};
use bus_schema::command::RuleAdd;
use bus_schema::policy::{Action, Direction, PortRange, Priority, Protocol};
use bus_schema::{
    Answer, Command, Endpoint, EndpointEvent, Query, Rejection, Revision, RuleSpec, codec, limits,
    subject, testing,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::endpoints::endpoint;
use crate::support::{Bus, create, create_tenant, request, request_within, tenant, until};

/// More waits than netmaster has places.
const WAITS: usize = 5_000;
const HOUR_MS: u64 = 60 * 60 * 1_000;

#[tokio::test]
async fn waits_leave_commands_joins_and_reads_their_places() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let never = Query::Wait {
        revision: Some(Revision(1_000_000)),
    };
    let asked: Vec<_> = (0..WAITS)
        .map(|_| request_within(HOUR_MS, never.clone()))
        .collect();
    let mut waits: FuturesUnordered<_> = asked.iter().map(|it| api.ask(it)).collect();
    let mut busy = 0;
    while busy < WAITS - 512 {
        match waits.next().await {
            Some(Answer::Behind { reason, .. }) if reason.contains("busy") => busy += 1,
            other => panic!("{other:?} after {busy}"),
        }
    }
    // The others wait, and this client has other questions.
    let other = bus.client().await;
    other.accepted(create_tenant("blue")).await;
    other.join("n1", "198.18.0.1").await;
    let (revision, _) = other
        .accepted(create("blue", "front", "20.1.1.0/24", None))
        .await;
    assert_eq!(other.networks(revision).await, ["blue/front"]);
}

#[tokio::test]
async fn long_request_is_refused_and_the_log_stays_writable() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let ports = (1..30_000).map(|port| PortRange {
        first: port * 2,
        last: port * 2,
    });
    let long = Command::RuleAdd(RuleAdd {
        tenant: tenant("default"),
        policy: testing::name("p"),
        rule: testing::name("1"),
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: Some(Protocol::TCP),
            ports: ports.collect(),
            peer: None,
        },
        immediate: false,
    });
    let bytes = codec::to_bytes(&request(long.clone())).len();
    match api.rejected(long).await {
        Rejection::RequestTooLong { max, .. } => assert!(bytes as u64 > max),
        other => panic!("{other:?}"),
    }
    api.accepted(create_tenant("blue")).await;
}

fn published(aliases: Vec<String>) -> (String, Bytes) {
    let endpoint = Endpoint {
        name: Some("web".to_owned()),
        aliases,
        ..endpoint()
    };
    let to = subject::of_endpoint(&endpoint);
    let applied = Revision(1);
    let up = EndpointEvent::Up { endpoint, applied };
    (to, Bytes::from(codec::to_bytes(&up)))
}

/// Aliases of 10 characters.
fn aliases(count: usize) -> Vec<String> {
    (0..count).map(|it| format!("a{it:09}")).collect()
}

#[tokio::test]
async fn init_limits_the_messages_of_an_existing_cluster() {
    let bus = Bus::cluster().await;
    let context = jetstream::new(bus.client().await.client);
    let streams = [
        (subject::LOG, limits::MAX_EVENT_BYTES),
        (subject::ENDPOINTS, limits::MAX_ENDPOINT_BYTES),
    ];
    let config = async |name: &str| {
        let stream = context.get_stream(name).await.expect("it is there");
        stream.cached_info().config.clone()
    };
    for (name, _) in streams {
        let older = stream::Config {
            max_message_size: -1,
            max_consumers: 1_000,
            ..config(name).await
        };
        context.update_stream(older).await.expect("changed");
    }
    let (to, long) = published(aliases(10_000));
    let ack = context.publish(to.clone(), long.clone()).await;
    ack.expect("sent").await.expect("an older stream takes it");

    assert!(bus.netmaster(&["init"]).status.success());
    for (name, bytes) in streams {
        let config = config(name).await;
        assert_eq!(
            usize::try_from(config.max_message_size),
            Ok(bytes),
            "{name}"
        );
        assert_eq!(config.max_consumers, 65_536, "{name}");
    }
    let ack = context.publish(to, long).await;
    let refused = ack.expect("sent").await.expect_err("it is too long");
    assert!(refused.to_string().contains("size"), "{refused}");
}

#[tokio::test]
async fn reader_ignores_names_beyond_the_limits() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    api.join("n1", "198.18.0.1").await;
    api.accepted(create("default", "front", "20.1.1.0/24", None))
        .await;
    let (to, many) = published(aliases(1_000));
    let context = jetstream::new(api.client.clone());
    let ack = context.publish(to, many).await;
    ack.expect("sent").await.expect("stored");
    let seen = async || {
        let query = Query::EndpointList { tenant: None };
        match api.query(Revision(0), query).await {
            Answer::Endpoints { endpoints, .. } => endpoints.into_iter().next(),
            other => panic!("{other:?}"),
        }
    };
    let seen = until("netmaster has the endpoint", seen).await;
    assert_eq!(seen.aliases.len(), limits::MAX_ALIASES);
    assert_eq!(seen.name.as_deref(), Some("web"));
}
