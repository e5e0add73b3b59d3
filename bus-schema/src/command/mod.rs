//! What is asked of netmaster: commands, and the request that carries them.

mod block;
mod group;
mod network;
mod node;
mod policy;
mod tenant;

pub use block::*;
pub use group::*;
pub use network::*;
pub use node::*;
pub use policy::*;
pub use tenant::*;

use serde::{Deserialize, Serialize};

use crate::{CommandId, Revision, TenantName};

/// A request to netmaster: a command or a query, with what its answer must respect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<T> {
    /// Chosen by who asks; the same id again is answered from the log, never done twice.
    pub id: CommandId,
    /// Milliseconds since 1970-01-01 UTC; after this nobody waits for the answer, and nothing is
    /// appended any more.
    pub deadline: u64,
    /// The highest revision that the client has seen: the answer is not older.
    #[serde(default)]
    pub seen: Revision,
    pub body: T,
}

/// Everything that changes the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Command {
    TenantCreate(TenantCreate),
    TenantRemove(TenantRemove),

    NetworkCreate(NetworkCreate),
    NetworkRemove(NetworkRemove),

    GroupCreate(GroupCreate),
    GroupUpdate(GroupUpdate),
    GroupRemove(GroupRemove),

    PolicyCreate(PolicyCreate),
    PolicyRemove(PolicyRemove),
    PolicyApply(PolicyApply),
    RuleAdd(RuleAdd),
    RuleRemove(RuleRemove),

    NodeJoin(NodeJoin),
    NodeRemove(NodeRemove),

    BlockLease(BlockLease),
    BlockReturn(BlockReturn),
    BlockCede(BlockCede),
    /// Asked by netmaster itself when a node was removed as lost.
    BlockRevoke(BlockRevoke),
}

impl Command {
    /// Noun and verb, the end of the subject that serves it (`contiv.api.v1.<noun>.<verb>`).
    pub fn verb(&self) -> (&'static str, &'static str) {
        match self {
            Self::TenantCreate(_) => ("tenant", "create"),
            Self::TenantRemove(_) => ("tenant", "rm"),
            Self::NetworkCreate(_) => ("net", "create"),
            Self::NetworkRemove(_) => ("net", "rm"),
            Self::GroupCreate(_) => ("group", "create"),
            Self::GroupUpdate(_) => ("group", "update"),
            Self::GroupRemove(_) => ("group", "rm"),
            Self::PolicyCreate(_) => ("policy", "create"),
            Self::PolicyRemove(_) => ("policy", "rm"),
            Self::PolicyApply(_) => ("policy", "apply"),
            Self::RuleAdd(_) => ("policy", "rule-add"),
            Self::RuleRemove(_) => ("policy", "rule-rm"),
            Self::NodeJoin(_) => ("node", "join"),
            Self::NodeRemove(_) => ("node", "rm"),
            Self::BlockLease(_) => ("block", "lease"),
            Self::BlockReturn(_) => ("block", "return"),
            Self::BlockCede(_) => ("block", "cede"),
            Self::BlockRevoke(_) => ("block", "revoke"),
        }
    }

    /// The tenant that the command is about, if one.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::TenantCreate(c) => Some(&c.tenant),
            Self::TenantRemove(c) => Some(&c.tenant),
            Self::NetworkCreate(c) => Some(&c.tenant),
            Self::NetworkRemove(c) => Some(&c.tenant),
            Self::GroupCreate(c) => Some(&c.tenant),
            Self::GroupUpdate(c) => Some(&c.tenant),
            Self::GroupRemove(c) => Some(&c.tenant),
            Self::PolicyCreate(c) => Some(&c.tenant),
            Self::PolicyRemove(c) => Some(&c.tenant),
            Self::PolicyApply(c) => Some(&c.tenant),
            Self::RuleAdd(c) => Some(&c.tenant),
            Self::RuleRemove(c) => Some(&c.tenant),
            Self::NodeJoin(_) | Self::NodeRemove(_) => None,
            Self::BlockLease(c) => Some(&c.tenant),
            Self::BlockReturn(c) => Some(&c.tenant),
            Self::BlockCede(c) => Some(&c.tenant),
            Self::BlockRevoke(c) => Some(&c.tenant),
        }
    }
}
