//! Creating a cluster, and buses that can't carry one.

use std::io::Write;
use std::net::TcpListener;

use async_nats::jetstream::{self, stream};
use bus_schema::{Event, subject};

use crate::support::{Bus, free_port, netmaster, said};

fn id(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn init_again_changes_nothing() {
    let bus = Bus::start().await;
    let first = id(&bus.netmaster(&["init"]));
    assert_eq!(id(&bus.netmaster(&["init"])), first);
    let log = bus.client().await.log().await;
    let kinds: Vec<_> = log.iter().map(|e| e.body.kind()).collect();
    assert_eq!(
        kinds,
        ["cluster-created", "tenant-created", "tenant-opened"]
    );
    let Event::ClusterCreated(created) = &log[0].body else {
        panic!("{:?}", log[0]);
    };
    assert_eq!(created.cluster.to_string(), first);
}

#[tokio::test]
async fn two_inits_at_once_make_one_cluster() {
    let bus = Bus::start().await;
    let (a, b) = std::thread::scope(|threads| {
        let one = || id(&bus.netmaster(&["init"]));
        let (a, b) = (threads.spawn(one), threads.spawn(one));
        (a.join().expect("done"), b.join().expect("done"))
    });
    assert_eq!(a, b);
    assert_eq!(bus.client().await.log().await.len(), 3);
}

#[tokio::test]
async fn a_half_done_init_goes_on() {
    let bus = Bus::cluster().await;
    let context = jetstream::new(bus.client().await.client);
    for name in [subject::HISTORY, subject::ENDPOINTS] {
        context.delete_stream(name).await.expect("deleted");
    }
    id(&bus.netmaster(&["init"]));
    for name in [subject::LOG, subject::ENDPOINTS, subject::HISTORY] {
        context.get_stream(name).await.expect("there again");
    }
}

#[tokio::test]
async fn a_stream_that_isnt_as_it_must_be_is_refused_and_left_alone() {
    let bus = Bus::start().await;
    let context = jetstream::new(bus.client().await.client);
    let other = stream::Config {
        name: subject::LOG.to_owned(),
        subjects: vec![subject::LOG_ALL.to_owned()],
        allow_direct: true,
        ..Default::default()
    };
    context.create_stream(other).await.expect("created");
    let refused = bus.netmaster(&["init"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = said(&refused);
    for word in ["LOG", "allow_direct", "allow_atomic", "deny_delete"] {
        assert!(said.contains(word), "{said}");
    }
}

#[tokio::test]
async fn a_log_of_somebody_else_is_refused() {
    let bus = Bus::cluster().await;
    let context = jetstream::new(bus.client().await.client);
    context.delete_stream(subject::LOG).await.expect("deleted");
    // Recreated as it must be, by an `init` whose first event another application precedes.
    let mine = bus.netmaster(&["init"]);
    assert!(mine.status.success(), "a deleted log is a new cluster");
    context.delete_stream(subject::LOG).await.expect("deleted");
    let config = stream::Config {
        name: subject::LOG.to_owned(),
        subjects: vec![subject::LOG_ALL.to_owned()],
        deny_delete: true,
        deny_purge: true,
        allow_atomic_publish: true,
        discard: stream::DiscardPolicy::New,
        republish: Some(stream::Republish {
            source: subject::LOG_ALL.to_owned(),
            destination: subject::EVENTS_LOG.to_owned(),
            headers_only: false,
        }),
        ..Default::default()
    };
    context.create_stream(config).await.expect("created");
    let ack = context.publish("contiv.log.x", "hello".into()).await;
    ack.expect("sent").await.expect("stored");
    let refused = bus.netmaster(&["init"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said(&refused).contains("isn't contiv's log"),
        "{}",
        said(&refused)
    );
}

#[tokio::test]
async fn a_bus_without_jetstream_is_refused_saying_what_to_do() {
    let bus = Bus::start_with(false).await;
    for verb in ["init", "run"] {
        let refused = bus.netmaster(&[verb]);
        assert_eq!(refused.status.code(), Some(1), "{verb}");
        let said = said(&refused);
        assert!(said.contains("without JetStream"), "{verb}: {said}");
    }
}

#[test]
fn a_bus_that_is_down_is_named_without_its_token() {
    let url = format!("nats://secret@127.0.0.1:{}", free_port());
    let refused = netmaster(&url, &["init"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = said(&refused);
    assert!(
        said.contains("no NATS server answers at nats://127.0.0.1"),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");
}

#[tokio::test]
async fn a_wrong_token_is_no_reason_to_wait() {
    let bus = Bus::start().await;
    let url = bus.url().replace("token-of-a-test", "another");
    for verb in ["init", "run"] {
        let refused = netmaster(&url, &[verb]);
        assert_eq!(refused.status.code(), Some(1), "{verb}");
        let said = said(&refused);
        assert!(said.contains("refuses this token"), "{verb}: {said}");
    }
}

/// Greets as Debian's nats-server does, which knows neither TTLs nor atomic batches.
#[test]
fn an_old_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let info = r#"INFO {"server_id":"OLD","version":"2.9.10","go":"go1.19","host":"127.0.0.1","port":1,"headers":true,"jetstream":true,"max_payload":1048576,"proto":1}"#;
            let greeted = write!(stream, "{info}\r\nPONG\r\n");
            greeted.expect("sent");
            // Read until the client goes, or it would see a reset before the greeting.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    for verb in ["init", "run"] {
        let refused = netmaster(&format!("nats://127.0.0.1:{port}"), &[verb]);
        assert_eq!(refused.status.code(), Some(1), "{verb}");
        let said = said(&refused);
        assert!(said.contains("2.9.10 is too old"), "{verb}: {said}");
        assert!(said.contains("2.12"), "{verb}: {said}");
    }
}

#[tokio::test]
async fn a_netmaster_without_a_cluster_says_what_to_run() {
    let bus = Bus::start().await;
    let refused = bus.netmaster(&["run"]);
    assert_eq!(refused.status.code(), Some(70));
    assert!(
        said(&refused).contains("netmaster init"),
        "{}",
        said(&refused)
    );
}

#[test]
fn bad_usage_exits_64() {
    for args in [&["walk"][..], &["init", "--replicas", "2"], &[]] {
        assert_eq!(
            netmaster("nats://127.0.0.1", args).status.code(),
            Some(64),
            "{args:?}"
        );
    }
}
