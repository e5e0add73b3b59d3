use bus_schema::event::{Event, RuleAdded};
use bus_schema::node::DomainKind;
use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{
    AddressRange, EndpointId, EventId, GroupId, GroupName, GroupSpec, NetworkName, PolicyName,
    RuleId,
};
use proptest::collection::vec;
use proptest::prelude::*;
use std::sync::Arc;
use uuid::Uuid;

use super::fixture::{Facts, kinds, params, red, scenarios};
use super::*;
use crate::policy::fixture::{Alteration, alteration, group, tenant};
use crate::projection::{GroupFact, PolicyFact};
use crate::reconcile::{Op, diff};

fn words(state: &State) -> Vec<String> {
    state.resources().map(ToString::to_string).collect()
}

#[test]
fn endpoint_keeps_its_mtu_when_the_underlay_gets_another() {
    for kind in kinds() {
        let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
        let mut smaller = params(kind);
        smaller.underlay_mtu = 1_400;
        let mut locals = facts.locals.clone();
        let mtus = |locals: &Locals| -> Vec<u32> {
            let programs = &mut Programs::default();
            let state = desired(&facts.projection, locals, &smaller, programs);
            let mtus = state.resources().filter_map(|it| match &it.object {
                Object::Veth(it) => Some(it.mtu),
                Object::Vxlan(it) => Some(it.mtu),
                _ => None,
            });
            mtus.collect()
        };
        assert_eq!(mtus(&locals), [1_350, 1_350]);
        for id in facts.locals.keys() {
            Arc::make_mut(&mut locals[id]).mtu = Some(1_450);
        }
        assert_eq!(mtus(&locals), [1_450, 1_350]);
    }
}

#[test]
fn whole_state_is_the_host_and_the_domains() {
    for scenario in scenarios() {
        for kind in kinds() {
            let (facts, locals) = (&scenario.facts.projection, &scenario.facts.locals);
            let mut parts = desired_host(facts, &params(kind));
            let mut programs = Programs::default();
            let domain = desired_domain(facts, &red(), locals, &params(kind), &mut programs);
            parts.merge(&domain);
            assert_eq!(parts, scenario.facts.desired(kind), "{}", scenario.name);
        }
    }
}

#[test]
fn order_of_the_facts_does_not_matter() {
    let one = Facts::two_nodes()
        .endpoint("a", "20.1.1.1")
        .endpoint("b", "20.1.1.2")
        .block("net", "20.1.1.32/28", "n2");
    let other = Facts::default()
        .network("net", 1001, "20.1.1.0/24", "20.1.1.254")
        .block("net", "20.1.1.32/28", "n2")
        .block("net", "20.1.1.16/28", "n2")
        .block("net", "20.1.1.0/28", "n1")
        .endpoint("b", "20.1.1.2")
        .endpoint("gone", "20.1.1.3")
        .endpoint("a", "20.1.1.1")
        .node("n2", "198.18.0.2")
        .node("n1", "198.18.0.1")
        .detach("gone");
    for kind in kinds() {
        assert_eq!(one.desired(kind), other.desired(kind));
    }
}

#[test]
fn closed_endpoint_has_no_route_no_stamp_and_no_port() {
    let open = Facts::two_nodes().endpoint("web", "20.1.1.1");
    let revoked = open.clone().block("net", "20.1.1.1/32", "n2");
    let (device, _) = interface_names(&EndpointId::new("web").expect("valid"));
    for kind in kinds() {
        for closed in [open.clone().without_network("net"), revoked.clone()] {
            let words = words(&closed.desired(kind));
            let about: Vec<_> = words.iter().filter(|it| it.contains(&device)).collect();
            let harmless = |it: &&&String| {
                it.starts_with(&format!("link {device} type veth"))
                    || it.starts_with("sysctl")
                    || it.starts_with("element zones")
            };
            let harmful: Vec<_> = about.iter().filter(|it| !harmless(it)).collect();
            assert!(harmful.is_empty(), "{harmful:?}");
        }
    }
}

#[test]
fn names_fit_into_an_interface_name() {
    let long = TenantName::new("x".repeat(63)).expect("valid");
    assert!(domain_name(DomainKind::Vrf, &long).len() <= 15);
    assert!(vxlan_name(bus_schema::Vni(bus_schema::Vni::MAX)).len() <= 15);
    let (host, peer) = interface_names(&EndpointId::new("y".repeat(63)).expect("valid"));
    assert!(host.len() <= 15 && peer.len() <= 15);
}

#[test]
fn mtu_leaves_room_for_the_headers_of_vxlan() {
    assert_eq!(params(DomainKind::Netns).mtu(), 1450);
    let mut params = params(DomainKind::Netns);
    params.vtep = "fd00::1".parse().expect("an address");
    assert_eq!(params.mtu(), 1430);
}

fn rule(number: u32, peer: Peer) -> Rule {
    Rule {
        id: RuleId::new(number.to_string()).expect("valid"),
        number,
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: Some(Protocol::TCP),
            ports: Vec::new(),
            peer: Some(peer),
        },
    }
}

fn of_address(number: u32) -> Peer {
    let address = IpAddr::V4((0x0a00_0000 + number * 4_099).into());
    let range = AddressRange {
        first: address,
        last: address,
    };
    Peer::Addresses { range }
}

/// `web` has policy `used` of 2,000 rules; no group has policy `unused`.
fn ruled() -> Facts {
    let mut facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
    let tenant = facts.projection.tenants.entry(red()).or_default();
    let used = PolicyName::new("used").expect("valid");
    let peers = (0..1_000).map(|number| format!("peer-{number}"));
    for (id, name) in ["web".to_owned()].into_iter().chain(peers).enumerate() {
        let name = GroupName::new(name).expect("valid");
        let spec = GroupSpec {
            tenant: red(),
            network: NetworkName::new("net").expect("valid"),
            name: name.clone(),
            id: GroupId(id as u16 + 2),
            policies: if id == 0 {
                vec![used.clone()]
            } else {
                Vec::new()
            },
            docker_name: None,
            pool: None,
        };
        let closing = false;
        tenant.groups.insert(
            name,
            GroupFact {
                spec,
                closing,
                newer: false,
            },
        );
    }
    let web = &mut facts.locals[&EndpointId::new("web").expect("valid")];
    Arc::make_mut(web).group = Some(GroupName::new("web").expect("valid"));
    let unused = PolicyName::new("unused").expect("valid");
    tenant.policies.insert(unused, PolicyFact::default());
    tenant.policies.insert(used, PolicyFact::default());
    let groups = (0..1_000).map(|number| Peer::Group {
        group: GroupName::new(format!("peer-{number}")).expect("valid"),
    });
    let addresses = (0..1_000).map(of_address);
    for (number, peer) in groups.chain(addresses).enumerate() {
        facts = facts.rule("used", rule(number as u32, peer));
    }
    facts
}

impl Facts {
    fn rule(mut self, policy: &str, rule: Rule) -> Self {
        let event = Event::RuleAdded(RuleAdded {
            tenant: red(),
            policy: PolicyName::new(policy).expect("valid"),
            rule,
        });
        let revision = self.projection.applied.next();
        self.projection
            .apply(revision, EventId(Uuid::nil()), &event);
        self
    }
}

#[test]
fn rule_of_a_policy_that_no_group_has_changes_nothing() {
    let before = ruled();
    let unused = before
        .clone()
        .rule("unused", rule(9_000, of_address(9_000)));
    let used = before.clone().rule("used", rule(9_000, of_address(9_000)));
    for kind in kinds() {
        assert_eq!(diff(&before.desired(kind), &unused.desired(kind)), []);
        assert_ne!(diff(&before.desired(kind), &used.desired(kind)), []);
    }
}

#[test]
fn added_rule_rewrites_little_however_many_there_are() {
    let before = ruled();
    let group = GroupName::new("peer-7").expect("valid");
    for peer in [of_address(9_000), Peer::Group { group }] {
        let after = before.clone().rule("used", rule(9_000, peer));
        for kind in kinds() {
            let ops = diff(&before.desired(kind), &after.desired(kind));
            let made = ops.iter().filter_map(Op::made);
            let text = made.map(|it| match &it.object {
                Object::Chain(it) => it.bodies().map(|it| it.to_string().len()).sum(),
                _ => 0,
            });
            let text: usize = text.sum();
            assert!(
                ops.len() < 10 && text < 500,
                "{} ops, {text} bytes: {ops:#?}",
                ops.len()
            );
        }
    }
}

/// Of a port table with very many ranges only the part is rewritten that the rule is about.
#[test]
fn added_rule_about_anybody_rewrites_one_part_of_the_port_table() {
    let mut before = ruled();
    let about_port = |number: u32, port: u16| {
        let mut rule = rule(number, of_address(0));
        rule.spec.peer = None;
        rule.spec.ports = vec![PortRange {
            first: port,
            last: port,
        }];
        rule
    };
    for number in 0..2_000 {
        let port = (number * 31) as u16;
        before = before.rule("used", about_port(10_000 + number, port));
    }
    let after = before.clone().rule("used", about_port(9_000, 30_001));
    for kind in kinds() {
        let ops = diff(&before.desired(kind), &after.desired(kind));
        let changed = ops.iter().filter_map(|op| match op {
            Op::Change { to, .. } => Some(&to.object),
            _ => None,
        });
        let chains = changed.filter_map(|object| match object {
            Object::Chain(it) => Some(it.name.as_str()),
            _ => None,
        });
        let chains: Vec<_> = chains.filter(|name| name.starts_with('l')).collect();
        let [part] = chains[..] else {
            panic!("{chains:?}")
        };
        assert!(part.ends_with("_any_6_7400"), "{part}");
    }
}

/// The rules hold nothing of the members of a group.
#[test]
fn added_member_changes_no_rule() {
    let before = ruled().in_group("web", "more", "20.1.1.2");
    let after = before.clone().in_group("web", "one-more", "20.1.1.3");
    for kind in kinds() {
        let ops = diff(&before.desired(kind), &after.desired(kind));
        assert_ne!(ops, []);
        let rules = ops.iter().filter(|op| {
            let Some(it) = op.resource() else {
                return true;
            };
            match &it.object {
                Object::Map(_) | Object::Chain(_) | Object::Table(_) => true,
                // Its own address, in sets that no rule is changed for.
                Object::Element(Element::Member { address, .. }) => {
                    *address != IpAddr::from([20, 1, 1, 3])
                }
                Object::Element(element) => element.decides(),
                _ => false,
            }
        });
        assert_eq!(rules.collect::<Vec<_>>(), Vec::<&Op>::new());
    }
}

impl Facts {
    fn in_group(self, group: &str, name: &str, address: &str) -> Self {
        let mut facts = self.endpoint(name, address);
        let endpoint = &mut facts.locals[&EndpointId::new(name).expect("valid")];
        Arc::make_mut(endpoint).group = Some(GroupName::new(group).expect("valid"));
        facts
    }
}

/// A change of the facts.
#[derive(Debug, Clone)]
enum Change {
    /// Detaches the endpoint with this last number of its address, or attaches it to the group.
    Endpoint(u8, GroupName),
    /// Sets an endpoint's container, which others may be of, too.
    Container(u8, u8),
    Newer(bool),
    Intent(Alteration),
}

fn change() -> impl Strategy<Value = Change> {
    let endpoint = || 1..=8_u8;
    prop_oneof![
        1 => (endpoint(), (0..5_u64).prop_map(group)).prop_map(|(it, of)| Change::Endpoint(it, of)),
        1 => (endpoint(), 0..3_u8).prop_map(|(it, container)| Change::Container(it, container)),
        1 => proptest::bool::weighted(0.33).prop_map(Change::Newer),
        5 => alteration().prop_map(Change::Intent),
    ]
}

impl Change {
    fn apply(self, mut facts: Facts, number: u32) -> Facts {
        match self {
            Self::Endpoint(last, group) => {
                let name = format!("e{last}");
                let id = EndpointId::new(&name).expect("valid");
                return match facts.locals.contains_key(&id) {
                    true => facts.detach(&name),
                    false => facts.in_group(group.as_str(), &name, &format!("20.1.1.{last}")),
                };
            }
            Self::Container(last, container) => {
                let id = EndpointId::new(format!("e{last}")).expect("valid");
                if let Some(endpoint) = facts.locals.get_mut(&id) {
                    Arc::make_mut(endpoint).container = Some(format!("c{container}"));
                }
            }
            Self::Newer(newer) => facts.projection.open(&red()).newer = newer,
            Self::Intent(alteration) => {
                let tenant = facts.projection.open(&red());
                let networks = tenant.networks.clone();
                alteration.apply(tenant, number);
                tenant.networks = networks;
                tenant.ruled = tenant.ruled.next();
            }
        }
        facts
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The memo is no part of the result.
    #[test]
    fn incremental_and_from_scratch_results_are_equal(
        mut generated in tenant(),
        changes in vec(change(), 20..=40),
    ) {
        let mut facts = Facts::two_nodes();
        let base = facts.projection.open(&red()).clone();
        generated.networks = base.networks;
        generated.zone = base.zone;
        facts.projection.tenants.insert(red(), generated);
        let mut programs = kinds().map(|kind| (kind, Programs::default()));
        for (change, number) in changes.into_iter().zip(1_000..) {
            facts = change.apply(facts, number);
            for (kind, programs) in &mut programs {
                let params = params(*kind);
                let incremental = desired(&facts.projection, &facts.locals, &params, programs);
                assert_eq!(incremental, facts.desired(*kind));
            }
        }
    }
}
