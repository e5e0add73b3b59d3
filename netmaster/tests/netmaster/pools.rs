//! Groups with addresses of their own through real masters on the real bus.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::command::{BlockLease, BlockReturn, GroupCreate, Removal};
use bus_schema::node::NodeReply;
use bus_schema::{
    AddressRange, AggregateId, Answer, Command, Event, PoolKey, Query, Rejection, Reply, Revision,
};
use ipnet::IpNet;

use crate::groups::{create_group, group, groups, play, remove, two, with_front};
use crate::support::{Api, network, node, tenant, until};

/// A group with these addresses of 20.1.1.0/24 for its members.
fn create_pooled(name: &str, first: u8, last: u8) -> Command {
    let Command::GroupCreate(create) = create_group(name) else {
        unreachable!("a group");
    };
    let address = |last: u8| IpAddr::from([20, 1, 1, last]);
    Command::GroupCreate(GroupCreate {
        ip_pool: Some(AddressRange {
            first: address(first),
            last: address(last),
        }),
        ..create
    })
}

fn lease(of: Option<&str>, holder: &str) -> Command {
    Command::BlockLease(BlockLease {
        tenant: tenant("default"),
        network: network("front"),
        group: of.map(group),
        node: node(holder),
        address: None,
        v6: false,
        ahead: false,
        waiting: 0,
    })
}

/// A pool and a block of the network over the same addresses: whichever came first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_and_a_block_of_its_network_never_both_are_accepted() {
    let (bus, a) = with_front().await;
    let _masters = two(&bus).await;
    let b = bus.client().await;
    a.join("n1", "198.18.0.1").await;
    let mut outcomes = BTreeSet::new();
    // Each round is about the lowest block of 16 that is left.
    for i in 0..15u8 {
        let first = (i * 16).max(2);
        let pool = create_pooled(&format!("g{i}"), first, i * 16 + 15);
        let (pooled, leased) = tokio::join!(a.command(pool), b.command(lease(None, "n1")));
        let Reply::Accepted { events, .. } = leased else {
            panic!("{leased:?}");
        };
        let [Event::BlockLeased(leased)] = &events[..] else {
            panic!("{events:?}");
        };
        let inside = leased.block.contains(&IpAddr::from([20, 1, 1, first]));
        match pooled {
            Reply::Accepted { .. } => assert!(!inside, "{}", leased.block),
            Reply::Rejected { rejection, .. } => {
                let told = matches!(rejection, Rejection::PoolLeased { .. });
                assert!(inside && told, "{rejection}");
            }
            Reply::Unknown { reason, .. } => panic!("{reason}"),
        }
        outcomes.insert(inside);
        if !inside {
            let back = Command::BlockReturn(BlockReturn {
                tenant: tenant("default"),
                network: network("front"),
                group: None,
                block: leased.block,
                node: node("n1"),
            });
            a.accepted(back).await;
        }
    }
    println!("the block came first: {outcomes:?}");
}

/// Leases a block of a group's pool.
async fn leased(api: &Api, of: &str, holder: &str) -> IpNet {
    match &api.accepted(lease(Some(of), holder)).await.1[..] {
        [Event::BlockLeased(leased)] => leased.block,
        other => panic!("{other:?}"),
    }
}

fn give_back(of: &str, block: IpNet, holder: &str) -> Command {
    Command::BlockReturn(BlockReturn {
        tenant: tenant("default"),
        network: network("front"),
        group: Some(group(of)),
        block,
        node: node(holder),
    })
}

/// The events of a group's pool in the log.
async fn kinds_of_pool(api: &Api, of: &str) -> Vec<&'static str> {
    let pool = PoolKey::of_group(&tenant("default"), &network("front"), &group(of));
    let own = Some(AggregateId::Leases(pool));
    let log = api.log().await;
    let on_its_subject = log.iter().filter(|e| e.body.aggregate() == own);
    on_its_subject.map(|e| e.body.kind()).collect()
}

#[tokio::test]
async fn a_groups_pool_is_leased_used_up_shown_and_comes_back() {
    let (bus, api) = with_front().await;
    let _master = bus.master("m1").await;
    api.join("n1", "198.18.0.1").await;
    api.join("n2", "198.18.0.2").await;
    let (seen, _) = api.accepted(create_pooled("db", 16, 17)).await;
    let query = Query::GroupList {
        tenant: None,
        group: None,
    };
    let Answer::Groups { groups: infos, .. } = api.query(seen, query).await else {
        panic!("no groups");
    };
    let pool = infos[0].spec.pool.map(|range| range.to_string());
    assert_eq!(pool.as_deref(), Some("20.1.1.16-20.1.1.17"));

    let mut blocks = Vec::new();
    for holder in ["n1", "n2"] {
        blocks.push(leased(&api, "db", holder).await);
    }
    let shown: Vec<_> = blocks.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["20.1.1.16/32", "20.1.1.17/32"]);
    let rejection = api.rejected(lease(Some("db"), "n1")).await;
    let text = rejection.to_string();
    assert!(text.contains("no free address left"), "{text}");
    assert!(text.contains("n1 (its netplugin doesn't run"), "{text}");
    let rejection = api.rejected(create_pooled("other", 17, 30)).await;
    assert!(
        matches!(rejection, Rejection::PoolOverlaps { .. }),
        "{rejection}"
    );
    let kinds = kinds_of_pool(&api, "db").await;
    assert_eq!(kinds, ["leases-opened", "block-leased", "block-leased"]);

    // Nodes have no member of it, and give back what they hold of it a moment later.
    play(&api, "n1", NodeReply::Done).await;
    play(&api, "n2", NodeReply::Done).await;
    api.accepted(give_back("db", blocks[0], "n1")).await;
    // n2 is alive, so its block is waited for.
    api.status("n2", Revision(0)).await;
    let removal = {
        let api = api.clone();
        tokio::spawn(async move { api.command(remove("db", Removal::Close)).await })
    };
    until("the group closes", async || {
        (groups(&api, Revision(0)).await == ["db (closing)"]).then_some(())
    })
    .await;
    let rejection = api.rejected(remove("db", Removal::Finish)).await;
    assert!(!rejection.to_string().is_empty());
    api.accepted(give_back("db", blocks[1], "n2")).await;
    let Reply::Accepted { revision, events } = removal.await.expect("no panic") else {
        panic!("not removed");
    };
    let kinds: BTreeSet<_> = events.iter().map(Event::kind).collect();
    assert!(kinds.contains("pool-released"), "{kinds:?}");
    assert_eq!(groups(&api, revision).await, Vec::<String>::new());
    api.accepted(create_pooled("other", 17, 30)).await;
}
