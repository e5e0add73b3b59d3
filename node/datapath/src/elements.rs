//! Elements of our sets as `nft -j` prints them. No I/O.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::Counter;
use bus_schema::policy::Direction;
use bus_schema::{GroupId, Revision};
use ipnet::IpNet;
use serde_json::Value;

use node_core::resource::{Element, Field, RuleMap, Target, zone_of};

/// Reads an element; `None` for what we never write.
pub(super) fn parse(set: &str, value: &Value) -> Option<Element> {
    Some(match set {
        "peers" | "peers6" => Element::Peer { vtep: ip(value)? },
        "stamps" => {
            let (key, stamp) = pair(value)?;
            let (interface, address) = concat(key)?;
            Element::Stamp {
                interface: interface.as_str()?.to_owned(),
                address: ip(address)?,
                stamp: group(stamp)?,
            }
        }
        "endpoints" => {
            let (interface, address) = concat(value)?;
            Element::Endpoint {
                interface: interface.as_str()?.to_owned(),
                address: ip(address)?,
            }
        }
        "gateways" => {
            let (zone, address) = zoned(value)?;
            let address = ip(address)?;
            Element::Gateway { zone, address }
        }
        "subnets" => {
            let (zone, subnet) = zoned(value)?;
            let subnet = net(subnet)?;
            Element::Subnet { zone, subnet }
        }
        "zones" => {
            let (interface, zone) = pair(value)?;
            Element::Zone {
                interface: interface.as_str()?.to_owned(),
                zone: number(zone)?,
            }
        }
        "known" => {
            let (zone, of) = zoned(pair(value)?.0)?;
            let group = group(of)?;
            Element::AllowedSource { zone, group }
        }
        "members" => {
            let (key, of) = pair(value)?;
            let (zone, address) = zoned(key)?;
            Element::Member {
                zone,
                address: ip(address)?,
                group: group(of)?,
            }
        }
        "programs_in" => program(Direction::In, value)?,
        "programs_out" => program(Direction::Out, value)?,
        "hits" => {
            let (zone, rule, _) = hit(value)?;
            Element::RuleCounter { zone, rule }
        }
        "openers" => {
            let (key, of) = pair(value)?;
            let (zone, _) = zoned(key)?;
            let group = group(of)?;
            Element::CtMarkTemplate { zone, group }
        }
        "same" => {
            let [zone, of, _] = value.get("concat")?.as_array()?.as_slice() else {
                return None;
            };
            let (zone, group) = (number(zone)?, group(of)?);
            Element::EstablishedPair { zone, group }
        }
        "revisions" => {
            let (zone, revision) = zoned(value)?;
            let revision = (long(revision)? >> 16) as u16;
            Element::Revision { zone, revision }
        }
        "applied" => {
            let [zone, high, low] = value.get("concat")?.as_array()?.as_slice() else {
                return None;
            };
            let revision = u64::from(long(high)?) << 32 | u64::from(long(low)?);
            let (zone, revision) = (number(zone)?, Revision(revision));
            Element::Applied { zone, revision }
        }
        "revised" => {
            let (zone, verdict) = pair(value)?;
            let (zone, chain) = (number(zone)?, target(verdict)?);
            Element::RevisionChain { zone, chain }
        }
        _ => line(set, value)?,
    })
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
fn line(set: &str, value: &Value) -> Option<Element> {
    zone_of(set)?;
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
    let name = set.to_owned();
    let map = RuleMap { name, field };
    Some(Element::VmapEntry { map, key, to })
}

fn program(direction: Direction, value: &Value) -> Option<Element> {
    let (key, verdict) = pair(value)?;
    let (zone, of) = zoned(key)?;
    Some(Element::Program {
        zone,
        direction,
        group: group(of)?,
        chain: target(verdict)?,
    })
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

/// A concatenation that begins with a zone.
fn zoned(value: &Value) -> Option<(u16, &Value)> {
    let (zone, rest) = concat(value)?;
    Some((number(zone)?, rest))
}

fn group(value: &Value) -> Option<GroupId> {
    number(value).map(GroupId)
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
