//! Endpoints, as their node publishes them (stream `ENDPOINTS`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::healing::Healed;
use crate::{EndpointId, GroupName, MacAddr, NetworkName, NodeName, Revision, TenantName};

/// What a node says of one of its endpoints, or of what it put right; the last message of a
/// subject counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EndpointEvent {
    /// It is there, so. `applied`: what its node had applied when it said so; a reader that
    /// isn't there yet holds it back.
    Up {
        endpoint: Endpoint,
        applied: Revision,
    },
    /// It is gone. Expires by TTL.
    Down {
        tenant: TenantName,
        network: NetworkName,
        node: NodeName,
        id: EndpointId,
        applied: Revision,
    },
    /// The node put right what others had changed of what is ours, this many of each kind since
    /// it last said so.
    Healed {
        node: NodeName,
        kinds: BTreeMap<String, u64>,
        last: Healed,
        applied: Revision,
    },
    #[serde(other)]
    Unknown,
}

/// A container's (or a bare namespace's) membership in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub id: EndpointId,
    pub tenant: TenantName,
    pub network: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub node: NodeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Ipv6Addr>,
    pub mac: MacAddr,
    /// The container's name, once known. Not validated: whatever the engine allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Further names that it answers to in its network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The container's id, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The host's end of its veth.
    pub interface: String,
    /// Why nobody can reach it, nor it anybody; absent: it is open, as far as policy lets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// The outer address of its node.
    pub vtep: IpAddr,
}

impl Endpoint {
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.v4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.v6.map(IpAddr::V6))
    }
}
