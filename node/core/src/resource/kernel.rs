//! The objects of iproute2: domains, links, addresses, routes, neighbors, FDB entries, sysctls.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use bus_schema::node::DomainKind;
use bus_schema::{MacAddr, Vni};
use ipnet::IpNet;

use super::{ROUTE_PROTOCOL, Unseen};

/// The isolated L3 space of one tenant: a namespace, or a VRF device with its table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Domain {
    pub kind: DomainKind,
    /// The VRF's routing table; in a namespace the main one, 254.
    pub table: u32,
}

/// A VXLAN device, one per network, in its domain: its UDP socket stays in the host's namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vxlan {
    pub name: String,
    pub vni: Vni,
    /// The outer UDP port.
    pub port: u16,
    /// The outer source address.
    pub local: IpAddr,
    pub mac: MacAddr,
    pub mtu: u32,
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "link {} type vxlan id {} dstport {} local {} nolearning gbp address {} mtu {}",
            self.name, self.vni, self.port, self.local, self.mac, self.mtu
        )
    }
}

/// The host's end of an endpoint's veth.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Veth {
    pub name: String,
    pub mac: MacAddr,
    pub mtu: u32,
    pub peer: Unseen<Peer>,
}

impl Veth {
    /// The MAC address of the host's end of every veth: no two of them share a link.
    pub const HOST_MAC: MacAddr = MacAddr([0x02, 0x01, 0, 0, 0, 1]);
}

/// The container's end of a veth, as it is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name in the host's namespace, where it stays until its owner moves it.
    pub name: String,
    pub mac: MacAddr,
    /// The namespace in which it is created if that exists: moving a device costs the kernel several
    /// grace periods of RCU (`__dev_change_net_namespace`), 10 to 25 ms.
    pub sandbox: Option<Sandbox>,
}

/// A container's namespace, and the interface's name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    pub netns: PathBuf,
    pub interface: String,
}

impl fmt::Display for Veth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "link {} type veth address {} mtu {}",
            self.name, self.mac, self.mtu
        )
    }
}

/// A host address (/32 or /128) on a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    pub device: String,
    pub address: IpAddr,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let net = IpNet::from(self.address);
        write!(f, "addr {net} dev {}", self.device)
    }
}

/// A route of ours, which has the protocol number [`ROUTE_PROTOCOL`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNet,
    pub target: RouteTarget,
}

/// The target of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteTarget {
    /// No destination; its metric is behind all others (`Documentation/networking/vrf.rst`).
    Unreachable,
    /// To an endpoint, on its veth.
    Device(String),
    /// To another node, over the network's VXLAN device, or by the host's end of an uplink.
    Via { gateway: IpAddr, device: String },
}

impl Route {
    /// Its name: a destination may have an unreachable route behind another one.
    pub(super) fn id(&self) -> String {
        match self.target {
            RouteTarget::Unreachable => format!("unreachable {}", self.destination),
            RouteTarget::Device(_) | RouteTarget::Via { .. } => self.destination.to_string(),
        }
    }
}

impl RouteTarget {
    /// The metric of [`Self::Unreachable`].
    pub const LAST_METRIC: u32 = 4_278_198_272;

    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Unreachable => None,
            Self::Device(device) | Self::Via { device, .. } => Some(device),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (to, proto) = (self.destination, ROUTE_PROTOCOL);
        match &self.target {
            RouteTarget::Unreachable => write!(
                f,
                "route unreachable {to} metric {} proto {proto}",
                RouteTarget::LAST_METRIC
            ),
            RouteTarget::Device(device) => write!(f, "route {to} dev {device} proto {proto}"),
            RouteTarget::Via { gateway, device } => {
                write!(
                    f,
                    "route {to} via {gateway} dev {device} onlink proto {proto}"
                )
            }
        }
    }
}

/// A permanent neighbor: the kernel never sends an ARP request for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbor {
    pub device: String,
    pub address: IpAddr,
    pub mac: MacAddr,
}

impl fmt::Display for Neighbor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "neigh {} lladdr {} dev {} nud permanent",
            self.address, self.mac, self.device
        )
    }
}

/// The VTEP of the node that has an inner MAC address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fdb {
    pub device: String,
    pub mac: MacAddr,
    pub vtep: IpAddr,
}

impl fmt::Display for Fdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fdb {} dev {} dst {} self permanent",
            self.mac, self.device, self.vtep
        )
    }
}

/// The rule by which routes are looked up in the VRFs' tables (`Documentation/networking/vrf.rst`). The
/// kernel adds it with the first VRF device, and never again: without it no VRF routes a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VrfRule;

impl VrfRule {
    /// Its place among the rules, the kernel's own choice (`FIB_RULE_PREF` of `drivers/net/vrf.c`).
    pub const PREFERENCE: u32 = 1_000;
}

impl fmt::Display for VrfRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule pref {} l3mdev", Self::PREFERENCE)
    }
}

/// A device that is up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Up {
    pub device: String,
}

impl fmt::Display for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} up", self.device)
    }
}

/// A setting below `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// The path below `/proc/sys/net`, with `{}` for the device.
    pub name: &'static str,
    pub device: Option<String>,
    pub value: u32,
}

impl Sysctl {
    /// The settings of a namespace of ours, before any device is in it.
    ///
    /// A domain has the same gateway address on every node and sends errors from it: without
    /// `accept_local` the next node drops them as martians.
    pub const OF_NAMESPACE: &'static [(&'static str, u32)] = &[
        ("ipv4/ip_forward", 1),
        ("ipv4/fwmark_reflect", 1),
        ("ipv4/conf/all/accept_local", 1),
        ("ipv4/conf/all/rp_filter", 0),
        ("ipv4/conf/default/rp_filter", 0),
        ("ipv4/conf/all/send_redirects", 0),
        ("ipv4/conf/default/send_redirects", 0),
        ("ipv6/conf/all/disable_ipv6", 1),
        ("ipv6/conf/default/disable_ipv6", 1),
    ];

    /// The settings of a VRF device and of each device in it, in the host's namespace.
    pub const OF_DEVICE: &'static [(&'static str, u32)] = &[
        (Self::FORWARDING, 1),
        ("ipv4/conf/{}/rp_filter", 0),
        ("ipv4/conf/{}/accept_local", 1),
        ("ipv4/conf/{}/send_redirects", 0),
        ("ipv6/conf/{}/disable_ipv6", 1),
    ];

    /// The settings of an uplink's end in the host's namespace.
    pub const OF_HOST_END: &'static [(&'static str, u32)] = &[
        (Self::FORWARDING, 1),
        ("ipv4/conf/{}/send_redirects", 0),
        ("ipv6/conf/{}/disable_ipv6", 1),
    ];

    /// Whether the host forwards packets that it receives by a device: the device of the underlay gets the
    /// answers from outside.
    pub const FORWARDING: &'static str = "ipv4/conf/{}/forwarding";

    pub fn of_host_end(device: &str) -> impl Iterator<Item = Self> {
        Self::on(device, Self::OF_HOST_END)
    }

    /// Lets the host forward what it receives by a device.
    pub fn forwarding(device: &str) -> Self {
        Self {
            name: Self::FORWARDING,
            device: Some(device.to_owned()),
            value: 1,
        }
    }

    pub fn of_namespace() -> impl Iterator<Item = Self> {
        Self::OF_NAMESPACE.iter().map(|(name, value)| Self {
            name,
            device: None,
            value: *value,
        })
    }

    pub fn of_device(device: &str) -> impl Iterator<Item = Self> {
        Self::on(device, Self::OF_DEVICE)
    }

    fn on(device: &str, settings: &'static [(&'static str, u32)]) -> impl Iterator<Item = Self> {
        settings.iter().map(|(name, value)| Self {
            name,
            device: Some(device.to_owned()),
            value: *value,
        })
    }

    /// The path below `/proc/sys/net`.
    pub fn path(&self) -> String {
        match &self.device {
            Some(device) => self.name.replace("{}", device),
            None => self.name.to_owned(),
        }
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sysctl net/{}={}", self.path(), self.value)
    }
}
