//! A port table: the best rule for each protocol and port, as a step function.

use std::collections::BTreeMap;

use bus_schema::policy::{PortRange, Protocol};

use super::{Ranked, Value};

/// The protocols that have ports.
pub const PORTED: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// A step function from protocol and port to values. A look-up goes from top to bottom: a
/// protocol's ports, the protocol, the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortTable {
    /// Disjoint and sorted; they cover all ports if there is a `rest`.
    pub ports: BTreeMap<Protocol, Vec<(PortRange, Value)>>,
    pub protocols: BTreeMap<Protocol, Value>,
    pub rest: Option<Value>,
}

impl PortTable {
    /// Builds it from rules, the best first.
    pub(super) fn new<'a>(rules: impl IntoIterator<Item = &'a Ranked>) -> Self {
        let mut table = Self::default();
        let mut assignments = PORTED.map(|_| PortAssignment::default());
        for rule in rules {
            let of = |protocol: Protocol| PORTED.iter().position(|it| *it == protocol);
            match (rule.protocol, rule.protocol.and_then(of)) {
                (None, _) => {
                    table.rest = Some(rule.value);
                    break;
                }
                (_, Some(index)) => assignments[index].assign(&rule.ports, rule.value),
                (Some(protocol), None) => {
                    table.protocols.entry(protocol).or_insert(rule.value);
                }
            }
        }
        for (protocol, assignment) in PORTED.into_iter().zip(assignments) {
            table.insert(protocol, assignment);
        }
        table
    }

    fn insert(&mut self, protocol: Protocol, mut assignment: PortAssignment) {
        if assignment.steps.is_empty() {
            return;
        }
        if let Some(rest) = self.rest {
            assignment.assign(&[], rest);
        }
        let steps = assignment.joined();
        match steps[..] {
            [(ALL_PORTS, value)] => {
                self.protocols.insert(protocol, value);
            }
            _ => {
                self.ports.insert(protocol, steps);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.protocols.is_empty() && self.rest.is_none()
    }

    /// The best rule for a packet; `port` is the destination's.
    pub fn best_rule(&self, protocol: Protocol, port: u16) -> Option<Value> {
        if let Some(steps) = self.ports.get(&protocol) {
            let after = steps.partition_point(|(range, _)| range.first <= port);
            let (range, value) = steps.get(after.checked_sub(1)?)?;
            return range.contains(port).then_some(*value);
        }
        self.protocols.get(&protocol).copied().or(self.rest)
    }
}

const ALL_PORTS: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

/// Ports assigned to rules: the first rule about a port keeps it.
#[derive(Debug)]
struct PortAssignment {
    /// The unassigned ranges, by their first port, with their last.
    free: BTreeMap<u16, u16>,
    steps: BTreeMap<u16, (u16, Value)>,
}

impl Default for PortAssignment {
    fn default() -> Self {
        Self {
            free: BTreeMap::from([(ALL_PORTS.first, ALL_PORTS.last)]),
            steps: BTreeMap::new(),
        }
    }
}

impl PortAssignment {
    /// Assigns the ports that are still free; no ports stand for all of them.
    fn assign(&mut self, ports: &[PortRange], value: Value) {
        let ports = if ports.is_empty() {
            &[ALL_PORTS]
        } else {
            ports
        };
        for range in ports {
            self.assign_range(*range, value);
        }
    }

    fn assign_range(&mut self, range: PortRange, value: Value) {
        let from = self.free.range(..=range.first).next_back();
        let from = from.map_or(range.first, |(first, _)| *first);
        let touched: Vec<_> = self
            .free
            .range(from..=range.last)
            .map(|(a, b)| (*a, *b))
            .collect();
        for (first, last) in touched {
            let (start, end) = (first.max(range.first), last.min(range.last));
            if start > end {
                continue;
            }
            self.free.remove(&first);
            if first < start {
                self.free.insert(first, start - 1);
            }
            if end < last {
                self.free.insert(end + 1, last);
            }
            self.steps.insert(start, (end, value));
        }
    }

    /// The steps, with adjacent ranges of one rule joined.
    fn joined(self) -> Vec<(PortRange, Value)> {
        let mut joined: Vec<(PortRange, Value)> = Vec::new();
        for (first, (last, value)) in self.steps {
            match joined.last_mut() {
                Some((range, of))
                    if *of == value && u32::from(range.last) + 1 == u32::from(first) =>
                {
                    range.last = last;
                }
                _ => joined.push((PortRange { first, last }, value)),
            }
        }
        joined
    }
}
