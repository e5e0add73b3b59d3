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

use super::names;
use crate::policy::{Addresses, Line, Program, Value};
use crate::resource::{Chain, OPENER};

/// A program's chains.
#[derive(Debug, Clone)]
pub(super) struct Written {
    /// The name of the chain to jump to.
    pub(super) entry: String,
    pub(super) chains: Vec<Arc<Chain>>,
}

/// By zone, direction and the program's place in memory, which is its own as long as we hold it.
type Place = (u16, Direction, usize);

/// Programs that were written before.
#[derive(Debug, Clone, Default)]
pub(super) struct Writings(BTreeMap<Place, (Arc<Program>, Arc<Written>)>);

impl Writings {
    pub(super) fn of(
        &mut self,
        zone: u16,
        direction: Direction,
        program: &Arc<Program>,
    ) -> Arc<Written> {
        let key = (zone, direction, Arc::as_ptr(program).addr());
        let write = || {
            let written = Writer::new(zone).write(program, direction);
            (Arc::clone(program), written.into())
        };
        Arc::clone(&self.0.entry(key).or_insert_with(write).1)
    }

    /// Drops what nobody else holds.
    pub(super) fn sweep(&mut self) {
        self.0
            .retain(|_, (program, _)| Arc::strong_count(program) > 1);
    }
}

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

    fn write(mut self, program: &Program, direction: Direction) -> Written {
        for level in program.levels() {
            let name = level_chain(self.zone, level);
            let worse = u32::from(level) << Value::LEVEL | Value::NUMBER;
            let rule = format!("ct mark > {worse:#x} ct mark set meta mark");
            let chain = Chain::new(&name, [rule.as_str()]);
            self.chains.insert(name, chain.into());
        }
        let (peer, address) = match direction {
            Direction::In => ("meta priority", "ip saddr"),
            Direction::Out => ("meta mark", "ip daddr"),
        };
        let mut rules = Vec::new();
        if !program.groups.is_empty() {
            if direction == Direction::Out {
                rules.push("meta mark set 0".to_owned());
                rules.push("meta mark set ct zone . ip daddr map @members".to_owned());
            }
            let elements: Vec<_> = program
                .groups
                .iter()
                .map(|(group, line)| {
                    let key = match direction {
                        Direction::In => format!("0:{:x}", group.0),
                        Direction::Out => format!("{:#x}", group.0),
                    };
                    format!("{key} : jump {}", self.line(line))
                })
                .collect();
            rules.push(format!("{peer} vmap {{ {} }}", elements.join(", ")));
        }
        match &program.addresses {
            Addresses::Classes(classes) if classes.is_empty() => {}
            Addresses::Classes(classes) => {
                let elements: Vec<_> = classes
                    .iter()
                    .map(|(interval, line)| {
                        format!("{} : jump {}", range(*interval), self.line(line))
                    })
                    .collect();
                rules.push(format!("{address} vmap {{ {} }}", elements.join(", ")));
            }
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
        Written {
            entry: self.chain('p', &rules),
            chains: self.chains.into_values().collect(),
        }
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

    /// A few steps are as fast one after another as in a tree.
    fn steps(&self, protocol: Protocol, steps: &[(PortRange, Value)], rules: &mut Vec<String>) {
        const FEW: usize = 2;
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
