//! Joins that netmaster accepts, rejects, or can't decide about.

use super::*;

#[tokio::test]
async fn second_machine_of_the_name_is_refused() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    let taken = Rejection::NodeNameTaken { node: me().node };
    master.serve(Some(taken), &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    let refused =
        |log: &LogState| matches!(log, LogState::Refused { reason } if reason.contains("--name"));
    node.wait_for_log_state("refused", refused).await;
    assert_eq!(*node.facts.borrow(), Projection::default());
}

#[tokio::test]
async fn member_follows_the_log_when_netmaster_cannot_decide_about_its_join() {
    let store = tempfile::tempdir().unwrap();
    let mut server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let mut node = Node::start(server.url(), Projection::default());
    node.wait_until_in_sync().await;
    let undecided = [
        Rejection::DeadlinePassed,
        Rejection::OlderThanLog {
            revision: Revision(1),
        },
        Rejection::Unknown,
    ];
    for (n, rejection) in undecided.into_iter().enumerate() {
        let mut tasks = std::mem::take(&mut tasks);
        tasks.shutdown().await;
        server.restart().await;
        let master = Master::connect(&server).await;
        master.serve(Some(rejection), &mut tasks).await;
        let revision = master.append(tenant(&format!("t{n}"))).await;
        // It joins at its start only.
        let known = node.facts.borrow().clone();
        node = Node::start(server.url(), known);
        node.wait_until_in_sync().await;
        node.wait_until_applied(revision).await;
    }
}

#[tokio::test]
async fn new_node_is_not_refused_when_netmaster_cannot_decide() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    let late = Some(Rejection::DeadlinePassed);
    master.serve(late, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    let waits = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("deadline"));
    node.wait_for_log_state("waiting", waits).await;
}

/// The next request to join, and where its answer goes.
async fn asked(requests: &mut async_nats::Subscriber) -> (Request<Command>, async_nats::Subject) {
    let next = tokio::time::timeout(Duration::from_secs(10), requests.next()).await;
    let message = next.expect("a request").expect("the bus is there");
    let request = codec::from_bytes(&message.payload).unwrap();
    (request, message.reply.unwrap())
}

#[tokio::test]
async fn join_without_an_answer_is_sent_again_with_its_id() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let master = Master::init(&server, cluster(1)).await;
    let subject = "contiv.api.v1.node.join";
    let mut requests = master.client.subscribe(subject).await.unwrap();
    master.client.flush().await.unwrap();
    let node = Node::start(server.url(), Projection::default());
    let (first, _) = asked(&mut requests).await;
    let (second, to) = asked(&mut requests).await;
    assert_eq!(first.id, second.id, "so it happens once");
    let Command::NodeJoin(join) = second.body else {
        panic!("no join");
    };
    let reply = Reply::Accepted {
        revision: master.append(joined(join)).await,
        events: Vec::new(),
    };
    let bytes = codec::to_bytes(&reply);
    master.client.publish(to, bytes.into()).await.unwrap();
    node.wait_until_in_sync().await;
}
