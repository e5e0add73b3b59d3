use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::event::*;
use bus_schema::policy::{Action, Direction, Priority};
use bus_schema::{
    ClusterId, Endpoint, EndpointEvent, EndpointId, Event, EventId, GroupId, GroupName, GroupSpec,
    MacAddr, MachineId, NetworkName, NetworkSpec, NodeName, PolicyName, Pool, Revision, Rule,
    RuleId, TenantName, Vni,
};
use uuid::Uuid;

use super::*;

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}

fn net(name: &str) -> NetworkName {
    NetworkName::new(name).unwrap()
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn event_id(revision: u64) -> EventId {
    EventId(Uuid::from_u128(revision.into()))
}

fn spec(of: &str, name: &str, vni: u32) -> NetworkSpec {
    NetworkSpec {
        tenant: tenant(of),
        name: net(name),
        vni: Vni(vni),
        v4: Pool {
            subnet: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            range: None,
        },
        v6: None,
        docker_name: None,
    }
}

fn created(of: &str, name: &str, vni: u32) -> Event {
    Event::NetworkCreated(NetworkCreated {
        network: spec(of, name, vni),
    })
}

fn removed(of: &str, name: &str, vni: u32) -> Event {
    Event::NetworkRemoved(NetworkRemoved {
        tenant: tenant(of),
        network: net(name),
        vni: Vni(vni),
        forced: false,
    })
}

fn leased(of: &str, name: &str, block: &str, to: &str) -> Event {
    Event::BlockLeased(BlockLeased {
        tenant: tenant(of),
        network: net(name),
        group: None,
        block: block.parse().unwrap(),
        node: node(to),
    })
}

fn returned(of: &str, name: &str, block: &str, by: &str) -> Event {
    Event::BlockReturned(BlockReturned {
        tenant: tenant(of),
        network: net(name),
        group: None,
        block: block.parse().unwrap(),
        node: node(by),
    })
}

fn joined(name: &str, vtep: &str) -> Event {
    Event::NodeJoined(NodeJoined {
        node: node(name),
        machine: MachineId(name.to_owned()),
        vtep: vtep.parse().unwrap(),
    })
}

/// One sequence of events for each aggregate: within one the order is the log's, between them any
/// order is legal once what they need is there.
fn histories() -> Vec<Vec<Event>> {
    vec![
        vec![
            Event::ClusterCreated(ClusterCreated {
                cluster: ClusterId(Uuid::from_u128(1)),
                settings: Settings::default(),
            }),
            joined("a", "198.18.0.1"),
            joined("b", "198.18.0.2"),
            joined("b", "198.18.0.3"),
            Event::Barrier,
        ],
        vec![
            created("blue", "web", 7),
            Event::NetworkClosing(NetworkClosing {
                tenant: tenant("blue"),
                network: net("web"),
            }),
            Event::NetworkReopened(NetworkReopened {
                tenant: tenant("blue"),
                network: net("web"),
            }),
            leased("blue", "web", "10.0.0.16/28", "a"),
            Event::BlockCeded(BlockCeded {
                tenant: tenant("blue"),
                network: net("web"),
                group: None,
                address: "10.0.0.20".parse().unwrap(),
                from: node("a"),
                to: node("b"),
            }),
            leased("blue", "web", "10.0.0.32/28", "b"),
            returned("blue", "web", "10.0.0.32/28", "b"),
        ],
        vec![
            created("red", "db", 8),
            leased("red", "db", "10.0.0.16/28", "b"),
            returned("red", "db", "10.0.0.16/28", "b"),
            removed("red", "db", 8),
            created("red", "db", 9),
            leased("red", "db", "10.0.0.48/28", "a"),
        ],
    ]
}

fn fold(events: impl IntoIterator<Item = Event>) -> Projection {
    let mut projection = Projection::default();
    for (at, event) in (1..).zip(events) {
        projection.apply(Revision(at), event_id(at), &event);
    }
    projection
}

/// Every legal order would be too many; these are drawn by a fixed generator.
fn interleaved(seed: u64) -> Vec<Event> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut left: Vec<_> = histories().into_iter().map(|it| it.into_iter()).collect();
    let mut events = Vec::new();
    while !left.is_empty() {
        let pick = random.usize(..left.len());
        match left[pick].next() {
            Some(event) => events.push(event),
            None => {
                left.remove(pick);
            }
        }
    }
    events
}

#[test]
fn any_legal_order_gives_the_same_facts() {
    let straight = fold(histories().concat());
    for seed in 0..200 {
        let mut other = fold(interleaved(seed));
        assert_eq!(other.applied, straight.applied);
        other.applied_event = straight.applied_event;
        // Which zone a tenant has, and which revisions changed what, tell of the order; that zones are
        // their own is another test's.
        other.changed = straight.changed;
        for (name, fact) in &straight.tenants {
            other.open(name).zone = fact.zone;
            other.open(name).changed = fact.changed;
        }
        assert_eq!(other, straight, "seed {seed}");
    }
}

/// The revision of tenant `blue` after one more event.
fn last_changed(before: &Projection, event: &Event) -> Revision {
    let mut facts = before.clone();
    let at = facts.applied.next();
    facts.apply(at, event_id(at.0), event);
    facts.tenants[&tenant("blue")].last_changed()
}

#[test]
fn a_tenants_revision_is_that_of_the_last_event_which_its_kernel_part_depends_on() {
    let before = fold(histories().concat());
    let was = before.tenants[&tenant("blue")].last_changed();
    let at = before.applied.next();
    for (event, expected) in [
        (leased("blue", "web", "10.0.0.64/28", "a"), at),
        (returned("blue", "web", "10.0.0.16/28", "a"), at),
        (leased("red", "db", "10.0.0.64/28", "a"), was),
        (Event::Barrier, was),
    ] {
        assert_eq!(last_changed(&before, &event), expected, "{event:?}");
    }
    let mut newer = before;
    newer.apply_newer(at, event_id(at.0), "contiv.log.blue.intent.network.web");
    assert_eq!(newer.tenants[&tenant("blue")].last_changed(), at);
}

fn opened(name: &str) -> Event {
    Event::TenantCreated(TenantCreated {
        tenant: tenant(name),
    })
}

fn closed(name: &str) -> Event {
    Event::TenantRemoved(TenantRemoved {
        tenant: tenant(name),
    })
}

#[test]
fn each_tenant_keeps_a_zone_of_its_own_and_the_next_gets_another() {
    let names: Vec<_> = (0..2_000).map(|number| format!("t{number}")).collect();
    let mut projection = Projection::default();
    let mut at = Revision(0);
    let mut zones = BTreeMap::new();
    let mut apply = |projection: &mut Projection, event| {
        at = at.next();
        projection.apply(at, event_id(at.0), &event);
    };
    for name in &names {
        apply(&mut projection, opened(name));
        apply(&mut projection, opened(name));
        zones.insert(name, projection.tenants[&tenant(name)].zone);
        let now = names
            .iter()
            .map_while(|name| Some((name, projection.tenants.get(&tenant(name))?.zone)));
        if zones.len() % 100 == 0 {
            assert_eq!(now.collect::<BTreeMap<_, _>>(), zones, "none has changed");
        }
    }
    let distinct: BTreeSet<_> = zones.values().copied().collect();
    assert_eq!(distinct.len(), names.len());
    assert!(!distinct.contains(&0));

    apply(&mut projection, closed("t7"));
    apply(&mut projection, opened("t7"));
    let again = projection.tenants[&tenant("t7")].zone;
    assert!(!distinct.contains(&again), "its old one may be remembered");
    // At the end it begins anew, with what is free.
    projection.last_zone = u16::MAX - 1;
    for zone in [u16::MAX, zones[&names[7]]] {
        apply(&mut projection, opened(&format!("z{zone}")));
        assert_eq!(projection.tenants[&tenant(&format!("z{zone}"))].zone, zone);
    }
}

#[test]
fn repeated_events_change_nothing() {
    let events = histories().concat();
    let mut projection = Projection::default();
    for (at, event) in (1..).zip(&events) {
        projection.apply(Revision(at), event_id(at), event);
        for (again, event) in (1..=at).zip(&events) {
            let before = projection.clone();
            let touched = projection.apply(Revision(again), event_id(again), event);
            assert!(touched.is_empty());
            assert_eq!(projection, before);
        }
    }
    assert_eq!(projection, fold(events));
}

#[test]
fn an_event_touches_what_it_is_about() {
    let mut projection = fold(histories().concat());
    let mut at = projection.applied;
    let mut touch = |event: Event| {
        at = at.next();
        projection.apply(at, event_id(at.0), &event)
    };
    let network = Touched::network(&tenant("blue"), &net("web"));
    assert_eq!(touch(leased("blue", "web", "10.0.0.64/28", "a")), network);
    assert_eq!(touch(joined("c", "198.18.0.9")), Touched::node(&node("c")));
    assert_eq!(touch(Event::Barrier), Touched::default());
    assert_eq!(touch(Event::Unknown), Touched::default());
    // About a network that is gone.
    assert_eq!(
        touch(leased("blue", "no", "10.0.0.64/28", "a")),
        Touched::default()
    );
}

#[test]
fn everything_created_and_removed_leaves_nothing() {
    let mut events = histories().concat();
    events.extend([
        removed("blue", "web", 7),
        removed("red", "db", 9),
        Event::TenantRemoved(TenantRemoved {
            tenant: tenant("blue"),
        }),
        Event::TenantRemoved(TenantRemoved {
            tenant: tenant("red"),
        }),
        Event::NodeRemoved(NodeRemoved {
            node: node("a"),
            lost: true,
        }),
        Event::NodeRemoved(NodeRemoved {
            node: node("b"),
            lost: false,
        }),
    ]);
    let projection = fold(events);
    assert!(projection.tenants.is_empty() && projection.nodes.is_empty());
}

fn group(of: &str, name: &str, id: u16, policies: &[&str]) -> GroupSpec {
    GroupSpec {
        tenant: tenant(of),
        network: net("web"),
        name: name.parse().unwrap(),
        id: GroupId(id),
        policies: policies.iter().map(|it| it.parse().unwrap()).collect(),
        docker_name: None,
        pool: None,
    }
}

fn rule(id: &str, number: u32) -> Rule {
    Rule {
        id: id.parse().unwrap(),
        number,
        spec: bus_schema::RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: None,
            ports: vec![],
            peer: None,
        },
    }
}

#[test]
fn groups_and_policies_are_their_tenants_until_they_are_removed() {
    let policy: PolicyName = "p".parse().unwrap();
    let name: GroupName = "front".parse().unwrap();
    let add = |id: &str, number| {
        Event::RuleAdded(RuleAdded {
            tenant: tenant("blue"),
            policy: policy.clone(),
            rule: rule(id, number),
        })
    };
    let mut events = histories().concat();
    events.extend([
        Event::PolicyCreated(PolicyCreated {
            tenant: tenant("blue"),
            policy: policy.clone(),
        }),
        add("1", 1),
        add("2", 2),
        Event::RuleRemoved(RuleRemoved {
            tenant: tenant("blue"),
            policy: policy.clone(),
            rule: "1".parse().unwrap(),
        }),
        Event::GroupCreated(GroupCreated {
            group: group("blue", "front", 2, &[]),
        }),
        Event::GroupUpdated(GroupUpdated {
            tenant: tenant("blue"),
            group: name.clone(),
            policies: vec![policy.clone()],
        }),
        Event::PolicyApplied(PolicyApplied {
            tenant: tenant("blue"),
            policy: policy.clone(),
        }),
    ]);
    let mut facts = fold(events);
    let at = facts.applied;
    let blue = &facts.tenants[&tenant("blue")];
    let ids: Vec<_> = blue.policies[&policy].rules.keys().collect();
    assert_eq!(ids, [&"2".parse::<RuleId>().unwrap()]);
    assert_eq!(blue.policies[&policy].enforced, Some(at));
    let front = blue.group_of(GroupId(2)).expect("the group");
    assert_eq!(front.spec, group("blue", "front", 2, &["p"]));
    assert!(facts.group_fact(&tenant("red"), &name).is_none());

    let bytes = bus_schema::codec::to_bytes(&facts);
    assert_eq!(bus_schema::codec::from_bytes(&bytes), Ok(facts.clone()));

    let gone = Event::GroupRemoved(GroupRemoved {
        tenant: tenant("blue"),
        group: name.clone(),
        id: GroupId(2),
        forced: false,
    });
    let touched = facts.apply(at.next(), event_id(at.0 + 1), &gone);
    assert_eq!(touched, Touched::tenant(&tenant("blue")));
    assert!(facts.group_fact(&tenant("blue"), &name).is_none());
}

#[test]
fn an_address_is_its_smallest_blocks_holders() {
    let facts = fold(histories().concat());
    let network = facts.network(&tenant("blue"), &net("web")).unwrap();
    let holder = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        network.block_of(address).map(|(_, node)| node.to_string())
    };
    assert_eq!(holder("10.0.0.19").as_deref(), Some("a"));
    assert_eq!(holder("10.0.0.20").as_deref(), Some("b"));
    assert_eq!(holder("10.0.0.33"), None);
    assert_eq!(holder("10.9.0.20"), None);
}

#[test]
fn saved_facts_are_the_same_when_loaded() {
    let facts = fold(histories().concat());
    let bytes = bus_schema::codec::to_bytes(&facts);
    assert_eq!(
        bus_schema::codec::from_bytes::<Projection>(&bytes),
        Ok(facts)
    );
}

fn endpoint(id: &str, name: &str, address: &str, on: &str) -> Endpoint {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    Endpoint {
        id: EndpointId::new(id).unwrap(),
        tenant: tenant("blue"),
        network: net("web"),
        group: None,
        node: node(on),
        v4: Some(address),
        v6: None,
        mac: MacAddr::of_endpoint(address.into()),
        name: Some(name.to_owned()),
        aliases: vec!["alias".to_owned()],
        container: None,
        interface: "cv0".to_owned(),
        closed: None,
        vtep: "198.18.0.1".parse().unwrap(),
    }
}

fn up(endpoint: Endpoint, applied: u64) -> EndpointEvent {
    EndpointEvent::Up {
        endpoint,
        applied: Revision(applied),
    }
}

fn down(of: &Endpoint) -> EndpointEvent {
    EndpointEvent::Down {
        tenant: of.tenant.clone(),
        network: of.network.clone(),
        node: of.node.clone(),
        id: of.id.clone(),
        applied: Revision(1),
    }
}

fn resolve(view: &EndpointsView, name: &str) -> Vec<String> {
    let (tenant, name) = (tenant("blue"), full_name(name, "web"));
    let found = view.resolve(&tenant, &name);
    found.map(|(address, _)| address.to_string()).collect()
}

fn members(names: &[&str]) -> OrdMap<NodeName, NodeFact> {
    let fact = |name: &&str| {
        let machine = MachineId((*name).to_owned());
        let vtep = "198.18.0.1".parse().unwrap();
        (node(name), NodeFact::new(machine, vtep))
    };
    names.iter().map(fact).collect()
}

#[test]
fn names_and_addresses_follow_the_endpoints() {
    let mut view = EndpointsView::default();
    let (db, db2) = (
        endpoint("e1", "DB", "10.0.0.20", "a"),
        endpoint("e2", "db2", "10.0.0.21", "b"),
    );
    view.hear(up(db.clone(), 0));
    view.hear(up(db2.clone(), 0));
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
    assert_eq!(resolve(&view, "Alias"), ["10.0.0.20", "10.0.0.21"]);
    let at = |view: &EndpointsView| {
        let found = view.at(&tenant("blue"), "10.0.0.20".parse().unwrap());
        found.map(|it| it.id.to_string())
    };
    assert_eq!(at(&view).as_deref(), Some("e1"));
    let renamed = endpoint("e1", "mysql", "10.0.0.20", "a");
    view.hear(up(renamed, 0));
    assert!(resolve(&view, "db").is_empty());
    assert_eq!(resolve(&view, "mysql"), ["10.0.0.20"]);
    // Only its own node removes it.
    let mut forged = db.clone();
    forged.node = node("b");
    view.hear(down(&forged));
    assert_eq!(view.len(), 2);
    view.hear(down(&db));
    view.hear(down(&db2));
    assert_eq!(view, EndpointsView::default());
    assert_eq!(at(&view), None);
}

#[test]
fn what_is_ahead_of_the_log_is_held_back() {
    let mut view = EndpointsView::default();
    view.hear(up(endpoint("e1", "db", "10.0.0.20", "a"), 5));
    let nodes = members(&["a"]);
    view.advance(Revision(4), &nodes);
    assert!(resolve(&view, "db").is_empty());
    view.advance(Revision(5), &nodes);
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
    let gone = endpoint("e2", "web", "10.0.0.21", "a");
    view.hear(up(gone.clone(), 9));
    view.hear(down(&gone));
    view.advance(Revision(9), &nodes);
    assert!(resolve(&view, "web").is_empty());
}

#[test]
fn what_was_not_heard_again_is_pruned_but_not_our_own() {
    let mut view = EndpointsView::default();
    for (id, on) in [("e1", "me"), ("e2", "b"), ("e3", "b")] {
        view.hear(up(endpoint(id, id, "10.0.0.20", on), 0));
    }
    view.hear(up(endpoint("e4", "e4", "10.0.0.22", "b"), 7));
    let heard = [EndpointId::new("e3").unwrap()].into();
    view.prune(&heard, &node("me"));
    view.advance(Revision(7), &members(&["me", "b"]));
    let left: Vec<_> = view.iter().map(|it| it.id.to_string()).collect();
    assert_eq!(left, ["e1", "e3"]);
}

#[test]
fn what_a_removed_node_published_is_shown_when_it_is_back() {
    let mut view = EndpointsView::default();
    let both = members(&["a", "b"]);
    view.advance(Revision(1), &both);
    view.hear(up(endpoint("e1", "db", "10.0.0.20", "b"), 1));
    view.advance(Revision(2), &members(&["a"]));
    assert!(resolve(&view, "db").is_empty());
    // The stream still holds it.
    view.hear(up(endpoint("e1", "db", "10.0.0.20", "b"), 1));
    assert!(resolve(&view, "db").is_empty());
    view.advance(Revision(3), &both);
    assert_eq!(resolve(&view, "db"), ["10.0.0.20"]);
}

#[test]
fn what_others_published_is_recalled_after_a_restart() {
    let mut before = EndpointsView::default();
    let nodes = members(&["me", "b"]);
    before.advance(Revision(3), &nodes);
    before.hear(up(endpoint("e1", "mine", "10.0.0.20", "me"), 1));
    before.hear(up(endpoint("e2", "db", "10.0.0.21", "b"), 1));
    before.hear(up(endpoint("e3", "ahead", "10.0.0.22", "b"), 4));
    let mut view = EndpointsView::default();
    view.await_stream(true);
    view.recall(before.of_others(&node("me")));
    // The facts were saved earlier, when b was no member yet.
    view.advance(Revision(2), &members(&["me"]));
    assert_eq!(resolve(&view, "db"), ["10.0.0.21"]);
    view.advance(Revision(3), &nodes);
    assert_eq!(resolve(&view, "db"), ["10.0.0.21"]);
    assert!(resolve(&view, "mine").is_empty() && resolve(&view, "ahead").is_empty());
    assert!(!view.is_complete());
    // Heard from its start: what isn't there any more is gone, and what is missing doesn't exist.
    view.prune(&[EndpointId::new("e3").unwrap()].into(), &node("me"));
    view.await_stream(true);
    assert!(view.is_complete() && resolve(&view, "db").is_empty());
    view.advance(Revision(4), &nodes);
    assert_eq!(resolve(&view, "ahead"), ["10.0.0.22"]);
}

#[test]
fn what_was_recalled_of_another_log_is_hidden() {
    let mut before = EndpointsView::default();
    before.advance(Revision(9), &members(&["me", "b"]));
    before.hear(up(endpoint("e2", "db", "10.0.0.21", "b"), 1));
    let mut view = EndpointsView::default();
    view.recall(before.of_others(&node("me")));
    view.is_of_no_log();
    view.advance(Revision(0), &members(&[]));
    assert!(resolve(&view, "db").is_empty());
}

mod newer;
