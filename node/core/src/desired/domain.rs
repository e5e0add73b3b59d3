//! The resources of one domain, without its compiled rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::node::DomainKind;
use bus_schema::{GroupId, MacAddr, TenantName};
use ipnet::IpNet;

use super::closed::open_addresses;
use super::memo::Built;
use super::names::{self, domain_name, vxlan_name, zone};
use super::{Params, connections, domain_tables, uplinks};
use crate::endpoint::{LocalEndpoint, Owner};
use crate::projection::{NetworkFact, Projection, TenantFact};
use crate::resource::{
    Address, ArpField, DNS_ADDRESS, Domain, Element, Fdb, Neighbor, Object, Peer, Place, Resources,
    Route, RouteTarget, Sandbox, State, Sysctl, Unseen, Up, Uplink, Veth, Vxlan,
};

/// Collects one domain's resources.
pub(super) struct DomainBuilder<'a> {
    facts: &'a Projection,
    params: &'a Params,
    place: Place,
    zone: u16,
    /// The device that has the domain's own addresses.
    loopback: String,
    /// The routing table of the domain.
    table: u32,
    /// The tenant's facts of the log.
    fact: Option<&'a TenantFact>,
    /// The groups to whose members no connections are opened.
    closed: BTreeSet<GroupId>,
    state: State,
    members: Resources,
    here: BTreeMap<GroupId, usize>,
}

impl<'a> DomainBuilder<'a> {
    pub(super) fn new(facts: &'a Projection, tenant: &TenantName, params: &'a Params) -> Self {
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

    pub(super) fn build(mut self, locals: &[&LocalEndpoint]) -> Built {
        self.domain();
        if let Some(fact) = self.fact
            && let Some(uplink) = uplinks::uplink(fact, self.params)
        {
            self.uplink(fact, uplink);
        }
        let networks = self.fact.map(|fact| &fact.networks);
        for network in networks.into_iter().flat_map(|networks| networks.values()) {
            self.network(network);
        }
        self.endpoints(locals)
    }

    /// Adds these endpoints' resources; every endpoint of their containers must be among them.
    pub(super) fn endpoints(mut self, locals: &[&LocalEndpoint]) -> Built {
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
            for table in domain_tables(kind) {
                self.put(Object::Table(table));
            }
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

    /// Adds the settings of a device in a VRF, which shares the host's settings and conntrack.
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

    /// Adds the domain's end of its uplink, and the way out. An address of the tenant that no endpoint has
    /// stays unreachable.
    fn uplink(&mut self, fact: &TenantFact, uplink: Uplink) {
        let (zone, device) = (self.zone, uplink.domain_device);
        self.put(Object::Veth(Veth {
            name: device.clone(),
            mac: Uplink::DOMAIN_MAC,
            mtu: self.params.underlay_mtu,
            peer: Unseen(Some(Peer {
                name: uplink.host_device,
                mac: Uplink::HOST_MAC,
                sandbox: None,
            })),
        }));
        self.device(&device);
        let neighbor = (uplink.host_address, Uplink::HOST_MAC);
        for object in uplinks::end(device.clone(), uplink.domain_address, neighbor) {
            self.put(object);
        }
        self.element(Element::UplinkAddress {
            interface: device.clone(),
            address: uplink.domain_address.into(),
        });
        let (destination, gateway) = (IpNet::default(), uplink.host_address.into());
        self.put(Object::Route(Route {
            destination,
            target: RouteTarget::Via { gateway, device },
        }));
        for network in fact.networks.values() {
            let subnet = network.spec.v4.subnet;
            self.put(Object::Route(Route {
                destination: subnet,
                target: RouteTarget::Unreachable,
            }));
            if uplinks::has_way_out(network) {
                self.element(Element::NatSource { zone, subnet });
            }
            if network.spec.allow_metadata {
                self.element(Element::MetadataSource { zone, subnet });
            }
        }
        let group = GroupId::WORLD;
        for range in uplinks::world(fact) {
            let pool = Element::Pool { zone, range, group }.at(&self.place);
            self.members.insert(pool.key(), pool);
        }
    }

    /// Adds a network of the tenant: its gateway, its VXLAN device, and the blocks of other nodes.
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
        for address in self.params.resolvers.within(&spec.tenant, subnet) {
            self.element(Element::Resolver { zone, address });
        }
        let of_tenant = self.fact.and_then(|it| it.max_connections);
        let max = spec.max_connections.or(of_tenant);
        let max = max.unwrap_or(self.params.max_connections);
        let limit = connections::limit(&self.place, zone, subnet, max);
        self.members.extend(limit.map(|it| (it.key(), it)));
        for (group, pool) in &network.pools {
            let fact = self.fact.and_then(|it| it.groups.get(group));
            let pool = fact.map(|it| Element::Pool {
                zone,
                range: *pool,
                group: it.spec.id,
            });
            let pool = pool.map(|it| it.at(&self.place));
            self.members.extend(pool.map(|it| (it.key(), it)));
        }
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
            target: RouteTarget::Via {
                gateway: vtep,
                device,
            },
        }));
    }

    /// Adds a local endpoint; `beside` are all endpoints of its container. An endpoint whose network,
    /// group or address isn't its own any more keeps its veth and nothing else.
    fn endpoint(&mut self, endpoint: &LocalEndpoint, beside: &[&LocalEndpoint]) {
        let network = self.facts.network(&endpoint.tenant, &endpoint.network);
        let device = endpoint.host_interface.clone();
        self.put(Object::Veth(Veth {
            name: device.clone(),
            mac: Veth::HOST_MAC,
            mtu: endpoint.mtu.unwrap_or_else(|| self.params.mtu()),
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
        let Some(first) = open.first() else {
            return;
        };
        self.up(&device);
        // A packet of ARP has one sender, so the first address stands for all of the interface.
        self.arp(&device, ArpField::Sender, *first);
        self.arp(&device, ArpField::Target, network.spec.v4.gateway);
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

    /// Sets a field of the interface's ARP to `address`.
    fn arp(&mut self, interface: &str, field: ArpField, address: IpAddr) {
        self.element(Element::ArpAddress {
            interface: interface.to_owned(),
            field,
            address,
        });
    }

    /// Marks packets from `address` on `interface` with the group of the address.
    fn stamp(&mut self, interface: &str, address: IpAddr, stamp: GroupId) {
        self.element(Element::Stamp {
            interface: interface.to_owned(),
            address,
            stamp,
        });
    }

    /// The id of an endpoint's group; `None` when that group doesn't exist any more.
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
