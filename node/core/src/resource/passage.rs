//! What lets our packets through another's firewall, which an accept of ours can't override.

use std::fmt;

use super::Place;

/// A rule in the chain that Docker keeps for others' rules in its own firewall, which drops what
/// is forwarded by default. Where there is no such chain, it is taken for granted.
///
/// What a VRF forwards comes in by the VRF's device and leaves by a slave; both names are ours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    pub place: Place,
    pub to: Slaves,
}

/// The devices in a VRF, by the first letters of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slaves {
    Endpoints,
    Nodes,
}

impl Passage {
    pub const CHAIN: &'static str = "DOCKER-USER";

    /// All there are in a place.
    pub fn all(place: &Place) -> [Self; 2] {
        [Slaves::Endpoints, Slaves::Nodes].map(|to| Self {
            place: place.clone(),
            to,
        })
    }

    /// The rule in the words in which `iptables -S` prints it, without the chain.
    pub fn rule(&self) -> &'static str {
        match self.to {
            Slaves::Endpoints => "-i cd+ -o cv+ -m comment --comment contiv -j ACCEPT",
            Slaves::Nodes => "-i cd+ -o cx+ -m comment --comment contiv -j ACCEPT",
        }
    }
}

impl fmt::Display for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "iptables {} {} in {}",
            Self::CHAIN,
            self.rule(),
            self.place
        )
    }
}
