//! Elements of our sets as `nft -j` prints them. No I/O.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::Counter;
use bus_schema::policy::Direction;
use bus_schema::{GroupId, Revision};
use ipnet::IpNet;
use serde_json::Value;

use node_core::resource::{Element, Field, Place, RuleMap, Target, zone_of};

/// An element of which the place isn't known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Raw {
    Peer(IpAddr),
    Stamp(String, IpAddr, GroupId),
    Endpoint(String, IpAddr),
    Gateway(u16, IpAddr),
    Subnet(u16, IpNet),
    Zone(String, u16),
    Known(u16, GroupId),
    Member(u16, IpAddr, GroupId),
    Program(u16, Direction, GroupId, String),
    /// Zone, map, what its keys are like, key and target.
    Line(u16, String, Field, u32, Target),
    Hit(u16, u32),
    Opener(u16, GroupId),
    Same(u16, GroupId),
    Revision(u16, u16),
    Revised(u16, String),
    Applied(u16, Revision),
}

/// By what an element's place is found.
pub(super) enum Owner<'a> {
    Host,
    Device(&'a str),
    Zone(u16),
}

impl Raw {
    pub(super) fn owner(&self) -> Owner<'_> {
        match self {
            Self::Peer(_) => Owner::Host,
            Self::Stamp(device, ..) | Self::Endpoint(device, _) | Self::Zone(device, _) => {
                Owner::Device(device)
            }
            Self::Gateway(zone, _)
            | Self::Subnet(zone, _)
            | Self::Known(zone, _)
            | Self::Member(zone, ..)
            | Self::Program(zone, ..)
            | Self::Line(zone, ..)
            | Self::Hit(zone, _)
            | Self::Opener(zone, _)
            | Self::Same(zone, _)
            | Self::Revision(zone, _)
            | Self::Revised(zone, _)
            | Self::Applied(zone, _) => Owner::Zone(*zone),
        }
    }

    pub(super) fn at(self, place: Place) -> Element {
        match self {
            Self::Peer(vtep) => Element::Peer { vtep },
            Self::Stamp(interface, address, stamp) => Element::Stamp {
                place,
                interface,
                address,
                stamp,
            },
            Self::Endpoint(interface, address) => Element::Endpoint {
                place,
                interface,
                address,
            },
            Self::Gateway(zone, address) => Element::Gateway {
                place,
                zone,
                address,
            },
            Self::Subnet(zone, subnet) => Element::Subnet {
                place,
                zone,
                subnet,
            },
            Self::Zone(interface, zone) => Element::Zone {
                place,
                interface,
                zone,
            },
            Self::Known(zone, group) => Element::Known { place, zone, group },
            Self::Member(zone, address, group) => Element::Member {
                place,
                zone,
                address,
                group,
            },
            Self::Program(zone, direction, group, chain) => Element::Program {
                place,
                zone,
                direction,
                group,
                chain,
            },
            Self::Line(_, name, field, key, to) => Element::Line {
                map: RuleMap { place, name, field },
                key,
                to,
            },
            Self::Hit(zone, rule) => Element::Hit { place, zone, rule },
            Self::Opener(zone, group) => Element::Opener { place, zone, group },
            Self::Same(zone, group) => Element::Same { place, zone, group },
            Self::Revision(zone, revision) => Element::Revision {
                place,
                zone,
                revision,
            },
            Self::Revised(zone, chain) => Element::Revised { place, zone, chain },
            Self::Applied(zone, revision) => Element::Applied {
                place,
                zone,
                revision,
            },
        }
    }
}

/// Reads an element; `None` for what we never write.
pub(super) fn parse(set: &str, value: &Value) -> Option<Raw> {
    match set {
        "peers" | "peers6" => ip(value).map(Raw::Peer),
        "stamps" => {
            let (key, stamp) = pair(value)?;
            let (device, address) = concat(key)?;
            let stamp = GroupId(number(stamp)?);
            Some(Raw::Stamp(device.as_str()?.to_owned(), ip(address)?, stamp))
        }
        "endpoints" => {
            let (device, address) = concat(value)?;
            Some(Raw::Endpoint(device.as_str()?.to_owned(), ip(address)?))
        }
        "gateways" => {
            let (zone, address) = concat(value)?;
            Some(Raw::Gateway(number(zone)?, ip(address)?))
        }
        "subnets" => {
            let (zone, subnet) = concat(value)?;
            Some(Raw::Subnet(number(zone)?, net(subnet)?))
        }
        "zones" => {
            let (device, zone) = pair(value)?;
            Some(Raw::Zone(device.as_str()?.to_owned(), number(zone)?))
        }
        "known" => {
            let (zone, group) = concat(pair(value)?.0)?;
            Some(Raw::Known(number(zone)?, GroupId(number(group)?)))
        }
        "members" => {
            let (key, group) = pair(value)?;
            let (zone, address) = concat(key)?;
            let group = GroupId(number(group)?);
            Some(Raw::Member(number(zone)?, ip(address)?, group))
        }
        "programs_in" => program(Direction::In, value),
        "programs_out" => program(Direction::Out, value),
        "hits" => hit(value).map(|(zone, rule, _)| Raw::Hit(zone, rule)),
        "openers" => {
            let (key, group) = pair(value)?;
            let (zone, _) = concat(key)?;
            Some(Raw::Opener(number(zone)?, GroupId(number(group)?)))
        }
        "same" => match value.get("concat")?.as_array()?.as_slice() {
            [zone, group, _] => Some(Raw::Same(number(zone)?, GroupId(number(group)?))),
            _ => None,
        },
        "revisions" => {
            let (zone, revision) = concat(value)?;
            Some(Raw::Revision(number(zone)?, (long(revision)? >> 16) as u16))
        }
        "applied" => match value.get("concat")?.as_array()?.as_slice() {
            [zone, high, low] => {
                let revision = u64::from(long(high)?) << 32 | u64::from(long(low)?);
                Some(Raw::Applied(number(zone)?, Revision(revision)))
            }
            _ => None,
        },
        "revised" => {
            let (zone, verdict) = pair(value)?;
            Some(Raw::Revised(number(zone)?, target(verdict)?))
        }
        _ => line(set, value),
    }
}

/// What keys of a type are like; of no type of ours: ports.
pub(super) fn field(kind: &str) -> Field {
    match kind {
        "mark" => Field::Mark,
        "classid" => Field::Priority,
        "ipv4_addr" => Field::Source,
        _ => Field::Port,
    }
}

/// Where an element leads that nobody but somebody else can have put: no chain has this name.
const NOT_OURS: &str = "";

/// An element of a map of compiled rules.
fn line(set: &str, value: &Value) -> Option<Raw> {
    let zone = zone_of(set)?;
    let (key, verdict) = pair(value)?;
    // With a comment or a time limit, which ours never have.
    let decorated = key.get("elem").and_then(|it| it.get("val"));
    let key = decorated.unwrap_or(key);
    let (field, key) = match key.as_str() {
        None => (Field::Mark, long(key)?),
        Some(text) => match text.strip_prefix("0:") {
            Some(minor) => (Field::Priority, u32::from_str_radix(minor, 16).ok()?),
            None => (Field::Source, text.parse::<Ipv4Addr>().ok()?.to_bits()),
        },
    };
    let goto = || Some(verdict.get("goto")?.get("target")?.as_str()?.to_owned());
    let to = match (decorated, target(verdict), goto()) {
        (None, Some(chain), _) => Target::Jump(chain),
        (None, None, Some(chain)) => Target::Goto(chain),
        _ => Target::Goto(NOT_OURS.to_owned()),
    };
    Some(Raw::Line(zone, set.to_owned(), field, key, to))
}

fn program(direction: Direction, value: &Value) -> Option<Raw> {
    let (key, verdict) = pair(value)?;
    let (zone, group) = concat(key)?;
    let (zone, group) = (number(zone)?, GroupId(number(group)?));
    Some(Raw::Program(zone, direction, group, target(verdict)?))
}

/// The chain that is jumped to.
fn target(verdict: &Value) -> Option<String> {
    let target = verdict.get("jump")?.get("target")?;
    Some(target.as_str()?.to_owned())
}

/// Zone, rule and what it counted.
pub(super) fn hit(value: &Value) -> Option<(u16, u32, Counter)> {
    let element = value.get("elem")?;
    let (zone, rule) = concat(element.get("val")?)?;
    let counter = element.get("counter")?;
    let counter = Counter {
        packets: counter.get("packets")?.as_u64()?,
        bytes: counter.get("bytes")?.as_u64()?,
    };
    Some((number(zone)?, long(rule)?, counter))
}

fn long(value: &Value) -> Option<u32> {
    value.as_u64()?.try_into().ok()
}

fn pair(value: &Value) -> Option<(&Value, &Value)> {
    match value.as_array()?.as_slice() {
        [key, value] => Some((key, value)),
        _ => None,
    }
}

fn concat(value: &Value) -> Option<(&Value, &Value)> {
    pair(value.get("concat")?)
}

fn number(value: &Value) -> Option<u16> {
    value.as_u64()?.try_into().ok()
}

fn ip(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

fn net(value: &Value) -> Option<IpNet> {
    let Some(prefix) = value.get("prefix") else {
        return ip(value).map(IpNet::from);
    };
    let length = prefix.get("len")?.as_u64()?.try_into().ok()?;
    IpNet::new(ip(prefix.get("addr")?)?, length).ok()
}
