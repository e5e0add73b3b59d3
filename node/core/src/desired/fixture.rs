//! Facts for tests, with a short notation, and the scenarios made of them.

use std::net::IpAddr;

use bus_schema::node::DomainKind;
use bus_schema::{
    Egress, EndpointId, MacAddr, MachineId, NetworkName, NetworkSpec, NodeName, Pool, TenantName,
    Vni,
};
use ipnet::IpNet;

use super::{Params, Programs, desired, interface_names};
use crate::endpoint::{LocalEndpoint, Locals, Owner};
use crate::projection::{NetworkFact, NodeFact, Projection};
use crate::resource::{State, Uplink};

/// The facts of node `n1`, with the VTEP 198.18.0.1, and its own endpoints.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub projection: Projection,
    pub locals: Locals,
}

/// A named change of facts.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub title: &'static str,
    /// Absent: a kernel with nothing of ours.
    pub before: Option<Facts>,
    pub facts: Facts,
}

pub fn kinds() -> [DomainKind; 2] {
    [DomainKind::Netns, DomainKind::Vrf]
}

pub fn red() -> TenantName {
    TenantName::new("red").expect("valid")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("valid")
}

impl Facts {
    /// Nodes `n1` and `n2`, and the network `net` of tenant `red`, with a block on each.
    pub fn two_nodes() -> Self {
        Self::default()
            .node("n1", "198.18.0.1")
            .node("n2", "198.18.0.2")
            .network("net", 1001, "20.1.1.0/24", "20.1.1.254")
            .block("net", "20.1.1.0/28", "n1")
            .block("net", "20.1.1.16/28", "n2")
    }

    pub fn node(mut self, name: &str, vtep: &str) -> Self {
        let fact = NodeFact::new(MachineId(format!("machine of {name}")), ip(vtep));
        self.projection.nodes.insert(node(name), fact);
        self
    }

    pub fn network(mut self, name: &str, vni: u32, subnet: &str, gateway: &str) -> Self {
        let spec = NetworkSpec::new(
            red(),
            NetworkName::new(name).expect("valid"),
            Vni(vni),
            Pool {
                subnet: subnet.parse().expect("a subnet"),
                gateway: ip(gateway),
                range: None,
            },
        );
        let fact = NetworkFact {
            spec: spec.clone(),
            closing: false,
            pools: Default::default(),
            blocks: Default::default(),
        };
        let tenant = self.projection.open(&red());
        tenant.networks.insert(spec.name, fact);
        self
    }

    pub fn block(mut self, network: &str, block: &str, holder: &str) -> Self {
        let block: IpNet = block.parse().expect("a block");
        let tenant = self.projection.open(&red());
        let network = NetworkName::new(network).expect("valid");
        if let Some(fact) = tenant.networks.get_mut(&network) {
            fact.blocks.insert(block, node(holder));
        }
        self
    }

    /// Gives a network a way out.
    pub fn way_out(mut self, network: &str) -> Self {
        let tenant = self.projection.open(&red());
        let network = NetworkName::new(network).expect("valid");
        if let Some(fact) = tenant.networks.get_mut(&network) {
            fact.spec.egress = Some(Egress::Nat);
        }
        self
    }

    pub fn without_network(mut self, name: &str) -> Self {
        let tenant = self.projection.open(&red());
        tenant
            .networks
            .remove(&NetworkName::new(name).expect("valid"));
        self
    }

    /// An endpoint of `net` in a container of its own name.
    pub fn endpoint(self, name: &str, address: &str) -> Self {
        self.endpoint_of(name, "net", address, name)
    }

    pub fn endpoint_of(
        mut self,
        name: &str,
        network: &str,
        address: &str,
        container: &str,
    ) -> Self {
        let id = EndpointId::new(name).expect("valid");
        let (host_interface, peer_interface) = interface_names(&id);
        let endpoint = LocalEndpoint {
            id: id.clone(),
            tenant: red(),
            network: NetworkName::new(network).expect("valid"),
            group: None,
            addresses: vec![ip(address)],
            mac: MacAddr::of_endpoint(ip(address)),
            host_interface,
            peer_interface,
            owner: Owner::Docker {
                network_id: "0".to_owned(),
            },
            name: Some(name.to_owned()),
            aliases: Vec::new(),
            container: Some(container.to_owned()),
            mtu: None,
        };
        self.locals.insert(id, endpoint.into());
        self
    }

    pub fn detach(mut self, name: &str) -> Self {
        self.locals.remove(&EndpointId::new(name).expect("valid"));
        self
    }

    pub fn desired(&self, kind: DomainKind) -> State {
        desired(
            &self.projection,
            &self.locals,
            &params(kind),
            &mut Programs::default(),
        )
    }
}

pub fn params(kind: DomainKind) -> Params {
    Params {
        max_connections: 65_536,
        outer_mark: None,
        node: node("n1"),
        kind,
        vtep: ip("198.18.0.1"),
        underlay_mtu: 1500,
        underlay_interface: "eth0".to_owned(),
        uplink_pool: Uplink::DEFAULT_POOL,
        resolvers: Default::default(),
    }
}

pub fn scenarios() -> Vec<Scenario> {
    let base = Facts::two_nodes();
    let web = base.clone().endpoint("web", "20.1.1.1");
    let mut scenarios = growing(&base, &web);
    scenarios.extend(shrinking(&base, &web));
    scenarios
}

fn scenario(name: &'static str, title: &'static str, before: &Facts, facts: Facts) -> Scenario {
    Scenario {
        name,
        title,
        before: Some(before.clone()),
        facts,
    }
}

/// Facts `web` are `base` with an endpoint.
fn growing(base: &Facts, web: &Facts) -> Vec<Scenario> {
    vec![
        Scenario {
            name: "first-start",
            title: "a node with a block of one network starts for the first time",
            before: None,
            facts: base.clone(),
        },
        scenario(
            "no-domain",
            "a tenant without endpoint or block here has no domain here",
            &Facts::default().node("n1", "198.18.0.1"),
            Facts::default().node("n1", "198.18.0.1").network(
                "net",
                1001,
                "20.1.1.0/24",
                "20.1.1.254",
            ),
        ),
        scenario(
            "attach",
            "an endpoint comes: elements, not rules",
            base,
            web.clone(),
        ),
        scenario(
            "detach",
            "an endpoint goes, and its connections with it",
            web,
            base.clone(),
        ),
        scenario(
            "block-elsewhere",
            "another node gets a block, and one address of ours is ceded to it",
            base,
            base.clone()
                .block("net", "20.1.1.32/28", "n2")
                .block("net", "20.1.1.7/32", "n2"),
        ),
    ]
}

fn shrinking(base: &Facts, web: &Facts) -> Vec<Scenario> {
    let out = || web.clone().way_out("net");
    let second = |facts: Facts| {
        facts
            .network("back", 1002, "20.1.2.0/24", "20.1.2.254")
            .block("back", "20.1.2.0/28", "n1")
    };
    vec![
        scenario(
            "two-networks",
            "a container joins a second network: either interface may send from either address",
            &second(web.clone()),
            second(web.clone()).endpoint_of("web-back", "back", "20.1.2.1", "web"),
        ),
        scenario(
            "forced-removal",
            "a network is removed by force: its endpoint is closed, its veth stays",
            web,
            web.clone().without_network("net"),
        ),
        scenario(
            "revoked",
            "the block of an endpoint is another node's now: the endpoint is closed",
            web,
            web.clone().block("net", "20.1.1.0/28", "n2"),
        ),
        scenario(
            "way-out",
            "a network gets a way out: an uplink, and the host's rules about it",
            web,
            out(),
        ),
        scenario(
            "no-way-out",
            "the way out goes, and the uplink with it",
            &out(),
            web.clone(),
        ),
        scenario(
            "vtep-moved",
            "another node has another VTEP",
            base,
            base.clone().node("n2", "198.18.0.9"),
        ),
        scenario(
            "emptied",
            "the last thing of a tenant goes: nothing of it is left",
            web,
            Facts::default().node("n1", "198.18.0.1"),
        ),
    ]
}
