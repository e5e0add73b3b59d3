//! What this node's kernel should hold: the one place where our nouns become the kernel's.
//!
//! Pure: a function of the facts, never of the order in which they came. A state is made for the
//! host and for each domain on its own, so that an event costs what it touches. The daemon calls
//! it after each event, attach and detach, and gives the result to `reconcile`.

mod closed;
#[cfg(any(test, feature = "testing"))]
pub mod fixture;
mod memo;
mod names;
mod program;
mod rules;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::node::DomainKind;
use bus_schema::{GroupId, MacAddr, NodeName, TenantName};
use ipnet::IpNet;

use crate::endpoint::{LocalEndpoint, Locals, Owner};
use crate::projection::{NetworkFact, Projection, TenantFact};
use crate::resource::{
    Address, DNS_ADDRESS, DockerUserRule, Domain, Element, Fdb, Neighbor, Object, Outer, Parts,
    Peer, Place, Resources, Route, RouteTarget, Ruleset, Sandbox, State, Sysctl, Unseen, Up, Veth,
    Vxlan,
};

use closed::open_addresses;
use memo::Built;

pub use closed::closed;
pub use memo::Programs;
pub use names::{domain_name, interface_names, vxlan_name, zone};
pub use trace::trace;

/// What a node's kernel and underlay are like, and stay while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    pub node: NodeName,
    pub kind: DomainKind,
    /// This node's outer address.
    pub vtep: IpAddr,
    /// Bytes of an IP packet on the underlay.
    pub underlay_mtu: u32,
}

impl Params {
    /// Bytes of an IP packet inside: the outer IP, UDP, VXLAN and inner Ethernet headers take 50
    /// bytes over IPv4 and 70 over IPv6 (RFC 7348 §5).
    pub fn mtu(&self) -> u32 {
        let overhead = if self.vtep.is_ipv4() { 50 } else { 70 };
        self.underlay_mtu.saturating_sub(overhead)
    }
}

/// All of it: the host and every domain.
pub fn desired(
    facts: &Projection,
    locals: &Locals,
    params: &Params,
    programs: &mut Programs,
) -> State {
    let mut state = desired_host(facts, params);
    for tenant in tenants(facts, locals, params) {
        state.merge(&desired_domain(facts, &tenant, locals, params, programs));
    }
    state
}

/// The tenants that have a domain on this node: by a local endpoint, or a block leased to it.
pub fn tenants(facts: &Projection, locals: &Locals, params: &Params) -> BTreeSet<TenantName> {
    let by_block = facts
        .tenants
        .iter()
        .filter(|(_, fact)| fact.networks.values().any(|net| holds_block(net, params)));
    let by_endpoint = locals.values().map(|endpoint| endpoint.tenant.clone());
    by_block
        .map(|(tenant, _)| tenant.clone())
        .chain(by_endpoint)
        .collect()
}

fn holds_block(network: &NetworkFact, params: &Params) -> bool {
    network.blocks.values().any(|node| *node == params.node)
}

/// What is of no tenant: the outer port and who may reach it, the forwarder's address, and what
/// lets VRFs' packets through the host's own firewall.
pub fn desired_host(facts: &Projection, params: &Params) -> State {
    let parts = Parts {
        outer: Some(Outer {
            vtep: params.vtep,
            port: facts.settings.vxlan_port,
        }),
        domain: (params.kind == DomainKind::Vrf).then_some(DomainKind::Vrf),
    };
    let peers = facts.nodes.iter().filter(|(name, _)| **name != params.node);
    let peers = peers.map(|(_, fact)| Object::Element(Element::Peer { vtep: fact.vtep }));
    let table = Object::Table(Ruleset::new(parts));
    let forwarder = Object::Address(Address {
        device: "lo".to_owned(),
        address: DNS_ADDRESS.into(),
    });
    // A namespace has a netfilter of its own, where nobody else drops.
    let docker_user = (params.kind == DomainKind::Vrf).then_some(DockerUserRule::ALL);
    let docker_user = docker_user
        .into_iter()
        .flatten()
        .map(Object::DockerUserRule);
    let applied = Object::Element(Element::Applied {
        zone: 0,
        revision: facts.changed,
    });
    let all = [table, forwarder, applied].into_iter().chain(peers);
    all.chain(docker_user)
        .map(|it| it.at(&Place::Host))
        .collect()
}

/// A tenant's domain; empty when it has none here.
pub fn desired_domain(
    facts: &Projection,
    tenant: &TenantName,
    locals: &Locals,
    params: &Params,
    programs: &mut Programs,
) -> State {
    let networks = facts.tenants.get(tenant).map(|fact| &fact.networks);
    let mut networks = networks.into_iter().flat_map(|networks| networks.values());
    if !locals.values().any(|it| it.tenant == *tenant)
        && !networks.any(|network| holds_block(network, params))
    {
        programs.forget(tenant);
        return State::default();
    }
    let built = programs.things(facts, tenant, locals, params);
    let rules = match facts.tenants.get(tenant) {
        Some(fact) => programs.rules(tenant, fact, &built),
        None => built.members,
    };
    let mut state = built.state;
    state.set_rules(&built.place, rules);
    if let Some(fact) = facts.tenants.get(tenant) {
        let (zone, revision) = (built.zone, fact.last_changed());
        state.insert(Element::Applied { zone, revision }.at(&built.place));
    }
    state
}

/// Collects one domain's resources.
struct DomainBuilder<'a> {
    facts: &'a Projection,
    params: &'a Params,
    place: Place,
    zone: u16,
    /// The device that bears the domain's own addresses.
    loopback: String,
    /// Where the domain's routes are.
    table: u32,
    /// What the log says of the tenant.
    fact: Option<&'a TenantFact>,
    /// The groups to whose members no connections are opened.
    closed: BTreeSet<GroupId>,
    state: State,
    members: Resources,
    here: BTreeMap<GroupId, usize>,
}

impl<'a> DomainBuilder<'a> {
    fn new(facts: &'a Projection, tenant: &TenantName, params: &'a Params) -> Self {
        let name = domain_name(params.kind, tenant);
        let place = Place::Domain(name.clone());
        let (loopback, table) = match params.kind {
            DomainKind::Netns => ("lo".to_owned(), names::MAIN_TABLE),
            DomainKind::Vrf => (name, names::vrf_table(tenant)),
        };
        let fact = facts.tenants.get(tenant);
        Self {
            facts,
            params,
            place,
            zone: zone(facts, tenant, params.kind),
            loopback,
            table,
            fact,
            closed: fact.map(TenantFact::closed_groups).unwrap_or_default(),
            state: State::default(),
            members: Resources::new(),
            here: BTreeMap::new(),
        }
    }

    fn build(mut self, locals: &[&LocalEndpoint]) -> Built {
        self.domain();
        let networks = self.fact.map(|fact| &fact.networks);
        for network in networks.into_iter().flat_map(|networks| networks.values()) {
            self.network(network);
        }
        self.endpoints(locals)
    }

    /// What there is for these endpoints, among which are all of their containers.
    fn endpoints(mut self, locals: &[&LocalEndpoint]) -> Built {
        let mut containers: BTreeMap<&str, Vec<&LocalEndpoint>> = BTreeMap::new();
        for endpoint in locals {
            if let Some(container) = &endpoint.container {
                containers.entry(container).or_default().push(endpoint);
            }
        }
        for endpoint in locals {
            let container = endpoint.container.as_deref();
            let beside = container.and_then(|it| containers.get(it));
            self.endpoint(endpoint, beside.map_or(&[], Vec::as_slice));
        }
        Built {
            place: self.place,
            zone: self.zone,
            state: self.state,
            members: self.members,
            here: self.here,
        }
    }

    fn domain(&mut self) {
        let (kind, table) = (self.params.kind, self.table);
        self.put(Object::Domain(Domain { kind, table }));
        if kind == DomainKind::Netns {
            for sysctl in Sysctl::of_namespace() {
                self.put(Object::Sysctl(sysctl));
            }
            self.put(Object::Table(Ruleset::new(Parts {
                outer: None,
                domain: Some(kind),
            })));
        }
        let loopback = self.loopback.clone();
        self.device(&loopback);
        self.up(&loopback);
        self.address(DNS_ADDRESS.into());
        self.put(Object::Route(Route {
            destination: IpNet::default(),
            target: RouteTarget::Unreachable,
        }));
    }

    fn put(&mut self, object: Object) {
        self.state.insert(object.at(&self.place));
    }

    fn element(&mut self, element: Element) {
        self.put(Object::Element(element));
    }

    /// What every device in a VRF needs, because it shares the host's settings and conntrack.
    fn device(&mut self, device: &str) {
        if self.params.kind == DomainKind::Netns {
            return;
        }
        for sysctl in Sysctl::of_device(device) {
            self.put(Object::Sysctl(sysctl));
        }
        self.element(Element::Zone {
            interface: device.to_owned(),
            zone: self.zone,
        });
    }

    fn up(&mut self, device: &str) {
        let device = device.to_owned();
        self.put(Object::Up(Up { device }));
    }

    fn address(&mut self, address: IpAddr) {
        let device = self.loopback.clone();
        self.put(Object::Address(Address { device, address }));
    }

    /// A network of the tenant: its gateway, its VXLAN device, and every block elsewhere.
    fn network(&mut self, network: &NetworkFact) {
        let spec = &network.spec;
        let device = vxlan_name(spec.vni);
        self.put(Object::Vxlan(Vxlan {
            name: device.clone(),
            vni: spec.vni,
            port: self.facts.settings.vxlan_port,
            local: self.params.vtep,
            mac: MacAddr::of_vtep(self.params.vtep),
            mtu: self.params.mtu(),
        }));
        self.device(&device);
        self.up(&device);
        let (zone, address, subnet) = (self.zone, spec.v4.gateway, spec.v4.subnet);
        self.address(address);
        self.element(Element::Gateway { zone, address });
        self.element(Element::Subnet { zone, subnet });
        for (block, node) in &network.blocks {
            let elsewhere = *node != self.params.node && block.addr().is_ipv4();
            if let Some(fact) = self.facts.nodes.get(node).filter(|_| elsewhere) {
                self.remote_block(*block, fact.vtep, &device);
            }
        }
    }

    fn remote_block(&mut self, block: IpNet, vtep: IpAddr, device: &str) {
        let device = device.to_owned();
        let mac = MacAddr::of_vtep(vtep);
        self.put(Object::Fdb(Fdb {
            device: device.clone(),
            mac,
            vtep,
        }));
        self.put(Object::Neighbor(Neighbor {
            device: device.clone(),
            address: vtep,
            mac,
        }));
        self.put(Object::Route(Route {
            destination: block,
            target: RouteTarget::Via { vtep, device },
        }));
    }

    /// A local endpoint, and all of its container. One without an address, group or network that is
    /// still its own keeps its veth and nothing else.
    fn endpoint(&mut self, endpoint: &LocalEndpoint, beside: &[&LocalEndpoint]) {
        let network = self.facts.network(&endpoint.tenant, &endpoint.network);
        let device = endpoint.host_interface.clone();
        self.put(Object::Veth(Veth {
            name: device.clone(),
            mac: Veth::HOST_MAC,
            mtu: self.params.mtu(),
            peer: Unseen(Some(Peer {
                name: endpoint.peer_interface.clone(),
                mac: endpoint.mac,
                sandbox: sandbox(endpoint),
            })),
        }));
        self.device(&device);
        let (Some(network), Some(group)) = (network, self.group_of(endpoint)) else {
            return;
        };
        let open: Vec<_> = open_addresses(endpoint, network, self.params).collect();
        if open.is_empty() {
            return;
        }
        self.up(&device);
        for address in open {
            self.endpoint_address(endpoint, group, network, address);
            for other in beside.iter().filter(|other| other.id != endpoint.id) {
                self.stamp(&other.host_interface, address, group);
            }
        }
    }

    fn endpoint_address(
        &mut self,
        endpoint: &LocalEndpoint,
        group: GroupId,
        network: &NetworkFact,
        address: IpAddr,
    ) {
        let (zone, device) = (self.zone, endpoint.host_interface.clone());
        self.stamp(&device, address, group);
        *self.here.entry(group).or_default() += 1;
        if !self.closed.contains(&group) {
            let member = Element::Member {
                zone,
                address,
                group,
            };
            let member = member.at(&self.place);
            self.members.insert(member.key(), member);
        }
        self.element(Element::Endpoint {
            interface: vxlan_name(network.spec.vni),
            address,
        });
        self.put(Object::Neighbor(Neighbor {
            device: device.clone(),
            address,
            mac: endpoint.mac,
        }));
        self.put(Object::Route(Route {
            destination: IpNet::from(address),
            target: RouteTarget::Device(device),
        }));
    }

    /// Who sends from `address` on `interface` is stamped as what owns the address.
    fn stamp(&mut self, interface: &str, address: IpAddr, stamp: GroupId) {
        self.element(Element::Stamp {
            interface: interface.to_owned(),
            address,
            stamp,
        });
    }

    /// The id of an endpoint's group; `None` when that group isn't there any more.
    fn group_of(&self, endpoint: &LocalEndpoint) -> Option<GroupId> {
        match &endpoint.group {
            None => Some(GroupId::UNGROUPED),
            Some(group) => Some(self.fact?.groups.get(group)?.spec.id),
        }
    }
}

fn sandbox(endpoint: &LocalEndpoint) -> Option<Sandbox> {
    match &endpoint.owner {
        Owner::Docker { .. } | Owner::Unknown => None,
        Owner::Namespace {
            path, interface, ..
        } => Some(Sandbox {
            netns: path.into(),
            interface: interface.clone(),
        }),
    }
}
