//! A node that is removed: alive and empty, alive and in use, silent, or uncordoned meanwhile. The
//! nodes are played by the test.

use bus_schema::testing;
use std::time::Duration;

use bus_schema::codec;
use bus_schema::command::{BlockLease, BlockReturn, NodeDrain, NodeRemove, NodeUncordon};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::query::NodeInfo;
use bus_schema::rejection::EndpointUse;
use bus_schema::{Answer, Command, Event, Query, Rejection, Reply, Revision, subject};
use bytes::Bytes;
use futures::future::{BoxFuture, join_all, ready};
use futures::{FutureExt, StreamExt};
use ipnet::IpNet;
use tokio::task::JoinSet;

use crate::support::{Api, Bus, Master, create, network, node, request, tenant, until};

fn remove() -> Command {
    Command::NodeRemove(NodeRemove {
        node: node("n1"),
        lost: false,
    })
}

fn drain() -> Command {
    Command::NodeDrain(NodeDrain { node: node("n1") })
}

fn uncordon() -> Command {
    Command::NodeUncordon(NodeUncordon { node: node("n1") })
}

async fn lease(api: &Api) -> IpNet {
    api.accepted(create("default", "web", "20.1.1.0/24", None))
        .await;
    let command = Command::BlockLease(BlockLease {
        tenant: tenant("default"),
        network: network("web"),
        group: None,
        node: node("n1"),
        address: None,
        v6: false,
        ahead: false,
        waiting: 0,
    });
    match &api.accepted(command).await.1[..] {
        [Event::BlockLeased(leased)] => leased.block,
        other => panic!("{other:?}"),
    }
}

fn give_back(block: IpNet) -> Command {
    Command::BlockReturn(BlockReturn {
        tenant: tenant("default"),
        network: network("web"),
        group: None,
        block,
        node: node("n1"),
    })
}

fn in_use() -> NodeReply {
    NodeReply::InUse {
        endpoints: vec![EndpointUse {
            endpoint: testing::name("e1"),
            node: node("n1"),
            name: Some("db".to_owned()),
            address: testing::ip("20.1.1.2"),
        }],
    }
}

/// n1's answer; absent: none.
type Answering = BoxFuture<'static, Option<NodeReply>>;

/// Joins as n1, tells its status, and answers by `answer` when it is asked whether it is empty. It
/// falls silent when the tasks are dropped.
async fn play(api: &Api, answer: impl Fn(Api) -> Answering + Send + 'static) -> JoinSet<()> {
    api.join("n1", "198.18.0.1").await;
    let to = subject::of_node(&node("n1"), "drain-node");
    let mut asked = api.client.subscribe(to).await.expect("connected");
    api.client.flush().await.expect("connected");
    let mut tasks = JoinSet::new();
    let me = api.clone();
    tasks.spawn(async move {
        while let Some(message) = asked.next().await {
            let request = codec::from_bytes(&message.payload).expect("a request");
            let is_expected = matches!(request, NodeRequest::DrainNode { .. });
            assert!(is_expected, "{request:?}");
            if let Some(reply) = answer(me.clone()).await {
                let to = message.reply.expect("a request");
                let bytes = Bytes::from(codec::to_bytes(&reply));
                me.client.publish(to, bytes).await.expect("connected");
            }
        }
    });
    tasks.spawn(speak(api.clone()));
    until("n1 is heard", async || {
        info(api).await.filter(|n1| n1.alive).map(|_| ())
    })
    .await;
    tasks
}

#[expect(clippy::disallowed_methods, reason = "the pace of a node's status")]
async fn speak(api: Api) {
    loop {
        api.status("n1", Revision(0)).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Answers the same each time.
fn always(reply: NodeReply) -> impl Fn(Api) -> Answering + Send + 'static {
    move |_| ready(Some(reply.clone())).boxed()
}

async fn info(api: &Api) -> Option<NodeInfo> {
    let query = Query::NodeList { node: None };
    match api.query(Revision(0), query).await {
        Answer::Nodes { nodes, .. } => nodes.into_iter().next(),
        answer => panic!("{answer:?}"),
    }
}

/// The events of nodes and blocks, in order.
async fn happened(api: &Api) -> Vec<&'static str> {
    let kinds = api.log().await.into_iter().map(|it| it.body.kind());
    let concerned = |kind: &&str| kind.starts_with("node-") || kind.starts_with("block-");
    kinds.filter(concerned).collect()
}

async fn cluster() -> (Bus, Master, Api) {
    let bus = Bus::cluster().await;
    let master = bus.master("m1").await;
    let api = bus.client().await;
    (bus, master, api)
}

#[tokio::test]
async fn a_live_node_with_endpoints_stays_undrained_and_they_are_named() {
    let (_bus, _master, api) = cluster().await;
    let _n1 = play(&api, always(in_use())).await;
    let rejection = api.rejected(remove()).await;
    let text = rejection.to_string();
    assert!(
        matches!(rejection, Rejection::NodeHasEndpoints { .. }) && text.contains("db (20.1.1.2)"),
        "{text}"
    );
    assert_eq!(
        happened(&api).await,
        ["node-joined", "node-drained", "node-uncordoned"]
    );
}

#[tokio::test]
async fn a_node_that_an_operator_drained_stays_drained_when_its_removal_is_refused() {
    let (_bus, _master, api) = cluster().await;
    let reason = "20.1.1.7 of network default:web is promised";
    let refuses = NodeReply::Refused {
        reason: reason.to_owned(),
    };
    let _n1 = play(&api, always(refuses)).await;
    api.accepted(drain()).await;
    let rejection = api.rejected(remove()).await;
    let text = rejection.to_string();
    assert!(
        matches!(rejection, Rejection::NodeNotDrained { .. }) && text.contains(reason),
        "{text}"
    );
    assert_eq!(happened(&api).await, ["node-joined", "node-drained"]);
    assert!(info(&api).await.is_some_and(|n1| n1.drained));
}

#[tokio::test]
async fn a_live_node_goes_when_it_returned_its_blocks() {
    let (_bus, _master, api) = cluster().await;
    let (given, block) = tokio::sync::watch::channel(None);
    let _n1 = play(&api, move |api| {
        let block = block.borrow().expect("it was leased");
        let returns = async move {
            api.accepted(give_back(block)).await;
            Some(NodeReply::Done)
        };
        returns.boxed()
    })
    .await;
    given.send_replace(Some(lease(&api).await));
    api.accepted(remove()).await;
    assert_eq!(
        happened(&api).await,
        [
            "node-joined",
            "block-leased",
            "node-drained",
            "block-returned",
            "node-removed"
        ]
    );
}

#[tokio::test]
async fn a_node_that_falls_silent_goes_without_blocks_and_stays_undrained_with_them() {
    let (_bus, _master, api) = cluster().await;
    drop(play(&api, always(NodeReply::Done)).await);
    // It was alive a moment ago.
    let block = lease(&api).await;
    let rejection = api.rejected(remove()).await;
    assert!(
        matches!(rejection, Rejection::NodeInUse { .. }),
        "{rejection}"
    );
    assert!(info(&api).await.is_some_and(|n1| !n1.drained));
    api.accepted(give_back(block)).await;
    api.accepted(remove()).await;
    let log = happened(&api).await;
    assert_eq!(log.last(), Some(&"node-removed"), "{log:?}");
}

#[tokio::test]
async fn a_node_that_is_uncordoned_while_it_is_removed_stays() {
    let (_bus, _master, api) = cluster().await;
    let _n1 = play(&api, |api| {
        let uncordoned = async move {
            api.accepted(uncordon()).await;
            Some(NodeReply::Done)
        };
        uncordoned.boxed()
    })
    .await;
    let rejection = api.rejected(remove()).await;
    let text = rejection.to_string();
    assert!(text.contains("uncordoned meanwhile"), "{text}");
    assert!(info(&api).await.is_some_and(|n1| !n1.drained));
}

#[tokio::test]
async fn a_removal_that_is_sent_again_happens_once() {
    let (bus, _master, api) = cluster().await;
    let _other = bus.master("m2").await;
    let _n1 = play(&api, always(NodeReply::Done)).await;
    let asked = request(remove());
    let sent = join_all((0..6).map(|_| api.send(&asked))).await;
    for reply in sent {
        let events = match reply {
            Ok(Reply::Accepted { events, .. }) => events,
            other => panic!("{other:?}"),
        };
        assert!(matches!(&events[..], [Event::NodeRemoved(_)]), "{events:?}");
    }
    assert_eq!(
        happened(&api).await,
        ["node-joined", "node-drained", "node-removed"]
    );
}

#[tokio::test]
async fn a_node_whose_netmaster_dies_during_the_removal_stays_drained_and_can_be_uncordoned() {
    let (bus, master, api) = cluster().await;
    let _n1 = play(&api, |_| ready(None).boxed()).await;
    let (asking, asked) = (api.clone(), request(remove()));
    let removal = tokio::spawn(async move { asking.send(&asked).await });
    until("it is drained", async || {
        let log = happened(&api).await;
        (log.last() == Some(&"node-drained")).then_some(())
    })
    .await;
    master.kill();
    let _next = bus.master("m2").await;
    assert!(info(&api).await.is_some_and(|n1| n1.drained));
    api.accepted(uncordon()).await;
    assert!(info(&api).await.is_some_and(|n1| !n1.drained));
    removal.abort();
}

#[tokio::test]
async fn a_node_that_an_operator_drains_while_its_removal_runs_stays_drained_when_it_is_refused() {
    let (_bus, _master, api) = cluster().await;
    let _n1 = play(&api, |api| {
        let drained = async move {
            api.accepted(drain()).await;
            Some(in_use())
        };
        drained.boxed()
    })
    .await;
    api.rejected(remove()).await;
    assert!(info(&api).await.is_some_and(|n1| n1.drained));
    assert_eq!(happened(&api).await, ["node-joined", "node-drained"]);
}

#[tokio::test]
async fn a_live_node_that_is_too_old_to_be_asked_is_not_removed_and_the_answer_says_so() {
    let (_bus, _master, api) = cluster().await;
    let reason =
        "malformed message: unknown variant `drain-node`, expected one of `status`".to_owned();
    let _n1 = play(&api, always(NodeReply::Refused { reason })).await;
    let text = api.rejected(remove()).await.to_string();
    assert!(
        text.contains("older than this netmaster: upgrade it"),
        "{text}"
    );
}
