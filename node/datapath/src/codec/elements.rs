//! Elements of our sets as entries, and back. No I/O.
//!
//! Keys are as `Ruleset` declares the sets: parts of a concatenation begin at multiples of four
//! bytes.

use std::borrow::Cow;
use std::net::IpAddr;

use bus_schema::node::Counter;
use bus_schema::policy::Direction;
use bus_schema::{AddressRange, GroupId, Revision};
use ipnet::IpNet;

use super::entry::{Data, Entry};
use super::read_value;
use node_core::resource::{ArpField, Element, Field, RuleMap, Target, halves, zone_of};

/// The entry of an element; without its data if it is to be deleted.
pub(crate) fn entry(element: &Element, with_data: bool) -> Entry<'_> {
    let data = if with_data {
        data(element)
    } else {
        Data::Nothing
    };
    let mut entry = Entry::new(key(element), data);
    entry.end = last_key(element).map(Cow::Owned);
    entry
}

fn key(element: &Element) -> Vec<u8> {
    let mark = |number: u32| number.to_ne_bytes().to_vec();
    let group = |group: &GroupId| mark(group.0.into());
    let zoned = |of: &u16, rest: Vec<u8>| [zone(*of), rest].concat();
    let ranged = |of: &u16, first: IpAddr| [zone_in_ranges(*of), octets(first)].concat();
    match element {
        Element::Peer { vtep } => octets(*vtep),
        Element::Stamp {
            interface, address, ..
        }
        | Element::Endpoint { interface, address }
        | Element::Uplink { interface, address } => on(interface, *address),
        Element::Gateway { zone, address }
        | Element::Resolver { zone, address }
        | Element::Member { zone, address, .. } => zoned(zone, octets(*address)),
        Element::Subnet { zone, subnet, .. }
        | Element::NatSource { zone, subnet }
        | Element::MetadataSource { zone, subnet }
        | Element::ConnectionLimit { zone, subnet, .. } => ranged(zone, subnet.network()),
        Element::Pool { zone, range, .. } => ranged(zone, range.first),
        Element::Zone { interface, .. }
        | Element::ArpAddress { interface, .. }
        | Element::UplinkAddress { interface, .. } => name(interface),
        Element::AllowedSource { zone, group: it }
        | Element::CtMarkTemplate { zone, group: it }
        | Element::Program {
            zone, group: it, ..
        } => zoned(zone, group(it)),
        Element::VmapEntry { map, key, .. } => super::value(map.field, *key),
        Element::RuleCounter { zone, rule, .. } => zoned(zone, mark(*rule)),
        Element::EstablishedPair {
            zone, group: it, ..
        } => zoned(zone, [group(it), group(it)].concat()),
        Element::Revision { zone, revision, .. } => zoned(zone, mark(u32::from(*revision) << 16)),
        Element::Applied { zone, revision, .. } => {
            let [high, low] = halves(*revision).map(mark);
            zoned(zone, [high, low].concat())
        }
        Element::RevisionChain { zone, .. } => zone.to_ne_bytes().to_vec(),
    }
}

/// The last key of an element with a range of them.
fn last_key(element: &Element) -> Option<Vec<u8>> {
    let (zone, last) = match element {
        Element::Subnet { zone, subnet, .. }
        | Element::NatSource { zone, subnet }
        | Element::MetadataSource { zone, subnet }
        | Element::ConnectionLimit { zone, subnet, .. } => (zone, subnet.broadcast()),
        Element::Pool { zone, range, .. } => (zone, range.last),
        _ => return None,
    };
    Some([zone_in_ranges(*zone), octets(last)].concat())
}

fn data(element: &Element) -> Data<'_> {
    let value = |bytes: Vec<u8>| Data::Value(Cow::Owned(bytes));
    match element {
        Element::Stamp { stamp: group, .. }
        | Element::AllowedSource { group, .. }
        | Element::CtMarkTemplate { group, .. }
        | Element::Member { group, .. }
        | Element::Pool { group, .. } => value(u32::from(group.0).to_ne_bytes().to_vec()),
        Element::Zone { zone, .. } => value(zone.to_ne_bytes().to_vec()),
        Element::ArpAddress { address, .. } | Element::UplinkAddress { address, .. } => {
            value(octets(*address))
        }
        Element::Program { chain, .. }
        | Element::RevisionChain { chain, .. }
        | Element::ConnectionLimit { chain, .. } => jump(chain),
        Element::VmapEntry { to, .. } => Data::Target(Cow::Borrowed(to)),
        Element::Peer { .. }
        | Element::Endpoint { .. }
        | Element::Gateway { .. }
        | Element::Resolver { .. }
        | Element::Subnet { .. }
        | Element::Uplink { .. }
        | Element::NatSource { .. }
        | Element::MetadataSource { .. }
        | Element::RuleCounter { .. }
        | Element::EstablishedPair { .. }
        | Element::Revision { .. }
        | Element::Applied { .. } => Data::Nothing,
    }
}

fn on(interface: &str, address: IpAddr) -> Vec<u8> {
    [name(interface), octets(address)].concat()
}

fn jump(chain: &str) -> Data<'_> {
    Data::Target(Cow::Owned(Target::Jump(chain.to_owned())))
}

fn zone(zone: u16) -> Vec<u8> {
    let [a, b] = zone.to_ne_bytes();
    vec![a, b, 0, 0]
}

/// Ranges are compared byte by byte, so `nft` swaps what it looks up in a set that has them.
fn zone_in_ranges(zone: u16) -> Vec<u8> {
    let [a, b] = zone.to_be_bytes();
    vec![a, b, 0, 0]
}

/// `IFNAMSIZ` bytes; the kernel refuses a longer name.
fn name(interface: &str) -> Vec<u8> {
    let mut bytes = interface.as_bytes().to_vec();
    bytes.resize(bytes.len().max(NAME_LENGTH), 0);
    bytes
}

/// `IFNAMSIZ`
const NAME_LENGTH: usize = 16;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

/// Reads an element of a set of ours; `None`: we never write such a one.
pub(crate) fn read(set: &str, entry: &Entry<'_>) -> Option<Element> {
    let key = &mut Key(&entry.key);
    let element = match set {
        "subnets" | "nat_sources" | "metadata_sources" => {
            let (zone, subnet) = key.zone_and_subnet(entry)?;
            match set {
                "subnets" => Element::Subnet { zone, subnet },
                "nat_sources" => Element::NatSource { zone, subnet },
                _ => Element::MetadataSource { zone, subnet },
            }
        }
        "pools" => {
            let (zone, range) = key.zone_and_range(entry)?;
            Element::Pool {
                zone,
                range,
                group: group(number(&entry.data)?)?,
            }
        }
        "limits" => {
            let (zone, subnet) = key.zone_and_subnet(entry)?;
            let chain = jumped_to(&entry.data)?;
            Element::ConnectionLimit {
                zone,
                subnet,
                chain,
            }
        }
        "revised" => Element::RevisionChain {
            zone: u16::from_ne_bytes(key.take(2)?.try_into().ok()?),
            chain: jumped_to(&entry.data)?,
        },
        "peers" | "peers6" => Element::Peer {
            vtep: key.address()?,
        },
        "stamps" | "endpoints" | "zones" | "arp_senders" | "arp_targets" | "uplinks"
        | "uplink_addresses" => of_device(set, key, &entry.data)?,
        _ => of_zone(set, key, &entry.data)?,
    };
    key.0.is_empty().then_some(element)
}

/// Reads an element whose key begins with a device.
fn of_device(set: &str, key: &mut Key<'_>, data: &Data<'_>) -> Option<Element> {
    let interface = key.name()?;
    Some(match (set, data) {
        ("stamps", _) => Element::Stamp {
            interface,
            address: key.address()?,
            stamp: group(number(data)?)?,
        },
        ("endpoints", _) => Element::Endpoint {
            interface,
            address: key.address()?,
        },
        ("uplinks", _) => Element::Uplink {
            interface,
            address: key.address()?,
        },
        ("uplink_addresses", Data::Value(address)) => Element::UplinkAddress {
            interface,
            address: Key(address).address()?,
        },
        ("zones", Data::Value(zone)) => Element::Zone {
            interface,
            zone: u16::from_ne_bytes(zone.get(..2)?.try_into().ok()?),
        },
        (_, Data::Value(address)) => Element::ArpAddress {
            interface,
            field: match set {
                "arp_senders" => ArpField::Sender,
                "arp_targets" => ArpField::Target,
                _ => return None,
            },
            address: Key(address).address()?,
        },
        _ => return None,
    })
}

/// Reads an element whose key begins with a zone.
fn of_zone(set: &str, key: &mut Key<'_>, data: &Data<'_>) -> Option<Element> {
    let zone = key.zone()?;
    Some(match set {
        "gateways" => Element::Gateway {
            zone,
            address: key.address()?,
        },
        "resolvers" => Element::Resolver {
            zone,
            address: key.address()?,
        },
        "known" => Element::AllowedSource {
            zone,
            group: group(key.number()?)?,
        },
        "members" => Element::Member {
            zone,
            address: key.address()?,
            group: group(number(data)?)?,
        },
        "programs_in" | "programs_out" => Element::Program {
            zone,
            direction: match set {
                "programs_in" => Direction::In,
                _ => Direction::Out,
            },
            group: group(key.number()?)?,
            chain: jumped_to(data)?,
        },
        "hits" => Element::RuleCounter {
            zone,
            rule: key.number()?,
        },
        "openers" => {
            key.number()?;
            let group = group(number(data)?)?;
            Element::CtMarkTemplate { zone, group }
        }
        "same" => {
            let group = group(key.number()?)?;
            key.number()?;
            Element::EstablishedPair { zone, group }
        }
        "revisions" => Element::Revision {
            zone,
            revision: (key.number()? >> 16) as u16,
        },
        "applied" => {
            let (high, low) = (key.number()?, key.number()?);
            let revision = Revision(u64::from(high) << 32 | u64::from(low));
            Element::Applied { zone, revision }
        }
        _ => return None,
    })
}

/// The chain of an element that somebody else has put into a map of compiled rules: no chain has
/// this name, so the element differs from any of ours.
const NOT_OURS: &str = "";

/// Reads an element of a map of compiled rules.
pub(crate) fn read_vmap_entry(map: &str, field: Field, entry: &Entry<'_>) -> Option<Element> {
    zone_of(map)?;
    let to = match &entry.data {
        Data::Target(to) if !entry.decorated => to.clone().into_owned(),
        _ => Target::Goto(NOT_OURS.to_owned()),
    };
    let key = read_value(field, &entry.key)?;
    let name = map.to_owned();
    let map = RuleMap { name, field };
    Some(Element::VmapEntry { map, key, to })
}

/// Zone and number of a rule, and its counter.
pub(crate) fn hit(entry: &Entry<'_>) -> Option<(u16, u32, Counter)> {
    let key = &mut Key(&entry.key);
    Some((key.zone()?, key.number()?, entry.counter?))
}

/// Zone and address of an endpoint, and the packets of its connections that were refused.
pub(crate) fn refused(entry: &Entry<'_>) -> Option<(u16, IpAddr, u64)> {
    let key = &mut Key(&entry.key);
    Some((key.zone()?, key.address()?, entry.counter?.packets))
}

fn jumped_to(data: &Data<'_>) -> Option<String> {
    match data {
        Data::Target(to) => match &**to {
            Target::Jump(chain) => Some(chain.clone()),
            Target::Goto(_) => None,
        },
        _ => None,
    }
}

fn number(data: &Data<'_>) -> Option<u32> {
    match data {
        Data::Value(bytes) => Some(u32::from_ne_bytes(bytes.as_ref().try_into().ok()?)),
        _ => None,
    }
}

fn group(number: u32) -> Option<GroupId> {
    number.try_into().ok().map(GroupId)
}

/// The network that begins and ends with these addresses.
fn subnet(first: IpAddr, last: IpAddr) -> Option<IpNet> {
    let different = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).leading_zeros(),
        _ => return None,
    };
    let net = IpNet::new(first, different.try_into().ok()?).ok()?;
    (net.network() == first && net.broadcast() == last).then_some(net)
}

/// A key of which the first parts are read.
struct Key<'a>(&'a [u8]);

impl<'a> Key<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(part)
    }

    fn zone(&mut self) -> Option<u16> {
        let zone = self.take(4)?;
        Some(u16::from_ne_bytes(zone[..2].try_into().ok()?))
    }

    /// The key of an entry of a set with ranges.
    fn zone_and_range(&mut self, entry: &Entry<'_>) -> Option<(u16, AddressRange)> {
        let zone = u16::from_be_bytes(self.take(4)?[..2].try_into().ok()?);
        let first = self.address()?;
        let last = Key(entry.end.as_ref()?.get(4..)?).address()?;
        Some((zone, AddressRange { first, last }))
    }

    fn zone_and_subnet(&mut self, entry: &Entry<'_>) -> Option<(u16, IpNet)> {
        let (zone, AddressRange { first, last }) = self.zone_and_range(entry)?;
        Some((zone, subnet(first, last)?))
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.take(4)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<String> {
        let name = self.take(NAME_LENGTH)?.split(|byte| *byte == 0).next()?;
        Some(str::from_utf8(name).ok()?.to_owned())
    }

    /// The rest of the key.
    fn address(&mut self) -> Option<IpAddr> {
        let bytes = std::mem::take(&mut self.0);
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
    }
}
