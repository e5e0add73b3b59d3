use serde::{Deserialize, Serialize};

use crate::TenantName;

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

/// The tenant takes no intent any more; in one batch with [`TenantRemoved`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantClosed {
    pub tenant: TenantName,
}
