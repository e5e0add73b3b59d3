//! Rules in Docker's chain for others' rules: an accept of our own table can't override a drop of
//! another one's.

use std::fmt;

/// A rule in `DOCKER-USER`, the chain that Docker keeps for others' rules in its own firewall, which
/// drops forwarded packets by default. Where there is no such chain, the rule counts as present.
///
/// A packet that a VRF forwards comes in by the VRF's device and leaves by a slave of it; the rules
/// match both by the first letters of our names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DockerUserRule {
    /// To the slaves `cv…`.
    ToEndpoints,
    /// To the slaves `cx…`.
    ToNodes,
}

impl DockerUserRule {
    pub const CHAIN: &'static str = "DOCKER-USER";
    pub const ALL: [Self; 2] = [Self::ToEndpoints, Self::ToNodes];

    /// The rule in the words in which `iptables -S` prints it, without the chain.
    pub fn rule(self) -> &'static str {
        match self {
            Self::ToEndpoints => "-i cd+ -o cv+ -m comment --comment contiv -j ACCEPT",
            Self::ToNodes => "-i cd+ -o cx+ -m comment --comment contiv -j ACCEPT",
        }
    }
}

impl fmt::Display for DockerUserRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables {} {}", Self::CHAIN, self.rule())
    }
}
