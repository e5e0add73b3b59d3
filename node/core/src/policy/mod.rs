//! Compiles the rules of a group's policies, which decide about new connections.
//!
//! Pure and without kernel objects. `desired` translates a [`Program`] to nft, and [`decide()`]
//! evaluates the same program for `netctl trace` and for ending connections.
//!
//! # The scheme
//!
//! The receiver, the node of the destination's endpoint, evaluates all rules: the `out` rules
//! of the sender's group, whose id came with the packet, then the `in` rules of the receiver's.
//! Only a connection's first packet is decided; the others pass with their connection.
//!
//! A *program* is one direction of all of a group's policies. A rule in it has a *level*: its
//! priority and its action, the best first (a deny before an allow). It has *peer keys*: a group,
//! the prefixes of an address range (a network's are its subnets), or anybody. The rules of one key
//! make a *port table*: a step function over protocol and port. A packet is looked up in the port tables
//! of its peer's group, of each prefix of its peer's address, and of anybody; the best level counts,
//! at equal levels the first one in this order.
//!
//! | look-up | by | in nft |
//! |---|---|---|
//! | the program | the group's id | element of `programs_in`, `programs_out` |
//! | the port table of a group | its id | `meta priority vmap @g7_…` |
//! | the port table of a prefix | the address, masked | `ip saddr & 255.255.255.0 vmap @n7_…_24`, for each length in use |
//! | the rule | protocol, then disjoint intervals of ports | `meta mark set th dport table { 80-90 : 0x62000007 }` |
//! | the better of two | level | `ct mark > 0x62ffffff ct mark set meta mark` in the level's chain |
//!
//! So a packet's cost doesn't grow with rules or members, only with the lengths of prefixes that a
//! program uses, 33 at most; and groups with equal policies share their programs. A member that
//! comes or goes is an element. A change of one rule replaces the port tables of its keys and nothing
//! else: a program is changed, not compiled again, with an equal result. A port table's chain is
//! named by its key, so that the element that leads to it stays. A change is one transaction, and a
//! packet under way meanwhile that would meet old and new rules is dropped (see `Ruleset::opening`).
//!
//! # Worst case
//!
//! A port table has at most twice as many steps as its rules have ranges of ports, and a range of
//! addresses is 62 prefixes at most, so the size is linear however rules overlap. Rules with one key
//! differ by ports alone: a change there rebuilds that port table, but writes only the part of it that
//! differs.

mod cache;
mod compiled;
mod decide;
mod ending;
#[cfg(test)]
pub(crate) mod fixture;
mod port_table;
#[cfg(test)]
mod tests;

pub use cache::Cache;
pub use compiled::{PeerKey, Program};
pub use decide::{Deciding, End, decide, decide_leaving, may_leave};
pub use ending::must_end;
pub use port_table::{PORTED, PortTable};

use std::cmp::Ordering;

use bus_schema::policy::{Action, PortRange, Priority, Protocol};
use bus_schema::{PolicyName, RuleId};

/// A rule's result: its level, then its number in the tenant. The lower value is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(pub u32);

impl Value {
    /// The bit at which the level begins.
    pub const LEVEL: u32 = 24;
    /// The bit that is set if the level allows.
    pub const ALLOWS: u32 = 1 << Self::LEVEL;
    /// The bits of the rule's number.
    pub const NUMBER: u32 = Self::ALLOWS - 1;
    /// The value without a rule: worse than each rule's, and allowed.
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

/// A rule as part of a port table: its value and its ports, without its peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    pub value: Value,
    pub policy: PolicyName,
    pub id: RuleId,
    pub protocol: Option<Protocol>,
    /// Empty: all ports.
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

/// The better of two values, the first at equal levels.
fn better(one: Option<Value>, other: Option<Value>) -> Option<Value> {
    match (one, other) {
        (Some(a), Some(b)) if b.level() < a.level() => other,
        (None, _) => other,
        _ => one,
    }
}
