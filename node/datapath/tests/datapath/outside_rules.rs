//! Rules about addresses outside: the kernel decides as the first matching rule does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::Egress;
use bus_schema::node::Flow;
use bus_schema::policy::{Action, Peer, Priority, Protocol, Rule};
use fastrand::Rng;
use node_core::policy::{Cache, Deciding, End, decide};

use crate::outside::{INTERNET, LAN, set_egress, two_tenants};
use crate::traffic::{is_closed, listen, opens};
use crate::world::{World, ip, is_silent, pings, run, tenant};

const ROUNDS: u64 = 15;
const PORTS: [u16; 3] = [80, 81, 443];
const ADDRESSES: [&str; 3] = [LAN, "203.0.113.5", "203.0.113.70"];

/// In the words of `world::rule`.
fn rule(dice: &mut Rng, number: usize) -> String {
    let mut pick = |of: &[&str]| dice.choice(of).expect("some").to_string();
    let action = pick(&["allow", "deny"]);
    let protocol = pick(&["", "tcp", "tcp 80", "tcp 81-443", "udp"]);
    let peer = pick(&[
        "",
        "world",
        "world",
        "group db",
        "network net",
        "to 203.0.113.0/26",
        "to 203.0.113.5/32",
        "to 198.18.0.0/15",
        "to 0.0.0.0/0",
    ]);
    let priority = pick(&["1", "2", "50", "100"]);
    format!("{number} out {action} {protocol} {peer} priority {priority}")
}

/// The action and the priority of the rule that comes first: by priority, then deny, then the lower id.
fn first_match(rules: &[Rule], to: IpAddr, port: u16) -> (Action, Option<Priority>) {
    let mut rules: Vec<&Rule> = rules.iter().collect();
    rules.sort_by_key(|it| {
        let last = it.spec.action == Action::Allow;
        (
            std::cmp::Reverse(u8::from(it.spec.priority)),
            last,
            it.number,
        )
    });
    let matching = rules.into_iter().find(|it| {
        let spec = &it.spec;
        spec.protocol.is_none_or(|it| it == Protocol::TCP)
            && (spec.ports.is_empty() || spec.ports.iter().any(|it| it.contains(port)))
            && match &spec.peer {
                None | Some(Peer::World) => true,
                Some(Peer::Addresses { range }) => range.contains(to),
                Some(Peer::Group { .. } | Peer::Network { .. }) => false,
            }
    });
    matching.map_or((Action::Allow, None), |it| {
        (it.spec.action, Some(it.spec.priority))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_decides_about_addresses_outside_as_the_first_matching_rule() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    set_egress(&mut world, "red", "net", Egress::Nat);
    let outside = world.stranger();
    for address in &ADDRESSES[1..] {
        run(&format!("ip -n {outside} addr add {address}/32 dev lo"));
    }
    run(&format!(
        "ip -n {} route add default via {LAN}",
        world.hosts[0].netns
    ));
    let _servers = PORTS.map(|port| listen(&outside, port));
    world.policy("red", "going", &[]);
    world.group("red", "app", 2, &["going"]);
    world.group("red", "db", 3, &[]);
    world.sync_all().await;
    let app = world
        .attach_in(0, ("red", "net", Some("app")), "app", "20.1.1.1")
        .await;
    let mut decided = [0; 2];
    for seed in 0..ROUNDS {
        let dice = &mut Rng::with_seed(seed);
        let rules: Vec<_> = (1..dice.usize(2..10)).map(|it| rule(dice, it)).collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        world.policy("red", "going", &rules);
        world.sync(0).await;
        let rules: Vec<Rule> = rules.iter().map(|it| crate::rule_text::rule(it)).collect();
        let before = counted(&world).await;
        let mut counts = before.clone();
        for (to, port) in ADDRESSES
            .iter()
            .flat_map(|to| PORTS.map(|port| (*to, port)))
        {
            let first = first_match(&rules, ip(to), port);
            let allowed = first.0 == Action::Allow;
            let text = format!("seed {seed}: {to}:{port}: {rules:?}");
            let (action, number) = traced(&world, to, port);
            let rule = rules.iter().find(|it| Some(it.number) == number);
            assert_eq!((action, rule.map(|it| it.spec.priority)), first, "{text}");
            let passes = match allowed {
                true => opens(&app, to, port).is_some(),
                false => !is_closed(&app, to, port),
            };
            assert_eq!(passes, allowed, "{text}");
            decided[usize::from(allowed)] += 1;
            if let Some(number) = number {
                *counts.entry(number).or_default() += 1;
            }
        }
        assert_eq!(counted(&world).await, counts, "seed {seed}");
    }
    assert!(decided.iter().all(|it| *it > 20), "{decided:?}");
}

/// The verdict of our trace, and the rule's number.
fn traced(world: &World, to: &str, port: u16) -> (Action, Option<u32>) {
    let flow = Flow {
        tenant: tenant("red"),
        from: ip("20.1.1.1"),
        to: ip(to),
        protocol: Protocol::TCP,
        port: Some(port),
    };
    let deciding = Deciding {
        tenant: &world.facts.tenants[&tenant("red")],
        from: &End::Endpoint(Some("app".parse().expect("valid"))),
        to: &End::World,
    };
    let trace = decide(&deciding, &flow, &mut Cache::default());
    let [end] = &trace.ends[..] else {
        panic!("the sender's end alone: {trace:?}");
    };
    let number = |id: &bus_schema::RuleId| id.as_str().parse().expect("a number");
    (end.action, end.rule.as_ref().map(|(_, id)| number(id)))
}

/// The packets that each rule decided.
async fn counted(world: &World) -> BTreeMap<u32, u64> {
    let (place, zone) = (world.place_of(0, "red"), world.zone(0, "red"));
    let counters = world.hosts[0].datapath.counters(&place, zone).await;
    let counters = counters.expect("read").into_iter();
    let counters = counters.map(|(rule, it)| (rule, it.packets));
    counters.filter(|(_, packets)| *packets > 0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn out_rules_decide_about_addresses_outside_before_the_translation() {
    let (mut world, outside) = two_tenants().await;
    let _servers = [80, 81, 443].map(|port| listen(&outside, port));
    let rules = [
        "1 out deny world priority 10",
        "2 out allow tcp 80 world priority 20",
        "3 out allow tcp 443 to 203.0.113.0/24 priority 20",
        "4 out deny tcp group db priority 90",
    ];
    world.policy("red", "going", &rules);
    world.group("red", "app", 2, &["going"]);
    world.group("red", "db", 3, &[]);
    world.sync_all().await;
    let at = ("red", "net", Some("app"));
    let app = world.attach_in(0, at, "app", "20.1.1.1").await;
    let db = world
        .attach_in(1, ("red", "net", Some("db")), "db", "20.1.1.129")
        .await;
    let plain = world.attach(0, "red", "net", "plain", "20.1.1.3").await;
    for (to, port, open) in [
        (LAN, 80, true),
        (LAN, 443, false),
        (LAN, 81, false),
        (INTERNET, 80, true),
        (INTERNET, 443, true),
        (INTERNET, 81, false),
    ] {
        assert_eq!(!is_closed(&app, to, port), open, "{to} {port}");
        assert!(opens(&plain, to, port).is_some(), "{to} {port}");
    }
    assert!(is_silent(&app, LAN) && pings(&plain, LAN));
    assert!(pings(&app, "20.1.1.129") && pings(&db, "20.1.1.1"));
    let (place, zone) = (world.place_of(0, "red"), world.zone(0, "red"));
    let counted = world.hosts[0].datapath.counters(&place, zone).await;
    let counted = counted.expect("read");
    let hits = [1, 2, 3].map(|rule| counted[&rule].packets);
    assert!(hits.iter().all(|it| *it > 0), "{hits:?}");
    // Rules are stateful: a rule that comes later ends no connection.
    let stream = opens(&app, LAN, 80).expect("allowed");
    world.policy("red", "going", &["1 out deny world priority 10"]);
    world.sync(0).await;
    assert!(is_closed(&app, LAN, 80));
    assert!(std::io::Write::write(&mut &stream, b"still").is_ok());
}
