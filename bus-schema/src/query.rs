//! The queries to netmaster. An answer is never older than the `seen` of its request.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::command::verbs;
use crate::event::Settings;
use crate::node::NodeStatus;
use crate::{
    ClusterId, Egress, GroupName, GroupSpec, MachineId, NetworkName, NetworkSpec, NodeName,
    PolicyName, Revision, Rule, TenantName,
};

/// A query to netmaster's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Query {
    ClusterInfo,
    TenantList,
    /// `tenant` absent: of all tenants. `network` present: that one, or a rejection.
    NetworkList {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<NetworkName>,
    },
    /// `tenant` absent: of all tenants. `group` present: that one, or a rejection.
    GroupList {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        group: Option<GroupName>,
    },
    /// `tenant` absent: of all tenants. `policy` present: that one, or a rejection.
    PolicyList {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantName>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<PolicyName>,
    },
    /// `node` present: that one, or a rejection.
    NodeList {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<NodeName>,
    },
    EndpointList {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<TenantName>,
    },
    /// Answered when every live node has applied `revision` (absent: the log's end at the time of the
    /// query), or at the deadline with the lagging nodes.
    Wait {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<Revision>,
    },
}

verbs! {
    Query:
    ClusterInfo => ("cluster", "info"),
    TenantList => ("tenant", "ls"),
    NetworkList => ("net", "ls"),
    GroupList => ("group", "ls"),
    PolicyList => ("policy", "ls"),
    NodeList => ("node", "ls"),
    EndpointList => ("endpoint", "ls"),
    Wait => ("cluster", "wait"),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    pub cluster: ClusterId,
    pub settings: Settings,
    /// Version of the netmaster that answers.
    pub version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantInfo {
    pub tenant: TenantName,
    pub networks: Vec<NetworkName>,
    /// The connections that each endpoint may open; absent: a quarter of its node's conntrack table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// The way out of its new networks; absent: [`Egress::OF_NEW_NETWORKS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

impl TenantInfo {
    /// The way out of its new networks.
    pub fn egress(&self) -> Egress {
        self.egress.unwrap_or(Egress::OF_NEW_NETWORKS)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkInfo {
    pub spec: NetworkSpec,
    /// The revision of its creation.
    pub created: Revision,
    pub closing: bool,
    /// The leased blocks and their holders.
    pub blocks: BTreeMap<IpNet, NodeName>,
    /// The number of published endpoints.
    pub endpoints: u64,
    /// Absent: an older netmaster's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<AddressCount>,
    /// The usage of these blocks; filled when one network is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<BlockUsage>,
}

/// The number of a pool's addresses that endpoints could have, and of those that they have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressCount {
    pub assignable: u64,
    /// Of published endpoints.
    pub in_use: u64,
}

/// A leased block and the usage of its addresses, by the published endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockUsage {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// Of this group's own pool; absent: of the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub block: IpNet,
    pub node: NodeName,
    /// Addresses of endpoints. With `free` and `ceded` all that an endpoint could have.
    pub in_use: u64,
    pub free: u64,
    /// Addresses that its holder ceded to other nodes; each is a block of its own.
    pub ceded: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInfo {
    pub spec: GroupSpec,
    pub created: Revision,
    pub closing: bool,
    /// The number of published endpoints.
    pub endpoints: u64,
    /// Of a group with a pool of its own. Absent: it has none, or an older netmaster's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<AddressCount>,
    /// The blocks of its own pool; filled when one group is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<BlockUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyInfo {
    pub tenant: TenantName,
    pub policy: PolicyName,
    pub created: Revision,
    /// In the order of their ids.
    pub rules: Vec<Rule>,
    /// The groups that use it.
    pub groups: Vec<GroupName>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub node: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// Its last status, if this netmaster got one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<NodeStatus>,
    /// Milliseconds since that status came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// A status came within [`crate::node::ALIVE_MS`].
    pub alive: bool,
    /// It takes no new endpoints (`netctl node drain`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// It takes no new endpoints and has withdrawn its names (`netplugin leave`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
    /// The blocks that it holds; filled when one node is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub usage: Vec<BlockUsage>,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// The awaited revision.
    pub until: Revision,
    /// Live nodes that haven't applied it, with what they have applied.
    pub lagging: BTreeMap<NodeName, Revision>,
    /// Live nodes with endpoints that aren't published yet, and how many; filled by a wait for all
    /// there is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unpublished: BTreeMap<NodeName, u64>,
    /// Nodes that have been silent for a while; they are not waited for.
    pub silent: Vec<NodeName>,
}
