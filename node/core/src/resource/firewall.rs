//! The nouns of nft: compiled chains and maps, and the elements of our sets.

use std::fmt;
use std::net::IpAddr;

use bus_schema::policy::Direction;
use bus_schema::{AddressRange, GroupId, Revision};
use ipnet::IpNet;

use super::{Chain, Family, Field, Object, Place, Resource, RuleBody, Target};

impl fmt::Display for Chain<RuleBody> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} ({} rules)", self.name, self.rules.len())
    }
}

/// A named map of compiled rules, from values of a field to chains.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleMap {
    pub name: String,
    /// The type of its keys; `Source` stands for `Destination`, too.
    pub field: Field,
}

impl fmt::Display for RuleMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, field } = self;
        write!(f, "map {name} ({} : verdict)", field.words())
    }
}

/// The zone in the name of a chain or a map of compiled rules: a letter, the zone and a digest.
/// Earlier versions wrote the letters `c` and `a`.
pub fn zone_of(name: &str) -> Option<u16> {
    let (kind, rest) = name.split_at_checked(1)?;
    let (zone, _) = rest.split_once('_')?;
    let digits = zone.bytes().all(|it| it.is_ascii_digit());
    (digits
        && matches!(
            kind,
            "p" | "l" | "g" | "n" | "m" | "v" | "r" | "k" | "c" | "a"
        ))
    .then(|| zone.parse().ok())?
}

/// An element of one of our sets or maps, with an example of its nft text. `zone` is the domain's
/// conntrack zone, 0 in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A node whose VXLAN packets are accepted: `peers { 198.18.0.2 }`.
    Peer { vtep: IpAddr },
    /// An address from which an endpoint may send, and the group that its packets are marked with:
    /// `stamps { "cv…" . 20.1.1.1 : 0x2 }`.
    Stamp {
        interface: String,
        address: IpAddr,
        stamp: GroupId,
    },
    /// An endpoint's address, and the VXLAN device by which packets to it may arrive:
    /// `endpoints { "cx1001" . 20.1.1.1 }`.
    Endpoint { interface: String, address: IpAddr },
    /// An address of the domain that answers pings, and whose port 53 is the DNS server's:
    /// `gateways { 7 . 20.1.1.254 }`.
    Gateway { zone: u16, address: IpAddr },
    /// A resolver of the host inside a subnet of the tenant. No endpoint has its address, so its port 53
    /// is the DNS server's: `resolvers { 7 . 20.1.1.2 }`.
    Resolver { zone: u16, address: IpAddr },
    /// Addresses of the tenant, among which an endpoint may query a DNS server of its own:
    /// `subnets { 7 . 20.1.1.0/24 }`.
    Subnet { zone: u16, subnet: IpNet },
    /// The chain that limits the connections of these addresses: `limits { 7 . 20.1.1.0/24 : jump k7_100 }`.
    ConnectionLimit {
        zone: u16,
        subnet: IpNet,
        chain: String,
    },
    /// The conntrack zone of a device's packets: `zones { "cv…" : 7 }`.
    Zone { interface: String, zone: u16 },
    /// A group whose members may open connections; packets of other groups open none:
    /// `known { 7 . 0x2 : 0:2 }`.
    AllowedSource { zone: u16, group: GroupId },
    /// A local endpoint's address, and its group: `members { 7 . 20.1.1.1 : 0x2 }`.
    Member {
        zone: u16,
        address: IpAddr,
        group: GroupId,
    },
    /// A group's own addresses: `pools { 7 . 20.1.1.10-20.1.1.20 : 0x2 }`.
    Pool {
        zone: u16,
        range: AddressRange,
        group: GroupId,
    },
    /// The chain that decides for a group: `programs_in { 7 . 0x2 : jump p7_… }`.
    Program {
        zone: u16,
        direction: Direction,
        group: GroupId,
        chain: String,
    },
    /// The chain of a group or a prefix in a map of compiled rules: `g7_… { 0:3 : jump l7_… }`.
    VmapEntry { map: RuleMap, key: u32, to: Target },
    /// The counter of the packets that a rule decided: `hits { 7 . 0x1 }`.
    RuleCounter { zone: u16, rule: u32 },
    /// The part of a connection's mark that names the group that opened it:
    /// `openers { 7 . 0:2 : 0x2 }`.
    CtMarkTemplate { zone: u16, group: GroupId },
    /// A pair of a connection's group and a packet's group that is accepted as established: both must
    /// be the same group. `same { 7 . 0x2 . 0x2 }`.
    EstablishedPair { zone: u16, group: GroupId },
    /// The last revision of the log that these rules are of, its low 16 bits; each connection's mark
    /// holds the revision that accepted it: `revisions { 7 . 0x70000 }`.
    Revision { zone: u16, revision: u16 },
    /// The chain that writes that revision into a connection's mark: `revised { 7 : jump r7_ }`.
    RevisionChain { zone: u16, chain: String },
    /// The address that ARP from an endpoint's interface has in a field: `arp_senders { "cv…" : 20.1.1.1 }`.
    ArpAddress {
        interface: String,
        field: ArpField,
        address: IpAddr,
    },
    /// An uplink's end on the host, and the only source of the packets that come by it:
    /// `uplinks { "cu7" . 251.146.0.15 }`.
    Uplink { interface: String, address: IpAddr },
    /// The address to which the domain translates what leaves by its end of the uplink:
    /// `uplink_addresses { "cw7" : 251.146.0.15 }`.
    UplinkAddress { interface: String, address: IpAddr },
    /// Addresses of a network whose endpoints may open connections out of the cluster:
    /// `nat_sources { 7 . 20.1.1.0/24 }`.
    NatSource { zone: u16, subnet: IpNet },
    /// Addresses of a network whose endpoints may read the metadata of a cloud:
    /// `metadata_sources { 7 . 20.1.1.0/24 }`.
    MetadataSource { zone: u16, subnet: IpNet },
    /// The last revision of the log that changed anything of this place. No rule looks it up; a
    /// restart reads by it how new the rules are: `applied { 7 . 0x0 . 0x63 }`.
    Applied { zone: u16, revision: Revision },
}

/// A field of an ARP packet (RFC 826).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ArpField {
    /// The endpoint's own address.
    Sender,
    /// The gateway of the endpoint's network.
    Target,
}

impl Element {
    pub fn at(self, place: &Place) -> Resource {
        Object::Element(self).at(place)
    }

    /// The family of the table that its set is in.
    pub fn family(&self) -> Family {
        match self {
            Self::ArpAddress { .. } => Family::Arp,
            _ => Family::Inet,
        }
    }

    /// The zone of its domain, if its key or its map has one.
    pub fn zone(&self) -> Option<u16> {
        match self {
            Self::Peer { .. }
            | Self::Stamp { .. }
            | Self::Endpoint { .. }
            | Self::Uplink { .. }
            | Self::UplinkAddress { .. }
            | Self::ArpAddress { .. } => None,
            Self::VmapEntry { map, .. } => zone_of(&map.name),
            Self::Gateway { zone, .. }
            | Self::Resolver { zone, .. }
            | Self::Subnet { zone, .. }
            | Self::NatSource { zone, .. }
            | Self::MetadataSource { zone, .. }
            | Self::ConnectionLimit { zone, .. }
            | Self::Zone { zone, .. }
            | Self::AllowedSource { zone, .. }
            | Self::Member { zone, .. }
            | Self::Pool { zone, .. }
            | Self::Program { zone, .. }
            | Self::RuleCounter { zone, .. }
            | Self::CtMarkTemplate { zone, .. }
            | Self::EstablishedPair { zone, .. }
            | Self::Revision { zone, .. }
            | Self::RevisionChain { zone, .. }
            | Self::Applied { zone, .. } => Some(*zone),
        }
    }

    /// The set or map that it is an element of.
    pub fn set(&self) -> &str {
        match self {
            Self::Peer {
                vtep: IpAddr::V4(_),
            } => "peers",
            Self::Peer {
                vtep: IpAddr::V6(_),
            } => "peers6",
            Self::Stamp { .. } => "stamps",
            Self::Endpoint { .. } => "endpoints",
            Self::Gateway { .. } => "gateways",
            Self::Resolver { .. } => "resolvers",
            Self::Subnet { .. } => "subnets",
            Self::Uplink { .. } => "uplinks",
            Self::UplinkAddress { .. } => "uplink_addresses",
            Self::NatSource { .. } => "nat_sources",
            Self::MetadataSource { .. } => "metadata_sources",
            Self::ConnectionLimit { .. } => "limits",
            Self::Zone { .. } => "zones",
            Self::AllowedSource { .. } => "known",
            Self::Member { .. } => "members",
            Self::Pool { .. } => "pools",
            Self::Program {
                direction: Direction::In,
                ..
            } => "programs_in",
            Self::Program { .. } => "programs_out",
            Self::VmapEntry { map, .. } => &map.name,
            Self::RuleCounter { .. } => "hits",
            Self::CtMarkTemplate { .. } => "openers",
            Self::EstablishedPair { .. } => "same",
            Self::Revision { .. } => "revisions",
            Self::RevisionChain { .. } => "revised",
            Self::ArpAddress {
                field: ArpField::Sender,
                ..
            } => "arp_senders",
            Self::ArpAddress {
                field: ArpField::Target,
                ..
            } => "arp_targets",
            Self::Applied { .. } => "applied",
        }
    }

    /// Set and key as nft text, without a map's value.
    pub fn id(&self) -> String {
        format!("{} {}", self.set(), self.key())
    }

    fn key(&self) -> String {
        match self {
            Self::Peer { vtep } => vtep.to_string(),
            Self::Stamp {
                interface, address, ..
            }
            | Self::Endpoint { interface, address }
            | Self::Uplink { interface, address } => format!("\"{interface}\" . {address}"),
            Self::Gateway { zone, address } | Self::Resolver { zone, address } => {
                format!("{zone} . {address}")
            }
            Self::Subnet { zone, subnet, .. }
            | Self::NatSource { zone, subnet }
            | Self::MetadataSource { zone, subnet }
            | Self::ConnectionLimit { zone, subnet, .. } => {
                format!("{zone} . {subnet}")
            }
            Self::Zone { interface, .. }
            | Self::ArpAddress { interface, .. }
            | Self::UplinkAddress { interface, .. } => {
                format!("\"{interface}\"")
            }
            Self::Member { zone, address, .. } => format!("{zone} . {address}"),
            Self::Pool { zone, range, .. } => format!("{zone} . {range}"),
            Self::AllowedSource { zone, group, .. } | Self::Program { zone, group, .. } => {
                format!("{zone} . {:#x}", group.0)
            }
            Self::VmapEntry { map, key, .. } => map.field.value(*key).to_string(),
            Self::RuleCounter { zone, rule, .. } => format!("{zone} . {rule:#x}"),
            Self::CtMarkTemplate { zone, group, .. } => format!("{zone} . 0:{:x}", group.0),
            Self::EstablishedPair { zone, group, .. } => {
                format!("{zone} . {0:#x} . {0:#x}", group.0)
            }
            Self::Revision { zone, revision, .. } => {
                format!("{zone} . {:#x}", u32::from(*revision) << 16)
            }
            Self::RevisionChain { zone, .. } => zone.to_string(),
            Self::Applied { zone, revision, .. } => {
                let [high, low] = halves(*revision);
                format!("{zone} . {high:#x} . {low:#x}")
            }
        }
    }

    /// The value of a map's element as nft text; empty for an element of a set.
    fn value(&self) -> String {
        match self {
            Self::Stamp { stamp: group, .. }
            | Self::Member { group, .. }
            | Self::Pool { group, .. }
            | Self::CtMarkTemplate { group, .. } => format!(" : {:#x}", group.0),
            Self::Zone { zone, .. } => format!(" : {zone}"),
            Self::ArpAddress { address, .. } | Self::UplinkAddress { address, .. } => {
                format!(" : {address}")
            }
            Self::AllowedSource { group, .. } => format!(" : 0:{:x}", group.0),
            Self::VmapEntry { to, .. } => format!(" : {to}"),
            Self::Program { chain, .. }
            | Self::RevisionChain { chain, .. }
            | Self::ConnectionLimit { chain, .. } => {
                format!(" : jump {chain}")
            }
            Self::Peer { .. }
            | Self::Endpoint { .. }
            | Self::Gateway { .. }
            | Self::Resolver { .. }
            | Self::Subnet { .. }
            | Self::Uplink { .. }
            | Self::NatSource { .. }
            | Self::MetadataSource { .. }
            | Self::RuleCounter { .. }
            | Self::EstablishedPair { .. }
            | Self::Revision { .. }
            | Self::Applied { .. } => String::new(),
        }
    }

    /// Whether the element decides about connections: such elements are correct only all together.
    pub fn decides(&self) -> bool {
        matches!(
            self,
            Self::AllowedSource { .. }
                | Self::Member { .. }
                | Self::Pool { .. }
                | Self::Program { .. }
                | Self::ConnectionLimit { .. }
                | Self::VmapEntry { .. }
                | Self::RuleCounter { .. }
                | Self::CtMarkTemplate { .. }
                | Self::EstablishedPair { .. }
                | Self::Revision { .. }
                | Self::RevisionChain { .. }
                | Self::Applied { .. }
        )
    }
}

/// A revision as two numbers of 32 bits, the higher half first: no type of nft is wider.
pub fn halves(revision: Revision) -> [u32; 2] {
    [(revision.0 >> 32) as u32, revision.0 as u32]
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, key, value) = (self.set(), self.key(), self.value());
        write!(f, "element {set} {{ {key}{value} }}")
    }
}
