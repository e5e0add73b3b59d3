//! Rules about ranges of addresses, as disjoint intervals with a line each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bus_schema::policy::{PortRange, Protocol};

use super::{Line, Match, Value};

/// For each rule, how many rules may stand around an interval in the mean.
pub const MAX_STEPS: usize = 64;

/// First and last address.
pub type Interval = (Ipv4Addr, Ipv4Addr);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// Disjoint and sorted.
    Classes(Vec<(Interval, Arc<Line>)>),
    /// Too many ranges within others: the rules themselves, the best first.
    List(Vec<Listed>),
}

/// A rule about addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub ranges: Vec<Interval>,
    pub protocol: Option<Protocol>,
    pub ports: Vec<PortRange>,
    pub value: Value,
}

impl Listed {
    fn matched(&self) -> Match<'_> {
        Match {
            value: self.value,
            protocol: self.protocol,
            ports: &self.ports,
        }
    }
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Classes(Vec::new())
    }
}

impl Addresses {
    /// From rules, the best first.
    pub(super) fn new(rules: Vec<Listed>) -> Self {
        match classes(&rules, MAX_STEPS) {
            Some(classes) => Self::Classes(classes),
            None => Self::List(rules),
        }
    }

    pub fn find(&self, address: Ipv4Addr, protocol: Protocol, port: u16) -> Option<Value> {
        match self {
            Self::Classes(classes) => {
                let after = classes.partition_point(|((first, _), _)| *first <= address);
                let ((_, last), line) = classes.get(after.checked_sub(1)?)?;
                (address <= *last)
                    .then(|| line.find(protocol, port))
                    .flatten()
            }
            Self::List(rules) => {
                let around = |rule: &&Listed| {
                    let mut ranges = rule.ranges.iter();
                    ranges.any(|(first, last)| (*first..=*last).contains(&address))
                };
                let fits =
                    |rule: &&Listed| Line::new([rule.matched()]).find(protocol, port).is_some();
                let mut fitting = rules.iter().filter(around).filter(fits);
                fitting.next().map(|rule| rule.value)
            }
        }
    }
}

/// `None`: more than `limit` steps for each rule.
fn classes(rules: &[Listed], limit: usize) -> Option<Vec<(Interval, Arc<Line>)>> {
    let mut edges: BTreeMap<u64, (Vec<usize>, Vec<usize>)> = BTreeMap::new();
    for (rank, rule) in rules.iter().enumerate() {
        for (first, last) in &rule.ranges {
            edges
                .entry(u32::from(*first).into())
                .or_default()
                .0
                .push(rank);
            edges
                .entry(u64::from(u32::from(*last)) + 1)
                .or_default()
                .1
                .push(rank);
        }
    }
    let mut steps = 0;
    let mut lines: BTreeMap<Line, Arc<Line>> = BTreeMap::new();
    let mut around: BTreeSet<usize> = BTreeSet::new();
    let mut around_before: BTreeMap<BTreeSet<usize>, Arc<Line>> = BTreeMap::new();
    let mut classes: Vec<(Interval, Arc<Line>)> = Vec::new();
    let mut edges = edges.into_iter().peekable();
    while let Some((start, (come, go))) = edges.next() {
        for rank in go {
            around.remove(&rank);
        }
        around.extend(come);
        let Some((end, _)) = edges.peek() else { break };
        if around.is_empty() {
            continue;
        }
        steps += around.len();
        if steps > limit * (rules.len() + limit) {
            return None;
        }
        // Behind what lies within others the same rules are around again.
        let line = around_before.entry(around.clone()).or_insert_with(|| {
            let line = Line::new(around.iter().map(|rank| rules[*rank].matched()));
            let shared = lines.entry(line.clone());
            Arc::clone(shared.or_insert_with(|| line.into()))
        });
        let (first, last) = (address(start), address(end - 1));
        match classes.last_mut() {
            Some(((_, before), of)) if of == line && u64::from(u32::from(*before)) + 1 == start => {
                *before = last;
            }
            _ => classes.push(((first, last), Arc::clone(line))),
        }
    }
    Some(classes)
}

fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX))
}
