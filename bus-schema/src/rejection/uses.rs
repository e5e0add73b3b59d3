//! Users of an object, as a rejection names them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{EndpointId, NodeName, PolicyName, RuleId};

/// An endpoint that keeps something from being removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EndpointUse {
    pub endpoint: EndpointId,
    pub node: NodeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub address: IpAddr,
}

impl std::fmt::Display for EndpointUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.as_deref().unwrap_or(self.endpoint.as_str());
        write!(f, "{name} ({}) on {}", self.address, self.node)
    }
}

/// A block and its holder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockUse {
    pub block: IpNet,
    pub node: NodeName,
}

impl std::fmt::Display for BlockUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.block, self.node)
    }
}

/// How much of a pool a node holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HolderUse {
    pub node: NodeName,
    /// Addresses that an endpoint could have.
    pub addresses: u64,
    /// Of these: of endpoints, reserved by an engine, or promised to a swarm's tasks.
    pub in_use: u64,
}

impl std::fmt::Display for HolderUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            node,
            addresses,
            in_use,
        } = self;
        write!(f, "{node} uses {in_use} of its {addresses}")
    }
}

/// A holder of a pool's addresses that couldn't be asked for free ones, or that offered some and gave
/// none up, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unasked {
    pub node: NodeName,
    pub reason: String,
}

impl std::fmt::Display for Unasked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.node, self.reason)
    }
}

/// The holders of a pool's addresses when none is free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<HolderUse>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unasked: Vec<Unasked>,
}

impl Holders {
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty() && self.unasked.is_empty()
    }
}

impl std::fmt::Display for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { asked, unasked } = self;
        if !asked.is_empty() {
            let mut most_first: Vec<&HolderUse> = asked.iter().collect();
            most_first.sort_by_key(|it| std::cmp::Reverse(it.addresses));
            write!(f, " ({})", some(&most_first))?;
        }
        if !unasked.is_empty() {
            let unasked = some(unasked);
            write!(
                f,
                "; these nodes hold addresses and gave none up: {unasked}"
            )?;
        }
        Ok(())
    }
}

/// A rule that keeps something from being removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleUse {
    pub policy: PolicyName,
    pub rule: RuleId,
}

impl std::fmt::Display for RuleUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rule {} of policy {}", self.rule, self.policy)
    }
}

/// Lists the first items and the number of the others: people read the message.
pub(super) fn some<T: std::fmt::Display>(items: &[T]) -> String {
    const MAX_NAMED: usize = 8;
    let (named, more) = items.split_at(items.len().min(MAX_NAMED));
    match more.len() {
        0 => list(named),
        more => format!("{} and {more} more", list(named)),
    }
}

pub(super) fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
