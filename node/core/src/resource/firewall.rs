//! The nouns of nft: compiled chains and maps, and the elements of our sets.

use std::fmt;
use std::net::IpAddr;

use bus_schema::policy::Direction;
use bus_schema::{GroupId, Revision};
use ipnet::IpNet;

use super::{Chain, Field, Object, Place, Resource, Steps, Target};

impl fmt::Display for Chain<Steps> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "chain {} ({} rules)", self.name, self.rules.len())
    }
}

/// A map of compiled rules, from values of a field to chains.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleMap {
    pub name: String,
    /// What its keys are like: of `Source` and `Destination` the first.
    pub field: Field,
}

impl fmt::Display for RuleMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, field } = self;
        write!(f, "map {name} ({} : verdict)", field.words())
    }
}

/// The zone in whose domain a chain or a map of compiled rules is, by its name: a letter, the zone
/// and a digest. `c` and `a` are of versions before this one.
pub fn zone_of(name: &str) -> Option<u16> {
    let (kind, rest) = name.split_at_checked(1)?;
    let (zone, _) = rest.split_once('_')?;
    let digits = zone.bytes().all(|it| it.is_ascii_digit());
    (digits && matches!(kind, "p" | "l" | "g" | "n" | "m" | "v" | "r" | "c" | "a"))
        .then(|| zone.parse().ok())?
}

/// An element of one of our sets. `zone` is the domain's conntrack zone, 0 in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A node whose VXLAN packets are let in.
    Peer { vtep: IpAddr },
    /// An endpoint may send from this address, and this is who it is then.
    Stamp {
        interface: String,
        address: IpAddr,
        stamp: GroupId,
    },
    /// An endpoint's address, and the VXLAN device by which it may be reached.
    Endpoint { interface: String, address: IpAddr },
    /// An address of the domain that answers pings, and whose port 53 is the DNS server's.
    Gateway { zone: u16, address: IpAddr },
    /// Addresses of the tenant: a DNS server among them may be asked.
    Subnet { zone: u16, subnet: IpNet },
    /// Packets of this device belong to this conntrack zone.
    Zone { interface: String, zone: u16 },
    /// A group that there is: packets of others open no connection.
    Known { zone: u16, group: GroupId },
    /// A local endpoint's address, and its group.
    Member {
        zone: u16,
        address: IpAddr,
        group: GroupId,
    },
    /// The chain that decides for a group.
    Program {
        zone: u16,
        direction: Direction,
        group: GroupId,
        chain: String,
    },
    /// Where a value of a field leads: a group or a prefix to its line.
    Line { map: RuleMap, key: u32, to: Target },
    /// Counts what a rule decided.
    Hit { zone: u16, rule: u32 },
    /// What a connection carries of the group that opened it.
    Opener { zone: u16, group: GroupId },
    /// A connection of this group goes on with packets of this group only.
    Same { zone: u16, group: GroupId },
    /// The last revision of the log that these rules are of, its low 16 bits: each connection
    /// carries the one that let it pass.
    Revision { zone: u16, revision: u16 },
    /// The chain that marks a connection with that revision.
    Revised { zone: u16, chain: String },
    /// The last revision of the log that changed anything of this place: nothing looks it up, but a
    /// restart reads by it how new the rules are.
    Applied { zone: u16, revision: Revision },
}

impl Element {
    pub fn at(self, place: &Place) -> Resource {
        Object::Element(self).at(place)
    }

    /// The zone of its domain, if its key or its map has one.
    pub fn zone(&self) -> Option<u16> {
        match self {
            Self::Peer { .. } | Self::Stamp { .. } | Self::Endpoint { .. } => None,
            Self::Line { map, .. } => zone_of(&map.name),
            Self::Gateway { zone, .. }
            | Self::Subnet { zone, .. }
            | Self::Zone { zone, .. }
            | Self::Known { zone, .. }
            | Self::Member { zone, .. }
            | Self::Program { zone, .. }
            | Self::Hit { zone, .. }
            | Self::Opener { zone, .. }
            | Self::Same { zone, .. }
            | Self::Revision { zone, .. }
            | Self::Revised { zone, .. }
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
            Self::Subnet { .. } => "subnets",
            Self::Zone { .. } => "zones",
            Self::Known { .. } => "known",
            Self::Member { .. } => "members",
            Self::Program {
                direction: Direction::In,
                ..
            } => "programs_in",
            Self::Program { .. } => "programs_out",
            Self::Line { map, .. } => &map.name,
            Self::Hit { .. } => "hits",
            Self::Opener { .. } => "openers",
            Self::Same { .. } => "same",
            Self::Revision { .. } => "revisions",
            Self::Revised { .. } => "revised",
            Self::Applied { .. } => "applied",
        }
    }

    /// Set and key, as nft writes it; without a map's value.
    pub fn id(&self) -> String {
        format!("{} {}", self.set(), self.key())
    }

    fn key(&self) -> String {
        match self {
            Self::Peer { vtep } => vtep.to_string(),
            Self::Stamp {
                interface, address, ..
            }
            | Self::Endpoint {
                interface, address, ..
            } => format!("\"{interface}\" . {address}"),
            Self::Gateway { zone, address, .. } => format!("{zone} . {address}"),
            Self::Subnet { zone, subnet, .. } => format!("{zone} . {subnet}"),
            Self::Zone { interface, .. } => format!("\"{interface}\""),
            Self::Member { zone, address, .. } => format!("{zone} . {address}"),
            Self::Known { zone, group, .. } | Self::Program { zone, group, .. } => {
                format!("{zone} . {:#x}", group.0)
            }
            Self::Line { map, key, .. } => map.field.value(*key).to_string(),
            Self::Hit { zone, rule, .. } => format!("{zone} . {rule:#x}"),
            Self::Opener { zone, group, .. } => format!("{zone} . 0:{:x}", group.0),
            Self::Same { zone, group, .. } => format!("{zone} . {0:#x} . {0:#x}", group.0),
            Self::Revision { zone, revision, .. } => {
                format!("{zone} . {:#x}", u32::from(*revision) << 16)
            }
            Self::Revised { zone, .. } => zone.to_string(),
            Self::Applied { zone, revision, .. } => {
                let [high, low] = halves(*revision);
                format!("{zone} . {high:#x} . {low:#x}")
            }
        }
    }

    /// What the key is mapped to, as nft writes it; empty for an element of a set.
    fn value(&self) -> String {
        match self {
            Self::Stamp { stamp: group, .. }
            | Self::Member { group, .. }
            | Self::Opener { group, .. } => format!(" : {:#x}", group.0),
            Self::Zone { zone, .. } => format!(" : {zone}"),
            Self::Known { group, .. } => format!(" : 0:{:x}", group.0),
            Self::Line { to, .. } => format!(" : {to}"),
            Self::Program { chain, .. } | Self::Revised { chain, .. } => {
                format!(" : jump {chain}")
            }
            Self::Peer { .. }
            | Self::Endpoint { .. }
            | Self::Gateway { .. }
            | Self::Subnet { .. }
            | Self::Hit { .. }
            | Self::Same { .. }
            | Self::Revision { .. }
            | Self::Applied { .. } => String::new(),
        }
    }

    /// Whether connections are decided by it: such elements are right only all together.
    pub fn decides(&self) -> bool {
        matches!(
            self,
            Self::Known { .. }
                | Self::Member { .. }
                | Self::Program { .. }
                | Self::Line { .. }
                | Self::Hit { .. }
                | Self::Opener { .. }
                | Self::Same { .. }
                | Self::Revision { .. }
                | Self::Revised { .. }
                | Self::Applied { .. }
        )
    }
}

/// A revision as two numbers of 32 bits, the higher one first: no type of nft's has more.
pub fn halves(revision: Revision) -> [u32; 2] {
    [(revision.0 >> 32) as u32, revision.0 as u32]
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (set, key, value) = (self.set(), self.key(), self.value());
        write!(f, "element {set} {{ {key}{value} }}")
    }
}
