use serde::{Deserialize, Serialize};

use crate::TenantName;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantCreate {
    pub tenant: TenantName,
}

/// Refused while the tenant has networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantRemove {
    pub tenant: TenantName,
}
