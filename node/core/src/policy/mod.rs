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
//! priority and its action, the best first (a deny before an allow). It stands at *spots*: a group,
//! the prefixes of an address range (a network's are its subnets), or anybody. What stands at a
//! spot is a *line*: a step function over protocol and port. A packet asks the line of its peer's
//! group, of each prefix of its peer's address, and of anybody; the best level counts, at equal
//! levels the first asked.
//!
//! | look-up | by | in nft |
//! |---|---|---|
//! | the program | the group's id | element of `programs_in`, `programs_out` |
//! | the line of a group | its id | hash map of the program |
//! | the line of a prefix | the address, masked | hash map of the program for each length in use |
//! | the rule | protocol, then disjoint intervals of ports | maps of the line |
//! | the better of two | level | one comparison in the level's chain |
//!
//! So a packet's cost doesn't grow with rules or members, only with the lengths of prefixes that a
//! program uses, 33 at most; and groups with equal policies share their programs. A member that
//! comes or goes is an element. A change of one rule makes the lines at its spots anew and nothing
//! else: a program is changed, not compiled again, and is what it would be if it were. Lines are
//! named by their spots, so that what leads to them stays. All of it is one transaction, and a
//! packet under way meanwhile that would meet old and new is dropped (see `Ruleset::opening`).
//!
//! # Worst case
//!
//! A line has twice as many steps as its rules have ranges of ports, and a range of addresses is 62
//! prefixes at most, so the size is linear whatever overlaps. Rules at one spot are told apart by
//! ports alone: a change there makes that line anew, but writes only the part of it that differs.

mod cache;
mod decide;
mod ending;
#[cfg(any(test, feature = "testing"))]
pub mod fixture;
mod line;
mod program;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use decide::{Deciding, End, decide};
pub use ending::must_end;
pub use line::{Line, PORTED};
pub use program::{Program, Spot};

use std::cmp::Ordering;

use bus_schema::policy::{Action, PortRange, Priority, Protocol};
use bus_schema::{PolicyName, RuleId};

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

/// A rule in its rank, and what a line is made of; whom it is about stands elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    pub value: Value,
    pub policy: PolicyName,
    pub id: RuleId,
    pub protocol: Option<Protocol>,
    /// Empty: all.
    pub ports: Vec<PortRange>,
}

impl Ord for Ranked {
    /// The best first.
    fn cmp(&self, other: &Self) -> Ordering {
        let level = self.value.level().cmp(&other.value.level());
        let rank = level.then_with(|| self.id.precedence(&other.id));
        let rank = rank.then_with(|| self.policy.cmp(&other.policy));
        let rest = |it: &Self| (it.id.clone(), it.value, it.protocol);
        rank.then_with(|| rest(self).cmp(&rest(other)))
            .then_with(|| self.ports.cmp(&other.ports))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The better of two, the first at equal levels.
fn better(one: Option<Value>, other: Option<Value>) -> Option<Value> {
    match (one, other) {
        (Some(a), Some(b)) if b.level() < a.level() => other,
        (None, _) => other,
        _ => one,
    }
}
