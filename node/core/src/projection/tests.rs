use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::event::*;
use bus_schema::policy::{Action, Direction, Priority};
use bus_schema::{
    ClusterId, Event, EventId, GroupId, GroupName, GroupSpec, MachineId, NetworkName, NetworkSpec,
    NodeName, PolicyName, Pool, Revision, Rule, RuleId, TenantName, Vni,
};
use proptest::collection;
use proptest::prelude::*;
use proptest::sample::Index;
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
    NetworkSpec::new(
        tenant(of),
        net(name),
        Vni(vni),
        Pool {
            subnet: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            range: None,
        },
    )
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

/// One sequence of events for each aggregate. Within one the order is the log's; the events of
/// different aggregates may come in any order.
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

/// A legal order of the events. Every one would be too many.
fn interleaved() -> impl Strategy<Value = Vec<Event>> {
    let count = histories().concat().len();
    collection::vec(any::<Index>(), count).prop_map(|picks| {
        let mut left: Vec<_> = histories().into_iter().map(Vec::into_iter).collect();
        let mut events = Vec::new();
        for pick in picks {
            left.retain(|history| history.len() > 0);
            let pick = pick.index(left.len());
            events.extend(left[pick].next());
        }
        events
    })
}

proptest! {
    #[test]
    fn any_legal_order_gives_the_same_facts(events in interleaved()) {
        let straight = fold(histories().concat());
        let mut other = fold(events);
        assert_eq!(other.applied, straight.applied);
        other.applied_event = straight.applied_event;
        // A tenant's zone and the revisions of changes depend on the order; another test is about
        // zones.
        other.changed = straight.changed;
        for (name, fact) in &straight.tenants {
            other.open(name).zone = fact.zone;
            other.open(name).changed = fact.changed;
        }
        assert_eq!(other, straight);
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
fn revision_of_a_tenant_is_that_of_the_last_event_its_kernel_part_depends_on() {
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
fn zone_of_a_tenant_is_its_own_and_the_next_tenant_gets_another() {
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
    assert!(
        !distinct.contains(&again),
        "its old one may still have connections"
    );
    // After the last zone it starts again with the free ones.
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
fn event_touches_the_nouns_that_it_is_about() {
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
fn objects_that_were_created_and_removed_leave_nothing() {
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
fn groups_and_policies_belong_to_their_tenant_until_they_are_removed() {
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
fn address_belongs_to_the_holder_of_its_smallest_block() {
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

mod newer;
mod view;
