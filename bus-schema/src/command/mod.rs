//! The commands to netmaster, and the request that carries them.

mod block;
mod cluster;
mod group;
mod network;
mod node;
mod policy;
mod tenant;

pub use block::*;
pub use cluster::*;
pub use group::*;
pub use network::*;
pub use node::*;
pub use policy::*;
pub use tenant::*;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{CommandId, Revision, TenantName};

/// A request to netmaster: a command or a query, with the conditions of its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<T> {
    /// The asker chooses it. The same id again is answered from the log; a command is never done twice.
    pub id: CommandId,
    /// Milliseconds since 1970-01-01 UTC; after this nobody waits for the answer, and nothing is
    /// appended any more. It is by the asker's clock, so netmaster reads it only where `within` is
    /// absent, in a request of an older build.
    pub deadline: u64,
    /// Milliseconds that the asker waits. Netmaster counts them from the request's arrival, so the
    /// clocks of two machines are not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<u64>,
    /// The highest revision that the client has seen: the answer is not older.
    #[serde(default)]
    pub seen: Revision,
    /// The answer to a query rests on a proved end of the log: it holds everything that was
    /// acknowledged before the query was sent, by whichever netmaster. (Answers to commands always
    /// do.) An older netmaster ignores it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linearizable: bool,
    pub body: T,
}

impl<T> Request<T> {
    /// A request whose asker waits as long as `within`. `now`: milliseconds since 1970-01-01 UTC
    /// by the asker's clock.
    pub fn new(id: CommandId, body: T, within: Duration, now: u64) -> Self {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        Self {
            id,
            deadline: now.saturating_add(within),
            within: Some(within),
            seen: Revision::default(),
            linearizable: false,
            body,
        }
    }

    /// The request as it arrived at `now` by the reader's clock: from here on `deadline` is by
    /// that clock, too.
    #[must_use]
    pub fn arrived(mut self, now: u64) -> Self {
        if let Some(within) = self.within {
            self.deadline = now.saturating_add(within);
        }
        self
    }
}

/// Implements `verb` and `VERBS` of an enum of requests. The match is exhaustive, so the list is
/// complete.
macro_rules! verbs {
    ($requests:ident: $($variant:ident => ($noun:literal, $verb:literal),)*) => {
        impl $requests {
            /// The noun and the verb of every variant.
            pub const VERBS: &[(&str, &str)] = &[$(($noun, $verb)),*];

            /// Noun and verb, the end of the subject that serves the request
            /// (`contiv.api.v1.<noun>.<verb>`).
            pub fn verb(&self) -> (&'static str, &'static str) {
                match self {
                    $(Self::$variant { .. } => ($noun, $verb),)*
                }
            }
        }
    };
}

pub(crate) use verbs;

/// The commands: each changes the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Command {
    TenantCreate(TenantCreate),
    TenantUpdate(TenantUpdate),
    TenantRemove(TenantRemove),

    NetworkCreate(NetworkCreate),
    NetworkUpdate(NetworkUpdate),
    NetworkRemove(NetworkRemove),

    GroupCreate(GroupCreate),
    GroupUpdate(GroupUpdate),
    GroupRemove(GroupRemove),

    PolicyCreate(PolicyCreate),
    PolicyRemove(PolicyRemove),
    PolicyApply(PolicyApply),
    RuleAdd(RuleAdd),
    RuleRemove(RuleRemove),

    ClusterSet(ClusterSet),
    LogAccept(LogAccept),

    NodeJoin(NodeJoin),
    NodeRemove(NodeRemove),
    NodeDrain(NodeDrain),
    NodeUncordon(NodeUncordon),
    NodeLeave(NodeLeave),

    BlockLease(BlockLease),
    BlockReturn(BlockReturn),
    BlockCede(BlockCede),
    /// Asked by netmaster itself when a node was removed as lost.
    BlockRevoke(BlockRevoke),
}

verbs! {
    Command:
    TenantCreate => ("tenant", "create"),
    TenantUpdate => ("tenant", "update"),
    TenantRemove => ("tenant", "rm"),
    NetworkCreate => ("net", "create"),
    NetworkUpdate => ("net", "update"),
    NetworkRemove => ("net", "rm"),
    GroupCreate => ("group", "create"),
    GroupUpdate => ("group", "update"),
    GroupRemove => ("group", "rm"),
    PolicyCreate => ("policy", "create"),
    PolicyRemove => ("policy", "rm"),
    PolicyApply => ("policy", "apply"),
    RuleAdd => ("policy", "rule-add"),
    RuleRemove => ("policy", "rule-rm"),
    ClusterSet => ("cluster", "set"),
    LogAccept => ("cluster", "accept-log"),
    NodeJoin => ("node", "join"),
    NodeRemove => ("node", "rm"),
    NodeDrain => ("node", "drain"),
    NodeUncordon => ("node", "uncordon"),
    NodeLeave => ("node", "leave"),
    BlockLease => ("block", "lease"),
    BlockReturn => ("block", "return"),
    BlockCede => ("block", "cede"),
    BlockRevoke => ("block", "revoke"),
}

impl Command {
    /// The tenant of the command, if it has one.
    pub fn tenant(&self) -> Option<&TenantName> {
        match self {
            Self::TenantCreate(c) => Some(&c.tenant),
            Self::TenantUpdate(c) => Some(&c.tenant),
            Self::TenantRemove(c) => Some(&c.tenant),
            Self::NetworkCreate(c) => Some(&c.tenant),
            Self::NetworkUpdate(c) => Some(&c.tenant),
            Self::NetworkRemove(c) => Some(&c.tenant),
            Self::GroupCreate(c) => Some(&c.tenant),
            Self::GroupUpdate(c) => Some(&c.tenant),
            Self::GroupRemove(c) => Some(&c.tenant),
            Self::PolicyCreate(c) => Some(&c.tenant),
            Self::PolicyRemove(c) => Some(&c.tenant),
            Self::PolicyApply(c) => Some(&c.tenant),
            Self::RuleAdd(c) => Some(&c.tenant),
            Self::RuleRemove(c) => Some(&c.tenant),
            Self::ClusterSet(_)
            | Self::LogAccept(_)
            | Self::NodeJoin(_)
            | Self::NodeRemove(_)
            | Self::NodeDrain(_)
            | Self::NodeUncordon(_)
            | Self::NodeLeave(_) => None,
            Self::BlockLease(c) => Some(&c.tenant),
            Self::BlockReturn(c) => Some(&c.tenant),
            Self::BlockCede(c) => Some(&c.tenant),
            Self::BlockRevoke(c) => Some(&c.tenant),
        }
    }
}
