//! How addresses are used: of networks, of groups' pools, of each block. The view's network is
//! 20.1.1.0/24; n1 holds 20.1.1.0/28 and has ceded 20.1.1.7 of it to n2.

use bus_schema::event::{BlockLeased, GroupCreated};
use bus_schema::query::{AddressCount, BlockUsage, GroupInfo, NetworkInfo, NodeInfo};
use bus_schema::testing;
use bus_schema::{AddressRange, Answer, MacAddr, PoolKey, Query};

use super::tests::{ip, net, node, status, tenant, view, web, web_group};
use super::*;

/// With an endpoint that a node published for each of these addresses.
fn with_endpoints(mut view: View, of: &[(&str, &str)]) -> View {
    for (on, address) in of {
        let IpAddr::V4(v4) = ip(address) else {
            panic!("{address}");
        };
        let endpoint = Endpoint {
            id: address.replace('.', "-").parse().expect("an id"),
            tenant: tenant(),
            network: web(),
            group: None,
            node: node(on),
            v4: Some(v4),
            v6: None,
            mac: MacAddr::of_endpoint(ip(address)),
            name: None,
            aliases: vec![],
            container: None,
            interface: "cv1".to_owned(),
            closed: None,
            vtep: ip("198.18.0.1"),
        };
        let applied = Revision(6);
        publish(
            &mut view.endpoints,
            &EndpointEvent::Up { endpoint, applied },
        );
    }
    view
}

/// Group lb has 20.1.1.14-20.1.1.17 for its members; n2 holds 20.1.1.16/31 of it.
fn with_pool(mut view: View) -> View {
    let group = GroupSpec {
        pool: Some(AddressRange {
            first: ip("20.1.1.14"),
            last: ip("20.1.1.17"),
        }),
        ..web_group(&[])
    };
    let lb = group.name.clone();
    view.apply(
        Revision(7),
        Some(&Event::GroupCreated(GroupCreated { group })),
    );
    let leased = Event::BlockLeased(BlockLeased {
        tenant: tenant(),
        network: web(),
        group: Some(lb),
        block: net("20.1.1.16/31"),
        node: node("n2"),
    });
    view.apply(Revision(8), Some(&leased));
    view
}

fn network_info(view: &View, network: Option<NetworkName>) -> NetworkInfo {
    let tenant = None;
    match view.answer(&Query::NetworkList { tenant, network }, 0) {
        Some(Answer::Networks { mut networks, .. }) => networks.remove(0),
        other => panic!("{other:?}"),
    }
}

fn group_info(view: &View, group: Option<&str>) -> GroupInfo {
    let (tenant, group) = (None, group.map(|name| testing::name(name)));
    match view.answer(&Query::GroupList { tenant, group }, 0) {
        Some(Answer::Groups { mut groups, .. }) => groups.remove(0),
        other => panic!("{other:?}"),
    }
}

fn node_info(view: &View, name: &str) -> NodeInfo {
    let node = Some(node(name));
    match view.answer(&Query::NodeList { node }, 0) {
        Some(Answer::Nodes { mut nodes, .. }) => nodes.remove(0),
        other => panic!("{other:?}"),
    }
}

fn shown(usage: &[BlockUsage]) -> Vec<String> {
    let line = |it: &BlockUsage| {
        format!(
            "{} {}: {} in use, {} free, {} ceded",
            it.block, it.node, it.in_use, it.free, it.ceded
        )
    };
    usage.iter().map(line).collect()
}

#[test]
fn ceded_address_is_a_block_of_its_own_and_ceded_of_the_block_around() {
    let view = with_endpoints(view(), &[("n1", "20.1.1.3"), ("n2", "20.1.1.7")]);
    let info = network_info(&view, Some(web()));
    assert_eq!(
        shown(&info.usage),
        [
            "20.1.1.0/28 n1: 1 in use, 13 free, 1 ceded",
            "20.1.1.7/32 n2: 1 in use, 0 free, 0 ceded",
        ]
    );
    let count = AddressCount {
        assignable: 253,
        in_use: 2,
    };
    assert_eq!(info.addresses, Some(count));
    assert_eq!(
        shown(&node_info(&view, "n2").usage),
        ["20.1.1.7/32 n2: 1 in use, 0 free, 0 ceded"]
    );
}

#[test]
fn addresses_of_a_groups_pool_are_the_groups_and_not_the_networks() {
    let used = [("n1", "20.1.1.3"), ("n1", "20.1.1.15"), ("n2", "20.1.1.16")];
    let view = with_endpoints(with_pool(view()), &used);
    let info = network_info(&view, Some(web()));
    assert_eq!(
        shown(&info.usage),
        [
            "20.1.1.0/28 n1: 1 in use, 11 free, 1 ceded",
            "20.1.1.7/32 n2: 0 in use, 1 free, 0 ceded",
            "20.1.1.16/31 n2: 1 in use, 1 free, 0 ceded",
        ]
    );
    let count = |assignable, in_use| Some(AddressCount { assignable, in_use });
    assert_eq!(info.addresses, count(249, 1));
    let group = group_info(&view, Some("lb"));
    assert_eq!(group.addresses, count(4, 2));
    assert_eq!(
        shown(&group.usage),
        ["20.1.1.16/31 n2: 1 in use, 1 free, 0 ceded"]
    );
}

#[test]
fn blocks_usage_is_left_out_where_several_are_asked_for() {
    let view = with_pool(view());
    let network = network_info(&view, None);
    assert_eq!((network.usage, network.blocks.len()), (vec![], 3));
    assert!(network.addresses.is_some());
    let group = group_info(&view, None);
    assert_eq!(group.usage, vec![]);
    assert!(group.addresses.is_some());
}

#[test]
fn blocks_of_a_pool_are_its_own_in_the_family() {
    let view = with_pool(view());
    let of_network = PoolKey::of_network(&tenant(), &web());
    let of_group = PoolKey::of_group(&tenant(), &web(), &web_group(&[]).name);
    let holders = |pool, v6| -> Vec<NodeName> {
        let blocks = view.blocks_of_pool(pool, v6);
        blocks.into_values().map(|held| held.node).collect()
    };
    assert_eq!(holders(&of_network, false), [node("n1"), node("n2")]);
    assert_eq!(holders(&of_group, false), [node("n2")]);
    assert_eq!(holders(&of_network, true), []);
}

#[test]
fn node_is_silent_when_its_last_status_is_old_and_not_when_it_was_never_heard() {
    let mut view = view();
    view.hear(status("n1", 6), 1_000);
    assert_eq!(view.silence(&node("n1"), 1_000 + ALIVE_MS), None);
    let silence = view.silence(&node("n1"), 13_000);
    assert_eq!(silence.as_deref(), Some("nothing was heard of it for 12 s"));
    assert_eq!(view.silence(&node("n2"), 13_000), None);
    let removed = view.silence(&node("n9"), 13_000);
    assert!(removed.is_some_and(|reason| reason.contains("removed")));
}
