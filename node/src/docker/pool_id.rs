//! A pool's id, as the engine stores it. Pure.

use std::fmt;
use std::str::FromStr;

use bus_schema::{GroupName, NetworkName, TenantName};

use super::meaning::{Meaning, Unresolved};

/// The address space of a pool, in the engine's sense: the users of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressSpace {
    /// Containers of this engine.
    Engine,
    /// The swarm's tasks on this engine, with the addresses that the swarm's manager chose.
    Tasks,
    /// All tasks of the swarm, for its manager.
    Swarm,
}

impl AddressSpace {
    const ALL: [Self; 3] = [Self::Engine, Self::Tasks, Self::Swarm];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Engine => "contiv",
            Self::Tasks => "contiv-tasks",
            Self::Swarm => "contiv-swarm",
        }
    }

    /// The space with this name; `Engine` for any other name.
    pub(super) fn named(name: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|it| it.name() == name).unwrap_or(Self::Engine)
    }

    /// The prefix of a pool's id. It is empty for `Engine`: older netplugins stored ids without one.
    fn prefix(self) -> &'static str {
        match self {
            Self::Engine => "",
            Self::Tasks => "tasks-",
            Self::Swarm => "swarm-",
        }
    }
}

/// A pool's id: `v4:TENANT/NETWORK` or `v6:TENANT/NETWORK/GROUP`, with `tasks-` or `swarm-` before it
/// in a swarm. It describes the whole pool, so netplugin stores nothing else for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PoolId {
    pub(super) space: AddressSpace,
    pub(super) v6: bool,
    pub(super) meaning: Meaning,
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.v6 { "v6" } else { "v4" };
        write!(f, "{}{family}:{}", self.space.prefix(), self.meaning)
    }
}

impl FromStr for PoolId {
    type Err = Unresolved;

    fn from_str(text: &str) -> Result<Self, Unresolved> {
        let unknown = || Unresolved::PoolId(text.to_owned());
        let (family, rest) = text.split_once(':').ok_or_else(unknown)?;
        let (space, family) = [AddressSpace::Tasks, AddressSpace::Swarm]
            .into_iter()
            .find_map(|space| Some((space, family.strip_prefix(space.prefix())?)))
            .unwrap_or((AddressSpace::Engine, family));
        let v6 = match family {
            "v4" => false,
            "v6" => true,
            _ => return Err(unknown()),
        };
        let mut parts = rest.split('/');
        let (Some(tenant), Some(network), group, None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(unknown());
        };
        let meaning = Meaning {
            tenant: TenantName::new(tenant).map_err(|_| unknown())?,
            network: NetworkName::new(network).map_err(|_| unknown())?,
            group: group
                .map(GroupName::new)
                .transpose()
                .map_err(|_| unknown())?,
        };
        Ok(Self { space, v6, meaning })
    }
}
