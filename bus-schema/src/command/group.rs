use serde::{Deserialize, Serialize};

use super::Removal;
use crate::{AddressRange, GroupName, NetworkName, PolicyName, TenantName};

/// The same again is fine; with other settings it is refused, [`GroupUpdate`] changes them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCreate {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub group: GroupName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyName>,
    /// Members get addresses of this range, and nobody else does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_pool: Option<AddressRange>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_name: Option<String>,
}

/// Makes these the group's policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUpdate {
    pub tenant: TenantName,
    pub group: GroupName,
    pub policies: Vec<PolicyName>,
}

/// Refused while a rule names the group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRemove {
    pub tenant: TenantName,
    pub group: GroupName,
    pub mode: Removal,
}
