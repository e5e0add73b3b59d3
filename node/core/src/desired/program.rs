//! A compiled program in words of nft: chains, and maps that lead to them.
//!
//! A name is its kind, the domain's zone and a digest of the program's name: `p` what a program
//! asks, `g` and `n` the maps by group and by prefix, `l` a line, with its spot. `m` compares a
//! level and `v` leads to it, for all programs of the domain. A line leaves its result in the mark;
//! `m` keeps it in the connection's mark when that holds a worse one.
//!
//! Maps have names and chains few maps of their own, because the kernel looks through all maps of
//! a table for the name of each that has none (`nf_tables_set_alloc_name`).
//!
//! What is written of a program follows the program: where two of its states share a line, nothing
//! is written anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use bus_schema::GroupId;
use bus_schema::policy::{Direction, PortRange, Protocol};
use imbl::ordmap::DiffItem;

use super::names;
use crate::policy::{Line, Program, Spot, Value};
use crate::resource::{
    Chain, Element, Field, Key, Kind, Object, Place, Resource, Resources, RuleMap, Span, Step,
    Steps, Target,
};

/// So few steps are as fast one after another as in a tree.
const FEW: usize = 8;
/// A line with more steps for a protocol is written in parts of [`CELL`] ports, so that a change
/// writes few of them.
const MANY: usize = 64;
const CELL: u16 = 1_024;

/// Where a program is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sheet {
    pub(super) place: Place,
    pub(super) zone: u16,
    pub(super) direction: Direction,
}

/// A program as it is written.
#[derive(Debug, Clone)]
pub(super) struct Written {
    sheet: Sheet,
    /// Zone and digest, in all of its names.
    head: String,
    program: Arc<Program>,
    rules: Resources,
}

impl Written {
    /// Nothing of it is written yet.
    pub(super) fn new(sheet: Sheet, name: &str) -> Self {
        Self {
            head: format!("{}_{}", sheet.zone, names::hex(name, 12)),
            sheet,
            program: Arc::default(),
            rules: Resources::new(),
        }
    }

    /// The name of the chain to jump to.
    pub(super) fn entry(&self) -> String {
        format!("p{}", self.head)
    }

    pub(super) fn rules(&self) -> &Resources {
        &self.rules
    }

    /// Writes down what the program is now.
    pub(super) fn follow(&mut self, program: &Arc<Program>) {
        if Arc::ptr_eq(&self.program, program) {
            return;
        }
        let before = std::mem::replace(&mut self.program, Arc::clone(program));
        for item in before.lines.diff(&program.lines) {
            let (spot, line) = match item {
                DiffItem::Add(spot, line)
                | DiffItem::Update {
                    new: (spot, line), ..
                } => (*spot, Some(&**line)),
                DiffItem::Remove(spot, _) => (*spot, None),
            };
            self.line(spot, line);
        }
        self.maps(&before, program);
        self.root(program);
    }

    fn line(&mut self, spot: Spot, line: Option<&Line>) {
        let name = self.name_of(spot);
        let drafts = line.map_or_else(Vec::new, |line| {
            let mut writer = Writer {
                zone: self.sheet.zone,
                name: &name,
                chains: Vec::new(),
            };
            writer.line(line);
            writer.chains
        });
        let written: BTreeSet<&str> = drafts.iter().map(|(name, _)| name.as_str()).collect();
        let gone: Vec<Key> = self.chains_from(&name, &written);
        for key in gone {
            self.rules.remove(&key);
        }
        for (name, rules) in drafts {
            self.chain(name, rules);
        }
        let Some((map, key)) = self.led_from(spot) else {
            return;
        };
        let to = Target::Jump(name);
        let lead = Object::Element(Element::Line { map, key, to });
        match line {
            Some(_) => self.put(lead),
            None => self.remove(lead),
        }
    }

    /// The chains of a line that are written and shall be no more.
    fn chains_from(&self, line: &str, but: &BTreeSet<&str>) -> Vec<Key> {
        let first = Key {
            place: self.sheet.place.clone(),
            kind: Kind::Chain,
            id: line.to_owned(),
        };
        let from = self.rules.range(first.clone()..).map(|(key, _)| key);
        let same = from.take_while(|key| key.kind == first.kind && key.id.starts_with(line));
        same.filter(|key| !but.contains(key.id.as_str()))
            .cloned()
            .collect()
    }

    fn name_of(&self, spot: Spot) -> String {
        let head = &self.head;
        match spot {
            Spot::Group(id) => format!("l{head}_g{:04x}", id.0),
            Spot::Net(net) => {
                format!(
                    "l{head}_n{:08x}{:02}",
                    net.network().to_bits(),
                    net.prefix_len()
                )
            }
            Spot::Anybody => format!("l{head}_any"),
        }
    }

    /// Map and key that lead to a line.
    fn led_from(&self, spot: Spot) -> Option<(RuleMap, u32)> {
        match spot {
            Spot::Group(id) => Some((self.by_group(), id.0.into())),
            Spot::Net(net) => Some((self.by_net(net.prefix_len()), net.network().to_bits())),
            Spot::Anybody => None,
        }
    }

    fn by_group(&self) -> RuleMap {
        RuleMap {
            name: format!("g{}", self.head),
            field: self.group_field(),
        }
    }

    fn group_field(&self) -> Field {
        match self.sheet.direction {
            Direction::In => Field::Priority,
            Direction::Out => Field::Mark,
        }
    }

    fn by_net(&self, length: u8) -> RuleMap {
        RuleMap {
            name: format!("n{}_{length:02}", self.head),
            field: Field::Source,
        }
    }

    fn maps(&mut self, before: &Program, now: &Program) {
        let stays: BTreeSet<u8> = now.lengths().collect();
        for length in before.lengths().filter(|it| !stays.contains(it)) {
            self.remove(Object::Map(self.by_net(length)));
        }
        for length in stays {
            self.put(Object::Map(self.by_net(length)));
        }
        let map = Object::Map(self.by_group());
        if has_groups(now) {
            self.put(map);
        } else {
            self.remove(map);
        }
    }

    /// What the program asks, one after another.
    fn root(&mut self, program: &Program) {
        if program.is_empty() {
            let key = self.key_of(self.entry());
            self.rules.remove(&key);
            return;
        }
        let mut rules = Vec::new();
        if has_groups(program) {
            if self.sheet.direction == Direction::Out {
                rules.push(Steps(vec![Step::Mark(0)]));
                rules.push(Steps(vec![Step::Member]));
            }
            let (field, map) = (self.group_field(), self.by_group().name);
            rules.push(Steps(vec![Step::Ask(field, Step::ALL, map)]));
        }
        let field = match self.sheet.direction {
            Direction::In => Field::Source,
            Direction::Out => Field::Destination,
        };
        for length in program.lengths() {
            let map = self.by_net(length).name;
            let mask = u32::MAX << (32 - u32::from(length));
            rules.push(Steps(vec![Step::Ask(field, mask, map)]));
        }
        if program.lines.contains_key(&Spot::Anybody) {
            let line = self.name_of(Spot::Anybody);
            rules.push(Steps(vec![Step::Go(Target::Jump(line))]));
        }
        self.chain(self.entry(), rules);
    }

    fn key_of(&self, id: String) -> Key {
        Key {
            place: self.sheet.place.clone(),
            kind: Kind::Chain,
            id,
        }
    }

    /// A chain that is written already stays the one it is.
    fn chain(&mut self, name: String, rules: Vec<Steps>) {
        let key = self.key_of(name);
        if let Some(Object::Chain(there)) = self.rules.get(&key).map(|it| &it.object)
            && there.is_of(&rules)
        {
            return;
        }
        let chain = Object::Chain(Chain::compiled(&key.id, rules).into());
        self.rules.insert(key, chain.at(&self.sheet.place));
    }

    fn put(&mut self, object: Object) {
        let resource = object.at(&self.sheet.place);
        let key = resource.key();
        if self.rules.get(&key) != Some(&resource) {
            self.rules.insert(key, resource);
        }
    }

    fn remove(&mut self, object: Object) {
        self.rules.remove(&object.at(&self.sheet.place).key());
    }
}

fn has_groups(program: &Program) -> bool {
    let groups = Spot::Group(GroupId(0))..=Spot::Group(GroupId(u16::MAX));
    program.lines.range(groups).next().is_some()
}

/// For each level the chain that compares it with the best result so far, and the map that leads
/// to them.
pub(super) fn levels(place: &Place, zone: u16, levels: &BTreeSet<u8>) -> Vec<Resource> {
    let map = RuleMap {
        name: levels_map(zone),
        field: Field::Mark,
    };
    let mut all = Vec::new();
    for level in levels {
        let worse = u32::from(*level) << Value::LEVEL | Value::NUMBER;
        let rule = Steps(vec![Step::Worse(worse), Step::Keep]);
        let name = level_chain(zone, *level);
        let chain = Chain::compiled(&name, vec![rule]).into();
        all.push(Object::Chain(chain));
        all.push(Object::Element(Element::Line {
            map: map.clone(),
            key: u32::from(*level) << Value::LEVEL,
            to: Target::Goto(name),
        }));
    }
    all.extend((!levels.is_empty()).then_some(Object::Map(map)));
    all.into_iter().map(|it| it.at(place)).collect()
}

fn level_chain(zone: u16, level: u8) -> String {
    format!("m{zone}_{level}")
}

fn levels_map(zone: u16) -> String {
    format!("v{zone}_")
}

/// Writes one line.
struct Writer<'a> {
    zone: u16,
    name: &'a str,
    /// Name and rules.
    chains: Vec<(String, Vec<Steps>)>,
}

impl Writer<'_> {
    fn line(&mut self, line: &Line) {
        let mut rules = Vec::new();
        for (protocol, steps) in &line.ports {
            let this = is(Field::Protocol, protocol.0.into());
            if steps.len() <= FEW {
                for (ports, value) in steps {
                    let mut rule = vec![this.clone(), Step::Is(Field::Port, span(*ports))];
                    rule.extend(self.found(*value));
                    rules.push(Steps(rule));
                }
            } else if steps.len() <= MANY {
                let found = self.find(Field::Port, steps.iter().map(|it| (span(it.0), it.1)));
                rules.push(Steps([vec![this], found].concat()));
            } else {
                let parts = self.parts(*protocol, steps);
                let lead = Step::Lead(Field::Port, Step::ALL, parts);
                rules.push(Steps(vec![this, lead]));
            }
        }
        match line.protocols.len() {
            0 => {}
            1 => {
                for (protocol, value) in &line.protocols {
                    let mut rule = vec![is(Field::Protocol, protocol.0.into())];
                    rule.extend(self.found(*value));
                    rules.push(Steps(rule));
                }
            }
            _ => {
                let of = line.protocols.iter();
                let of = of.map(|(it, value)| (Span::one(it.0.into()), *value));
                rules.push(Steps(self.find(Field::Protocol, of)));
            }
        }
        if let Some(value) = line.rest {
            rules.push(Steps(self.found(value).into()));
        }
        self.chains.push((self.name.to_owned(), rules));
    }

    /// Many steps, each part in a chain of its own. It is led to from all of its cells: for what no
    /// step is about nothing else stands in the line.
    fn parts(&mut self, protocol: Protocol, steps: &[(PortRange, Value)]) -> Vec<(Span, Target)> {
        let mut led = Vec::new();
        for part in parts(steps) {
            let ([(first, _), ..], [.., (last, _)]) = (&part[..], &part[..]) else {
                continue;
            };
            let (first, last) = (first.first & !(CELL - 1), last.last | (CELL - 1));
            let name = format!("{}_{}_{first:04x}", self.name, protocol.0);
            let rule = match part[..] {
                [(ports, value)] if is_whole(ports) => self.found(value).into(),
                _ => self.find(Field::Port, part.iter().map(|it| (span(it.0), it.1))),
            };
            let all = Span(first.into(), last.into());
            led.push((all, Target::Goto(name.clone())));
            self.chains.push((name, vec![Steps(rule)]));
        }
        led
    }

    /// Sets the mark to the value of the field, and goes where its level is compared.
    fn find(&self, field: Field, of: impl Iterator<Item = (Span, Value)>) -> Vec<Step> {
        let of: Vec<_> = of.map(|(span, value)| (span, value.0)).collect();
        let levels: BTreeSet<u8> = of.iter().map(|(_, value)| Value(*value).level()).collect();
        let next = match (levels.first(), levels.len()) {
            (Some(level), 1) => Step::Go(Target::Goto(level_chain(self.zone, *level))),
            _ => Step::Ask(Field::Mark, !Value::NUMBER, levels_map(self.zone)),
        };
        vec![Step::Find(field, of), next]
    }

    /// The end of a rule whose value is found.
    fn found(&self, value: Value) -> [Step; 2] {
        let level = level_chain(self.zone, value.level());
        [Step::Mark(value.0), Step::Go(Target::Goto(level))]
    }
}

fn is(field: Field, value: u32) -> Step {
    Step::Is(field, Span::one(value))
}

fn span(ports: PortRange) -> Span {
    Span(ports.first.into(), ports.last.into())
}

/// Steps by cells of ports, so that where one part ends depends on nothing else; runs of cells
/// that one value has whole are one part.
fn parts(steps: &[(PortRange, Value)]) -> Vec<Vec<(PortRange, Value)>> {
    let mut parts: Vec<Vec<(PortRange, Value)>> = Vec::new();
    for (ports, value) in steps {
        let mut first = ports.first;
        loop {
            let last = (first | (CELL - 1)).min(ports.last);
            let part = PortRange { first, last };
            match parts.last_mut().map(Vec::as_mut_slice) {
                Some([.., (before, _)]) if before.last / CELL == first / CELL => {
                    if let Some(cell) = parts.last_mut() {
                        cell.push((part, *value));
                    }
                }
                Some([(run, of)])
                    if of == value
                        && is_whole(*run)
                        && is_whole(part)
                        && run.last.checked_add(1) == Some(first) =>
                {
                    run.last = last;
                }
                _ => parts.push(vec![(part, *value)]),
            }
            if last == ports.last {
                break;
            }
            first = last + 1;
        }
    }
    parts
}

fn is_whole(ports: PortRange) -> bool {
    ports.first.is_multiple_of(CELL) && ports.last % CELL == CELL - 1
}
