//! What the rules of a group's policies say of a new connection, compiled.
//!
//! Pure; knows no nouns of the kernel. `desired` writes a [`Program`] down in words of nft, and
//! [`decide()`] walks the same lines for `netctl trace` and for ending connections.
//!
//! # The scheme
//!
//! All rules are decided at the receiver, the node of the destination's endpoint: the `out` rules
//! of the sender's group, whose id came with the packet, then the `in` rules of the receiver's.
//! Only a connection's first packet is asked about; the others pass with their connection.
//!
//! A *program* is one direction of all of a group's policies. A rule in it has a *level*: its
//! priority and its action, the best first (a deny before an allow). A rule's peer is a group, or
//! addresses (a network stands for its subnets), or anybody. For each kind of peer the best rule is
//! found on its own, by the peer and then by a *line*: a step function over protocol and port. Of
//! the three results the one with the best level counts; at equal levels a group's rule before
//! one of addresses before one of anybody, each the lower id first.
//!
//! | look-up | by | in nft |
//! |---|---|---|
//! | the program | the group's id | element of `programs_in`, `programs_out` |
//! | the line of a group | its id | hash map of the program, in two steps |
//! | the line of an address | disjoint intervals | interval map of the program, in two steps |
//! | the rule | protocol, then disjoint intervals of ports | maps of the line |
//! | the better of two | level | one comparison in the level's chain |
//!
//! So a packet's cost doesn't grow with rules or members, and equal policies share their lines.
//! A member that comes or goes is an element. Lines and programs are named by a digest of their
//! text: a change adds new chains, swings an element and drops the old ones, in one transaction. Of
//! a big map it writes one part and the list of parts anew, not all of it.
//! A packet under way meanwhile that would meet both is dropped (see `Ruleset::opening`).
//!
//! # Worst case
//!
//! Groups and anybody: as many steps as rules and ports, whatever overlaps. Addresses: `n` ranges
//! make up to `2n` intervals, and a line has a step for each rule around its interval, so ranges
//! within ranges within ranges make `n²` steps. Beyond [`MAX_STEPS`] for each rule that part of
//! the program becomes a plain list of its rules, best first: correct, small, and linear in cost.

mod addresses;
mod cache;
mod decide;
mod ending;
mod line;
mod program;
#[cfg(test)]
mod tests;

pub use addresses::{Addresses, Interval, Listed, MAX_STEPS};
pub use cache::Cache;
pub use decide::{Deciding, End, decide};
pub use ending::must_end;
pub use line::{Line, PORTED};
pub use program::Program;

use bus_schema::policy::{Action, PortRange, Priority};

/// A rule as it decides: its level, then its number in the tenant. The lower is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub u32);

impl Value {
    /// Where the level begins.
    pub const LEVEL: u32 = 24;
    /// Set when the level allows.
    pub const ALLOWS: u32 = 1 << Self::LEVEL;
    pub const NUMBER: u32 = Self::ALLOWS - 1;
    /// No rule: worse than each, and allowed.
    pub const NONE: u32 = u32::MAX;

    fn new(priority: Priority, action: Action, number: u32) -> Self {
        let rank = u32::from(Priority::MAX - u8::from(priority));
        let level = rank * 2 + u32::from(action == Action::Allow);
        Self(level << Self::LEVEL | number & Self::NUMBER)
    }

    pub fn level(self) -> u8 {
        (self.0 >> Self::LEVEL) as u8
    }

    pub fn number(self) -> u32 {
        self.0 & Self::NUMBER
    }

    pub fn action(self) -> Action {
        match self.0 & Self::ALLOWS {
            0 => Action::Deny,
            _ => Action::Allow,
        }
    }
}

/// What of a rule a line is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match<'a> {
    pub(crate) value: Value,
    pub(crate) protocol: Option<bus_schema::policy::Protocol>,
    pub(crate) ports: &'a [PortRange],
}

/// The better of two, the first at equal levels.
fn better(one: Option<Value>, other: Option<Value>) -> Option<Value> {
    match (one, other) {
        (Some(a), Some(b)) if b.level() < a.level() => other,
        (None, _) => other,
        _ => one,
    }
}
