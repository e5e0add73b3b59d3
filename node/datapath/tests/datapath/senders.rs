//! `out` rules at the sender's host, while the receiver's host has older rules: its netplugin is away.

use bus_schema::{AddressRange, GroupName, NetworkName};

use crate::policy::{in_group, one_tenant};
use crate::traffic::{is_dropped, listen, opens};
use crate::world::{World, ip, tenant};

const DB: &str = "20.1.1.129";
const OTHER: &str = "20.1.1.200";

/// `app` on host 0, `db` and `other` on host 1, which listen on ports 80 and 81; `rules` are new on host
/// 0 only.
async fn scene(
    rules: &[&str],
    pool: Option<AddressRange>,
) -> (World, String, Vec<std::net::TcpListener>) {
    let mut world = one_tenant().await;
    world.policy("red", "going", &[]);
    world.group("red", "app", 2, &["going"]);
    world.group("red", "db", 3, &[]);
    if let Some(pool) = pool {
        let network: NetworkName = "net".parse().expect("a name");
        let group: GroupName = "db".parse().expect("a name");
        let fact = world.facts.open(&tenant("red"));
        let network = fact.networks.get_mut(&network).expect("there");
        network.pools.insert(group, pool);
    }
    world.sync_all().await;
    let app = world.attach_in(0, in_group("app"), "app", "20.1.1.1").await;
    let db = world.attach_in(1, in_group("db"), "db", DB).await;
    let other = world.attach(1, "red", "net", "other", OTHER).await;
    let at = |netns: &String| [80, 81].map(|port| listen(netns, port));
    let listeners = [&db, &other].map(at).into_iter().flatten().collect();
    for to in [DB, OTHER] {
        assert!(opens(&app, to, 80).is_some() && opens(&app, to, 81).is_some());
    }
    world.policy("red", "going", rules);
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
    (world, app, listeners)
}

#[tokio::test(flavor = "multi_thread")]
async fn deny_to_all_holds_at_the_sender_and_is_counted_there() {
    let (world, app, _listeners) = scene(&["1 out deny"], None).await;
    for to in [DB, OTHER] {
        assert!(is_dropped(&app, to, 80), "{to}");
    }
    let (place, zone) = (world.place_of(0, "red"), world.zone(0, "red"));
    let counted = world.hosts[0].datapath.counters(&place, zone).await;
    assert!(counted.expect("read")[&1].packets > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_leaves_to_the_receiver_what_a_rule_allows_to_some_group() {
    let rules = ["1 out deny tcp", "2 out allow tcp 80 group db priority 10"];
    let (_world, app, _listeners) = scene(&rules, None).await;
    // The receiver's host has no such rule yet.
    for to in [DB, OTHER] {
        assert!(opens(&app, to, 80).is_some(), "{to} may be in db");
        assert!(is_dropped(&app, to, 81), "{to}: no group is allowed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_leaves_to_the_receiver_what_is_denied_to_one_group() {
    let (_world, app, _listeners) = scene(&["1 out deny tcp group db"], None).await;
    for to in [DB, OTHER] {
        assert!(opens(&app, to, 80).is_some(), "{to} may be in no group");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_knows_the_group_of_an_address_in_a_pool() {
    let pool = AddressRange {
        first: ip("20.1.1.129"),
        last: ip("20.1.1.140"),
    };
    let rules = [
        "1 out deny tcp 81 group db",
        "2 out deny tcp 80",
        "3 out allow tcp 80 group db priority 9",
    ];
    let (_world, app, _listeners) = scene(&rules, Some(pool)).await;
    assert!(opens(&app, DB, 80).is_some(), "allowed to db");
    assert!(is_dropped(&app, DB, 81), "denied to db");
    assert!(opens(&app, OTHER, 81).is_some(), "it isn't in db");
}
