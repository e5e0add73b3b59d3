//! Endpoints, as their node publishes them (stream `ENDPOINTS`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::healing::Healed;
use crate::{EndpointId, GroupName, MacAddr, NetworkName, NodeName, Revision, TenantName};

/// A node's message about one of its endpoints or its repairs; the last message of a subject counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum EndpointEvent {
    /// The endpoint exists. `applied` is the revision that its node had applied then; a reader that has
    /// applied less holds the message back.
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
    /// The node reverted changes that others had made to Contiv's objects, so many of each kind since
    /// its last message.
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
    /// The container's name, once known. It isn't validated: the engine chooses it.
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
    /// The reason why all its traffic is dropped; absent: it is open, within its policies.
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
