//! Computes the desired state of this node's kernel: only here do our nouns become kernel objects.
//!
//! Pure: a function of the facts, never of the order in which they came. The host and each domain
//! have a state of their own, so that an event costs what it touches. The step calls it after each
//! event, attach and detach, and `reconcile` compares the result with the kernel.

mod chains;
mod closed;
mod connections;
mod domain;
#[cfg(any(test, feature = "testing"))]
pub mod fixture;
mod memo;
mod names;
mod nft_program;
mod resolvers;
mod rules;
#[cfg(test)]
mod tests;
mod trace;
mod trace_outside;
mod uplinks;

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::node::DomainKind;
use bus_schema::{NodeName, TenantName};
use ipnet::Ipv4Net;

use crate::endpoint::Locals;
use crate::projection::{NetworkFact, Projection};
use crate::resource::{
    Address, DNS_ADDRESS, DockerUserRule, Element, Object, Outer, Place, Ruleset, State,
    TableScope, VrfRule,
};

pub use closed::closed;
pub use memo::Programs;
pub use names::{domain_name, interface_names, is_own_device, vxlan_name, zone};
pub use resolvers::Resolvers;
pub use trace::trace;
pub use uplinks::{is_covered, uplink};

/// Properties of a node's kernel, underlay and host. All but the resolvers and the outer mark are
/// constant while netplugin runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    pub node: NodeName,
    pub kind: DomainKind,
    /// This node's outer address.
    pub vtep: IpAddr,
    /// The size of an IP packet on the underlay, in bytes.
    pub underlay_mtu: u32,
    /// The interface with that address; empty if it isn't known.
    pub underlay_interface: String,
    /// The addresses of the uplinks, two for each tenant of the cluster.
    pub uplink_pool: Ipv4Net,
    pub resolvers: Resolvers,
    /// The connections that an endpoint may open if neither its network nor its tenant says another
    /// number: a quarter of the node's conntrack table.
    pub max_connections: u32,
    /// The mark by which outer packets are routed that this node sends, 0: none; absent: VXLAN's own
    /// look-up decides, which sees the number of the sender's group.
    pub outer_mark: Option<u32>,
}

impl Params {
    /// The size of an inner IP packet, in bytes: the outer IP, UDP, VXLAN and inner Ethernet headers
    /// take 50 bytes over IPv4 and 70 over IPv6 (RFC 7348 §5).
    pub fn mtu(&self) -> u32 {
        let overhead = if self.vtep.is_ipv4() { 50 } else { 70 };
        self.underlay_mtu.saturating_sub(overhead)
    }
}

/// The desired state of the host and of every domain.
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

/// The fixed rules of each table that a node may have: the host's with uplinks, and that of a domain of
/// kind netns.
pub fn fixed_rules(facts: &Projection, params: &Params) -> Vec<Ruleset> {
    let host = host_tables(facts, params, true).into_iter();
    match params.kind {
        DomainKind::Netns => host.chain(domain_tables(params.kind)).collect(),
        DomainKind::Vrf => host.collect(),
    }
}

fn host_tables(facts: &Projection, params: &Params, has_uplinks: bool) -> Vec<Ruleset> {
    let inet = Ruleset::new(TableScope {
        outer: Some(Outer {
            vtep: params.vtep,
            interface: params.underlay_interface.clone(),
            port: facts.settings.vxlan_port,
            mark: params.outer_mark,
        }),
        uplinks: has_uplinks.then_some(params.uplink_pool),
        domain: (params.kind == DomainKind::Vrf).then_some(DomainKind::Vrf),
    });
    match params.kind {
        DomainKind::Netns => vec![inet],
        DomainKind::Vrf => vec![inet, Ruleset::arp()],
    }
}

fn domain_tables(kind: DomainKind) -> [Ruleset; 2] {
    let inet = Ruleset::new(TableScope {
        outer: None,
        uplinks: None,
        domain: Some(kind),
    });
    [inet, Ruleset::arp()]
}

/// The desired state outside of domains: the rules about the outer port, the forwarder's address, the
/// routing rule of VRFs, the uplinks' ends, and the rules that accept our packets in Docker's firewall.
pub fn desired_host(facts: &Projection, params: &Params) -> State {
    let peers = facts.nodes.iter().filter(|(name, _)| **name != params.node);
    let peers = peers.map(|(_, fact)| Object::Element(Element::Peer { vtep: fact.vtep }));
    let uplinks = uplinks::host_ends(facts, params);
    let tables = host_tables(facts, params, !uplinks.is_empty());
    let tables = tables.into_iter().map(Object::Table);
    let forwarder = Object::Address(Address {
        device: "lo".to_owned(),
        address: DNS_ADDRESS.into(),
    });
    // A namespace has a netfilter and routing rules of its own, without foreign ones.
    let is_vrf = params.kind == DomainKind::Vrf;
    let docker_user = is_vrf.then_some(DockerUserRule::OF_VRFS);
    let docker_user = docker_user
        .into_iter()
        .flatten()
        .map(Object::DockerUserRule);
    let vrf_rule = is_vrf.then_some(Object::VrfRule(VrfRule));
    let applied = Object::Element(Element::Applied {
        zone: 0,
        revision: facts.changed,
    });
    let all = tables.chain([forwarder, applied]).chain(peers);
    all.chain(docker_user)
        .chain(uplinks)
        .chain(vrf_rule)
        .map(|it| it.at(&Place::Host))
        .collect()
}

/// The desired state of a tenant's domain; empty when it has none on this node.
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
        programs.drop_tenant(tenant);
        return State::default();
    }
    let built = programs.domain(facts, tenant, locals, params);
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
