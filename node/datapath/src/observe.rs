//! What is in the kernel and ours, as a [`State`].
//!
//! | what | how we tell that it is ours |
//! |---|---|
//! | domain | namespace file `contiv-…`; VRF device `cd…` |
//! | device | name `cx…` of kind vxlan, `cv…` of kind veth |
//! | address | on a domain's own device; on the host's `lo` only the forwarder's |
//! | route | protocol 201, in a domain's table |
//! | neighbor, FDB entry | permanent, on a device of ours |
//! | rules, maps, elements | table `inet contiv` |
//! | passages | the very rule in `DOCKER-USER` |
//!
//! A device or an element that belongs to no domain any more is put at the host, where nobody
//! wants it, so a full difference deletes it.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bus_schema::node::DomainKind;
use bus_schema::{MacAddr, Vni};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVrf, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType, RouteVia,
};

use super::elements;
use super::netlink::{Socket, is_absence};
use super::netns::Namespace;
use super::{Datapath, DatapathError, failure, nft, passage, sysctl};
use node_core::resource::{
    Address, Chain, DNS_ADDRESS, Domain, Element, Fdb, Neighbor, Object, Place, ROUTE_PROTOCOL,
    Resource, Route, RouteTarget, Rule, RuleMap, State, Sysctl, Unseen, Up, Veth, Vxlan, zone_of,
};

/// The table of a namespace's routes.
pub(super) const MAIN_TABLE: u32 = 254;

/// One namespace, and what of it is looked at.
pub(super) struct View<'a> {
    pub(super) namespace: &'a Namespace,
    pub(super) socket: &'a Socket,
    pub(super) kind: DomainKind,
    /// The namespace's own place: the host, or a domain of kind netns.
    pub(super) place: Place,
}

/// A device of ours, or one that bears a domain's own addresses.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) place: Place,
}

/// What of a namespace is whose.
#[derive(Default)]
pub(super) struct Owners {
    pub(super) devices: BTreeMap<u32, Device>,
    /// Routing tables.
    tables: BTreeMap<u32, Place>,
}

impl Owners {
    fn place_of(&self, device: &str) -> Option<&Place> {
        let mut devices = self.devices.values();
        devices.find(|it| it.name == device).map(|it| &it.place)
    }
}

/// What of a namespace is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    Rules,
}

impl Datapath {
    /// What our table holds in this place's netfilter: rules, maps and elements, of every domain that
    /// shares it.
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
        self.firewall(&owners, &mut state).await?;
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
        self.sysctls(&owners, &mut state).await?;
        self.firewall(&owners, &mut state).await?;
        state.extend(self.passages().await?);
        Ok(state)
    }

    /// Finds the domains, and which device and table is whose.
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
                || matches!(kind(link), Some(InfoKind::Veth)) && name.starts_with("cv")
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
            let device = name.clone();
            state.insert(Object::Up(Up { device }).at(place));
        }
        let (mac, mtu) = (mac(link), mtu(link));
        let object = match kind(link) {
            Some(InfoKind::Veth) => Object::Veth(Veth {
                name,
                mac,
                mtu,
                peer: Unseen(None),
            }),
            Some(InfoKind::Vxlan) => {
                let (vni, port, local) = vxlan(link);
                Object::Vxlan(Vxlan {
                    name,
                    vni,
                    port,
                    local,
                    mac,
                    mtu,
                })
            }
            _ => return,
        };
        state.insert(object.at(place));
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
            if device.place != Place::Host || address == IpAddr::V4(DNS_ADDRESS) {
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
            let Some(place) = owners.tables.get(&table(&message)) else {
                continue;
            };
            if let Some((destination, target)) = route(&message, owners) {
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

    async fn sysctls(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        let mut wanted: Vec<(Place, Sysctl)> = Vec::new();
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

    /// What lets VRFs' packets through Docker's firewall.
    pub(super) async fn passages(&self) -> io::Result<impl Iterator<Item = Resource> + use<>> {
        let granted = self.kind == DomainKind::Vrf;
        let passages = match self.place {
            Place::Host => passage::observe(self.namespace, granted).await?,
            Place::Domain(_) => Vec::new(),
        };
        let at_host = |it| Object::DockerUserRule(it).at(&Place::Host);
        Ok(passages.into_iter().map(at_host))
    }

    async fn firewall(&self, owners: &Owners, state: &mut State) -> io::Result<()> {
        let Some(listing) = nft::list(self.namespace).await? else {
            return Ok(());
        };
        let mut rules = listing.rules;
        let compiled = |chain: &mut Chain| zone_of(&chain.name).is_some();
        let compiled: Vec<Chain> = rules.chains.extract_if(.., compiled).collect();
        state.insert(Object::Table(rules).at(&self.place));
        let found: Vec<_> = listing
            .elements
            .iter()
            .filter_map(|(set, value)| elements::parse(set, value))
            .collect();
        let zones: BTreeMap<u16, Place> = found
            .iter()
            .filter_map(|it| match it {
                Element::Zone { interface, zone } => {
                    Some((*zone, owners.place_of(interface)?.clone()))
                }
                _ => None,
            })
            .collect();
        for element in found {
            let place = match (&self.place, &element) {
                (Place::Domain(_), _) => Some(&self.place),
                (
                    _,
                    Element::Stamp { interface, .. }
                    | Element::Endpoint { interface, .. }
                    | Element::Zone { interface, .. },
                ) => owners.place_of(interface),
                (_, of_zone) => of_zone.zone().and_then(|zone| zones.get(&zone)),
            };
            state.insert(element.at(place.unwrap_or(&Place::Host)));
        }
        let place_of = |name: &str| match &self.place {
            Place::Domain(_) => self.place.clone(),
            Place::Host => {
                let zone = zone_of(name);
                let place = zone.and_then(|zone| zones.get(&zone).cloned());
                place.unwrap_or(Place::Host)
            }
        };
        for (name, kind) in listing.maps {
            let place = place_of(&name);
            let field = elements::field(&kind);
            state.insert(Object::Map(RuleMap { name, field }).at(&place));
        }
        for Chain { name, base, rules } in compiled {
            let place = place_of(&name);
            let rules = rules.into_iter().map(|rule| Rule {
                digest: rule.digest,
                text: Unseen(None),
            });
            let rules = rules.collect();
            let chain = Chain { name, base, rules };
            state.insert(Object::Chain(Arc::new(chain)).at(&place));
        }
        Ok(())
    }
}

pub(super) fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|it| match it {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

pub(super) fn mtu(link: &LinkMessage) -> u32 {
    let mtu = link.attributes.iter().find_map(|it| match it {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    mtu.unwrap_or_default()
}

pub(super) fn mac(link: &LinkMessage) -> MacAddr {
    let mac = link.attributes.iter().find_map(|it| match it {
        LinkAttribute::Address(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    });
    MacAddr(mac.unwrap_or_default())
}

pub(super) fn master(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|it| match it {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let infos = link.attributes.iter().filter_map(|it| match it {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    infos(link).find_map(|it| match it {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

pub(super) fn vrf_table(link: &LinkMessage) -> Option<u32> {
    infos(link).find_map(|it| match it {
        LinkInfo::Data(InfoData::Vrf(data)) => data.iter().find_map(|it| match it {
            InfoVrf::TableId(table) => Some(*table),
            _ => None,
        }),
        _ => None,
    })
}

/// VNI, port and local address; one without the settings that all of ours have shows as port 0.
fn vxlan(link: &LinkMessage) -> (Vni, u16, IpAddr) {
    let (mut vni, mut port) = (Vni(0), 0);
    let mut local = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let (mut gbp, mut learning) = (false, true);
    let data = infos(link).filter_map(|it| match it {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    });
    for info in data.flatten() {
        match info {
            InfoVxlan::Id(id) => vni = Vni(*id),
            InfoVxlan::Port(it) => port = *it,
            InfoVxlan::Local(it) => local = IpAddr::V4(*it),
            InfoVxlan::Local6(it) => local = IpAddr::V6(*it),
            InfoVxlan::Gbp => gbp = true,
            InfoVxlan::Learning(it) => learning = *it,
            _ => {}
        }
    }
    (vni, if gbp && !learning { port } else { 0 }, local)
}

fn neighbor(attributes: &[NeighbourAttribute]) -> (Option<MacAddr>, Option<IpAddr>) {
    let (mut mac, mut address) = (None, None);
    for attribute in attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = bytes.as_slice().try_into().ok().map(MacAddr);
            }
            NeighbourAttribute::Destination(to) => {
                address = match to {
                    NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
                    NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
                    NeighbourAddress::Other(bytes) => bytes_to_ip(bytes),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    (mac, address)
}

/// The address of an FDB entry, whose family its header doesn't tell.
fn bytes_to_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn table(route: &RouteMessage) -> u32 {
    let table = route.attributes.iter().find_map(|it| match it {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| u32::from(route.header.table))
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
        (_, Some(vtep), Some(device)) => RouteTarget::Via { vtep, device },
        (_, None, Some(device)) => RouteTarget::Device(device),
        (_, _, None) => return None,
    };
    Some((destination, target))
}

pub(super) fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
