//! Resources as rtnetlink messages. No I/O.

use std::net::IpAddr;
use std::os::fd::RawFd;

use bus_schema::{MacAddr, Vni};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{
    AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVrf, LinkVxlan,
    RouteMessageBuilder,
};

use super::attributes;
use node_core::resource::{
    Fdb, Neighbor, Peer, ROUTE_PROTOCOL, Route, RouteTarget, Veth, VrfRule, Vxlan,
};

/// The namespace or master of a device that is created.
#[derive(Debug, Clone, Copy)]
pub(super) enum Home {
    /// Into this namespace.
    Namespace(RawFd),
    /// Below this VRF device.
    Master(u32),
}

impl Home {
    /// The index of the VRF device.
    pub(super) fn vrf(self) -> Option<u32> {
        match self {
            Self::Namespace(_) => None,
            Self::Master(index) => Some(index),
        }
    }

    fn attribute(self) -> LinkAttribute {
        match self {
            Self::Namespace(fd) => LinkAttribute::NetNsFd(fd),
            Self::Master(index) => LinkAttribute::Controller(index),
        }
    }
}

pub(super) fn vrf(name: &str, table: u32) -> LinkMessage {
    LinkVrf::new(name, table).build()
}

/// A new VXLAN device. It is sent on the host's socket, so the device's UDP socket is the host's.
pub(super) fn vxlan(vxlan: &Vxlan, home: Home) -> LinkMessage {
    let Vni(vni) = vxlan.vni;
    let link = LinkVxlan::new(&vxlan.name, vni)
        .port(vxlan.port)
        .learning(false)
        .gbp();
    let link = match vxlan.local {
        IpAddr::V4(local) => link.local(local),
        IpAddr::V6(local) => link.local6(local),
    };
    let link = link.address(vxlan.mac.0.to_vec()).mtu(vxlan.mtu);
    link.append_extra_attribute(home.attribute()).build()
}

/// A new veth. It is sent on the host's socket: the peer is made there, unless `sandbox` has its name and
/// its namespace.
pub(super) fn veth(
    veth: &Veth,
    peer: &Peer,
    sandbox: Option<(&str, RawFd)>,
    home: Home,
) -> LinkMessage {
    let (name, netns) = sandbox.unzip();
    let name = name.unwrap_or(&peer.name);
    let mut other = LinkMessageBuilder::<LinkUnspec>::new()
        .name(name.to_owned())
        .address(peer.mac.0.to_vec())
        .mtu(veth.mtu);
    if let Some(fd) = netns {
        other = other.append_extra_attribute(LinkAttribute::NetNsFd(fd));
    }
    LinkVeth::new(&veth.name, name)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(other.build())))
        .address(veth.mac.0.to_vec())
        .mtu(veth.mtu)
        .append_extra_attribute(home.attribute())
        .build()
}

/// Changes a device's MTU, and its VRF and address only if they differ: the kernel flushes a device's
/// neighbors whenever its address is set (`neigh_changeaddr`), and its routes when it enters a VRF.
pub(super) fn link_settings(
    link: &LinkMessage,
    (mac, mtu): (MacAddr, u32),
    vrf: Option<u32>,
) -> LinkMessage {
    let mut settings = LinkUnspec::new_with_index(link.header.index).mtu(mtu);
    if let Some(vrf) = vrf.filter(|_| attributes::master(link) != vrf) {
        settings = settings.controller(vrf);
    }
    if attributes::mac(link) == mac {
        return settings.build();
    }
    settings.address(mac.0.to_vec()).build()
}

pub(super) fn link_up(index: u32, up: bool) -> LinkMessage {
    let link = LinkUnspec::new_with_index(index);
    if up { link.up() } else { link.down() }.build()
}

/// Renames a device; before Linux 6.2 it must be down for it.
pub(super) fn link_name(index: u32, name: &str) -> LinkMessage {
    LinkUnspec::new_with_index(index)
        .name(name.to_owned())
        .build()
}

/// Moves a device to another namespace, where its name is `name`.
pub(super) fn link_move(index: u32, namespace: RawFd, name: &str) -> LinkMessage {
    let link = LinkUnspec::new_with_index(index).name(name);
    link.setns_by_fd(namespace).build()
}

/// An address of a device. A link-local one gets the scope of the link, so the kernel never uses it as
/// source beyond the link: errors about packets come from a gateway address.
pub(super) fn address(index: u32, address: IpAddr) -> AddressMessage {
    match address {
        IpAddr::V4(v4) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(index)
                .address(v4, 32)
                .build();
            if v4.is_link_local() {
                message.header.scope = AddressScope::Link;
            }
            message
        }
        IpAddr::V6(v6) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(v6, 128)
            .build(),
    }
}

pub(super) fn neighbor(neighbor: &Neighbor, index: u32) -> NeighbourMessage {
    let family = family(neighbor.address);
    neighbor_message(index, family, neighbor.mac, neighbor.address)
}

pub(super) fn fdb(fdb: &Fdb, index: u32) -> NeighbourMessage {
    let mut message = neighbor_message(index, AddressFamily::Bridge, fdb.mac, fdb.vtep);
    message.header.flags = NeighbourFlags::Own;
    message
}

fn neighbor_message(
    index: u32,
    family: AddressFamily,
    mac: MacAddr,
    to: IpAddr,
) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::from(to)),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    message
}

/// The rule of VRFs, as the kernel adds it (`vrf_fib_rule`).
pub(super) fn vrf_rule() -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::L3MDev(true),
        RuleAttribute::Priority(VrfRule::PREFERENCE),
        RuleAttribute::Protocol(RouteProtocol::Kernel),
    ];
    message
}

/// A route of ours; `index` is that of its device.
pub(super) fn route(route: &Route, table: u32, index: Option<u32>) -> RouteMessage {
    let message = match &route.target {
        RouteTarget::Unreachable => {
            let mut message = destination(route.destination);
            message.header.kind = RouteType::Unreachable;
            let metric = RouteAttribute::Priority(RouteTarget::LAST_METRIC);
            message.attributes.push(metric);
            message
        }
        RouteTarget::Device(_) => on_link(route.destination, index),
        RouteTarget::Via { gateway, .. } => via(route.destination, *gateway, index),
    };
    ours(message, table)
}

fn ours(mut message: RouteMessage, table: u32) -> RouteMessage {
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    match u8::try_from(table) {
        Ok(table) => message.header.table = table,
        Err(_) => message.attributes.push(RouteAttribute::Table(table)),
    }
    message
}

/// A route to a destination on the link.
pub(super) fn on_link(to: IpNet, index: Option<u32>) -> RouteMessage {
    let mut message = destination(to);
    message.header.scope = RouteScope::Link;
    message.attributes.extend(index.map(RouteAttribute::Oif));
    message
}

/// A route to a destination behind a gateway, which counts as on the link.
pub(super) fn via(to: IpNet, gateway: IpAddr, index: Option<u32>) -> RouteMessage {
    let mut message = destination(to);
    message.attributes.push(match gateway {
        IpAddr::V4(v4) => RouteAttribute::Gateway(RouteAddress::Inet(v4)),
        IpAddr::V6(v6) if to.addr().is_ipv6() => RouteAttribute::Gateway(RouteAddress::Inet6(v6)),
        IpAddr::V6(v6) => RouteAttribute::Via(RouteVia::Inet6(v6)),
    });
    message.header.flags |= RouteFlags::Onlink;
    message.attributes.extend(index.map(RouteAttribute::Oif));
    message
}

fn destination(to: IpNet) -> RouteMessage {
    match to {
        IpNet::V4(net) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(net.addr(), net.prefix_len())
            .build(),
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
