//! Attributes of rtnetlink's messages about links, neighbors and routes. No I/O.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::{MacAddr, Vni};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVrf, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};

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

/// Whether a rule leads every packet of a VRF to the VRF's table.
pub(super) fn is_vrf_rule(rule: &RuleMessage) -> bool {
    use RuleAttribute::{L3MDev, Priority, Protocol, SuppressPrefixLen, Table};
    let selects = |it: &RuleAttribute| {
        !matches!(
            it,
            L3MDev(_) | Priority(_) | Protocol(_) | SuppressPrefixLen(_) | Table(_)
        )
    };
    rule.attributes.contains(&L3MDev(true))
        && (rule.header.src_len, rule.header.dst_len) == (0, 0)
        && !rule.attributes.iter().any(selects)
}

fn infos(link: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let infos = link.attributes.iter().filter_map(|it| match it {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

pub(super) fn kind(link: &LinkMessage) -> Option<&InfoKind> {
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

/// VNI, port and local address of a VXLAN device; the port is 0 if it lacks a setting that all of ours
/// have.
pub(super) fn vxlan(link: &LinkMessage) -> (Vni, u16, IpAddr) {
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

pub(super) fn neighbor(attributes: &[NeighbourAttribute]) -> (Option<MacAddr>, Option<IpAddr>) {
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

/// The address of an FDB entry, whose header has no family of it.
fn bytes_to_ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

pub(super) fn table(route: &RouteMessage) -> u32 {
    let table = route.attributes.iter().find_map(|it| match it {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.unwrap_or_else(|| u32::from(route.header.table))
}

pub(super) fn route_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}
