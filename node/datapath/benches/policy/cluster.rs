//! A big cluster, told by events.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::event::{
    BlockLeased, BlockReturned, Event, GroupCreated, NetworkCreated, NodeJoined, PolicyCreated,
    RuleAdded, RuleRemoved,
};
use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{
    AddressRange, Endpoint, EndpointEvent, EndpointId, EventId, GroupId, GroupName, GroupSpec,
    MacAddr, MachineId, NetworkName, NetworkSpec, NodeName, PolicyName, Pool, RuleId, TenantName,
    Vni,
};
use ipnet::{IpNet, Ipv4Net};
use node_core::desired::interface_names;
use node_core::endpoint::{LocalEndpoint, Locals, Owner};
use node_core::projection::{EndpointsView, Projection};
use uuid::Uuid;

pub(crate) const RULES: u32 = 10_000;
pub(crate) const GROUPS: u16 = 1_000;
pub(crate) const NODES: u32 = 1_000;
pub(crate) const MEMBERS: u32 = 100_000;
pub(crate) const LOCAL: u32 = MEMBERS / NODES;
/// Each of as many rules; a group has one of them.
const POLICIES: u32 = 10;

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) facts: Projection,
    pub(crate) locals: Locals,
    pub(crate) view: EndpointsView,
}

pub(crate) fn tenant() -> TenantName {
    TenantName::default_tenant()
}

pub(crate) fn node(number: u32) -> NodeName {
    NodeName::new(format!("node-{number}")).expect("valid")
}

pub(crate) fn vtep(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xc612_0001 + number).into()
}

fn network() -> NetworkName {
    NetworkName::new("net").expect("valid")
}

fn group(number: u32) -> GroupName {
    GroupName::new(format!("group-{number}")).expect("valid")
}

fn policy(number: u32) -> PolicyName {
    PolicyName::new(format!("policy-{number}")).expect("valid")
}

/// A node's block, a /24.
fn block(number: u32) -> Ipv4Net {
    Ipv4Net::new(Ipv4Addr::from_bits(0x1400_0000 + number * 256), 24).expect("a block")
}

impl Cluster {
    pub(crate) fn events(&mut self) {
        self.events_without_endpoints();
        for number in 0..MEMBERS {
            let endpoint = endpoint(number);
            if number % NODES == 0 {
                let local = local(&endpoint);
                self.locals.insert(endpoint.id.clone(), local.into());
            }
            let applied = self.facts.applied;
            self.view.hear(EndpointEvent::Up { endpoint, applied });
        }
    }

    /// Besides a few on this node.
    pub(crate) fn events_without_endpoints(&mut self) {
        for number in 0..NODES {
            self.tell(&Event::NodeJoined(NodeJoined {
                node: node(number),
                machine: MachineId(format!("machine-{number}")),
                vtep: vtep(number),
            }));
        }
        self.tell(&Event::NetworkCreated(NetworkCreated {
            network: NetworkSpec::new(
                tenant(),
                network(),
                Vni(1001),
                Pool {
                    subnet: "20.0.0.0/8".parse().expect("a subnet"),
                    gateway: IpAddr::from([20, 255, 255, 254]),
                    range: None,
                },
            ),
        }));
        for number in 0..NODES {
            self.lease(number);
        }
        for number in 0..POLICIES {
            self.tell(&Event::PolicyCreated(PolicyCreated {
                tenant: tenant(),
                policy: policy(number),
            }));
        }
        for number in 0..u32::from(GROUPS) {
            self.tell(&Event::GroupCreated(GroupCreated {
                group: GroupSpec {
                    tenant: tenant(),
                    network: network(),
                    name: group(number),
                    id: GroupId(number as u16 + 2),
                    policies: vec![policy(number % POLICIES)],
                    docker_name: None,
                    pool: None,
                },
            }));
        }
        for number in 0..RULES {
            self.rule(number);
        }
        for number in 0..LOCAL {
            let endpoint = endpoint(number * NODES);
            self.locals
                .insert(endpoint.id.clone(), local(&endpoint).into());
        }
        self.view.advance(self.facts.applied, &self.facts.nodes);
    }

    fn tell(&mut self, event: &Event) {
        let revision = self.facts.applied.next();
        self.facts.apply(revision, EventId(Uuid::nil()), event);
    }

    fn rule(&mut self, number: u32) {
        self.tell(&Event::RuleAdded(RuleAdded {
            tenant: tenant(),
            policy: policy(number % POLICIES),
            rule: rule(number),
        }));
    }

    fn lease(&mut self, number: u32) {
        self.tell(&Event::BlockLeased(BlockLeased {
            tenant: tenant(),
            network: network(),
            group: None,
            block: IpNet::V4(block(number)),
            node: node(number % NODES),
        }));
    }

    /// One more, and the next time less.
    pub(crate) fn change_a_rule(&mut self, time: usize) {
        let number = RULES + time as u32 / 2;
        if time.is_multiple_of(2) {
            self.rule(number);
        } else {
            self.tell(&Event::RuleRemoved(RuleRemoved {
                tenant: tenant(),
                policy: policy(number % POLICIES),
                rule: rule(number).id,
            }));
        }
        self.view.advance(self.facts.applied, &self.facts.nodes);
    }

    pub(crate) fn change_a_member(&mut self, time: usize) {
        let number = MEMBERS + time as u32 * NODES + 1;
        let applied = self.facts.applied;
        let endpoint = endpoint(number);
        self.view.hear(EndpointEvent::Up { endpoint, applied });
    }

    pub(crate) fn change_a_block(&mut self, time: usize) {
        let number = NODES + time as u32 / 2 + 1;
        if time.is_multiple_of(2) {
            self.lease(number);
        } else {
            self.tell(&Event::BlockReturned(BlockReturned {
                tenant: tenant(),
                network: network(),
                group: None,
                block: IpNet::V4(block(number)),
                node: node(number % NODES),
            }));
        }
    }
}

/// The address is one of its node's block; ten groups have 10,000 members each.
fn endpoint(number: u32) -> Endpoint {
    let (of, index) = (number % NODES, number / NODES);
    let address = Ipv4Addr::from_bits(block(of).network().to_bits() + index % 250 + 1);
    let id = EndpointId::new(format!("endpoint-{number}")).expect("valid");
    Endpoint {
        interface: interface_names(&id).0,
        id,
        tenant: tenant(),
        network: network(),
        group: Some(group(index % 10)),
        node: node(of),
        vtep: vtep(of),
        v4: Some(address),
        v6: None,
        mac: MacAddr::of_endpoint(address.into()),
        name: Some(format!("name-{number}")),
        aliases: Vec::new(),
        container: Some(format!("container-{number}")),
        closed: None,
    }
}

fn local(endpoint: &Endpoint) -> LocalEndpoint {
    let (host_interface, peer_interface) = interface_names(&endpoint.id);
    LocalEndpoint {
        id: endpoint.id.clone(),
        tenant: tenant(),
        network: network(),
        group: endpoint.group.clone(),
        addresses: endpoint.addresses().collect(),
        mac: endpoint.mac,
        host_interface,
        peer_interface,
        owner: Owner::Docker {
            network_id: "0".to_owned(),
        },
        name: None,
        aliases: Vec::new(),
        container: None,
        mtu: None,
    }
}

/// Mixed ports, overlapping ranges, CIDRs and groups, in twenty priorities.
fn rule(number: u32) -> Rule {
    let mut random = fastrand::Rng::with_seed(number.into());
    let peer = match number / POLICIES % 5 {
        0 | 1 => Some(Peer::Group {
            group: group(random.u32(..u32::from(GROUPS))),
        }),
        2 | 3 => {
            let length = random.u8(12..=32);
            let address = Ipv4Addr::from_bits(random.u32(..));
            let net = Ipv4Net::new(address, length).expect("a prefix").trunc();
            let range = AddressRange {
                first: net.network().into(),
                last: net.broadcast().into(),
            };
            Some(Peer::Addresses { range })
        }
        _ => None,
    };
    let first = random.u16(1..60_000);
    let last = first
        + if random.bool() {
            0
        } else {
            random.u16(1..2_000)
        };
    let actions = [Action::Allow, Action::Deny];
    Rule {
        id: RuleId::new(number.to_string()).expect("valid"),
        number: number + 1,
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::new(random.u8(1..=20)).expect("in range"),
            action: actions[usize::from(random.bool())],
            protocol: Some([Protocol::TCP, Protocol::UDP][usize::from(random.u8(..4) == 0)]),
            ports: vec![PortRange { first, last }],
            peer,
        },
    }
}
