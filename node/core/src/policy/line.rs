//! A step function over protocol and port: which rule is the best one there.

use std::collections::BTreeMap;

use bus_schema::policy::{PortRange, Protocol};

use super::{Ranked, Value};

/// The protocols that have ports.
pub const PORTED: [Protocol; 3] = [Protocol::TCP, Protocol::UDP, Protocol::SCTP];

/// Looked up from the top: a protocol's ports, the protocol, the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Disjoint and sorted; all ports when there is anything below.
    pub ports: BTreeMap<Protocol, Vec<(PortRange, Value)>>,
    pub protocols: BTreeMap<Protocol, Value>,
    pub rest: Option<Value>,
}

impl Line {
    /// From rules, the best first.
    pub(super) fn new<'a>(rules: impl IntoIterator<Item = &'a Ranked>) -> Self {
        let mut line = Self::default();
        let mut painters = PORTED.map(|_| Painter::default());
        for rule in rules {
            let of = |protocol: Protocol| PORTED.iter().position(|it| *it == protocol);
            match (rule.protocol, rule.protocol.and_then(of)) {
                (None, _) => {
                    line.rest = Some(rule.value);
                    break;
                }
                (_, Some(index)) => painters[index].paint(&rule.ports, rule.value),
                (Some(protocol), None) => {
                    line.protocols.entry(protocol).or_insert(rule.value);
                }
            }
        }
        for (protocol, painter) in PORTED.into_iter().zip(painters) {
            line.settle(protocol, painter);
        }
        line
    }

    fn settle(&mut self, protocol: Protocol, mut painter: Painter) {
        if painter.steps.is_empty() {
            return;
        }
        if let Some(rest) = self.rest {
            painter.paint(&[], rest);
        }
        let steps = painter.joined();
        match steps[..] {
            [(ALL, value)] => {
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
    pub fn find(&self, protocol: Protocol, port: u16) -> Option<Value> {
        if let Some(steps) = self.ports.get(&protocol) {
            let after = steps.partition_point(|(range, _)| range.first <= port);
            let (range, value) = steps.get(after.checked_sub(1)?)?;
            return range.contains(port).then_some(*value);
        }
        self.protocols.get(&protocol).copied().or(self.rest)
    }
}

const ALL: PortRange = PortRange {
    first: 0,
    last: u16::MAX,
};

/// Ports given to rules: who comes first has them.
#[derive(Debug)]
struct Painter {
    /// First and last of what is left.
    free: BTreeMap<u16, u16>,
    steps: BTreeMap<u16, (u16, Value)>,
}

impl Default for Painter {
    fn default() -> Self {
        Self {
            free: BTreeMap::from([(ALL.first, ALL.last)]),
            steps: BTreeMap::new(),
        }
    }
}

impl Painter {
    /// No ports: all of them.
    fn paint(&mut self, ports: &[PortRange], value: Value) {
        let ports = if ports.is_empty() { &[ALL] } else { ports };
        for range in ports {
            self.take(*range, value);
        }
    }

    fn take(&mut self, range: PortRange, value: Value) {
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

    /// The steps, with neighbours of one rule made one.
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
