use serde::{Deserialize, Serialize};

use crate::{Egress, TenantName};

/// The cluster knows a new tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCreated {
    pub tenant: TenantName,
}

/// The cluster has no such tenant any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRemoved {
    pub tenant: TenantName,
}

/// The tenant takes intent from here on; in one batch with [`TenantCreated`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantOpened {
    pub tenant: TenantName,
}

/// The settings that are given changed, no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUpdated {
    pub tenant: TenantName,
    /// The connections that each endpoint may open; 0: a quarter of its node's conntrack table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// The way out of its new networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// The tenant takes no intent any more; in one batch with [`TenantRemoved`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantClosed {
    pub tenant: TenantName,
}
