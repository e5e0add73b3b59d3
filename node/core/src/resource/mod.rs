//! Kernel objects as plain ordered values, of one type for the desired and the observed state.
//!
//! A [`State`] holds each resource once, by its [`Key`]. A resource has a [`Place`] and prints as the
//! words of `ip`, `bridge`, `sysctl` and `nft`. `desired` and `datapath` make states, `reconcile`
//! compares them.

mod arp;
mod connections;
mod docker_user;
mod domain_rules;
mod firewall;
mod kernel;
mod outer;
mod rule_body;
mod ruleset;
mod state;
mod uplink;

use std::fmt;
use std::sync::Arc;

use bus_schema::node::DomainKind;

pub use connections::{BucketLimit, REFUSED_CONNECTIONS};
pub use docker_user::DockerUserRule;
pub use domain_rules::is_metadata;
pub use firewall::{ArpField, Element, RuleMap, halves, zone_of};
pub use kernel::{
    Address, Domain, Fdb, Neighbor, Peer, Route, RouteTarget, Sandbox, Sysctl, Up, Veth, VrfRule,
    Vxlan,
};
pub use outer::{Outer, OuterDrop};
pub use rule_body::{Field, RuleBody, Span, Statement, Target};
pub use ruleset::{
    CT_MARK_GROUP, Chain, DNS_ADDRESS, Family, Rule, Ruleset, TableScope, Unseen, dns_port,
};
pub use state::{Resources, State};
pub use uplink::{Uplink, UplinkDrop};

/// The protocol number of our routes, which other programs' routes don't have.
pub const ROUTE_PROTOCOL: u8 = 201;

/// The name of our nft tables, of families `inet` and `arp`.
pub const TABLE: &str = "contiv";

/// The part of the kernel in which a resource is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's own namespace, outside of any domain.
    Host,
    /// A domain by its name in the kernel: a namespace's file name or a VRF device's name.
    Domain(String),
}

impl Place {
    /// The prefix of our namespaces' names; a VRF device's name is too short to have it.
    pub const NAMESPACE: &str = "contiv-";

    /// The name of its own namespace; `None`: it is in the host's.
    pub fn own_namespace(&self) -> Option<&str> {
        match self {
            Self::Domain(name) if name.starts_with(Self::NAMESPACE) => Some(name),
            Self::Host | Self::Domain(_) => None,
        }
    }

    /// The place whose netfilter, and so whose nft table, holds its rules.
    pub fn netfilter(&self) -> Self {
        match self.own_namespace() {
            Some(_) => self.clone(),
            None => Self::Host,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.pad("host"),
            Self::Domain(name) => f.pad(name),
        }
    }
}

/// A kernel object of ours, and the place where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resource {
    pub place: Place,
    pub object: Object,
}

/// A kernel object of any kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Object {
    Domain(Domain),
    VrfRule(VrfRule),
    Table(Ruleset),
    Sysctl(Sysctl),
    Vxlan(Vxlan),
    Veth(Veth),
    Address(Address),
    Neighbor(Neighbor),
    Fdb(Fdb),
    Map(RuleMap),
    Chain(Arc<Chain<RuleBody>>),
    Element(Element),
    Up(Up),
    Route(Route),
    DockerUserRule(DockerUserRule),
}

/// The identity of a resource: two resources with one key may differ in settings only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub place: Place,
    pub kind: Kind,
    /// The resource's name within its place and kind.
    pub id: String,
}

/// The kinds of resources, in the order in which they are put: each needs only earlier ones.
///
/// A port comes up after its firewall, and a route comes after the neighbor that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Domain,
    VrfRule,
    Table,
    DomainSysctl,
    Device,
    DeviceSysctl,
    Address,
    Map,
    Chain,
    Element,
    /// A device comes up after the firewall; before neighbors, which the kernel flushes when a device
    /// goes down, and before routes, which it refuses on a device that is down.
    Up,
    Neighbor,
    Fdb,
    Route,
    DockerUserRule,
}

impl Kind {
    /// Whether resources of this kind are in our nft tables.
    pub fn is_of_table(self) -> bool {
        matches!(self, Self::Table | Self::Map | Self::Chain | Self::Element)
    }
}

impl Object {
    pub fn at(self, place: &Place) -> Resource {
        Resource {
            place: place.clone(),
            object: self,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Domain(_) => Kind::Domain,
            Self::VrfRule(_) => Kind::VrfRule,
            Self::Table(_) => Kind::Table,
            Self::Sysctl(it) if it.device.is_none() => Kind::DomainSysctl,
            Self::Sysctl(_) => Kind::DeviceSysctl,
            Self::Vxlan(_) | Self::Veth(_) => Kind::Device,
            Self::Address(_) => Kind::Address,
            Self::Neighbor(_) => Kind::Neighbor,
            Self::Fdb(_) => Kind::Fdb,
            Self::Map(_) => Kind::Map,
            Self::Chain(_) => Kind::Chain,
            Self::Element(_) => Kind::Element,
            Self::Up(_) => Kind::Up,
            Self::Route(_) => Kind::Route,
            Self::DockerUserRule(_) => Kind::DockerUserRule,
        }
    }

    /// Whether the object decides about connections: such objects are correct only all together.
    pub fn decides(&self) -> bool {
        match self {
            Self::Map(_) | Self::Chain(_) => true,
            Self::Element(element) => element.decides(),
            _ => false,
        }
    }

    /// The family of the table that it is in, or that it is.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Table(it) => Some(it.family),
            Self::Map(_) | Self::Chain(_) => Some(Family::Inet),
            Self::Element(it) => Some(it.family()),
            _ => None,
        }
    }

    /// The device, in the same place, on which the object depends.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Sysctl(it) => it.device.as_deref(),
            Self::Address(it) => Some(&it.device),
            Self::Neighbor(it) => Some(&it.device),
            Self::Fdb(it) => Some(&it.device),
            Self::Up(it) => Some(&it.device),
            Self::Route(it) => it.target.device(),
            Self::Domain(_) | Self::VrfRule(_) | Self::Vxlan(_) | Self::Veth(_) => None,
            Self::Table(_) | Self::Map(_) | Self::Chain(_) | Self::Element(_) => None,
            Self::DockerUserRule(_) => None,
        }
    }

    /// The object's name within its place and kind.
    fn id(&self) -> String {
        match self {
            Self::Domain(_) | Self::VrfRule(_) => String::new(),
            Self::Table(it) => it.family.to_string(),
            Self::Sysctl(it) => it.path(),
            Self::Vxlan(it) => it.name.clone(),
            Self::Veth(it) => it.name.clone(),
            Self::Address(it) => format!("{} {}", it.device, it.address),
            Self::Neighbor(it) => format!("{} {}", it.device, it.address),
            Self::Fdb(it) => format!("{} {}", it.device, it.mac),
            Self::Map(it) => it.name.clone(),
            Self::Chain(it) => it.name.clone(),
            Self::Element(it) => it.id(),
            Self::Up(it) => it.device.clone(),
            Self::Route(it) => it.id(),
            Self::DockerUserRule(it) => it.name().to_owned(),
        }
    }
}

impl Resource {
    pub fn key(&self) -> Key {
        Key {
            place: self.place.clone(),
            kind: self.object.kind(),
            id: self.object.id(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = &self.place;
        let object: &dyn fmt::Display = match &self.object {
            Object::Domain(Domain { kind, table }) => {
                return match kind {
                    DomainKind::Netns => write!(f, "netns {place}"),
                    DomainKind::Vrf => write!(f, "link {place} type vrf table {table}"),
                };
            }
            Object::VrfRule(it) => it,
            Object::Table(it) => {
                let family = it.family;
                return write!(f, "table {family} {TABLE} ({it}) in {place}");
            }
            Object::Sysctl(it) => it,
            Object::Vxlan(it) => it,
            Object::Veth(it) => it,
            Object::Address(it) => it,
            Object::Neighbor(it) => it,
            Object::Fdb(it) => it,
            Object::Map(it) => it,
            Object::Chain(it) => it,
            Object::Element(it) => it,
            Object::Up(it) => it,
            Object::Route(it) => it,
            Object::DockerUserRule(it) => it,
        };
        write!(f, "{object} in {place}")
    }
}
