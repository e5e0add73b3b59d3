//! Random rules, groups and policies for tests.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{
    AddressRange, GroupId, GroupName, GroupSpec, NetworkName, NetworkSpec, PolicyName, Pool,
    RuleId, TenantName, Vni,
};

use crate::projection::{GroupFact, NetworkFact, PolicyFact, TenantFact};

/// A small generator (splitmix64), so that a failure names its seed.
#[derive(Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % sides
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize].clone()
    }
}

pub fn group(number: u64) -> GroupName {
    GroupName::new(format!("g{number}")).expect("valid")
}

pub fn policy(number: u64) -> PolicyName {
    PolicyName::new(format!("p{number}")).expect("valid")
}

pub fn network(number: u64) -> NetworkName {
    NetworkName::new(format!("n{number}")).expect("valid")
}

pub fn ports(dice: &mut Dice) -> Vec<PortRange> {
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

pub fn address(dice: &mut Dice) -> Ipv4Addr {
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

pub fn peer(dice: &mut Dice) -> Option<Peer> {
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

pub fn rule(dice: &mut Dice, number: u32) -> Rule {
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

pub fn tenant(dice: &mut Dice) -> TenantFact {
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

/// Something of a tenant comes, goes or becomes another; `number` is a new one.
pub fn alter(dice: &mut Dice, tenant: &mut TenantFact, number: u32) {
    match dice.roll(10) {
        0..5 => {
            let name = policy(dice.roll(3));
            let rules = &mut tenant.policies.entry(name).or_default().rules;
            let rule = rule(dice, number);
            rules.insert(rule.id.clone(), rule);
        }
        5..7 => {
            let name = policy(dice.roll(3));
            let rules = &mut tenant.policies.entry(name).or_default().rules;
            let ids: Vec<_> = rules.keys().cloned().collect();
            if !ids.is_empty() {
                rules.remove(&dice.pick(&ids));
            }
        }
        7 => {
            // A group, or another one with its name and id, or none; ids are given again.
            let name = group(dice.roll(5));
            if tenant.groups.remove(&name).is_none() {
                let taken: Vec<u16> = tenant.groups.values().map(|it| it.spec.id.0).collect();
                let free: Vec<u16> = (2..9).filter(|id| !taken.contains(id)).collect();
                let id = GroupId(dice.pick(&free));
                let policies = (0..3).filter(|_| dice.roll(2) == 0).map(policy);
                let spec = GroupSpec {
                    tenant: TenantName::default_tenant(),
                    network: network(0),
                    name: name.clone(),
                    id,
                    policies: policies.collect(),
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
        }
        8 => {
            let names: Vec<_> = tenant.groups.keys().cloned().collect();
            if names.is_empty() {
                return;
            }
            if let Some(group) = tenant.groups.get_mut(&dice.pick(&names)) {
                let policies = (0..3).filter(|_| dice.roll(2) == 0).map(policy);
                group.spec.policies = policies.collect();
            }
        }
        _ => {
            let name = network(dice.roll(3));
            let subnets = ["20.1.0.0/24", "20.1.1.0/25", "20.1.0.0/23"];
            if let Some(network) = tenant.networks.get_mut(&name) {
                network.spec.v4.subnet = dice.pick(&subnets).parse().expect("a subnet");
            }
        }
    }
}
