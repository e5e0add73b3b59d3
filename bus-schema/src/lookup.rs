//! The answer that a container would get for a name.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{EndpointId, NodeName, TenantName};

/// A query for a name, from the container with this address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    pub tenant: TenantName,
    pub from: IpAddr,
    /// The name as people write it; for a PTR query the name of an address, `1.1.1.20.in-addr.arpa`.
    pub name: String,
    pub record: RecordKind,
}

/// The type of the records.
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

/// The answer, and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    pub outcome: Outcome,
    /// In the order of the answer but for its rotation; empty: the name has no such record.
    pub records: Vec<Resolved>,
    /// How long it may be cached, in seconds.
    pub ttl: u32,
    /// The reasons in words, one a line.
    pub because: Vec<String>,
    /// A query that would be forwarded is answered REFUSED: the `out` rules of the container's group
    /// deny a connection to the resolvers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// The answer that a container of an engine gets: Docker's own resolver is asked before the domain's
    /// server. Absent: no engine's container, or the resolver can't be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineAnswer>,
}

/// The answer of Docker's own resolver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineAnswer {
    /// The answer's code in the words of RFC 1035: `NOERROR`, `NXDOMAIN`, …
    pub code: String,
    /// Addresses or names, in the order of the answer.
    pub records: Vec<String>,
    /// Seconds that it may be cached; 0 without records.
    pub ttl: u32,
    /// Docker answered itself, with containers of its own engine only; else it asked the domain's server.
    pub first: bool,
}

/// How the query ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Outcome {
    /// The name is the cluster's.
    Found,
    /// It would be the cluster's, and nobody has it: NXDOMAIN.
    NotThere,
    /// It isn't the cluster's: these resolvers of the node's host are asked.
    Forwarded { resolvers: Vec<IpAddr> },
    /// The node doesn't know all endpoints yet: the query waits, then fails.
    Later,
}

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// An address, or the name of one.
    pub data: String,
    pub endpoint: EndpointId,
    pub node: NodeName,
    /// Its node has been silent for a while, so it is listed behind the others.
    pub silent: bool,
}
