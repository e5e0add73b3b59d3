//! Kernel nouns as plain ordered values: the same for what is desired and what is observed.
//!
//! A [`State`] holds each resource once, by its [`Key`]. Everything is addressed by [`Place`], and
//! prints as the words of `ip`, `bridge`, `sysctl` and `nft`. `desired` and `datapath` make
//! states, `reconcile` compares them.

mod firewall;
mod kernel;
mod outer;
mod passage;
mod ruleset;
mod steps;

use std::fmt;

use imbl::OrdMap;

use crate::maps;

pub use firewall::{Element, RuleChain, RuleMap, Table, halves, zone_of};
pub use kernel::{
    Address, Domain, Fdb, Neighbor, Peer, Route, RouteTarget, Sandbox, Sysctl, Up, Veth, Vxlan,
};
pub use outer::{Outer, OuterDrop};
pub use passage::{Passage, Slaves};
pub use ruleset::{Chain, DNS_ADDRESS, OPENER, Parts, Rule, Ruleset, Unseen, dns_port};
pub use steps::{Field, Span, Step, Steps, Target};

/// The route protocol number of our routes: what tells them from others'.
pub const ROUTE_PROTOCOL: u8 = 201;

/// The name of our nft table, family `inet`.
pub const TABLE: &str = "contiv";

/// Where a resource sits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The host's own namespace, outside of any domain.
    Host,
    /// A domain by its name in the kernel: a namespace's file name or a VRF device's name.
    Domain(String),
}

impl Place {
    /// What the name of every namespace of ours begins with; a VRF device's is shorter.
    pub const NAMESPACE: &str = "contiv-";

    /// The name of the namespace that it is; `None`: it is in the host's.
    pub fn own_namespace(&self) -> Option<&str> {
        match self {
            Self::Domain(name) if name.starts_with(Self::NAMESPACE) => Some(name),
            Self::Host | Self::Domain(_) => None,
        }
    }

    /// The place whose netfilter it has, and so whose table.
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

/// One thing in the kernel that is ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    Domain(Domain),
    Table(Table),
    Sysctl(Sysctl),
    Vxlan(Vxlan),
    Veth(Veth),
    Address(Address),
    Neighbor(Neighbor),
    Fdb(Fdb),
    Map(RuleMap),
    Chain(RuleChain),
    Element(Element),
    Up(Up),
    Route(Route),
    Passage(Passage),
}

/// What makes two resources the same one, perhaps with other settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub place: Place,
    pub kind: Kind,
    /// The resource's name within place and kind.
    pub id: String,
}

/// The kinds of resources, in the order in which they are put: each needs only earlier ones.
///
/// A port's firewall stands before the port is up, and a route comes after the neighbor it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Domain,
    Table,
    DomainSysctl,
    Device,
    DeviceSysctl,
    Address,
    Map,
    Chain,
    Element,
    /// After the firewall; before neighbors, which the kernel flushes when a device goes down, and
    /// before routes, which it refuses on a device that is down.
    Up,
    Neighbor,
    Fdb,
    Route,
    Passage,
}

impl Kind {
    /// Whether our nft table holds it.
    pub fn is_of_table(self) -> bool {
        matches!(self, Self::Table | Self::Map | Self::Chain | Self::Element)
    }
}

impl Resource {
    pub fn place(&self) -> &Place {
        match self {
            Self::Domain(it) => &it.place,
            Self::Table(it) => &it.place,
            Self::Sysctl(it) => &it.place,
            Self::Vxlan(it) => &it.place,
            Self::Veth(it) => &it.place,
            Self::Address(it) => &it.place,
            Self::Neighbor(it) => &it.place,
            Self::Fdb(it) => &it.place,
            Self::Map(it) => &it.place,
            Self::Chain(it) => &it.place,
            Self::Element(it) => it.place(),
            Self::Up(it) => &it.place,
            Self::Route(it) => &it.place,
            Self::Passage(it) => &it.place,
        }
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Domain(_) => Kind::Domain,
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
            Self::Passage(_) => Kind::Passage,
        }
    }

    /// Whether connections are decided by it: such resources are right only all together.
    pub fn decides(&self) -> bool {
        match self {
            Self::Map(_) | Self::Chain(_) => true,
            Self::Element(element) => element.decides(),
            _ => false,
        }
    }

    /// The device without which this resource can't be, in its place.
    pub fn device(&self) -> Option<&str> {
        match self {
            Self::Domain(_) | Self::Table(_) | Self::Map(_) | Self::Chain(_) => None,
            Self::Element(_) => None,
            Self::Vxlan(_) | Self::Veth(_) | Self::Passage(_) => None,
            Self::Sysctl(it) => it.device.as_deref(),
            Self::Address(it) => Some(&it.device),
            Self::Neighbor(it) => Some(&it.device),
            Self::Fdb(it) => Some(&it.device),
            Self::Up(it) => Some(&it.device),
            Self::Route(it) => it.target.device(),
        }
    }

    pub fn key(&self) -> Key {
        let id = match self {
            Self::Domain(_) | Self::Table(_) => String::new(),
            Self::Sysctl(it) => it.path(),
            Self::Vxlan(it) => it.name.clone(),
            Self::Veth(it) => it.name.clone(),
            Self::Address(it) => format!("{} {}", it.device, it.address),
            Self::Neighbor(it) => format!("{} {}", it.device, it.address),
            Self::Fdb(it) => format!("{} {}", it.device, it.mac),
            Self::Map(it) => it.name.clone(),
            Self::Chain(it) => it.chain.name.clone(),
            Self::Element(it) => it.id(),
            Self::Up(it) => it.device.clone(),
            Self::Route(it) => it.destination.to_string(),
            Self::Passage(it) => it.rule().to_owned(),
        };
        Key {
            place: self.place().clone(),
            kind: self.kind(),
            id,
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(it) => it.fmt(f),
            Self::Table(it) => it.fmt(f),
            Self::Sysctl(it) => it.fmt(f),
            Self::Vxlan(it) => it.fmt(f),
            Self::Veth(it) => it.fmt(f),
            Self::Address(it) => it.fmt(f),
            Self::Neighbor(it) => it.fmt(f),
            Self::Fdb(it) => it.fmt(f),
            Self::Map(it) => it.fmt(f),
            Self::Chain(it) => it.fmt(f),
            Self::Element(it) => it.fmt(f),
            Self::Up(it) => it.fmt(f),
            Self::Route(it) => it.fmt(f),
            Self::Passage(it) => it.fmt(f),
        }
    }
}

/// A part of the kernel's configuration that is ours, desired or observed.
///
/// A clone is cheap and shares with its origin what neither changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State(OrdMap<Place, Part>);

/// Resources by their keys.
pub type Resources = OrdMap<Key, Resource>;

/// What sits in one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    things: Resources,
    /// What decides about connections: many, and a change is about few of them.
    rules: Resources,
}

impl Part {
    fn iter(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.things.iter().chain(self.rules.iter())
    }

    fn is_empty(&self) -> bool {
        self.things.is_empty() && self.rules.is_empty()
    }
}

impl State {
    /// Takes the resource in; one with the same key is replaced.
    pub fn insert(&mut self, resource: Resource) {
        let part = self.0.entry(resource.place().clone()).or_default();
        let resources = match resource.decides() {
            true => &mut part.rules,
            false => &mut part.things,
        };
        resources.insert(resource.key(), resource);
    }

    /// What decides about connections in `place` is this.
    pub fn set_rules(&mut self, place: &Place, rules: Resources) {
        self.0.entry(place.clone()).or_default().rules = rules;
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(part) = self.0.get_mut(&key.place)
            && part.things.remove(key).is_none()
        {
            part.rules.remove(key);
        }
    }

    pub fn get(&self, key: &Key) -> Option<&Resource> {
        let part = self.0.get(&key.place)?;
        part.things.get(key).or_else(|| part.rules.get(key))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.0.values().flat_map(Part::iter)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.iter().map(|(_, resource)| resource)
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(Part::is_empty)
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// What of it sits in `place`.
    pub fn of(&self, place: &Place) -> Self {
        let part = self.0.get(place).cloned();
        Self(part.map(|it| (place.clone(), it)).into_iter().collect())
    }

    /// The places of `before` and `now` are as in `now`.
    pub fn replace(&mut self, before: &Self, now: &Self) {
        for place in before.0.keys() {
            self.0.remove(place);
        }
        self.merge(now);
    }

    /// Takes in another one's places; those that both know are as there.
    pub fn merge(&mut self, other: &Self) {
        for (place, part) in &other.0 {
            self.0.insert(place.clone(), part.clone());
        }
    }

    /// Both without what both hold: what they share is skipped, not compared.
    pub fn apart(&self, other: &Self) -> (Self, Self) {
        let (mut one, mut two) = (self.clone(), other.clone());
        for (place, part) in &self.0 {
            if let Some(other) = other.0.get(place) {
                let (own, others) = (&mut one.0[place], &mut two.0[place]);
                (own.rules, others.rules) = differing(&part.rules, &other.rules);
                (own.things, others.things) = differing(&part.things, &other.things);
            }
        }
        (one, two)
    }

    /// The domains that it knows.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        let things = self.0.values().flat_map(|part| part.things.values());
        things.filter_map(|resource| match resource {
            Resource::Domain(domain) => Some(domain),
            _ => None,
        })
    }
}

fn differing(one: &Resources, other: &Resources) -> (Resources, Resources) {
    let (mut only_one, mut only_other) = (Resources::new(), Resources::new());
    for (old, new) in maps::differing(one, other) {
        only_one.extend(old.map(|(key, it)| (key.clone(), it.clone())));
        only_other.extend(new.map(|(key, it)| (key.clone(), it.clone())));
    }
    (only_one, only_other)
}

impl Extend<Resource> for State {
    fn extend<T: IntoIterator<Item = Resource>>(&mut self, resources: T) {
        for resource in resources {
            self.insert(resource);
        }
    }
}

impl FromIterator<Resource> for State {
    fn from_iter<T: IntoIterator<Item = Resource>>(resources: T) -> Self {
        let mut state = Self::default();
        state.extend(resources);
        state
    }
}
