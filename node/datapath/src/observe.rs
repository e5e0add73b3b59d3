//! Our kernel objects, as a [`State`].
//!
//! | object | how we recognise ours |
//! |---|---|
//! | domain | namespace file `contiv-…`; VRF device `cd…` |
//! | device | name `cx…` of kind vxlan, `cv…`, `cu…` and `cw…` of kind veth |
//! | address | on a domain's own device or an uplink; on the host's `lo` only the forwarder's |
//! | route | protocol 201, in a domain's table, or to an uplink |
//! | routing rule of VRFs | any l3mdev rule without a condition |
//! | neighbor, FDB entry | permanent, on a device of ours |
//! | rules, maps, elements | tables `inet contiv` and `arp contiv` |
//! | rule of iptables | the same rule in `DOCKER-USER` |
//!
//! A device or an element without a domain counts as the host's. The desired state doesn't have it there,
//! so a full reconcile deletes it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::DomainKind;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoKind, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use rtnetlink::IpVersion;

use super::attributes::{
    self, kind, mac, master, mtu, name, neighbor, route_ip, table, vrf_table, vxlan,
};
use super::listing::Bodies;
use super::netlink::{Socket, is_absence};
use super::netns::Namespace;
use super::nftables::Nftables;
use super::{Datapath, DatapathError, docker_user, failure, sysctl};
use node_core::desired::is_own_device;
use node_core::resource::{
    Address, DNS_ADDRESS, Domain, Fdb, Neighbor, Object, Place, ROUTE_PROTOCOL, Resource, Route,
    RouteTarget, State, Sysctl, Unseen, Up, Uplink, Veth, VrfRule, Vxlan,
};

/// The table of a namespace's routes.
pub(super) const MAIN_TABLE: u32 = 254;

/// One namespace to read.
pub(super) struct View<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) socket: &'a Socket,
    pub(super) nftables: &'a Nftables,
    pub(super) bodies: Bodies,
    pub(super) kind: DomainKind,
    /// The namespace's own place: the host, or a domain of kind netns.
    pub(super) place: Place,
}

/// A device of ours, or one with a domain's own addresses.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) place: Place,
}

/// The places that own a namespace's devices and routing tables.
#[derive(Default)]
pub(super) struct Owners {
    pub(super) devices: BTreeMap<u32, Device>,
    /// Routing tables.
    tables: BTreeMap<u32, Place>,
}

impl Owners {
    pub(super) fn place_of(&self, device: &str) -> Option<&Place> {
        let mut devices = self.devices.values();
        devices.find(|it| it.name == device).map(|it| &it.place)
    }
}

/// The objects of a namespace to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Rules,
}

impl Datapath {
    /// Reads our tables in this place's netfilter: rules, maps and elements, of every domain that shares
    /// them.
    pub async fn rules(&self, place: &Place) -> Result<State, DatapathError> {
        let place = place.netfilter();
        match self.observe_place(&place, Part::Rules).await {
            Err(error) if is_absence(&error) && place != Place::Host => Ok(State::default()),
            seen => seen.map_err(failure("observe", &place)),
        }
    }

    pub(super) async fn observe_place(&self, place: &Place, part: Part) -> io::Result<State> {
        let namespace = self.namespace(place).await?;
        let socket = self.socket(place).await?;
        let view = View {
            namespace: &namespace,
            socket: &socket,
            nftables: &self.nftables(place).await?,
            bodies: self.bodies(),
            kind: match place.own_namespace() {
                Some(_) => DomainKind::Netns,
                None => self.kind(),
            },
            place: place.clone(),
        };
        match part {
            Part::Whole => view.observe().await,
            Part::Rules => view.rules().await,
        }
    }
}

impl View<'_> {
    async fn rules(&self) -> io::Result<State> {
        let mut state = State::default();
        let links = self.socket.links().await?;
        let owners = self.owners(&links, &mut State::default());
        self.tables(&owners, &mut state).await?;
        Ok(state)
    }

    pub(super) async fn observe(&self) -> io::Result<State> {
        let mut state = State::default();
        let links = self.socket.links().await?;
        let owners = self.owners(&links, &mut state);
        for link in &links {
            self.link(link, &owners, &mut state);
        }
        self.addresses(&owners, &mut state).await?;
        self.routes(&owners, &mut state).await?;
        self.neighbors(&owners, &mut state).await?;
        self.fdb(&owners, &mut state).await?;
        self.sysctls(&links, &owners, &mut state).await?;
        state.extend(self.vrf_rule().await?);
        self.tables(&owners, &mut state).await?;
        state.extend(self.docker_user_rules(&links).await?);
        Ok(state)
    }

    /// Finds the domains, and the place that owns each device and routing table.
    fn owners(&self, links: &[LinkMessage], state: &mut State) -> Owners {
        let mut owners = Owners::default();
        if let (Place::Domain(_), kind) = (&self.place, self.kind) {
            owners.tables.insert(MAIN_TABLE, self.place.clone());
            let table = MAIN_TABLE;
            state.insert(Object::Domain(Domain { kind, table }).at(&self.place));
        }
        let mut vrfs = BTreeMap::new();
        for link in links {
            let Some(name) = name(link).filter(|name| name.starts_with("cd")) else {
                continue;
            };
            if let Some(table) = vrf_table(link) {
                let place = Place::Domain(name.to_owned());
                owners.tables.insert(table, place.clone());
                vrfs.insert(link.header.index, place.clone());
                let kind = DomainKind::Vrf;
                state.insert(Object::Domain(Domain { kind, table }).at(&place));
            }
        }
        for link in links {
            let Some(name) = name(link) else { continue };
            let ours = matches!(kind(link), Some(InfoKind::Vxlan)) && name.starts_with("cx")
                || matches!(kind(link), Some(InfoKind::Veth))
                    && ["cv", "cu", "cw"].iter().any(|it| name.starts_with(it))
                || name == "lo"
                || vrfs.contains_key(&link.header.index);
            if !ours {
                continue;
            }
            let own = vrfs.get(&link.header.index);
            let master = || vrfs.get(&master(link)?);
            let place = own.or_else(master).unwrap_or(&self.place);
            owners.devices.insert(
                link.header.index,
                Device {
                    name: name.to_owned(),
                    place: place.clone(),
                },
            );
        }
        owners
    }

    fn link(&self, link: &LinkMessage, owners: &Owners, state: &mut State) {
        let Some(device) = owners.devices.get(&link.header.index) else {
            return;
        };
        let (place, name) = (&device.place, device.name.clone());
        if link.header.flags.contains(LinkFlags::Up) && !(*place == Place::Host && name == "lo") {
            state.insert(Object::Up(Up { device: name }).at(place));
        }
        state.extend(device_object(link).map(|object| object.at(place)));
    }

    /// The rule of VRFs, whoever added it.
    async fn vrf_rule(&self) -> io::Result<Option<Resource>> {
        if self.kind != DomainKind::Vrf || self.place != Place::Host {
            return Ok(None);
        }
        let rules = self.socket.rules(IpVersion::V4).await?;
        let is_there = rules.iter().any(attributes::is_vrf_rule);
        Ok(is_there.then(|| Object::VrfRule(VrfRule).at(&Place::Host)))
    }

    async fn addresses(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        for message in self.socket.addresses().await? {
            let Some(device) = owners.devices.get(&message.header.index) else {
                continue;
            };
            let local = message.attributes.iter().find_map(|it| match it {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let Some(address) = local.filter(|address| !address.is_loopback()) else {
                continue;
            };
            let is_own = device.place != Place::Host || is_own_device(&device.name);
            if is_own || address == IpAddr::V4(DNS_ADDRESS) {
                let address = Address {
                    device: device.name.clone(),
                    address,
                };
                state.insert(Object::Address(address).at(&device.place));
            }
        }
        Ok(())
    }

    async fn routes(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        for message in self.socket.routes().await? {
            if message.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
                continue;
            }
            let table = table(&message);
            let found = route(&message, owners);
            // The host's own table has no other routes of ours.
            let to_uplink = || {
                let (_, target) = found.as_ref()?;
                let uplink = target.device()?.starts_with(Uplink::HOST_PREFIX);
                (uplink && table == MAIN_TABLE).then_some(&Place::Host)
            };
            let Some(place) = owners.tables.get(&table).or_else(to_uplink) else {
                continue;
            };
            if let Some((destination, target)) = found {
                let route = Route {
                    destination,
                    target,
                };
                state.insert(Object::Route(route).at(place));
            }
        }
        Ok(())
    }

    async fn neighbors(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        for message in self.socket.neighbors(AddressFamily::Inet).await? {
            let Some(device) = owners.devices.get(&message.header.ifindex) else {
                continue;
            };
            if message.header.state != NeighbourState::Permanent {
                continue;
            }
            let (mac, address) = neighbor(&message.attributes);
            if let (Some(mac), Some(address)) = (mac, address) {
                let neighbor = Neighbor {
                    device: device.name.clone(),
                    address,
                    mac,
                };
                state.insert(Object::Neighbor(neighbor).at(&device.place));
            }
        }
        Ok(())
    }

    async fn fdb(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        for message in self.socket.neighbors(AddressFamily::Bridge).await? {
            let device = owners.devices.get(&message.header.ifindex);
            let Some(device) = device.filter(|device| device.name.starts_with("cx")) else {
                continue;
            };
            if let (Some(mac), Some(vtep)) = neighbor(&message.attributes) {
                let fdb = Fdb {
                    device: device.name.clone(),
                    mac,
                    vtep,
                };
                state.insert(Object::Fdb(fdb).at(&device.place));
            }
        }
        Ok(())
    }

    async fn sysctls(
        &self,
        links: &[LinkMessage],
        owners: &Owners,
        state: &mut State,
    ) -> io::Result<()> {
        let mut wanted = self.forwarding(links);
        match self.kind {
            DomainKind::Netns if self.place == Place::Host => {}
            DomainKind::Netns => {
                wanted.extend(Sysctl::of_namespace().map(|it| (self.place.clone(), it)));
            }
            DomainKind::Vrf => {
                let devices = owners.devices.values();
                for Device { name, place } in devices.filter(|it| it.place != Place::Host) {
                    wanted.extend(Sysctl::of_device(name).map(|it| (place.clone(), it)));
                }
            }
        }
        let read = move || {
            let read = |(place, it)| Some(Object::Sysctl(sysctl::read(it)?).at(&place));
            Ok(wanted.into_iter().filter_map(read).collect::<Vec<_>>())
        };
        state.extend(self.namespace.run(read).await?);
        Ok(())
    }

    /// The settings that uplinks need in the host's namespace; the underlay is any of the devices.
    fn forwarding(&self, links: &[LinkMessage]) -> Vec<(Place, Sysctl)> {
        if self.place != Place::Host || !has_uplink(links) {
            return Vec::new();
        }
        let settings = links.iter().filter_map(name).flat_map(|device| {
            let host_end = device.starts_with(Uplink::HOST_PREFIX);
            let of_end = host_end.then(|| Sysctl::of_host_end(device));
            let other = (!is_own_device(device)).then(|| Sysctl::forwarding(device));
            of_end.into_iter().flatten().chain(other)
        });
        settings.map(|it| (Place::Host, it)).collect()
    }

    /// Reads the rules that let our packets through Docker's firewall.
    async fn docker_user_rules(
        &self,
        links: &[LinkMessage],
    ) -> io::Result<impl Iterator<Item = Resource> + use<>> {
        let granted = docker_user::granted(self.kind, links);
        let present = match self.place {
            Place::Host => docker_user::observe(self.namespace, &granted).await?,
            Place::Domain(_) => Vec::new(),
        };
        let at_host = |it| Object::DockerUserRule(it).at(&Place::Host);
        Ok(present.into_iter().map(at_host))
    }
}

/// Whether a host's end of an uplink is among these devices.
pub(super) fn has_uplink(links: &[LinkMessage]) -> bool {
    let mut names = links.iter().filter_map(name);
    names.any(|name| name.starts_with(Uplink::HOST_PREFIX))
}

/// A veth or a VXLAN device with its settings.
pub(super) fn device_object(link: &LinkMessage) -> Option<Object> {
    let name = name(link)?.to_owned();
    let (mac, mtu) = (mac(link), mtu(link));
    match kind(link) {
        Some(InfoKind::Veth) => Some(Object::Veth(Veth {
            name,
            mac,
            mtu,
            peer: Unseen(None),
        })),
        Some(InfoKind::Vxlan) => {
            let (vni, port, local) = vxlan(link);
            Some(Object::Vxlan(Vxlan {
                name,
                vni,
                port,
                local,
                mac,
                mtu,
            }))
        }
        _ => None,
    }
}

fn route(message: &RouteMessage, owners: &Owners) -> Option<(IpNet, RouteTarget)> {
    let (mut to, mut via, mut device) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = route_ip(address)?,
            RouteAttribute::Gateway(address) => via = route_ip(address),
            RouteAttribute::Via(RouteVia::Inet6(address)) => via = Some(IpAddr::V6(*address)),
            RouteAttribute::Oif(index) => {
                device = owners.devices.get(index).map(|it| it.name.clone());
            }
            _ => {}
        }
    }
    let destination = IpNet::new(to, message.header.destination_prefix_length).ok()?;
    let target = match (message.header.kind, via, device) {
        (RouteType::Unreachable, ..) => RouteTarget::Unreachable,
        (_, Some(gateway), Some(device)) => RouteTarget::Via { gateway, device },
        (_, None, Some(device)) => RouteTarget::Device(device),
        (_, _, None) => return None,
    };
    Some((destination, target))
}
