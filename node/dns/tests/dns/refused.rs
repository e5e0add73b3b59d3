//! Tests that a question counts as a connection of the asker to the host's resolver.

use std::net::Ipv4Addr;

use bus_schema::policy::{Action, Direction, Peer, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{AddressRange, GroupId, GroupName, GroupSpec, PolicyName, RuleId, TenantName};
use imbl::OrdMap;
use node_core::projection::{GroupFact, PolicyFact, TenantFact};

use crate::world::{Resolver, World};

/// Puts `web` of tenant `default` into a group whose members may open no TCP connection, or none at all.
fn deny_out(world: &World, protocol: Option<Protocol>) {
    deny_out_to(world, protocol, None);
}

/// Puts `web` of tenant `default` into a group whose members may open no connection, of this protocol
/// and to this address if there is one.
fn deny_out_to(world: &World, protocol: Option<Protocol>, to: Option<Ipv4Addr>) {
    let (tenant, policy) = (TenantName::default_tenant(), PolicyName::new("p").unwrap());
    let group = GroupName::new("shut").unwrap();
    let rule = Rule {
        id: RuleId::new("1").unwrap(),
        number: 1,
        spec: RuleSpec {
            direction: Direction::Out,
            priority: Priority::new(1).unwrap(),
            action: Action::Deny,
            protocol,
            ports: Vec::new(),
            peer: to.map(|it| Peer::Addresses {
                range: AddressRange {
                    first: it.into(),
                    last: it.into(),
                },
            }),
        },
    };
    let mut fact = TenantFact::default();
    let rules = [(rule.id.clone(), rule)].into_iter().collect();
    let policies = PolicyFact {
        rules,
        ..PolicyFact::default()
    };
    fact.policies.insert(policy.clone(), policies);
    let spec = GroupSpec {
        tenant: tenant.clone(),
        network: "front".parse().unwrap(),
        name: group.clone(),
        id: GroupId(2),
        policies: vec![policy],
        docker_name: None,
        pool: None,
    };
    fact.groups.insert(
        group.clone(),
        GroupFact {
            spec,
            closing: false,
            newer: false,
        },
    );
    world.view.send_modify(|view| {
        let web = view.iter().find(|it| it.id.as_str() == "default-front-web");
        let mut web = web.unwrap().clone();
        web.group = Some(group.clone());
        view.show(web.into());
        view.follow_intent(&OrdMap::unit(tenant.clone(), fact.clone()));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn question_is_refused_by_its_own_protocol_if_out_rules_deny_the_resolver() {
    let resolver = Resolver::start().await;
    let world = World::new(&[resolver.address]).await;
    let ask = |words: &[&str]| world.default.dig("20.1.1.1", words);
    let name = "www.example.test";
    assert!(ask(&[name]).contains("192.0.2.7"), "it is cached now");
    deny_out(&world, Some(Protocol::TCP));
    assert!(ask(&[name]).contains("192.0.2.7"));
    assert!(ask(&[name, "+tcp"]).contains("status: REFUSED"));
    deny_out(&world, None);
    for more in ["+notcp", "+tcp"] {
        assert!(ask(&[name, more]).contains("status: REFUSED"), "{more}");
        assert!(ask(&["prod_db", more]).contains("20.1.1.2"), "own names");
        let other = world.default.dig("20.1.1.2", &[name, more]);
        assert!(other.contains("192.0.2.7"), "another asker: {other}");
    }
    assert_eq!(world.dns.counters().refused, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_of_a_resolver_is_given_only_to_askers_who_may_ask_it() {
    let (first, second) = (
        Resolver::start_with("192.0.2.1", 60).await,
        Resolver::start_with("192.0.2.2", 60).await,
    );
    let world = World::new(&[first.address, second.address]).await;
    deny_out_to(&world, None, Some(first.address));
    let ask = |asker: &str| {
        world
            .default
            .short(asker, &["www.example.test", "+nocookie"])
    };
    for _ in 0..2 {
        assert_eq!(ask("20.1.1.1"), "192.0.2.2", "the first resolver is denied");
        assert_eq!(ask("20.1.1.2"), "192.0.2.1", "all are allowed");
    }
}
