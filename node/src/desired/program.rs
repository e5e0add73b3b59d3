//! Compiled rules in words of nft.
//!
//! A chain's name is its kind, the domain's zone and a digest of its text: `p` a program, `l` a
//! line, `a` rules about addresses one after another, `m` the comparison of a level. A line leaves
//! its result in the mark; `m` keeps it in the connection's mark when that holds a worse one. The
//! one chain `r` has no digest: it marks connections with the rules' revision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bus_schema::policy::{Direction, PortRange, Protocol};
use bus_schema::{GroupId, GroupName, TenantName};
use imbl::OrdMap;

use super::names;
use crate::policy::{Addresses, Interval, Line, Program, Value};
use crate::projection::{GroupFact, TenantFact};
use crate::resource::{Chain, Element, OPENER, Place, Resource, Resources, RuleChain};

/// A program's chains, and what counts its rules.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// The name of the chain to jump to.
    pub(super) entry: String,
    pub(super) rules: Resources,
}

/// By place, direction and the program's place in memory, which is its own as long as we hold it.
type Slot = (Place, u16, Direction, usize);

/// What was written before.
#[derive(Debug, Clone, Default)]
pub(super) struct Writings {
    programs: BTreeMap<Slot, (Arc<Program>, Arc<Written>)>,
    known: BTreeMap<TenantName, Known>,
}

/// A tenant's groups in words of nft, and what they were written of.
#[derive(Debug, Clone)]
struct Known {
    of: (Place, u16),
    /// Those left out; absent: all.
    closed: Option<BTreeSet<GroupId>>,
    groups: OrdMap<GroupName, GroupFact>,
    rules: Resources,
}

impl Writings {
    /// The groups that packets may be of.
    pub(super) fn known(
        &mut self,
        (place, zone): (&Place, u16),
        tenant: &TenantName,
        fact: &TenantFact,
    ) -> Resources {
        let of = (place.clone(), zone);
        let closed = (!fact.newer).then(|| fact.closed_groups());
        let unchanged =
            |it: &&Known| it.of == of && it.closed == closed && it.groups.ptr_eq(&fact.groups);
        if let Some(known) = self.known.get(tenant).filter(unchanged) {
            return known.rules.clone();
        }
        let groups = fact.groups.values().map(|group| group.spec.id);
        let elements = groups.chain([GroupId::UNGROUPED]).flat_map(|group| {
            let place = || place.clone();
            let same = Element::Same {
                place: place(),
                zone,
                group,
            };
            let known = Element::Known {
                place: place(),
                zone,
                group,
            };
            let opener = Element::Opener {
                place: place(),
                zone,
                group,
            };
            let open = closed.as_ref().is_some_and(|it| !it.contains(&group));
            let opening = [known, opener].into_iter().filter(move |_| open);
            opening.chain([same])
        });
        let elements = elements.map(Resource::Element);
        let rules: Resources = elements.map(|it| (it.key(), it)).collect();
        let groups = fact.groups.clone();
        let known = Known {
            of,
            closed,
            groups,
            rules: rules.clone(),
        };
        self.known.insert(tenant.clone(), known);
        rules
    }

    pub(super) fn of(
        &mut self,
        (place, zone): (&Place, u16),
        direction: Direction,
        program: &Arc<Program>,
    ) -> Arc<Written> {
        let key = (place.clone(), zone, direction, Arc::as_ptr(program).addr());
        let write = || {
            let (entry, chains) = Writer::new(zone).write(program, direction);
            let chain = |chain| {
                let place = place.clone();
                Resource::Chain(RuleChain { place, chain })
            };
            let hit = |rule: &u32| {
                let (place, rule) = (place.clone(), *rule);
                Resource::Element(Element::Hit { place, zone, rule })
            };
            let all = chains.into_values().map(chain);
            let all = all.chain(program.rules.keys().map(hit));
            let rules = all.map(|it| (it.key(), it)).collect();
            (Arc::clone(program), Written { entry, rules }.into())
        };
        Arc::clone(&self.programs.entry(key).or_insert_with(write).1)
    }

    /// Drops what nobody else holds.
    pub(super) fn sweep(&mut self) {
        self.programs
            .retain(|_, (program, _)| Arc::strong_count(program) > 1);
    }
}

/// So many elements of a map are written together.
const CHUNK: u16 = 64;

struct Writer {
    zone: u16,
    chains: BTreeMap<String, Arc<Chain>>,
    /// Lines are shared; each is written once.
    lines: BTreeMap<usize, String>,
}

impl Writer {
    fn new(zone: u16) -> Self {
        Self {
            zone,
            chains: BTreeMap::new(),
            lines: BTreeMap::new(),
        }
    }

    /// The name of the chain to jump to, and all chains by their names.
    fn write(
        mut self,
        program: &Program,
        direction: Direction,
    ) -> (String, BTreeMap<String, Arc<Chain>>) {
        for level in program.levels() {
            let name = level_chain(self.zone, level);
            let worse = u32::from(level) << Value::LEVEL | Value::NUMBER;
            let rule = format!("ct mark > {worse:#x} ct mark set meta mark");
            let chain = Chain::new(&name, [rule.as_str()]);
            self.chains.insert(name, chain.into());
        }
        let address = match direction {
            Direction::In => "ip saddr",
            Direction::Out => "ip daddr",
        };
        let mut rules = Vec::new();
        if !program.groups.is_empty() {
            if direction == Direction::Out {
                rules.push("meta mark set 0".to_owned());
                rules.push("meta mark set ct zone . ip daddr map @members".to_owned());
            }
            rules.push(self.groups(&program.groups, direction));
        }
        match &program.addresses {
            Addresses::Classes(classes) if classes.is_empty() => {}
            Addresses::Classes(classes) => rules.push(self.classes(classes, address)),
            Addresses::List(listed) => {
                let mut texts = Vec::new();
                for rule in listed {
                    let wanted = wanted(rule.protocol, &rule.ports);
                    let found = self.found(rule.value);
                    for interval in &rule.ranges {
                        let interval = range(*interval);
                        texts.push(format!("{address} {interval} {wanted}{found}"));
                    }
                }
                rules.push(format!("jump {}", self.chain('a', &texts)));
            }
        }
        if !program.anybody.is_empty() {
            rules.push(format!("jump {}", self.line(&program.anybody)));
        }
        (self.chain('p', &rules), self.chains)
    }

    /// The line of a group. Many are looked up in two steps, so that a change writes few anew.
    fn groups(&mut self, groups: &BTreeMap<GroupId, Arc<Line>>, direction: Direction) -> String {
        let (peer, key): (_, fn(u16) -> String) = match direction {
            Direction::In => ("meta priority", |id| format!("0:{id:x}")),
            Direction::Out => ("meta mark", |id| format!("{id:#x}")),
        };
        let mut chunks: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for (group, line) in groups {
            let element = format!("{} : jump {}", key(group.0), self.line(line));
            chunks
                .entry(group.0 / CHUNK * CHUNK)
                .or_default()
                .push(element);
        }
        let chunks = chunks.into_iter().map(|(first, elements)| {
            let map = format!("{peer} vmap {{ {} }}", elements.join(", "));
            (key(first), map)
        });
        let mask = format!("& {:#x}", u32::from(u16::MAX / CHUNK * CHUNK));
        self.two_steps(&format!("{peer} {mask}"), chunks.collect())
    }

    /// The line of an address, likewise: a run of intervals ends where their own addresses say so,
    /// wherever others come and go. `nft` reads each map of plain ranges before it changes any
    /// element, but none of concatenated ones: hence the zone, which is always the same here.
    fn classes(&mut self, classes: &[(Interval, Arc<Line>)], address: &str) -> String {
        let key = format!("ct zone . {address}");
        let zone = self.zone;
        let range = |interval| format!("{zone} . {}", range(interval));
        let ends =
            |(first, _): Interval| crc32fast::hash(&first.octets()).is_multiple_of(CHUNK.into());
        let chunks = classes.chunk_by(|_, (next, _)| !ends(*next));
        let mut maps = Vec::new();
        for chunk in chunks {
            let elements = chunk
                .iter()
                .map(|(interval, line)| format!("{} : jump {}", range(*interval), self.line(line)));
            let elements: Vec<_> = elements.collect();
            let map = format!("{key} vmap {{ {} }}", elements.join(", "));
            if let [((first, _), _), ..] = chunk
                && let [.., ((_, last), _)] = chunk
            {
                maps.push((range((*first, *last)), map));
            }
        }
        self.two_steps(&key, maps)
    }

    /// A map of maps; one alone is looked up at once.
    fn two_steps(&mut self, key: &str, maps: Vec<(String, String)>) -> String {
        if let [(_, map)] = &maps[..] {
            return map.clone();
        }
        let elements = maps
            .into_iter()
            .map(|(of, map)| format!("{of} : jump {}", self.chain('c', &[map])));
        let elements: Vec<_> = elements.collect();
        format!("{key} vmap {{ {} }}", elements.join(", "))
    }

    fn line(&mut self, line: &Line) -> String {
        let key = std::ptr::from_ref(line).addr();
        if let Some(name) = self.lines.get(&key) {
            return name.clone();
        }
        let mut rules = Vec::new();
        for (protocol, steps) in &line.ports {
            self.steps(*protocol, steps, &mut rules);
        }
        match line.protocols.len() {
            0 => {}
            1 => {
                for (protocol, value) in &line.protocols {
                    rules.push(format!("meta l4proto {}{}", protocol.0, self.found(*value)));
                }
            }
            _ => {
                let key = |protocol: &Protocol| protocol.0.to_string();
                let of = line.protocols.iter().map(|(it, value)| (key(it), *value));
                rules.push(self.map("meta l4proto", &of.collect::<Vec<_>>()));
            }
        }
        if let Some(value) = line.rest {
            rules.push(self.found(value).trim_start().to_owned());
        }
        let name = self.chain('l', &rules);
        self.lines.insert(key, name.clone());
        name
    }

    /// A few steps are as fast one after another as in a tree, and spare `nft` the map of ranges.
    fn steps(&self, protocol: Protocol, steps: &[(PortRange, Value)], rules: &mut Vec<String>) {
        const FEW: usize = 8;
        if steps.len() <= FEW {
            for (ports, value) in steps {
                rules.push(format!("{protocol} dport {ports}{}", self.found(*value)));
            }
            return;
        }
        let of = steps
            .iter()
            .map(|(ports, value)| (ports.to_string(), *value));
        rules.push(self.map(&format!("{protocol} dport"), &of.collect::<Vec<_>>()));
    }

    fn map(&self, key: &str, of: &[(String, Value)]) -> String {
        let mut text = format!("meta mark set {key} map {{ ");
        for (index, (key, value)) in of.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing to a string doesn't fail.
            let _ = write!(text, "{comma}{key} : {:#x}", value.0);
        }
        let levels: BTreeSet<u8> = of.iter().map(|(_, it)| it.level()).collect();
        let chain = |level: u8| level_chain(self.zone, level);
        let mut targets = levels.iter().map(|level| {
            let mask = u32::from(*level) << Value::LEVEL;
            format!("{mask:#x} : goto {}", chain(*level))
        });
        match (targets.next(), targets.next()) {
            (Some(_), None) => {
                let level = levels.first().copied().unwrap_or_default();
                text + &format!(" }} goto {}", chain(level))
            }
            (one, other) => {
                let all: Vec<_> = one.into_iter().chain(other).chain(targets).collect();
                let mask = !Value::NUMBER;
                text + &format!(" }} meta mark & {mask:#x} vmap {{ {} }}", all.join(", "))
            }
        }
    }

    /// The end of a rule whose value is found.
    fn found(&self, value: Value) -> String {
        let chain = level_chain(self.zone, value.level());
        format!(" meta mark set {:#x} goto {chain}", value.0)
    }

    fn chain(&mut self, kind: char, rules: &[String]) -> String {
        let name = format!("{kind}{}_{}", self.zone, names::hex(&rules.join("\n"), 16));
        let chain = Chain::new(&name, rules.iter().map(String::as_str));
        self.chains.insert(name.clone(), chain.into());
        name
    }
}

pub(super) fn revision_chain(zone: u16, revision: u16) -> Chain {
    let revision = u32::from(revision) << 16;
    let rule = format!("ct mark set ct mark & {OPENER:#x} | {revision:#x}");
    Chain::new(&format!("r{zone}_"), [rule.as_str()])
}

fn level_chain(zone: u16, level: u8) -> String {
    format!("m{zone}_{level}")
}

fn range((first, last): (Ipv4Addr, Ipv4Addr)) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

fn wanted(protocol: Option<Protocol>, ports: &[PortRange]) -> String {
    let Some(protocol) = protocol else {
        return String::new();
    };
    if ports.is_empty() {
        return format!("meta l4proto {}", protocol.0);
    }
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    format!("{protocol} dport {{ {} }}", ports.join(", "))
}
