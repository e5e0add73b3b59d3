//! The nouns of nft: our table, and the elements of its sets.

use std::fmt;
use std::net::IpAddr;

use bus_schema::GroupId;
use ipnet::IpNet;

use super::{Place, Ruleset, TABLE};

/// Our table and its rules, without the elements of its sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    pub place: Place,
    pub rules: Ruleset,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table inet {TABLE} ({}) in {}", self.rules, self.place)
    }
}

/// An element of one of our sets. `zone` is the domain's conntrack zone, 0 in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A node whose VXLAN packets are let in.
    Peer { vtep: IpAddr },
    /// An endpoint may send from this address, and this is who it is then.
    Stamp {
        place: Place,
        interface: String,
        address: IpAddr,
        stamp: GroupId,
    },
    /// An endpoint's address, and the VXLAN device by which it may be reached.
    Endpoint {
        place: Place,
        interface: String,
        address: IpAddr,
    },
    /// An address of the domain that answers pings, and whose port 53 is the DNS server's.
    Gateway {
        place: Place,
        zone: u16,
        address: IpAddr,
    },
    /// Addresses of the tenant: a DNS server among them may be asked.
    Subnet {
        place: Place,
        zone: u16,
        subnet: IpNet,
    },
    /// Packets of this device belong to this conntrack zone.
    Zone {
        place: Place,
        interface: String,
        zone: u16,
    },
}

impl Element {
    pub fn place(&self) -> &Place {
        match self {
            Self::Peer { .. } => &Place::Host,
            Self::Stamp { place, .. }
            | Self::Endpoint { place, .. }
            | Self::Gateway { place, .. }
            | Self::Subnet { place, .. }
            | Self::Zone { place, .. } => place,
        }
    }

    /// The set or map that it is an element of.
    pub fn set(&self) -> &'static str {
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
        }
    }

    /// The line of an nft script that adds it.
    pub fn add(&self) -> String {
        let value = match self {
            Self::Stamp { stamp, .. } => format!(" : {:#x}", stamp.0),
            Self::Zone { zone, .. } => format!(" : {zone}"),
            _ => String::new(),
        };
        let (set, key) = (self.set(), self.key());
        format!("add element inet {TABLE} {set} {{ {key}{value} }}\n")
    }

    /// The line of an nft script that deletes it.
    pub fn delete(&self) -> String {
        let (set, key) = (self.set(), self.key());
        format!("delete element inet {TABLE} {set} {{ {key} }}\n")
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "element {} {{ {}", self.set(), self.key())?;
        match self {
            Self::Stamp { stamp, .. } => write!(f, " : {:#x}", stamp.0)?,
            Self::Zone { zone, .. } => write!(f, " : {zone}")?,
            _ => {}
        }
        write!(f, " }} in {}", self.place())
    }
}
