//! What a container would be told about a name.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{EndpointId, NodeName, TenantName};

/// A question for a name, as the container with this address asks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    pub tenant: TenantName,
    pub from: IpAddr,
    /// As people write it; for a PTR question an address' name, `1.1.1.20.in-addr.arpa`.
    pub name: String,
    pub record: RecordKind,
}

/// Which records are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordKind {
    A,
    Aaaa,
    Ptr,
}

impl std::fmt::Display for RecordKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Ptr => "PTR",
        })
    }
}

/// The answer, and why it is so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    pub outcome: Outcome,
    /// In the order of the answer but for its rotation; empty: the name has no such record.
    pub records: Vec<Resolved>,
    /// How long it may be remembered, in seconds.
    pub ttl: u32,
    /// In words, one reason a line.
    pub because: Vec<String>,
}

/// What becomes of the question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Outcome {
    /// The name is the cluster's.
    Found,
    /// It would be, and nobody bears it: NXDOMAIN.
    NotThere,
    /// It isn't: these resolvers of the node's host are asked.
    Forwarded { resolvers: Vec<IpAddr> },
    /// The node doesn't know all endpoints yet: the question waits, then fails.
    Later,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// An address, or the name of one.
    pub data: String,
    pub endpoint: EndpointId,
    pub node: NodeName,
    /// Nobody has heard of its node for a while, so it stands behind the others.
    pub silent: bool,
}
