use serde::{Deserialize, Serialize};

use crate::policy::GroupSpec;
use crate::{GroupId, GroupName, PolicyName, TenantName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCreated {
    pub group: GroupSpec,
}

/// These are its policies from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUpdated {
    pub tenant: TenantName,
    pub group: GroupName,
    pub policies: Vec<PolicyName>,
}

/// No more attaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupClosing {
    pub tenant: TenantName,
    pub group: GroupName,
}

/// The removal was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReopened {
    pub tenant: TenantName,
    pub group: GroupName,
}

/// No node has an endpoint of it any more, or the operator forced it; its id is given again when
/// no new one is left, after a removal by force never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRemoved {
    pub tenant: TenantName,
    pub group: GroupName,
    pub id: GroupId,
    /// Endpoints may be left: they are closed, never open.
    pub forced: bool,
}
