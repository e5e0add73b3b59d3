//! `netctl events` on streams like those of `netmaster init`.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, stream};
use bus_schema::event::{TenantCreated, TenantOpened};
use bus_schema::{
    CommandId, Endpoint, EndpointEvent, Envelope, Event, EventId, Header, MacAddr, Revision,
    TenantName, codec, subject,
};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Bus, Cable, command, netctl};

async fn streams(context: &jetstream::Context) {
    let republish = |source: &str, destination: &str| {
        Some(stream::Republish {
            source: source.to_owned(),
            destination: destination.to_owned(),
            headers_only: false,
        })
    };
    for config in [
        stream::Config {
            name: subject::LOG.to_owned(),
            subjects: vec![subject::LOG_ALL.to_owned()],
            republish: republish(subject::LOG_ALL, subject::EVENTS_LOG),
            ..stream::Config::default()
        },
        stream::Config {
            name: subject::ENDPOINTS.to_owned(),
            subjects: vec![subject::ENDPOINT_ALL.to_owned()],
            max_messages_per_subject: 1,
            republish: republish(subject::ENDPOINT_ALL, subject::EVENTS_ENDPOINT),
            ..stream::Config::default()
        },
        stream::Config {
            name: subject::HISTORY.to_owned(),
            sources: Some(vec![stream::Source {
                name: subject::ENDPOINTS.to_owned(),
                ..stream::Source::default()
            }]),
            ..stream::Config::default()
        },
    ] {
        context.create_stream(config).await.unwrap();
    }
}

async fn put(context: &jetstream::Context, subject: String, bytes: Vec<u8>) {
    let sent = context.publish(subject, bytes.into()).await.unwrap();
    sent.await.unwrap();
}

fn enveloped<T: Serialize>(body: T, min_reader: u16) -> Vec<u8> {
    let cause = CommandId(Uuid::nil());
    let mut header = Header::new(EventId(Uuid::now_v7()), 1_000, "m1", cause);
    header.min_reader = min_reader;
    codec::to_bytes(&Envelope { header, body })
}

async fn tenant(context: &jetstream::Context, name: &str) {
    let tenant: TenantName = name.parse().unwrap();
    for event in [
        Event::TenantCreated(TenantCreated {
            tenant: tenant.clone(),
        }),
        Event::TenantOpened(TenantOpened { tenant }),
    ] {
        let subject = subject::of_event(&event).unwrap();
        put(context, subject, enveloped(event, 1)).await;
    }
}

async fn endpoint(context: &jetstream::Context, name: &str, applied: u64) {
    let endpoint = Endpoint {
        id: name.parse().unwrap(),
        tenant: "blue".parse().unwrap(),
        network: "front".parse().unwrap(),
        group: None,
        node: "n1".parse().unwrap(),
        v4: Some([20, 1, 1, 1].into()),
        v6: None,
        mac: MacAddr([2, 2, 20, 1, 1, 1]),
        name: Some(format!("{name}\u{1b}[2J")),
        aliases: Vec::new(),
        container: None,
        interface: "cv0".to_owned(),
        closed: None,
        vtep: [10, 0, 0, 1].into(),
    };
    let subject = subject::of_endpoint(&endpoint);
    let applied = Revision(applied);
    let event = EndpointEvent::Up { endpoint, applied };
    put(context, subject, codec::to_bytes(&event)).await;
}

async fn world() -> (Bus, jetstream::Context) {
    let bus = Bus::start();
    let context = jetstream::new(bus.client().await);
    streams(&context).await;
    tenant(&context, "blue").await;
    tenant(&context, "red").await;
    (bus, context)
}

/// Waits until HISTORY has this many messages; it follows with a delay.
async fn history(context: &jetstream::Context, messages: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stream = context.get_stream(subject::HISTORY).await.unwrap();
    while stream.info().await.unwrap().state.messages < messages {
        assert!(Instant::now() < deadline, "HISTORY doesn't follow");
        #[expect(clippy::disallowed_methods, reason = "the pause between two polls")]
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_any_writer_are_listed() {
    let (bus, context) = world().await;
    let erupted = json!({ "type": "volcano-erupted", "height": 3 });
    let intent = "contiv.log.blue.intent.volcano.etna";
    put(&context, intent.to_owned(), enveloped(&erupted, 1)).await;
    put(&context, intent.to_owned(), enveloped(&erupted, 99)).await;
    put(&context, intent.to_owned(), b"\xc1\x1b[2J".to_vec()).await;
    endpoint(&context, "web", 4).await;
    history(&context, 1).await;
    endpoint(&context, "web", 5).await;
    history(&context, 2).await;
    let all = netctl(&bus.url, "events");
    assert_eq!(all.code, 0, "{all:?}");
    assert_eq!(all.out.lines().count(), 9, "{}", all.out);
    assert_eq!(all.out.matches("volcano-erupted").count(), 2, "{}", all.out);
    assert_eq!(all.out.matches("unreadable").count(), 1, "{}", all.out);
    assert!(!all.out.contains('\u{1b}'), "{}", all.out);

    let blue = netctl(&bus.url, "events -tenant blue");
    assert_eq!(blue.out.lines().count(), 7, "{}", blue.out);
    let since = netctl(&bus.url, "events --since 5");
    assert_eq!(since.out.lines().count(), 4, "{}", since.out);
    let late = netctl(&bus.url, "events --since 2199-01-01T00:00:00Z");
    assert_eq!((late.code, late.out.as_str()), (0, ""), "{late:?}");

    let json = netctl(&bus.url, "events -o json");
    for line in json.out.lines() {
        let event: Value = serde_json::from_str(line).expect("a line is an object");
        assert!(event["kind"].is_string(), "{line}");
    }
    let newer = json.out.lines().find(|line| line.contains("volcano"));
    let newer: Value = serde_json::from_str(newer.unwrap()).unwrap();
    assert_eq!(newer["event"]["height"], 3);
    assert_eq!(newer["revision"], 5);
}

/// `netctl events --follow`, line by line.
struct Follower {
    process: Child,
    lines: mpsc::Receiver<String>,
    _home: tempfile::TempDir,
}

impl Follower {
    fn start(url: &str, more: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut process = command(home.path(), url, &format!("events --follow {more}"))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = process.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || pass_on(out, &sender));
        Self {
            process,
            lines,
            _home: home,
        }
    }

    #[track_caller]
    fn expect(&self, text: &str) {
        match self.lines.recv_timeout(Duration::from_secs(10)) {
            Ok(line) => assert!(line.contains(text), "{line} instead of {text}"),
            Err(_) => panic!("no line with {text} within 10 s"),
        }
    }
}

fn pass_on(out: ChildStdout, lines: &mpsc::Sender<String>) {
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        if lines.send(line).is_err() {
            return;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_misses_and_repeats_nothing() {
    let (mut bus, context) = world().await;
    let mut cable = Cable::new(&bus).await;
    endpoint(&context, "web", 4).await;
    let follower = Follower::start(&cable.url, "--since 3");
    follower.expect("red");
    follower.expect("red");
    follower.expect("web");
    tenant(&context, "green").await;
    follower.expect("tenant-created     green");
    follower.expect("tenant-opened      green");
    endpoint(&context, "db", 6).await;
    follower.expect("db");

    // A message that no stream republished is marked as such, and doesn't stop the output.
    let forger = bus.client().await;
    forger
        .publish("contiv.events.log.blue", "lies".into())
        .await
        .unwrap();
    follower.expect("no stream republished");

    // Events during the disconnection are printed later, once.
    cable.cut().await;
    tenant(&context, "missed").await;
    endpoint(&context, "cache", 8).await;
    cable.plug().await;
    for text in [
        "tenant-created     missed",
        "tenant-opened      missed",
        "cache",
    ] {
        follower.expect(text);
    }
    bus.kill();
    bus.restart();
    let context = jetstream::new(bus.client().await);
    tenant(&context, "late").await;
    follower.expect("tenant-created     late");
    follower.expect("tenant-opened      late");
    tenant(&context, "last").await;
    follower.expect("tenant-created     last");
    follower.expect("tenant-opened      last");
}
