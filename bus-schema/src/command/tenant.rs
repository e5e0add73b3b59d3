use serde::{Deserialize, Serialize};

use crate::{Egress, TenantName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCreate {
    pub tenant: TenantName,
    /// The connections that each endpoint may open; absent: a quarter of its node's conntrack table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// The way out of its new networks; absent: [`Egress::OF_NEW_NETWORKS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// Changes the settings that are given, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUpdate {
    pub tenant: TenantName,
    /// 0: a quarter of each node's conntrack table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// The way out of its new networks; those that there are keep theirs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// Refused while the tenant has networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRemove {
    pub tenant: TenantName,
}
