//! An endpoint is closed if its rules can't be decided, can't be programmed or aren't known.

use bus_schema::node::DomainKind;
use bus_schema::{NetworkName, NodeName, PolicyName};
use node_core::reconcile::{self, Op};
use node_core::resource::{Chain, Element, Object, RuleBody, Statement, Target};
use node_datapath::Failure;

use crate::policy::{carries, in_group, one_tenant};
use crate::traffic::{Echo, Hammer, echoes_from, is_closed, is_dropped, listen, opens};
use crate::world::{World, is_silent, net, pings, run, tenant};

/// `web` on the first host takes connections of the group `app` only, and none of `evil`.
async fn only_app() -> (World, String) {
    let mut world = one_tenant().await;
    world.policy(
        "red",
        "only-app",
        &["1 in deny", "2 in allow priority 2 group app"],
    );
    world.group("red", "web", 2, &["only-app"]);
    world.group("red", "app", 3, &[]);
    world.group("red", "evil", 4, &[]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    (world, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_is_identified_by_the_mark_in_its_packets() {
    let (mut world, server) = only_app().await;
    let _listener = listen(&server, 80);
    // The first host hears nothing of the second's endpoints; and an address changes its owner.
    let good = world
        .attach_in(1, in_group("app"), "good", "20.1.1.129")
        .await;
    assert!(opens(&good, "20.1.1.1", 80).is_some());
    world.detach(1, "red", "good").await;
    let evil = world
        .attach_in(1, in_group("evil"), "evil", "20.1.1.129")
        .await;
    assert!(is_dropped(&evil, "20.1.1.1", 80));

    // A group that the receiver hasn't heard of.
    world.group("red", "new", 5, &[]);
    world.policy(
        "red",
        "only-app",
        &["1 in deny", "2 in allow priority 2 from 20.1.1.130/32"],
    );
    world.sync(1).await;
    let newcomer = world
        .attach_in(1, in_group("new"), "new", "20.1.1.130")
        .await;
    let anybody = world.attach(0, "red", "net", "any", "20.1.1.2").await;
    let _other = listen(&anybody, 80);
    assert!(
        is_dropped(&newcomer, "20.1.1.2", 80),
        "unknown is dropped, though nothing denies it"
    );
    world.sync(0).await;
    assert!(opens(&newcomer, "20.1.1.1", 80).is_some());
    assert!(opens(&newcomer, "20.1.1.2", 80).is_some());
}

/// A rule that no kernel takes: it leads nowhere.
fn nonsense() -> RuleBody {
    RuleBody(vec![Statement::Verdict(Target::Jump("nowhere".to_owned()))])
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_ruleset_leaves_the_port_closed_and_is_reported() {
    let mut world = one_tenant().await;
    world.policy("red", "some", &["1 in deny tcp 81"]);
    world.group("red", "web", 2, &["some"]);
    world.sync_all().await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.2").await;
    let before = world.domain(0, "red");
    let endpoint = world.prepare(0, in_group("web"), "web", "20.1.1.1");
    let mut ops = reconcile::diff(&before, &world.domain(0, "red"));
    for op in &mut ops {
        if let Op::Put(it) = op
            && let Object::Chain(chain) = &mut it.object
        {
            *chain = Chain::compiled(&chain.name, vec![nonsense()]).into();
        }
    }
    let datapath = world.hosts[0].datapath.clone();
    let error = datapath.execute(&ops).await.expect_err("nft refuses it");
    let up = error
        .failures
        .iter()
        .find(|it| matches!(&it.op, Op::Put(it) if matches!(it.object, Object::Up(_))));
    let said = up.expect("the port isn't up").error.to_string();
    assert!(
        said.contains("its firewall isn't in place, so the port stays down"),
        "{said}"
    );
    let server = world.namespace("web");
    world.place(0, &endpoint, &server, "eth0").await;
    let _listener = listen(&server, 80);
    assert!(is_closed(&client, "20.1.1.1", 80));
    assert!(is_silent(&server, "20.1.1.2"), "nor does it get out");

    world.sync(0).await;
    assert!(opens(&client, "20.1.1.1", 80).is_some());
    assert!(is_dropped(&client, "20.1.1.1", 81));
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_newer_events_are_closed_for_new_connections() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let near = world.attach(0, "red", "net", "near", "20.1.1.1").await;
    let far = world.attach(1, "red", "net", "far", "20.1.1.129").await;
    let listeners = [listen(&near, 80), listen(&far, 80)];
    let stream = opens(&near, "20.1.1.129", 80).expect("open as yet");
    world.facts.tenants[&tenant("red")].newer = true;
    world.sync(0).await;
    assert!(is_dropped(&far, "20.1.1.1", 80), "inwards");
    assert!(is_dropped(&near, "20.1.1.129", 80), "outwards");
    assert!(carries(&listeners[1], &stream), "what is open stays");
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_event_of_a_policy_closes_only_its_groups() {
    let mut world = one_tenant().await;
    world.policy("red", "p", &["1 in deny tcp 81"]);
    world.group("red", "web", 2, &["p"]);
    world.group("red", "app", 3, &[]);
    world.sync_all().await;
    let web = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let app = world.attach_in(0, in_group("app"), "app", "20.1.1.2").await;
    let far = world
        .attach_in(1, in_group("app"), "far", "20.1.1.129")
        .await;
    let _listeners = [listen(&web, 80), listen(&app, 80)];
    let listener = listen(&far, 80);
    let stream = opens(&web, "20.1.1.129", 80).expect("open as yet");
    let policy: PolicyName = "p".parse().expect("a name");
    world.facts.tenants[&tenant("red")].policies[&policy].newer = true;
    world.sync(0).await;
    assert!(is_dropped(&far, "20.1.1.1", 80), "inwards");
    assert!(is_dropped(&app, "20.1.1.1", 80), "inwards from here");
    assert!(is_dropped(&web, "20.1.1.129", 80), "outwards");
    assert!(is_dropped(&web, "20.1.1.2", 80), "outwards to here");
    assert!(carries(&listener, &stream), "what is open stays");
    assert!(opens(&far, "20.1.1.2", 80).is_some(), "another group");
    assert!(opens(&app, "20.1.1.129", 80).is_some(), "another group");
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_that_is_gone_are_closed() {
    let mut world = one_tenant().await;
    world.group("red", "web", 2, &[]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.2").await;
    assert!(pings(&client, "20.1.1.1"));
    let groups = &mut world.facts.tenants[&tenant("red")].groups;
    groups.clear();
    world.sync(0).await;
    assert!(is_silent(&client, "20.1.1.1") && is_silent(&server, "20.1.1.2"));
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn denied_port_gets_no_packet_while_its_endpoints_attach() {
    let mut world = one_tenant().await;
    // An emulated machine takes seconds for each.
    let endpoints = match world.hosts[0].params.kind {
        DomainKind::Netns => 200,
        DomainKind::Vrf => 20,
    };
    let rules = ["1 in deny udp 9", "2 in deny tcp 9", "3 in allow udp 80"];
    world.policy("red", "some", &rules);
    world.group("red", "web", 2, &["some"]);
    world.sync_all().await;
    let client = world.attach(1, "red", "net", "client", "20.1.1.129").await;
    let near = world.attach(0, "red", "net", "near", "20.1.1.127").await;
    let server = world.namespace("servers");
    let count = "add table inet c; add chain inet c p { type filter hook prerouting priority -300 ; }; \
                 add rule inet c p th dport 9 counter; add rule inet c p udp dport 80 counter";
    run(&format!("ip netns exec {server} nft '{count}'"));
    let addresses: Vec<_> = (1..=endpoints / 2)
        .map(|it| format!("20.1.1.{it}"))
        .collect();
    let hammers = [&client, &near].map(|it| Hammer::start(it, &addresses, &[9, 80]));
    for round in 0..2 {
        for (index, at) in addresses.iter().enumerate() {
            let name = format!("s{round}-{index}");
            let endpoint = world.prepare(0, in_group("web"), &name, at);
            let interface = format!("e{index}");
            world.open_port(0, "red", &endpoint).await;
            world.place(0, &endpoint, &server, &interface).await;
        }
        if round == 0 {
            for index in 0..addresses.len() {
                world.detach(0, "red", &format!("s{round}-{index}")).await;
            }
        }
    }
    let said = run(&format!("ip netns exec {server} nft list table inet c"));
    drop(hammers);
    let counts: Vec<u64> = said
        .split("packets ")
        .skip(1)
        .filter_map(|it| it.split(' ').next()?.parse().ok())
        .collect();
    let [denied, allowed] = counts[..] else {
        panic!("{said}")
    };
    assert_eq!(denied, 0);
    assert!(allowed > endpoints, "the hammer hits: {allowed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn next_owner_of_an_address_inherits_no_connection_on_the_other_node() {
    let (mut world, server) = only_app().await;
    let _echo = Echo::start(&server, 500);
    let exchange = |from: &str| echoes_from(from, 4500, "20.1.1.1", 500);
    let good = world
        .attach_in(1, in_group("app"), "good", "20.1.1.129")
        .await;
    assert!(exchange(&good) && exchange(&good));
    world.detach(1, "red", "good").await;
    let evil = world
        .attach_in(1, in_group("evil"), "evil", "20.1.1.129")
        .await;
    assert!(!exchange(&evil), "the same ports");
    world.detach(1, "red", "evil").await;
    let again = world
        .attach_in(1, in_group("app"), "again", "20.1.1.129")
        .await;
    assert!(exchange(&again), "of the group that opened it");
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_from_vxlan_never_leave_by_vxlan() {
    const ASTRAY: &str = "20.1.1.200";
    let mut world = one_tenant().await;
    world.sync_all().await;
    // The second host takes the address for the first one's, which takes it for the second one's.
    let name = NetworkName::new("net").expect("valid");
    let right = world.facts.tenants[&tenant("red")].networks[&name]
        .blocks
        .clone();
    let blocks = |world: &mut World, blocks| {
        world.facts.tenants[&tenant("red")].networks[&name].blocks = blocks;
    };
    let mut wrong = right.clone();
    wrong.insert(net("20.1.1.200/32"), NodeName::new("n1").expect("valid"));
    blocks(&mut world, wrong);
    world.sync(1).await;
    let client = world.attach(1, "red", "net", "client", "20.1.1.129").await;
    blocks(&mut world, right);
    let add = format!("add element inet contiv endpoints {{ \"cx1001\" . {ASTRAY} }}");
    let added = world.in_domain(0, "red", &format!("nft '{add}'"));
    assert!(added.status.success(), "{added:?}");
    assert!(is_silent(&client, ASTRAY));
    let list = world.in_domain(0, "red", "nft list chain inet contiv leaving");
    let said = String::from_utf8(list.stdout).expect("text");
    let rule = said.lines().find(|line| line.contains(r#""cx*" counter"#));
    let rule = rule.expect("the rule");
    assert!(!rule.contains("packets 0 "), "{rule}");
    // The second host would drop what comes back to it.
    let list = world.in_domain(1, "red", "nft list chain inet contiv from_overlay");
    let said = String::from_utf8(list.stdout).expect("text");
    let mut drops = said.lines().filter(|line| line.contains("drop"));
    assert!(
        drops.all(|line| !line.contains("packets") || line.contains("packets 0 ")),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_ruleset_of_a_tenant_stops_no_other_tenant() {
    const ADDRESSES: u8 = 100;
    let mut world = one_tenant().await;
    world.network("blue", "net", 1002);
    let mut ops = world.pending(0).await;
    let red = world.place_of(0, "red");
    for op in &mut ops {
        if let Op::Put(it) = op
            && let Object::Chain(chain) = &mut it.object
            && it.place == red
        {
            *chain = Chain::compiled(&chain.name, vec![nonsense()]).into();
        }
    }
    // One bad element among many.
    let blue = world.place_of(0, "blue");
    for last in 0..ADDRESSES {
        let interface = match last {
            50 => "a name that is much too long",
            _ => "cx1002",
        };
        let element = Element::Endpoint {
            interface: interface.to_owned(),
            address: [20, 1, 1, last].into(),
        };
        ops.push(Op::Put(element.at(&blue)));
    }
    reconcile::order(&mut ops);
    let datapath = world.hosts[0].datapath.clone();
    let error = datapath.execute(&ops).await.expect_err("nft refuses two");
    let of_blue = |failure: &&Failure| matches!(&failure.op, Op::Put(it) if it.place == blue);
    let failed: Vec<_> = error.failures.iter().filter(of_blue).collect();
    let elements = failed
        .iter()
        .filter(|it| it.op.to_string().contains("too long"));
    assert_eq!(elements.count(), 1);
    assert!(!failed.iter().any(|it| it.op.to_string().contains("known")));
    let listed = world.in_domain(0, "blue", "nft list set inet contiv endpoints");
    let listed = String::from_utf8(listed.stdout).expect("text");
    let there = listed.matches("20.1.1.").count();
    assert_eq!(there, usize::from(ADDRESSES) - 1, "{listed}");
}
