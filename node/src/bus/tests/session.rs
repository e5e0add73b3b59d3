//! Following the log.

use super::*;

#[tokio::test]
async fn node_joins_follows_and_continues_after_a_server_restart() {
    let store = tempfile::tempdir().unwrap();
    let mut server = Server::start(None, store.path(), true).await;
    let node = Node::start(server.url(), Projection::default());
    let no_cluster = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("netmaster init"));
    node.wait_for_log_state("told to init", no_cluster).await;

    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    node.wait_until_in_sync().await;
    assert!(node.facts.borrow().nodes.contains_key(&me().node));
    node.wait_until_applied(master.append(tenant("blue")).await)
        .await;

    server.stop();
    node.wait_for_log_state("away", |log| matches!(log, LogState::Disconnected { .. }))
        .await;
    assert_eq!(node.facts.borrow().tenants.len(), 1);
    server.restart().await;
    let master = Master::connect(&server).await;
    node.wait_until_applied(master.append(tenant("red")).await)
        .await;
    node.wait_until_in_sync().await;
    assert_eq!(node.facts.borrow().tenants.len(), 2);
}

#[tokio::test]
async fn wiped_log_changes_nothing_until_it_is_accepted() {
    let store = tempfile::tempdir().unwrap();
    let mut server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.wait_until_applied(master.append(tenant("blue")).await)
        .await;
    node.wait_until_in_sync().await;
    let before = node.facts.borrow().clone();
    drop(tasks);

    server.stop();
    std::fs::remove_dir_all(store.path().join("jetstream")).unwrap();
    server.restart().await;
    let foreign = |log: &LogState| matches!(log, LogState::Foreign { .. });
    node.wait_for_log_state("foreign", foreign).await;
    let master = Master::init(&server, cluster(2)).await;
    let mut tasks = JoinSet::new();
    master.serve(None, &mut tasks).await;
    for n in 0..9 {
        master.append(tenant(&format!("t{n}"))).await;
    }
    let other = |log: &LogState| matches!(log, LogState::Foreign { reason } if reason.contains(&cluster(2).to_string()));
    node.wait_for_log_state("of another cluster", other).await;
    assert_eq!(*node.facts.borrow(), before);

    let accept = |cluster| {
        let request = codec::to_bytes(&NodeRequest::AcceptLog { cluster });
        let client = master.client.clone();
        async move {
            let to = subject::of_node(&me().node, "accept-log");
            let answer = client.request(to, request.into()).await.unwrap();
            codec::from_bytes::<NodeReply>(&answer.payload).unwrap()
        }
    };
    let wrong = accept(cluster(1)).await;
    assert!(matches!(wrong, NodeReply::Refused { .. }), "{wrong:?}");
    assert_eq!(*node.facts.borrow(), before);
    assert_eq!(accept(cluster(2)).await, NodeReply::Done);
    node.wait_until_in_sync().await;
    assert_eq!(node.facts.borrow().tenants.len(), 9);
}

/// No bytes, noise, another encoding, a wrong length, deep nesting, and half a message.
fn garbage() -> Vec<Vec<u8>> {
    let good = codec::to_bytes(&NodeRequest::Status);
    vec![
        vec![],
        b"\xff\xfe\x00garbage".to_vec(),
        b"{\"json\": true}".to_vec(),
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0x91; 10_000],
        good[..good.len() / 2].to_vec(),
    ]
}

#[tokio::test]
async fn garbage_on_every_subject_is_skipped() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.wait_until_in_sync().await;
    for bytes in garbage() {
        for to in [
            "contiv.log.blue.intent.network.x",
            "contiv.log.blue.lease.x",
            "contiv.log._cluster.node.b",
            "contiv.log._cluster.vni.7",
            "contiv.log.nothing",
            "contiv.endpoint.blue.b.e",
            "contiv.endpoint.blue.b.e.f.g",
            "contiv.endpoint.b\u{fc}.b.e",
        ] {
            master.put(to.to_owned(), bytes.clone()).await;
        }
        for verb in ["status", "drain", "cede", "accept-log", "fly"] {
            let to = subject::of_node(&me().node, verb);
            let answer = master.client.request(to, bytes.clone().into()).await;
            let answer = answer.expect("an answer");
            let answer: NodeReply = codec::from_bytes(&answer.payload).unwrap();
            assert!(matches!(answer, NodeReply::Refused { .. }), "{answer:?}");
        }
    }
    node.wait_until_applied(master.append(tenant("blue")).await)
        .await;
    node.wait_until_in_sync().await;
    assert!(node.view.borrow().is_empty());
}

#[tokio::test]
async fn server_without_jetstream_or_too_old_is_refused_with_the_remedy() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), false).await;
    let node = Node::start(server.url(), Projection::default());
    let told = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("--jetstream"));
    node.wait_for_log_state("told of JetStream", told).await;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(old_server(listener));
    let node = Node::start(url, Projection::default());
    let told = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("2.9.10 is too old"));
    node.wait_for_log_state("told of the version", told).await;
}

/// Sends the greeting of Debian 12's server, and answers pings.
async fn old_server(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    while let Ok((mut stream, _)) = listener.accept().await {
        let (read, mut write) = stream.split();
        let info = r#"INFO {"server_id":"x","server_name":"x","version":"2.9.10","proto":1,"go":"","host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"jetstream":true}"#;
        write.write_all(format!("{info}\r\n").as_bytes()).await.ok();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("PING") {
                write.write_all(b"PONG\r\n").await.ok();
            }
        }
    }
}
