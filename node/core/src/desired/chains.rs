//! The nft chains of a program's port tables, and those that compare levels.

use std::collections::BTreeSet;

use bus_schema::policy::{PortRange, Protocol};

use crate::policy::{PortTable, Value};
use crate::resource::{
    Chain, Element, Field, Object, Place, Resource, RuleBody, RuleMap, Span, Statement, Target,
};

/// Up to this number of port ranges, single rules are as fast as an interval map.
const MAX_SINGLE_RULES: usize = 8;
/// Above this number of port ranges, a protocol of a port table has chains of [`PORTS_PER_PART`] ports,
/// so that a change rewrites few of them.
const MAX_MAP_RANGES: usize = 64;
const PORTS_PER_PART: u16 = 1_024;

/// Makes the chain of each level, which compares it with the best result so far, and the map of these
/// chains.
pub(super) fn levels(place: &Place, zone: u16, levels: &BTreeSet<u8>) -> Vec<Resource> {
    let map = RuleMap {
        name: levels_map(zone),
        field: Field::Mark,
    };
    let mut all = Vec::new();
    for level in levels {
        let worst = u32::from(*level) << Value::LEVEL | Value::NUMBER;
        let rule = RuleBody(vec![
            Statement::CtMarkAbove(worst),
            Statement::CtMarkFromMark,
        ]);
        let name = level_chain(zone, *level);
        let chain = Chain::compiled(&name, vec![rule]).into();
        all.push(Object::Chain(chain));
        all.push(Object::Element(Element::VmapEntry {
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

/// Writes the chains of one port table.
pub(super) struct ChainWriter<'a> {
    pub(super) zone: u16,
    pub(super) name: &'a str,
    /// The names and the rules.
    pub(super) chains: Vec<(String, Vec<RuleBody>)>,
}

impl ChainWriter<'_> {
    pub(super) fn port_table(&mut self, table: &PortTable) {
        let mut rules = Vec::new();
        for (protocol, steps) in &table.ports {
            let this = matches(Field::Protocol, protocol.0.into());
            if steps.len() <= MAX_SINGLE_RULES {
                for (ports, value) in steps {
                    let mut rule = vec![this.clone(), Statement::Match(Field::Port, span(*ports))];
                    rule.extend(self.result(*value));
                    rules.push(RuleBody(rule));
                }
            } else if steps.len() <= MAX_MAP_RANGES {
                let by_map =
                    self.result_by_map(Field::Port, steps.iter().map(|it| (span(it.0), it.1)));
                rules.push(RuleBody([vec![this], by_map].concat()));
            } else {
                let parts = self.parts(*protocol, steps);
                let to_part = Statement::Vmap(Field::Port, Statement::FULL_MASK, parts);
                rules.push(RuleBody(vec![this, to_part]));
            }
        }
        match table.protocols.len() {
            0 => {}
            1 => {
                for (protocol, value) in &table.protocols {
                    let mut rule = vec![matches(Field::Protocol, protocol.0.into())];
                    rule.extend(self.result(*value));
                    rules.push(RuleBody(rule));
                }
            }
            _ => {
                let of = table.protocols.iter();
                let of = of.map(|(it, value)| (Span::one(it.0.into()), *value));
                rules.push(RuleBody(self.result_by_map(Field::Protocol, of)));
            }
        }
        if let Some(value) = table.rest {
            rules.push(RuleBody(self.result(value).into()));
        }
        self.chains.push((self.name.to_owned(), rules));
    }

    /// Writes a chain for each part of many port ranges. The map leads to a part's chain from whole
    /// multiples of [`PORTS_PER_PART`]: ports in them without a range have no other rule in this port
    /// table.
    fn parts(&mut self, protocol: Protocol, steps: &[(PortRange, Value)]) -> Vec<(Span, Target)> {
        let mut entries = Vec::new();
        for part in parts(steps) {
            let ([(first, _), ..], [.., (last, _)]) = (&part[..], &part[..]) else {
                continue;
            };
            let (first, last) = (
                first.first & !(PORTS_PER_PART - 1),
                last.last | (PORTS_PER_PART - 1),
            );
            let name = format!("{}_{}_{first:04x}", self.name, protocol.0);
            let rule = match part[..] {
                [(ports, value)] if is_whole(ports) => self.result(value).into(),
                _ => self.result_by_map(Field::Port, part.iter().map(|it| (span(it.0), it.1))),
            };
            let all = Span(first.into(), last.into());
            entries.push((all, Target::Goto(name.clone())));
            self.chains.push((name, vec![RuleBody(rule)]));
        }
        entries
    }

    /// Sets the mark to the value of the field's span, and compares its level.
    fn result_by_map(
        &self,
        field: Field,
        of: impl Iterator<Item = (Span, Value)>,
    ) -> Vec<Statement> {
        let of: Vec<_> = of.map(|(span, value)| (span, value.0)).collect();
        let levels: BTreeSet<u8> = of.iter().map(|(_, value)| Value(*value).level()).collect();
        let next = match (levels.first(), levels.len()) {
            (Some(level), 1) => Statement::Verdict(Target::Goto(level_chain(self.zone, *level))),
            _ => Statement::NamedVmap(Field::Mark, !Value::NUMBER, levels_map(self.zone)),
        };
        vec![Statement::SetMarkByMap(field, of), next]
    }

    /// Sets the mark to this value, and compares its level.
    fn result(&self, value: Value) -> [Statement; 2] {
        let level = level_chain(self.zone, value.level());
        [
            Statement::SetMark(value.0),
            Statement::Verdict(Target::Goto(level)),
        ]
    }
}

fn matches(field: Field, value: u32) -> Statement {
    Statement::Match(field, Span::one(value))
}

fn span(ports: PortRange) -> Span {
    Span(ports.first.into(), ports.last.into())
}

/// Splits ranges at multiples of [`PORTS_PER_PART`], so that a part's end depends on nothing else;
/// adjacent whole parts with one value are joined.
fn parts(steps: &[(PortRange, Value)]) -> Vec<Vec<(PortRange, Value)>> {
    let mut parts: Vec<Vec<(PortRange, Value)>> = Vec::new();
    for (ports, value) in steps {
        let mut first = ports.first;
        loop {
            let last = (first | (PORTS_PER_PART - 1)).min(ports.last);
            let part = PortRange { first, last };
            match parts.last_mut().map(Vec::as_mut_slice) {
                Some([.., (before, _)])
                    if before.last / PORTS_PER_PART == first / PORTS_PER_PART =>
                {
                    if let Some(last) = parts.last_mut() {
                        last.push((part, *value));
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
    ports.first.is_multiple_of(PORTS_PER_PART) && ports.last % PORTS_PER_PART == PORTS_PER_PART - 1
}
