//! Names and ids. Names are checked once, at the edge: a value of these types is valid.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is no name. A name is one token of a subject, one label of a DNS name and one
/// part of a Docker network's name, so it holds no dot, no space and no wildcard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("a name can't be empty")]
    Empty,
    #[error("`{0}` is longer than {max} characters", max = Name::MAX)]
    TooLong(String),
    #[error("`{name}` holds `{found}`: a name may hold letters, digits, `-` and `_` only")]
    Character { name: String, found: char },
    #[error("`{0}` must start and end with a letter or a digit")]
    Edge(String),
}

/// A validated name: 1 to 63 of `[A-Za-z0-9_-]`, starting and ending with a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The longest label of a DNS name (RFC 1035 §2.3.4).
    pub const MAX: usize = 63;

    pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
        let text = text.into();
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if let Some(found) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '_'))
        {
            return Err(InvalidName::Character { name: text, found });
        }
        if text.len() > Self::MAX {
            return Err(InvalidName::TooLong(text));
        }
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(text.chars().next()) || !edge(text.chars().next_back()) {
            return Err(InvalidName::Edge(text));
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::new(text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Name);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                Name::new(text).map(Self)
            }

            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

names! {
    /// A tenant's name, unique in the cluster.
    TenantName;
    /// A network's name, unique in its tenant.
    NetworkName;
    /// A group's name, unique in its tenant, and the name of no network of it.
    GroupName;
    /// A policy's name, unique in its tenant.
    PolicyName;
    /// A rule's id, unique in its policy; often a number.
    RuleId;
    /// A node's name, unique in the cluster.
    NodeName;
    /// An endpoint's id: Docker's endpoint id, or the choice of the caller of CNI or of the local
    /// socket. Unique in the cluster.
    EndpointId;
}

impl TenantName {
    /// The tenant of commands that name none.
    pub fn default_tenant() -> Self {
        Self(Name(Self::DEFAULT.to_owned()))
    }

    const DEFAULT: &str = "default";

    /// The name of a Docker network of this tenant without the tenant; `None`: it is another tenant's.
    /// For `NET/TENANT` it is `NET`; the tenant `default` isn't in the name.
    pub(crate) fn within<'a>(&self, docker_network: &'a str) -> Option<&'a str> {
        match self.as_str() {
            Self::DEFAULT => Some(docker_network),
            tenant => docker_network.strip_suffix(tenant)?.strip_suffix('/'),
        }
    }
}

macro_rules! uuids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

uuids! {
    /// The id of a cluster and its log; random, in the log's first event.
    ClusterId;
    /// The id of a command, by which it happens once: the asker chooses it, and every event carries it.
    CommandId;
    /// One event's own id.
    EventId;
}

impl CommandId {
    /// The id of a `step` that follows from this command or event, equal on every netmaster.
    pub fn derive(cause: Uuid, step: &str) -> Self {
        Self(Uuid::new_v5(&cause, step.as_bytes()))
    }
}

/// The id of a machine, which distinguishes two of one name: `/etc/machine-id`, see machine-id(5).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(pub String);

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A position in the log: the sequence number of an event in the stream `LOG`. 0: before the first.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A VXLAN network identifier (RFC 7348 §5), 1 to 2^24 - 1; Contiv's "packet tag".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vni(pub u32);

impl Vni {
    pub const MAX: u32 = (1 << 24) - 1;

    pub fn is_valid(self) -> bool {
        (1..=Self::MAX).contains(&self.0)
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A group's id within its tenant, as it travels in the mark and in the VXLAN-GBP header.
///
/// The kernel leaves the GBP extension out of the header when the id is 0, so a packet of an
/// endpoint without a group carries [`GroupId::UNGROUPED`]. With 0 the sender's group is unknown: the
/// receiver drops such a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u16);

impl GroupId {
    pub const UNGROUPED: Self = Self(1);
    /// The first that a group can have.
    pub const FIRST: Self = Self(2);
    /// The last that a group can get. The ids behind it are kept for peers that are no groups.
    pub const LAST: Self = Self(0xffef);
    /// The host of an endpoint.
    pub const HOST: Self = Self(0xfffd);
    /// The senders outside of the tenant ([`crate::policy::Peer::World`]).
    pub const WORLD: Self = Self(0xfffe);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_one_token() {
        for good in ["a", "prod_web", "contiv-net", "A1", &"x".repeat(63)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a.b",
            "a b",
            "*",
            ">",
            "-a",
            "a-",
            "_a",
            "é",
            "a/b",
            &"x".repeat(64),
        ] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_invalid_name_does_not_decode() {
        let bytes = crate::codec::to_bytes(&"a.b");
        assert!(crate::codec::from_bytes::<TenantName>(&bytes).is_err());
    }
}
