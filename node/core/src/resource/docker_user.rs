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
    /// From the hosts' ends of uplinks, but not into Docker's bridges: what their containers don't publish
    /// stays closed.
    FromUplinks,
    /// To the hosts' ends of uplinks; our own table drops what nobody asked for.
    ToUplinks,
}

impl DockerUserRule {
    pub const CHAIN: &'static str = "DOCKER-USER";
    pub const ALL: [Self; 4] = [
        Self::ToEndpoints,
        Self::ToNodes,
        Self::FromUplinks,
        Self::ToUplinks,
    ];
    /// Those that VRFs need.
    pub const OF_VRFS: [Self; 2] = [Self::ToEndpoints, Self::ToNodes];
    /// Those that uplinks need.
    pub const OF_UPLINKS: [Self; 2] = [Self::FromUplinks, Self::ToUplinks];

    /// The rule in the words in which `iptables -S` prints it, without the chain; before it, in their order,
    /// those that it needs.
    pub fn rules(self) -> &'static [&'static str] {
        match self {
            Self::ToEndpoints => &["-i cd+ -o cv+ -m comment --comment contiv -j ACCEPT"],
            Self::ToNodes => &["-i cd+ -o cx+ -m comment --comment contiv -j ACCEPT"],
            Self::FromUplinks => &[
                "-i cu+ -o docker0 -m comment --comment contiv -j RETURN",
                "-i cu+ -o br-+ -m comment --comment contiv -j RETURN",
                "-i cu+ -m comment --comment contiv -j ACCEPT",
            ],
            Self::ToUplinks => &["-o cu+ -m comment --comment contiv -j ACCEPT"],
        }
    }

    /// Whether others' rules in the chain come first: they decide about ways out of the node.
    pub fn is_last(self) -> bool {
        matches!(self, Self::FromUplinks | Self::ToUplinks)
    }

    /// Its name: the rule itself.
    pub fn name(self) -> &'static str {
        self.rules().last().copied().unwrap_or_default()
    }
}

impl fmt::Display for DockerUserRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iptables {} {}", Self::CHAIN, self.name())
    }
}
