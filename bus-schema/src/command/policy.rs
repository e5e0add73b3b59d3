use serde::{Deserialize, Serialize};

use crate::policy::RuleSpec;
use crate::{PolicyName, RuleId, TenantName};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyCreate {
    pub tenant: TenantName,
    pub policy: PolicyName,
}

/// Refused while a group uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRemove {
    pub tenant: TenantName,
    pub policy: PolicyName,
}

/// The same again is fine; another rule with the id is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAdd {
    pub tenant: TenantName,
    pub policy: PolicyName,
    pub rule: RuleId,
    pub spec: RuleSpec,
    /// Also end the connections that the policy then doesn't allow any more.
    #[serde(default)]
    pub immediate: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRemove {
    pub tenant: TenantName,
    pub policy: PolicyName,
    pub rule: RuleId,
    #[serde(default)]
    pub immediate: bool,
}

/// Ends the connections that the policy doesn't allow, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyApply {
    pub tenant: TenantName,
    pub policy: PolicyName,
}
