//! The compiler against a model that walks the sorted rules, written from DESIGN's words alone.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::Flow;
use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{
    AddressRange, GroupId, GroupName, GroupSpec, NetworkName, NetworkSpec, PolicyName, Pool,
    RuleId, TenantName, Vni,
};

use super::*;
use crate::projection::{GroupFact, NetworkFact, PolicyFact, TenantFact};

/// A small generator (splitmix64), so that a failure names its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize].clone()
    }
}

fn group(number: u64) -> GroupName {
    GroupName::new(format!("g{number}")).expect("valid")
}

fn policy(number: u64) -> PolicyName {
    PolicyName::new(format!("p{number}")).expect("valid")
}

fn network(number: u64) -> NetworkName {
    NetworkName::new(format!("n{number}")).expect("valid")
}

fn ports(dice: &mut Dice) -> Vec<PortRange> {
    let ranges = (0..=dice.roll(3)).map(|_| {
        let edges = [0, 1, 79, 80, 81, 90, 443, 8080, 65_534, 65_535];
        let (a, b) = (dice.pick(&edges), dice.pick(&edges));
        PortRange {
            first: a.min(b),
            last: if dice.roll(2) == 0 {
                a.min(b)
            } else {
                a.max(b)
            },
        }
    });
    PortRange::normalise(ranges.collect())
}

fn address(dice: &mut Dice) -> Ipv4Addr {
    let edges = [
        0,
        0x1400_0000,
        0x1401_0000,
        0x1401_0001,
        0x1401_0080,
        0x1401_01ff,
        u32::MAX,
    ];
    let near = dice.roll(3) as u32;
    Ipv4Addr::from_bits(dice.pick(&edges).saturating_add(near))
}

fn peer(dice: &mut Dice) -> Option<Peer> {
    match dice.roll(5) {
        0 | 1 => None,
        // One more than there are: a rule about nobody.
        2 => Some(Peer::Group {
            group: group(dice.roll(5)),
        }),
        3 => Some(Peer::Network {
            network: network(dice.roll(3)),
        }),
        _ => {
            let (a, b) = (address(dice), address(dice));
            let range = AddressRange {
                first: a.min(b).into(),
                last: a.max(b).into(),
            };
            Some(Peer::Addresses { range })
        }
    }
}

fn rule(dice: &mut Dice, number: u32) -> Rule {
    let protocol = match dice.roll(7) {
        0 | 1 => None,
        2 => Some(Protocol::ICMP),
        3 => Some(Protocol(47)),
        4 => Some(Protocol::UDP),
        _ => Some(Protocol::TCP),
    };
    let with_ports = protocol.is_some_and(Protocol::has_ports) && dice.roll(4) > 0;
    let priorities: Vec<u8> = vec![1, 1, 2, 50, 100];
    Rule {
        id: RuleId::new(
            dice.pick(&["1", "2", "10", "9", "a", "b"]).to_owned() + &number.to_string(),
        )
        .expect("valid"),
        number,
        spec: RuleSpec {
            direction: dice.pick(&[Direction::In, Direction::Out]),
            priority: Priority::new(dice.pick(&priorities)).expect("in range"),
            action: dice.pick(&[Action::Allow, Action::Deny]),
            protocol,
            ports: if with_ports { ports(dice) } else { Vec::new() },
            peer: peer(dice),
        },
    }
}

fn tenant(dice: &mut Dice) -> TenantFact {
    let mut tenant = TenantFact::default();
    for (number, subnet) in [(0, "20.1.0.0/24"), (1, "20.1.1.0/25")] {
        let spec = NetworkSpec {
            tenant: TenantName::default_tenant(),
            name: network(number),
            vni: Vni(7),
            v4: Pool {
                subnet: subnet.parse().expect("a subnet"),
                gateway: IpAddr::V4(Ipv4Addr::new(20, 1, 1, 126)),
                range: None,
            },
            v6: None,
            docker_name: None,
        };
        let fact = NetworkFact {
            spec,
            closing: false,
            pools: Default::default(),
            blocks: Default::default(),
        };
        tenant.networks.insert(network(number), fact);
    }
    let mut number = 0;
    for name in 0..3 {
        let mut fact = PolicyFact::default();
        for _ in 0..dice.roll(12) {
            number += 1;
            let rule = rule(dice, number);
            fact.rules.insert(rule.id.clone(), rule);
        }
        tenant.policies.insert(policy(name), fact);
    }
    for name in 0..4 {
        let policies = (0..3).filter(|_| dice.roll(2) == 0).map(policy);
        let spec = GroupSpec {
            tenant: TenantName::default_tenant(),
            network: network(0),
            name: group(name),
            id: GroupId(name as u16 + 2),
            policies: policies.collect(),
            docker_name: None,
            pool: None,
        };
        tenant.groups.insert(
            group(name),
            GroupFact {
                spec,
                closing: false,
                newer: false,
            },
        );
    }
    tenant
}

/// What DESIGN says: the rules of all the group's policies, the higher priority first, then deny,
/// then the lower id; the first that matches decides, and none is an allow.
fn naive(
    tenant: &TenantFact,
    direction: Direction,
    member: Option<&GroupName>,
    other: (Option<&GroupName>, IpAddr),
    flow: &Flow,
) -> (Action, Option<u8>) {
    let Some(group) = member.and_then(|name| tenant.groups.get(name)) else {
        return (Action::Allow, None);
    };
    let mut rules: Vec<&Rule> = Vec::new();
    for policy in &group.spec.policies {
        rules.extend(tenant.policies[policy].rules.values());
    }
    rules.sort_by(|a, b| {
        let priority = u8::from(b.spec.priority).cmp(&u8::from(a.spec.priority));
        let deny = |rule: &Rule| u8::from(rule.spec.action == Action::Allow);
        let ids = || a.id.precedence(&b.id);
        priority.then(deny(a).cmp(&deny(b))).then_with(ids)
    });
    let first = rules.into_iter().find(|rule| {
        let spec = &rule.spec;
        spec.direction == direction
            && spec.protocol.is_none_or(|it| it == flow.protocol)
            && (spec.ports.is_empty()
                || flow
                    .port
                    .is_some_and(|port| spec.ports.iter().any(|it| it.contains(port))))
            && match &spec.peer {
                None => true,
                Some(Peer::Group { group }) => other.0 == Some(group),
                Some(Peer::Network { network }) => tenant
                    .networks
                    .get(network)
                    .is_some_and(|it| it.spec.v4.subnet.contains(&other.1)),
                Some(Peer::Addresses { range }) => range.contains(other.1),
            }
    });
    match first {
        Some(rule) => (rule.spec.action, Some(rule.spec.priority.into())),
        None => (Action::Allow, None),
    }
}

fn flow(dice: &mut Dice) -> Flow {
    let protocols = [
        Protocol::TCP,
        Protocol::TCP,
        Protocol::UDP,
        Protocol::ICMP,
        Protocol(47),
    ];
    let protocol = dice.pick(&protocols);
    let edges: [u16; 12] = [0, 1, 2, 79, 80, 81, 90, 91, 443, 8080, 65_534, 65_535];
    Flow {
        tenant: TenantName::default_tenant(),
        from: address(dice).into(),
        to: address(dice).into(),
        protocol,
        port: protocol.has_ports().then(|| dice.pick(&edges)),
    }
}

#[test]
fn the_compiled_rules_say_what_the_first_match_says() {
    let mut decided = [0; 2];
    for seed in 0..2_000 {
        let dice = &mut Dice(seed);
        let tenant = tenant(dice);
        let mut cache = Cache::default();
        for _ in 0..20 {
            let flow = flow(dice);
            let member = |dice: &mut Dice| (dice.roll(5) > 0).then(|| group(dice.roll(4)));
            let (from, to) = (member(dice), member(dice));
            let deciding = Deciding {
                tenant: &tenant,
                from: &End::Endpoint(from.clone()),
                to: &End::Endpoint(to.clone()),
            };
            let trace = decide(&deciding, &flow, &mut cache);
            let out = naive(
                &tenant,
                Direction::Out,
                from.as_ref(),
                (to.as_ref(), flow.to),
                &flow,
            );
            let incoming = naive(
                &tenant,
                Direction::In,
                to.as_ref(),
                (from.as_ref(), flow.from),
                &flow,
            );
            let said: Vec<_> = trace
                .ends
                .iter()
                .map(|end| {
                    let rule = end.rule.as_ref();
                    let rule = rule.map(|(policy, id)| &tenant.policies[policy].rules[id]);
                    (end.action, rule.map(|rule| u8::from(rule.spec.priority)))
                })
                .collect();
            assert_eq!(
                said,
                [out, incoming],
                "seed {seed}: {flow:?} {from:?} {to:?}"
            );
            let allowed = out.0 == Action::Allow && incoming.0 == Action::Allow;
            assert_eq!(trace.allowed, allowed, "seed {seed}");
            decided[usize::from(allowed)] += 1;
        }
    }
    assert!(decided.iter().all(|count| *count > 5_000), "{decided:?}");
}

#[test]
fn nothing_is_opened_to_or_by_an_address_that_is_nobodys() {
    let dice = &mut Dice(1);
    let (flow, member) = (flow(dice), End::Endpoint(None));
    let tenant = TenantFact::default();
    for (from, to, nobodys) in [
        (&member, &End::Unknown, flow.to),
        (&End::Unknown, &member, flow.from),
    ] {
        let deciding = Deciding {
            tenant: &tenant,
            from,
            to,
        };
        let trace = decide(&deciding, &flow, &mut Cache::default());
        let said = format!("no endpoint has the address {nobodys}");
        assert_eq!((trace.allowed, trace.closed), (false, Some(said)));
    }
}

fn listed(rules: u32) -> Vec<Listed> {
    let nested = |rank: u32| Listed {
        ranges: vec![(
            Ipv4Addr::from_bits(rank),
            Ipv4Addr::from_bits(1_000_000 - rank),
        )],
        protocol: Some(Protocol::TCP),
        ports: vec![PortRange {
            first: rank as u16,
            last: 40_000,
        }],
        value: Value(rank),
    };
    (0..rules).rev().map(nested).collect()
}

#[test]
fn ranges_within_ranges_become_a_list_and_mean_the_same() {
    let few = Addresses::new(listed(100));
    assert!(matches!(few, Addresses::Classes(_)));
    let many = Addresses::new(listed(2_000));
    assert!(matches!(many, Addresses::List(_)));
    let of_few = Addresses::List(listed(100));
    let dice = &mut Dice(7);
    for _ in 0..2_000 {
        let address = Ipv4Addr::from_bits(dice.pick(&[0, 999_890]) + dice.roll(120) as u32);
        let port = dice.roll(130) as u16;
        assert_eq!(
            few.find(address, Protocol::TCP, port),
            of_few.find(address, Protocol::TCP, port),
            "{address} {port}"
        );
    }
}

#[test]
fn what_nobody_changed_is_not_compiled_again() {
    let dice = &mut Dice(3);
    let name = TenantName::default_tenant();
    let mut tenant = tenant(dice);
    let policies = [policy(0), policy(1)];
    let mut cache = Cache::default();
    let mut program =
        |tenant: &TenantFact| cache.program((&name, tenant), &policies, Direction::In);
    let first = program(&tenant);
    let elsewhere = rule(dice, 900);
    let changed = tenant.policies.get_mut(&policy(2)).expect("there");
    changed.rules.insert(elsewhere.id.clone(), elsewhere);
    assert!(std::sync::Arc::ptr_eq(&first, &program(&tenant)));
    let mut here = rule(dice, 901);
    here.spec.direction = Direction::In;
    let changed = tenant.policies.get_mut(&policy(1)).expect("there");
    changed.rules.insert(here.id.clone(), here);
    assert!(!std::sync::Arc::ptr_eq(&first, &program(&tenant)));
}

#[test]
fn what_must_end_is_of_the_policies_groups_and_denied_now() {
    let mut tenant = TenantFact::default();
    let named = PolicyName::new("p").expect("valid");
    let deny = Rule {
        id: RuleId::new("1").expect("valid"),
        number: 1,
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: Some(Protocol::TCP),
            ports: vec!["80".parse().expect("a port")],
            peer: None,
        },
    };
    let mut policy = PolicyFact::default();
    policy.rules.insert(deny.id.clone(), deny);
    tenant.policies.insert(named.clone(), policy);
    for (number, policies) in [(0, vec![named.clone()]), (1, vec![])] {
        let spec = GroupSpec {
            tenant: TenantName::default_tenant(),
            network: network(0),
            name: group(number),
            id: GroupId(number as u16 + 2),
            policies,
            docker_name: None,
            pool: None,
        };
        let closing = false;
        tenant.groups.insert(
            group(number),
            GroupFact {
                spec,
                closing,
                newer: false,
            },
        );
    }
    let member = IpAddr::from([10, 0, 0, 1]);
    let other = IpAddr::from([10, 0, 0, 2]);
    let stranger = IpAddr::from([10, 0, 0, 3]);
    let gateway = IpAddr::from([10, 0, 0, 254]);
    let end = |address| match address {
        it if it == member => End::Endpoint(Some(group(0))),
        it if it == other => End::Endpoint(Some(group(1))),
        _ => End::Unknown,
    };
    let policies = [named];
    let ends = |from, to, port| {
        let flow = Flow {
            tenant: TenantName::default_tenant(),
            from,
            to,
            protocol: Protocol::TCP,
            port: Some(port),
        };
        let ends = (end(from), end(to));
        must_end(&tenant, &policies, &flow, ends, &mut Cache::default())
    };
    assert!(ends(other, member, 80), "denied now");
    assert!(!ends(other, member, 81), "allowed");
    assert!(!ends(member, other, 80), "nothing denies it there");
    assert!(!ends(other, other, 80), "not of the policy's groups");
    assert!(
        ends(stranger, member, 81),
        "as its packets would be dropped"
    );
    assert!(!ends(member, gateway, 80), "no endpoint, no rules");
}
