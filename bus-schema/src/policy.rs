//! Groups, policies and rules: they decide which connections may be opened.
//!
//! A rule applies to new connections of a group's members, as the members see them. The matching rule
//! with the highest priority of all the group's policies wins; on a tie deny wins, then the lower id. If
//! no rule matches, the connection is allowed. Replies belong to their connection.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{AddressRange, GroupId, GroupName, NetworkName, PolicyName, RuleId, TenantName};

/// An endpoint group, as in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSpec {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub name: GroupName,
    /// Unique in the tenant; given again only after the group's removal is complete.
    pub id: GroupId,
    /// In the order of their names, each once.
    #[serde(default)]
    pub policies: Vec<PolicyName>,
    /// The name of the Docker network, when it isn't `GROUP.NET` or `GROUP.NET/TENANT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_name: Option<String>,
    /// Its members' addresses, and nobody else's; absent: they get the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<AddressRange>,
}

impl GroupSpec {
    /// The name of this group's Docker network: `GROUP.NET`, in other tenants than `default`
    /// `GROUP.NET/TENANT`.
    pub fn docker_network(&self) -> String {
        match &self.docker_name {
            Some(name) => name.clone(),
            None if self.tenant == TenantName::default_tenant() => {
                format!("{}.{}", self.name, self.network)
            }
            None => format!("{}.{}/{}", self.name, self.network, self.tenant),
        }
    }

    /// Whether that name is `name`.
    pub fn is_docker_network(&self, name: &str) -> bool {
        match &self.docker_name {
            Some(own) => own == name,
            None => {
                let parts = self.tenant.within(name).and_then(|it| it.split_once('.'));
                parts == Some((self.name.as_str(), self.network.as_str()))
            }
        }
    }
}

/// A rule of a policy, as in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    pub id: RuleId,
    /// Unique in the tenant and never given twice: the key of its counters. At most
    /// [`Rule::MAX_NUMBER`].
    pub number: u32,
    #[serde(flatten)]
    pub spec: RuleSpec,
}

impl Rule {
    /// Nodes keep a number in 24 bits, of which all set means none.
    pub const MAX_NUMBER: u32 = (1 << 24) - 2;
}

/// The content of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSpec {
    pub direction: Direction,
    pub priority: Priority,
    pub action: Action,
    /// Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Destination ports, sorted, none touching another; empty: any. Only with a protocol that
    /// has ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// The other end: of an incoming rule the sender, of an outgoing one the receiver. Absent:
    /// anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
}

/// As the group's members see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    In,
    Out,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::In => "in",
            Self::Out => "out",
        })
    }
}

/// A deny comes before an allow of the same priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    Deny,
    Allow,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        })
    }
}

/// 1 to 100; the higher decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Priority(u8);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("priority {0} is out of range: it must be 1 to 100")]
pub struct InvalidPriority(u8);

impl Priority {
    pub const DEFAULT: Self = Self(1);
    pub const MAX: u8 = 100;

    pub fn new(priority: u8) -> Result<Self, InvalidPriority> {
        if (1..=Self::MAX).contains(&priority) {
            return Ok(Self(priority));
        }
        Err(InvalidPriority(priority))
    }
}

impl TryFrom<u8> for Priority {
    type Error = InvalidPriority;

    fn try_from(priority: u8) -> Result<Self, InvalidPriority> {
        Self::new(priority)
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IP protocol by its number (IANA "Protocol Numbers").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Protocol(pub u8);

impl Protocol {
    pub const ICMP: Self = Self(1);
    pub const TCP: Self = Self(6);
    pub const UDP: Self = Self(17);
    pub const SCTP: Self = Self(132);

    const NAMES: [(&'static str, Self); 4] = [
        ("icmp", Self::ICMP),
        ("tcp", Self::TCP),
        ("udp", Self::UDP),
        ("sctp", Self::SCTP),
    ];

    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no protocol: it must be tcp, udp, icmp, sctp or a number from 0 to 255")]
pub struct InvalidProtocol(String);

impl FromStr for Protocol {
    type Err = InvalidProtocol;

    fn from_str(text: &str) -> Result<Self, InvalidProtocol> {
        let named = Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text));
        match named {
            Some((_, protocol)) => Ok(*protocol),
            None => text
                .parse()
                .map(Self)
                .map_err(|_| InvalidProtocol(text.to_owned())),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

/// An inclusive range of ports, first to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    pub first: u16,
    pub last: u16,
}

impl PortRange {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The same ports, sorted, with none overlapping or touching another.
    pub fn normalise(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort();
        let mut normal: Vec<Self> = Vec::new();
        for range in ranges {
            match normal.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => normal.push(range),
            }
        }
        normal
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no port and no range: write 80, 8000-8100 or 80,443,8000-8100")]
pub struct InvalidPorts(String);

impl FromStr for PortRange {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let parse = |part: &str| part.trim().parse::<u16>();
        match (parse(first), parse(last)) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(InvalidPorts(text.to_owned())),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Peer {
    /// Its members, by the identity that travels with each packet.
    Group {
        group: GroupName,
    },
    /// Every address of its subnets.
    Network {
        network: NetworkName,
    },
    Addresses {
        range: AddressRange,
    },
    /// Every address that lies in no subnet of the tenant and isn't the endpoint's host's.
    World,
}

impl RuleId {
    /// The order of rules with equal priority and action: numbers by their value, and before other ids.
    pub fn precedence(&self, other: &Self) -> Ordering {
        let number = |id: &Self| id.as_str().parse::<u64>().ok();
        match (number(self), number(other)) {
            (Some(one), Some(two)) => one.cmp(&two),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
        .then_with(|| self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> PortRange {
        text.parse().expect("ports")
    }

    #[test]
    fn ports_are_sorted_and_joined() {
        let given = ["8080", "80-90", "85-100", "101", "443"].map(ports);
        let normal = PortRange::normalise(given.to_vec());
        assert_eq!(normal, ["80-101", "443", "8080"].map(ports));
        let all = ["0-65535", "65535"].map(ports);
        assert_eq!(PortRange::normalise(all.to_vec()), [ports("0-65535")]);
    }

    #[test]
    fn text_that_is_no_port_is_refused() {
        for bad in ["", "-", "80-", "90-80", "65536", "http", "80 90"] {
            assert!(bad.parse::<PortRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn protocols_have_names_and_numbers() {
        assert_eq!("TCP".parse(), Ok(Protocol::TCP));
        assert_eq!("6".parse(), Ok(Protocol::TCP));
        assert_eq!(Protocol(47).to_string(), "47");
        assert_eq!(Protocol(132).to_string(), "sctp");
        assert!("tpc".parse::<Protocol>().is_err());
    }

    #[test]
    fn the_lower_id_comes_first_by_value() {
        let id = crate::testing::name::<RuleId>;
        assert_eq!(id("9").precedence(&id("10")), Ordering::Less);
        assert_eq!(id("10").precedence(&id("a")), Ordering::Less);
        assert_eq!(id("b").precedence(&id("a")), Ordering::Greater);
        assert_eq!(id("01").precedence(&id("1")), Ordering::Less);
    }

    #[test]
    fn a_priority_out_of_range_does_not_decode() {
        for bad in [0u8, 101] {
            let bytes = crate::codec::to_bytes(&bad);
            assert!(crate::codec::from_bytes::<Priority>(&bytes).is_err());
        }
    }
}
