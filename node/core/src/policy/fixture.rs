//! Strategies that generate rules, groups and policies for tests.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{
    AddressRange, GroupId, GroupName, GroupSpec, NetworkName, NetworkSpec, PolicyName, Pool,
    RuleId, TenantName, Vni,
};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::{array, collection, option};

use crate::projection::{GroupFact, NetworkFact, PolicyFact, TenantFact};

const NETWORKS: [(u64, &str); 2] = [(0, "20.1.0.0/24"), (1, "20.1.1.0/25")];

pub(crate) fn group(number: u64) -> GroupName {
    GroupName::new(format!("g{number}")).expect("valid")
}

pub(crate) fn policy(number: u64) -> PolicyName {
    PolicyName::new(format!("p{number}")).expect("valid")
}

fn network(number: u64) -> NetworkName {
    NetworkName::new(format!("n{number}")).expect("valid")
}

fn ports() -> impl Strategy<Value = Vec<PortRange>> {
    let edge = || select(vec![0, 1, 79, 80, 81, 90, 443, 8080, 65_534, 65_535]);
    let range = (edge(), edge(), any::<bool>()).prop_map(|(a, b, several): (u16, u16, bool)| {
        let first = a.min(b);
        let last = if several { a.max(b) } else { first };
        PortRange { first, last }
    });
    collection::vec(range, 1..=3).prop_map(PortRange::normalise)
}

pub(crate) fn address() -> impl Strategy<Value = Ipv4Addr> {
    let edges = vec![
        0,
        0x1400_0000,
        0x1401_0000,
        0x1401_0001,
        0x1401_0080,
        0x1401_01ff,
        u32::MAX,
    ];
    let near = (select(edges), 0..3_u32);
    near.prop_map(|(edge, distance)| Ipv4Addr::from_bits(edge.saturating_add(distance)))
}

/// A peer. There is one group and one network less than it may name.
fn peer() -> impl Strategy<Value = Option<Peer>> {
    let addresses = (address(), address()).prop_map(|(a, b)| AddressRange {
        first: a.min(b).into(),
        last: a.max(b).into(),
    });
    prop_oneof![
        2 => Just(None),
        1 => (0..5_u64).prop_map(|number| Some(Peer::Group { group: group(number) })),
        1 => (0..3_u64).prop_map(|number| Some(Peer::Network { network: network(number) })),
        1 => addresses.prop_map(|range| Some(Peer::Addresses { range })),
    ]
}

/// The beginning of a rule's id, and its content: [`rule`] makes a rule of it.
pub(crate) type Draft = (&'static str, RuleSpec);

pub(crate) fn draft() -> impl Strategy<Value = Draft> {
    let protocol = prop_oneof![
        2 => Just(None),
        1 => Just(Some(Protocol::ICMP)),
        1 => Just(Some(Protocol(47))),
        1 => Just(Some(Protocol::UDP)),
        2 => Just(Some(Protocol::TCP)),
    ];
    let decision = (
        select(vec![1, 1, 2, 50, 100]),
        select(vec![Action::Allow, Action::Deny]),
        select(vec![Direction::In, Direction::Out]),
    );
    let ports = option::weighted(0.75, ports());
    let id = select(vec!["1", "2", "10", "9", "a", "b"]);
    let parts = (id, decision, protocol, ports, peer());
    parts.prop_map(
        |(id, (priority, action, direction), protocol, ports, peer)| {
            let has_ports = protocol.is_some_and(Protocol::has_ports);
            let spec = RuleSpec {
                direction,
                priority: Priority::new(priority).expect("in range"),
                action,
                protocol,
                ports: ports.filter(|_| has_ports).unwrap_or_default(),
                peer,
            };
            (id, spec)
        },
    )
}

pub(crate) fn rule((id, spec): Draft, number: u32) -> Rule {
    let id = RuleId::new(format!("{id}{number}")).expect("valid");
    Rule { id, number, spec }
}

fn policies_of_group() -> impl Strategy<Value = Vec<PolicyName>> {
    subsequence((0..3).map(policy).collect::<Vec<_>>(), 0..=3)
}

pub(crate) fn group_fact(name: GroupName, id: GroupId, policies: Vec<PolicyName>) -> GroupFact {
    let spec = GroupSpec {
        tenant: TenantName::default_tenant(),
        network: network(0),
        name,
        id,
        policies,
        docker_name: None,
        pool: None,
    };
    GroupFact {
        spec,
        closing: false,
        newer: false,
    }
}

fn network_fact(number: u64, subnet: &str) -> NetworkFact {
    let spec = NetworkSpec::new(
        TenantName::default_tenant(),
        network(number),
        Vni(7),
        Pool {
            subnet: subnet.parse().expect("a subnet"),
            gateway: IpAddr::V4(Ipv4Addr::new(20, 1, 1, 126)),
            range: None,
        },
    );
    NetworkFact {
        spec,
        closing: false,
        pools: Default::default(),
        blocks: Default::default(),
    }
}

/// A tenant with two networks, three policies and four groups.
pub(crate) fn tenant() -> impl Strategy<Value = TenantFact> {
    let policies = array::uniform3(collection::vec(draft(), 0..12));
    let groups = array::uniform4(policies_of_group());
    (policies, groups).prop_map(|(policies, groups)| {
        let mut tenant = TenantFact::default();
        for (number, subnet) in NETWORKS {
            let fact = network_fact(number, subnet);
            tenant.networks.insert(network(number), fact);
        }
        let mut numbers = 1..;
        for (name, drafts) in (0..).zip(policies) {
            let mut fact = PolicyFact::default();
            for (draft, number) in drafts.into_iter().zip(&mut numbers) {
                let rule = rule(draft, number);
                fact.rules.insert(rule.id.clone(), rule);
            }
            tenant.policies.insert(policy(name), fact);
        }
        for ((number, policies), id) in (0..).zip(groups).zip(2..) {
            let fact = group_fact(group(number), GroupId(id), policies);
            tenant.groups.insert(group(number), fact);
        }
        tenant
    })
}

/// A change of a tenant.
#[derive(Debug, Clone)]
pub(crate) enum Alteration {
    AddRule(PolicyName, Draft),
    RemoveRule(PolicyName, Index),
    /// Removes the group, or creates it with a free id: ids are reused.
    Group(GroupName, Index, Vec<PolicyName>),
    Policies(Index, Vec<PolicyName>),
    Subnet(NetworkName, &'static str),
}

pub(crate) fn alteration() -> impl Strategy<Value = Alteration> {
    let any_policy = || (0..3_u64).prop_map(policy);
    let subnet = select(vec!["20.1.0.0/24", "20.1.1.0/25", "20.1.0.0/23"]);
    prop_oneof![
        5 => (any_policy(), draft()).prop_map(|(of, draft)| Alteration::AddRule(of, draft)),
        2 => (any_policy(), any::<Index>()).prop_map(|(of, rule)| Alteration::RemoveRule(of, rule)),
        1 => ((0..5_u64).prop_map(group), any::<Index>(), policies_of_group())
            .prop_map(|(name, id, policies)| Alteration::Group(name, id, policies)),
        1 => (any::<Index>(), policies_of_group())
            .prop_map(|(group, policies)| Alteration::Policies(group, policies)),
        1 => ((0..3_u64).prop_map(network), subnet)
            .prop_map(|(name, subnet)| Alteration::Subnet(name, subnet)),
    ]
}

impl Alteration {
    /// `number` is that of a new rule.
    pub(crate) fn apply(self, tenant: &mut TenantFact, number: u32) {
        match self {
            Self::AddRule(policy, draft) => {
                let rule = rule(draft, number);
                let policy = tenant.policies.entry(policy).or_default();
                policy.rules.insert(rule.id.clone(), rule);
            }
            Self::RemoveRule(policy, rule) => {
                let rules = &mut tenant.policies.entry(policy).or_default().rules;
                if let Some(id) = pick(rules.keys(), rule) {
                    rules.remove(&id);
                }
            }
            Self::Group(name, id, policies) => {
                if tenant.groups.remove(&name).is_none() {
                    let taken: Vec<u16> = tenant.groups.values().map(|it| it.spec.id.0).collect();
                    let free = (2..9).filter(|id| !taken.contains(id)).map(GroupId);
                    let id = *id.get(&free.collect::<Vec<_>>());
                    let fact = group_fact(name.clone(), id, policies);
                    tenant.groups.insert(name, fact);
                }
            }
            Self::Policies(group, policies) => {
                let name = pick(tenant.groups.keys(), group);
                if let Some(group) = name.and_then(|name| tenant.groups.get_mut(&name)) {
                    group.spec.policies = policies;
                }
            }
            Self::Subnet(name, subnet) => {
                if let Some(network) = tenant.networks.get_mut(&name) {
                    network.spec.v4.subnet = subnet.parse().expect("a subnet");
                }
            }
        }
    }
}

fn pick<'a, T: Clone + 'a>(of: impl Iterator<Item = &'a T>, index: Index) -> Option<T> {
    let all: Vec<&T> = of.collect();
    (!all.is_empty()).then(|| (*index.get(&all)).clone())
}
