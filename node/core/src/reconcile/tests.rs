use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::desired::fixture::{self, Facts};
use crate::endpoint::LocalEndpoint;
use crate::policy::fixture::{group, tenant};
use crate::resource::{State, Target, Unseen, Up, Veth};

#[test]
fn device_out_of_its_vrf_is_put_back_not_created_anew() {
    let veth = |place: &str, mtu| {
        let place = match place {
            "host" => Place::Host,
            vrf => Place::Domain(vrf.to_owned()),
        };
        let device = Object::Veth(Veth {
            name: "cv1".to_owned(),
            mac: Veth::HOST_MAC,
            mtu,
            peer: Unseen(None),
        });
        let up = Object::Up(Up {
            device: "cv1".to_owned(),
        });
        State::from_iter([device.at(&place), up.at(&place)])
    };
    for elsewhere in ["host", "cd2"] {
        let ops = diff(&veth(elsewhere, 1400), &veth("cd1", 1450));
        let text = "~ link cv1 type veth address 02:01:00:00:00:01 mtu 1450 in cd1\n\
                    + link cv1 up in cd1\n";
        assert_eq!(lines(&ops), text, "{elsewhere}");
    }
    // A namespace's devices are others.
    let ops = diff(&veth("contiv-red", 1450), &veth("cd1", 1450));
    assert!(lines(&ops).starts_with("- link cv1 type veth"), "{ops:?}");
}

fn lines(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

/// The state after the ops, if the kernel executes all of them. Like the kernel it refuses an element
/// without its map or chain, and the deletion of a map or a chain that is in use.
fn after(mut state: BTreeMap<Key, Resource>, ops: &[Op]) -> BTreeMap<Key, Resource> {
    for op in ops {
        match op {
            Op::Put(it) | Op::Change { to: it, .. } => {
                if let (Op::Change { from, .. }, Object::Table(to)) = (op, &it.object)
                    && matches!(&from.object, Object::Table(from) if to.empties(from))
                {
                    state.retain(|key, _| {
                        !matches!(key.kind, Kind::Map | Kind::Chain | Kind::Element)
                            || key.place.netfilter() != it.place
                    });
                }
                let missing = references(it)
                    .into_iter()
                    .find(|key| !state.contains_key(key));
                assert_eq!(missing, None, "{op}");
                state.insert(it.key(), it.clone());
            }
            Op::Delete(gone) => {
                state.remove(&gone.key());
                state.retain(|key, it| key.place != gone.place || !goes_with(gone, it));
                if matches!(gone.object.kind(), Kind::Map | Kind::Chain) {
                    let user = state
                        .values()
                        .find(|it| references(it).contains(&gone.key()));
                    assert_eq!(user, None, "{op}");
                }
            }
            Op::FlushConntrack { .. } => {}
        }
    }
    state
}

/// The map and the chain that an element uses.
fn references(resource: &Resource) -> Vec<Key> {
    let key = |kind, id: &str| Key {
        place: resource.place.clone(),
        kind,
        id: id.to_owned(),
    };
    let Object::Element(element) = &resource.object else {
        return Vec::new();
    };
    match element {
        Element::VmapEntry { map, to, .. } => {
            let (Target::Jump(chain) | Target::Goto(chain)) = to;
            vec![key(Kind::Map, &map.name), key(Kind::Chain, chain)]
        }
        Element::Program { chain, .. } | Element::RevisionChain { chain, .. } => {
            vec![key(Kind::Chain, chain)]
        }
        _ => Vec::new(),
    }
}

/// Whether the kernel deletes `it` together with a device or a domain.
fn goes_with(gone: &Resource, it: &Resource) -> bool {
    match gone.object.kind() {
        Kind::Domain => it.object.device().is_some(),
        Kind::Device => it.object.device() == Some(gone.key().id.as_str()),
        _ => false,
    }
}

fn as_map(state: &State) -> BTreeMap<Key, Resource> {
    state.iter().map(|(k, r)| (k.clone(), r.clone())).collect()
}

/// The states of all scenarios, for both kinds of domain.
fn states() -> Vec<State> {
    fixture::scenarios()
        .into_iter()
        .flat_map(|scenario| fixture::kinds().map(|kind| scenario.facts.desired(kind)))
        .collect()
}

#[test]
fn ops_lead_from_any_state_to_any_other_and_then_there_are_none() {
    let states = states();
    for from in &states {
        for to in &states {
            let reached = after(as_map(from), &diff(from, to));
            let reached: State = reached.into_values().collect();
            let left = diff(&reached, to);
            assert_eq!(left, [], "{}", lines(&left));
        }
    }
}

/// Facts with rules, and so with chains, maps and elements that use them.
fn ruled() -> impl Strategy<Value = Facts> {
    tenant().prop_map(|generated| {
        let mut facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
        let tenant = facts.projection.open(&fixture::red());
        (tenant.groups, tenant.policies) = (generated.groups, generated.policies);
        for endpoint in facts.locals.values().cloned().collect::<Vec<_>>() {
            let mut endpoint = LocalEndpoint::clone(&endpoint);
            endpoint.group = Some(group(0));
            facts.locals.insert(endpoint.id.clone(), endpoint.into());
        }
        facts
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn ops_lead_from_any_rules_to_any_others(from in ruled(), to in ruled()) {
        for kind in fixture::kinds() {
            let (from, to) = (from.desired(kind), to.desired(kind));
            let reached = after(as_map(&from), &diff(&from, &to));
            let reached: State = reached.into_values().collect();
            assert_eq!(diff(&reached, &to), []);
        }
    }
}

#[test]
fn order_does_not_depend_on_the_order_of_the_ops() {
    let states = states();
    for state in &states {
        let ops = diff(&State::default(), state);
        let mut reversed: Vec<Op> = ops.iter().rev().cloned().collect();
        order(&mut reversed);
        assert_eq!(ops, reversed);
    }
}

/// The main parts of the order's specification.
#[test]
fn port_is_up_after_its_firewall_and_a_route_comes_after_its_neighbor() {
    for state in states() {
        let ops = diff(&State::default(), &state);
        let at = |wanted: Kind| {
            let kinds = ops.iter().enumerate().filter(move |(_, op)| match op {
                Op::Put(it) => it.object.kind() == wanted,
                _ => false,
            });
            kinds.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let last = |kind| at(kind).into_iter().max();
        let first = |kind| at(kind).into_iter().min();
        assert!(last(Kind::Table) < first(Kind::Device) || first(Kind::Device).is_none());
        assert!(last(Kind::Element) < first(Kind::Up) || first(Kind::Up).is_none());
        assert!(last(Kind::Neighbor) < first(Kind::Route) || first(Kind::Route).is_none());
        let gone = diff(&state, &State::default());
        let position = |test: &dyn Fn(&Object) -> bool| {
            let mut deleted = gone.iter().map(Op::deleted);
            deleted.position(|it| it.is_some_and(|it| test(&it.object)))
        };
        let domain = position(&|it| matches!(it, Object::Domain(_)));
        let rest = position(&|it| matches!(it, Object::Veth(_)));
        assert!(rest < domain || domain.is_none());
    }
}

#[test]
fn resources_of_a_deleted_device_are_not_deleted_twice() {
    let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
    for kind in fixture::kinds() {
        let (with, without) = (
            facts.desired(kind),
            facts.clone().detach("web").desired(kind),
        );
        let said = lines(&diff(&with, &without));
        assert!(said.contains("- link cv"), "{said}");
        assert!(!said.contains("- route 20.1.1.1/32"), "{said}");
        assert!(said.contains("- conntrack 20.1.1.1"), "{said}");
    }
}

#[test]
fn resources_of_a_recreated_device_are_put_again() {
    let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
    let mut moved = facts.clone();
    moved.projection.settings.vxlan_port += 1;
    for kind in fixture::kinds() {
        let said = lines(&diff(&facts.desired(kind), &moved.desired(kind)));
        for again in [
            "- link cx1001",
            "+ link cx1001",
            "+ link cx1001 up",
            "+ neigh 198.18.0.2",
            "+ fdb",
            "+ route 20.1.1.16/28",
        ] {
            assert!(said.contains(again), "{again}: {said}");
        }
        assert!(!said.contains("20.1.1.1/32"), "{said}");
    }
}

#[test]
fn address_that_moves_in_one_step_is_flushed_before_its_route_opens() {
    let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
    for kind in fixture::kinds() {
        let zone = desired_zone(&facts, kind);
        let anew = facts.clone().detach("web").endpoint("db", "20.1.1.1");
        let both = facts.clone().endpoint("db", "20.1.1.2");
        let swapped = both.clone().endpoint("db", "20.1.1.1");
        let swapped = swapped.endpoint("web", "20.1.1.2");
        for (from, to, verb) in [(&facts, &anew, '+'), (&both, &swapped, '~')] {
            let said = lines(&diff(&from.desired(kind), &to.desired(kind)));
            let at = |text: &str| said.find(text).unwrap_or_else(|| panic!("{text}: {said}"));
            let forgotten = at(&format!("- conntrack 20.1.1.1 zone {zone} "));
            assert!(forgotten < at(&format!("{verb} route 20.1.1.1/32")));
        }
    }
}

fn desired_zone(facts: &Facts, kind: bus_schema::node::DomainKind) -> u16 {
    crate::desired::zone(&facts.projection, &fixture::red(), kind)
}

/// The flushes of lost routes whose endpoints aren't desired.
fn due_flushes(known: &State, observed: &State, desired: &State) -> Vec<Op> {
    let lost = lost_routes(known, observed).into_iter();
    let is_wanted = |route: &Resource| {
        let wanted = desired.get(&route.key());
        wanted.is_some_and(|it| is_same_way(it, route))
    };
    let due = lost.filter(|(route, _)| !is_wanted(route));
    due.map(|(_, flush)| flush).collect()
}

#[test]
fn address_whose_route_vanished_with_its_veth_is_flushed_once_it_is_not_desired() {
    let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
    for kind in fixture::kinds() {
        let known = facts.desired(kind);
        let without = facts.clone().detach("web").desired(kind);
        let said = lines(&due_flushes(&known, &without, &without));
        assert!(said.contains("- conntrack 20.1.1.1 "), "{said}");
        assert_eq!(due_flushes(&known, &without, &known), [], "it comes back");
        assert_eq!(due_flushes(&known, &known, &without), [], "diff finds it");
    }
}

/// Compares each scenario with its file, in the words of `ip` and `nft`; `UPDATE_EXPECT=1` writes it.
#[test]
fn scenarios_are_as_in_their_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    for scenario in fixture::scenarios() {
        for kind in fixture::kinds() {
            let before = scenario.before.as_ref();
            let before = before.map(|facts| facts.desired(kind)).unwrap_or_default();
            let ops = diff(&before, &scenario.facts.desired(kind));
            let text = format!("# {}\n{}", scenario.title, lines(&ops));
            let path = folder.join(format!("{}.{kind}.txt", scenario.name));
            if update {
                std::fs::write(&path, text).expect("the scenarios' folder is writable");
                continue;
            }
            let expected = std::fs::read_to_string(&path).unwrap_or_default();
            assert_eq!(
                expected,
                text,
                "{}; UPDATE_EXPECT=1 accepts it",
                path.display()
            );
        }
    }
}
