//! Whom netmaster lets in, and what it means when it can't decide.

use super::*;

#[tokio::test]
async fn a_second_machine_of_the_name_is_refused() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    let taken = Rejection::NodeNameTaken { node: me().node };
    master.serve(Some(taken), &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    let refused =
        |log: &LogState| matches!(log, LogState::Refused { reason } if reason.contains("--name"));
    node.log_is("refused", refused).await;
    assert_eq!(*node.facts.borrow(), Projection::default());
}

#[tokio::test]
async fn a_member_follows_the_log_when_netmaster_cannot_decide_about_its_join() {
    let store = tempfile::tempdir().unwrap();
    let mut server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.in_sync().await;
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
        node.applies(revision).await;
        node.in_sync().await;
    }
}

#[tokio::test]
async fn a_newcomer_that_netmaster_cannot_decide_about_is_not_refused() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    let late = Some(Rejection::DeadlinePassed);
    master.serve(late, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    let waits = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("deadline"));
    node.log_is("waiting", waits).await;
}
