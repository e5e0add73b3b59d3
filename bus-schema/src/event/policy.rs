use serde::{Deserialize, Serialize};

use crate::policy::Rule;
use crate::{PolicyName, RuleId, TenantName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCreated {
    pub tenant: TenantName,
    pub policy: PolicyName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRemoved {
    pub tenant: TenantName,
    pub policy: PolicyName,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAdded {
    pub tenant: TenantName,
    pub policy: PolicyName,
    pub rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRemoved {
    pub tenant: TenantName,
    pub policy: PolicyName,
    pub rule: RuleId,
}

/// Every node ends, once, those connections of the policy's groups that aren't allowed at this
/// revision. In one batch behind the change that asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyApplied {
    pub tenant: TenantName,
    pub policy: PolicyName,
}
