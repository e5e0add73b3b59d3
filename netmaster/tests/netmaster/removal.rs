//! Networks and nodes that go, with nodes that answer, refuse or are silent (played by the test).

use bus_schema::codec;
use bus_schema::command::{
    BlockLease, BlockReturn, NetworkRemove, NodeRemove, Removal, TenantRemove,
};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::rejection::EndpointUse;
use bus_schema::testing;
use bus_schema::{Answer, Command, Event, Query, Rejection, Revision, subject};
use bytes::Bytes;
use futures::StreamExt;
use ipnet::IpNet;

use crate::support::{Api, Bus, Master, create, network, node, tenant, until};

fn remove(mode: Removal) -> Command {
    Command::NetworkRemove(NetworkRemove {
        tenant: tenant("default"),
        network: network("web"),
        mode,
    })
}

fn node_remove(name: &str, lost: bool) -> Command {
    Command::NodeRemove(NodeRemove {
        node: node(name),
        lost,
    })
}

async fn lease(api: &Api, holder: &str) -> IpNet {
    let command = Command::BlockLease(BlockLease {
        tenant: tenant("default"),
        network: network("web"),
        group: None,
        node: node(holder),
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

async fn give_back(api: &Api, holder: &str, block: IpNet) {
    let command = Command::BlockReturn(BlockReturn {
        tenant: tenant("default"),
        network: network("web"),
        group: None,
        block,
        node: node(holder),
    });
    api.accepted(command).await;
}

/// A cluster with network web, and node n1 that holds a block of it.
async fn with_block() -> (Bus, Master, Api, IpNet) {
    let bus = Bus::cluster().await;
    let master = bus.master("m1").await;
    let api = bus.client().await;
    api.join("n1", "198.18.0.1").await;
    api.accepted(create("default", "web", "20.1.1.0/24", None))
        .await;
    let block = lease(&api, "n1").await;
    (bus, master, api, block)
}

/// Answers as node n1 what it is asked, with its blocks returned first if it gives them back.
async fn play(api: &Api, reply: NodeReply, returns: Option<IpNet>) {
    let to = subject::of_node(&node("n1"), "drain");
    let mut asked = api.client.subscribe(to).await.expect("connected");
    api.client.flush().await.expect("connected");
    let api = api.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let request: NodeRequest = codec::from_bytes(&message.payload).expect("a request");
            assert!(matches!(request, NodeRequest::Drain { .. }), "{request:?}");
            if let Some(block) = returns {
                give_back(&api, "n1", block).await;
            }
            let to = message.reply.expect("a request");
            let bytes = Bytes::from(codec::to_bytes(&reply));
            api.client.publish(to, bytes).await.expect("connected");
        }
    });
}

#[tokio::test]
async fn a_network_without_blocks_goes_at_once() {
    let bus = Bus::cluster().await;
    let _masters = (bus.master("m1").await, bus.master("m2").await);
    let api = bus.client().await;
    for _ in 0..10 {
        api.accepted(create("default", "web", "20.1.1.0/24", Some(7)))
            .await;
        let (revision, _) = api.accepted(remove(Removal::Close)).await;
        assert_eq!(api.networks(revision).await, Vec::<String>::new());
    }
    let log = api.log().await;
    let removed = log
        .iter()
        .filter(|e| matches!(e.body, Event::NetworkRemoved(_)));
    assert_eq!(
        removed.count(),
        10,
        "each removed once, by whichever netmaster"
    );
}

#[tokio::test]
async fn a_network_in_use_stays_and_the_answer_names_the_endpoints() {
    let (_bus, _master, api, _) = with_block().await;
    let used = EndpointUse {
        endpoint: testing::name("e1"),
        node: node("n1"),
        name: Some("db".to_owned()),
        address: testing::ip("20.1.1.2"),
    };
    let reply = NodeReply::InUse {
        endpoints: vec![used.clone()],
    };
    play(&api, reply, None).await;
    api.status("n1", Revision(0)).await;
    let rejection = api.rejected(remove(Removal::Close)).await;
    assert_eq!(
        rejection,
        Rejection::NetworkInUse {
            tenant: tenant("default"),
            network: network("web"),
            endpoints: vec![used],
        }
    );
    lease(&api, "n1").await;
    assert_eq!(api.networks(Revision(0)).await, ["default/web"]);
}

#[tokio::test]
async fn a_network_goes_when_its_nodes_gave_their_blocks_back() {
    let (_bus, _master, api, block) = with_block().await;
    play(&api, NodeReply::Done, Some(block)).await;
    api.status("n1", Revision(0)).await;
    let (revision, events) = api.accepted(remove(Removal::Close)).await;
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert!(
        kinds.starts_with(&["network-closing", "leases-closing"]),
        "{kinds:?}"
    );
    assert_eq!(api.networks(revision).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_silent_node_is_named_and_the_removal_goes_on_when_it_answers() {
    let (_bus, _master, api, block) = with_block().await;
    let rejection = api.rejected(remove(Removal::Close)).await;
    assert_eq!(
        rejection,
        Rejection::NetworkHeld {
            tenant: tenant("default"),
            network: network("web"),
            nodes: vec![node("n1")],
        }
    );
    assert_eq!(api.networks(Revision(0)).await, ["default/web (closing)"]);
    give_back(&api, "n1", block).await;
    until("the network is removed", async || {
        api.networks(Revision(0)).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_held_network_is_open_again_when_its_node_is_back_and_uses_it() {
    let (_bus, _master, api, _) = with_block().await;
    api.rejected(remove(Removal::Close)).await;
    assert_eq!(api.networks(Revision(0)).await, ["default/web (closing)"]);
    let used = EndpointUse {
        endpoint: testing::name("e1"),
        node: node("n1"),
        name: Some("db".to_owned()),
        address: testing::ip("20.1.1.2"),
    };
    let reply = NodeReply::InUse {
        endpoints: vec![used],
    };
    play(&api, reply, None).await;
    until("the network is open again", async || {
        api.status("n1", Revision(0)).await;
        let networks = api.networks(Revision(0)).await;
        (networks == ["default/web"]).then_some(())
    })
    .await;
    lease(&api, "n1").await;
}

#[tokio::test]
async fn a_held_network_is_kept_or_forced() {
    let (_bus, _master, api, _) = with_block().await;
    api.rejected(remove(Removal::Close)).await;
    let (revision, _) = api.accepted(remove(Removal::Abort)).await;
    assert_eq!(api.networks(revision).await, ["default/web"]);
    let (revision, events) = api.accepted(remove(Removal::Force)).await;
    assert!(matches!(&events[0], Event::NetworkRemoved(e) if e.forced));
    assert_eq!(api.networks(revision).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_tenant_goes_after_its_networks() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let blue = || {
        Command::TenantRemove(TenantRemove {
            tenant: tenant("blue"),
        })
    };
    assert!(matches!(
        api.rejected(blue()).await,
        Rejection::TenantUnknown { .. }
    ));
    api.accepted(crate::support::create_tenant("blue")).await;
    api.accepted(create("blue", "web", "20.1.1.0/24", None))
        .await;
    assert!(matches!(
        api.rejected(blue()).await,
        Rejection::TenantInUse { .. }
    ));
    let removal = Command::NetworkRemove(NetworkRemove {
        tenant: tenant("blue"),
        network: network("web"),
        mode: Removal::Close,
    });
    api.accepted(removal).await;
    api.accepted(blue()).await;
}

#[tokio::test]
async fn a_node_that_speaks_is_not_lost_and_one_that_is_loses_its_blocks() {
    let (_bus, _master, api, _) = with_block().await;
    let heard = async || {
        api.status("n1", Revision(0)).await;
        let query = Query::NodeList { node: None };
        let Answer::Nodes { nodes, .. } = api.query(Revision(0), query).await else {
            panic!("no nodes");
        };
        nodes[0].alive.then_some(())
    };
    until("the node is heard", heard).await;
    let rejection = api.rejected(node_remove("n1", true)).await;
    assert!(
        matches!(rejection, Rejection::NodeAlive { .. }),
        "{rejection}"
    );
    let rejection = api.rejected(node_remove("n1", false)).await;
    assert!(
        matches!(rejection, Rejection::NodeInUse { .. }),
        "{rejection}"
    );
    until("its silence is long enough", async || {
        let reply = api.command(node_remove("n1", true)).await;
        matches!(reply, bus_schema::Reply::Accepted { .. }).then_some(())
    })
    .await;
    until("its block is revoked", async || {
        let log = api.log().await;
        let last = log.last().map(|e| e.body.kind());
        (last == Some("block-revoked")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_wait_names_who_lags_and_ends_when_all_have_applied() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let seen = api.join("n1", "198.18.0.1").await;
    let wait = |patience: u64| bus_schema::command::Request {
        seen,
        ..crate::support::request_within(patience, Query::Wait { revision: None })
    };
    // Heard, one revision behind.
    let behind = Revision(seen.0 - 1);
    let lagging = until("the wait names the node", async || {
        api.status("n1", behind).await;
        match api.ask(&wait(500)).await {
            Answer::Waited { waited, .. } if !waited.lagging.is_empty() => Some(waited.lagging),
            _ => None,
        }
    })
    .await;
    assert_eq!(lagging.get(&node("n1")), Some(&behind));
    api.status("n1", behind).await;
    // A wait proves the log's end by a barrier and waits for what lies before it.
    let end = Revision(api.log().await.len() as u64);
    let (answer, ()) = tokio::join!(
        async { api.ask(&wait(10_000)).await },
        api.status("n1", end)
    );
    let Answer::Waited { waited, .. } = answer else {
        panic!("{answer:?}");
    };
    assert_eq!(waited.until, end);
    assert!(waited.unpublished.is_empty(), "{waited:?}");
    assert!(waited.lagging.is_empty(), "{waited:?}");
}
