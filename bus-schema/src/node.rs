//! What nodes say of themselves, and what is asked of them (`contiv.node.<node>.…`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::healing::{Cleanup, Healing, Steps};
use crate::lookup::{Lookup, Resolution};
use crate::policy::{Action, Direction, Protocol};
use crate::rejection::EndpointUse;
use crate::{
    ClusterId, GroupName, MachineId, NetworkName, NodeName, PolicyName, PoolKey, Revision, RuleId,
    TenantName,
};

/// A node publishes its status at least this often, in milliseconds, and at every change.
pub const STATUS_EVERY_MS: u64 = 1_000;

/// A node whose status is older than this, in milliseconds, is not waited for.
pub const ALIVE_MS: u64 = 3_500;

/// What a node says of itself; published on `contiv.status.<node>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// Version of netplugin.
    pub version: String,
    /// The kernel reflects the log up to here.
    pub applied: Revision,
    pub log: LogState,
    /// Absent when the node serves no engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineStatus>,
    pub domain: DomainKind,
    /// Local endpoints.
    pub endpoints: u64,
    /// Endpoints that other nodes see otherwise than they are here, because the bus hasn't
    /// acknowledged them yet.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unpublished: u64,
    /// Blocks leased to it.
    pub blocks: u64,
    /// It takes no new endpoints (`netctl node drain`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drained: bool,
    /// It takes no new endpoints and has withdrawn its names (`netplugin leave`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
    /// What an operator should know, the worst grade first.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// What its name servers did since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsCounters>,
    /// What it put right since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healing: Option<Box<Healing>>,
    /// Milliseconds since 1970-01-01 UTC by the node's clock, when it was sent. Absent: an older
    /// node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What became of the messages that a node's name servers got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// From what the cluster knows.
    pub answered: u64,
    /// By the host's resolvers.
    pub forwarded: u64,
    /// From what the host's resolvers had said shortly before.
    #[serde(default)]
    pub cached: u64,
    /// No resolver of the host answered, or too many queries were waiting for one.
    pub failed: u64,
    /// No DNS question; dropped.
    pub malformed: u64,
}

impl NodeStatus {
    /// Whether everything that `revision` asks for is done on this node: in the kernel and, when
    /// an engine answers, in its networks. A node that follows another log has applied nothing of
    /// this one, whatever its revision.
    pub fn has_applied(&self, revision: Revision) -> bool {
        !matches!(self.log, LogState::Foreign { .. })
            && self.applied >= revision
            && self
                .engine
                .as_ref()
                .is_none_or(|engine| !engine.answers || engine.applied >= revision)
    }
}

/// The node's relation to the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum LogState {
    /// Replaying; nothing is deleted yet.
    CatchingUp,
    InSync,
    /// The bus doesn't answer; the node goes on with its last facts.
    Disconnected {
        reason: String,
    },
    /// The log is not the one that this node followed: it changes nothing until
    /// `netctl node accept-log`.
    Foreign {
        reason: String,
    },
    /// Not a member of the cluster, for this reason.
    Refused {
        reason: String,
    },
    /// It was removed from the cluster, and stays out until its netplugin is started again. It
    /// follows the log meanwhile, and publishes nothing.
    Removed,
}

impl LogState {
    /// Why a node that was removed does nothing for anybody.
    pub const REMOVED: &str =
        "this node was removed from the cluster: restart its netplugin to have it join again";

    /// Whether the node has read the log to its end: what it doesn't know doesn't exist.
    pub fn has_read_log(&self) -> bool {
        matches!(self, Self::InSync | Self::Removed)
    }

    /// Whether the node is no member, so that it speaks for nobody.
    pub fn is_outside(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Removed)
    }
}

/// The Docker engine beside a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineStatus {
    pub answers: bool,
    /// Its networks reflect the log up to here.
    pub applied: Revision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// How a tenant is isolated on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DomainKind {
    Vrf,
    Netns,
}

impl std::fmt::Display for DomainKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Vrf => "vrf",
            Self::Netns => "netns",
        })
    }
}

/// Something an operator should know and can act on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alarm {
    /// `Wrong`: something doesn't work until somebody acts. `Warning`: everything works, or works
    /// again, but somebody should know. A node that sends no grade is older; its alarms count as
    /// warnings, so that an upgrade of netctl changes no exit code.
    #[serde(default = "Grade::warning")]
    pub grade: Grade,
    /// Stable, for scripts: `foreign-log`, `journal-truncated`, `block-revoked`, …
    pub code: String,
    /// What is wrong and what to do.
    pub text: String,
}

impl Alarm {
    pub fn new(grade: Grade, code: &str, text: impl Into<String>) -> Self {
        Self {
            grade,
            code: code.to_owned(),
            text: text.into(),
        }
    }
}

/// What is asked of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum NodeRequest {
    Status,
    /// Asked after `NetworkClosing` at `revision`: the node answers when it has applied that and
    /// has either named its endpoints or returned its blocks.
    Drain {
        tenant: TenantName,
        network: NetworkName,
        revision: Revision,
    },
    /// Asked after `GroupClosing` at `revision`: the node answers when it has applied that, with
    /// its endpoints in the group, if any.
    DrainGroup {
        tenant: TenantName,
        group: GroupName,
        revision: Revision,
    },
    /// How often the rules of a tenant decided on this node.
    Counters {
        tenant: TenantName,
    },
    /// What this node's rules say of a connection to one of its endpoints.
    Trace(Flow),
    /// What this node tells one of its containers about a name.
    Resolve(Lookup),
    /// Another node wants this address of a block that the asked one holds.
    Cede {
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        to: NodeName,
        /// For a task of Docker's swarm, whose manager promised it this address.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        promised: bool,
    },
    /// What the node could give up of the addresses of a pool that it holds, by facts not older
    /// than `revision`.
    Spare {
        pool: PoolKey,
        #[serde(default)]
        v6: bool,
        revision: Revision,
    },
    /// Another node needs addresses of the pool: the asked one returns a block in which it uses
    /// none.
    ReturnBlock {
        pool: PoolKey,
        #[serde(default)]
        v6: bool,
    },
    /// Another node needs addresses of the pool: the asked one cedes any that it doesn't use, not
    /// more than half of them at once.
    CedeAny {
        pool: PoolKey,
        #[serde(default)]
        v6: bool,
        to: NodeName,
        /// How many at most; 0 and absent: one.
        #[serde(default)]
        count: u16,
    },
    /// Asked after `NodeDrained` at `revision`, before the node is removed: it answers when it has
    /// applied that and has either named its endpoints or returned its blocks.
    DrainNode {
        revision: Revision,
    },
    /// Looks at its machine, and at the way to the other nodes; takes some seconds.
    Examine,
    /// What became of these revisions here.
    Steps {
        revisions: Vec<Revision>,
    },
    /// Look for what an earlier life left, and return it.
    CleanUp,
    /// Follow the log of this cluster from its start, whatever was followed before.
    AcceptLog {
        cluster: ClusterId,
    },
}

impl NodeRequest {
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Drain { .. } => "drain",
            Self::DrainGroup { .. } => "drain-group",
            Self::Counters { .. } => "counters",
            Self::Trace(_) => "trace",
            Self::Resolve(_) => "resolve",
            Self::Cede { .. } => "cede",
            Self::Spare { .. } => "spare",
            Self::ReturnBlock { .. } => "return-block",
            Self::CedeAny { .. } => "cede-any",
            Self::DrainNode { .. } => "drain-node",
            Self::Examine => "examine",
            Self::Steps { .. } => "steps",
            Self::CleanUp => "clean-up",
            Self::AcceptLog { .. } => "accept-log",
        }
    }
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum NodeReply {
    Status(Box<NodeStatus>),
    /// Done: the blocks are returned, the address is ceded, the log is accepted.
    Done,
    Spare(Spare),
    /// A block was returned or an address ceded, at this revision of the log.
    GaveUp {
        revision: Revision,
    },
    /// By the rules' numbers.
    Counters {
        rules: BTreeMap<u32, Counter>,
    },
    Traced(Trace),
    Examined(Examination),
    Resolved(Resolution),
    Steps(Steps),
    CleanedUp(Cleanup),
    /// Endpoints stand in the way.
    InUse {
        endpoints: Vec<EndpointUse>,
    },
    /// Not possible now, and why.
    Refused {
        reason: String,
    },
    /// No endpoint runs on the node, which was to become empty, but it holds blocks; why.
    HoldsBlocks {
        reason: String,
    },
}

impl NodeReply {
    /// Says plainly that the node doesn't know the request, if it refused it for that: then its
    /// netplugin is older than `asker`, the program that sent the request.
    #[must_use]
    pub fn of_older_node(self, asker: &str) -> Self {
        match self {
            Self::Refused { reason } if reason.contains("unknown variant") => Self::Refused {
                reason: format!("its netplugin is older than this {asker}: upgrade it"),
            },
            reply => reply,
        }
    }
}

/// What a node holds of a pool, and what of it nobody uses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spare {
    /// Addresses of its blocks that an endpoint could have, those ceded to others left out.
    pub addresses: u64,
    /// Of these: of endpoints, reserved by an engine, or promised to a swarm's tasks.
    pub in_use: u64,
    /// Blocks in which it uses no address, which it could return.
    pub blocks: u64,
    /// Addresses that it could cede.
    pub free: u64,
    /// Addresses that it could give up, but that were freed a moment ago: the last choice.
    #[serde(default)]
    pub recent: u64,
    /// Addresses that it is ceding. What becomes of them isn't known yet: ask again.
    #[serde(default)]
    pub ceding: u64,
}

/// What a node found out about its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Milliseconds since 1970-01-01 UTC by the node's clock, when it answered.
    pub at: u64,
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub grade: Grade,
    /// What it is about, for scripts: `kernel`, `underlay`, `firewall`, …
    pub about: String,
    /// What is so, and what to do when it is wrong.
    pub text: String,
}

impl Finding {
    pub fn new(grade: Grade, about: &str, text: impl Into<String>) -> Self {
        Self {
            grade,
            about: about.to_owned(),
            text: text.into(),
        }
    }
}

/// The worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grade {
    Wrong,
    Warning,
    /// It couldn't be found out.
    Unknown,
    Fine,
}

impl Grade {
    fn warning() -> Self {
        Self::Warning
    }
}

impl std::fmt::Display for Grade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Wrong => "wrong",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Fine => "fine",
        })
    }
}

/// What passed by a rule's decision: the first packets of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}

/// A new connection, as its first packet shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    pub tenant: TenantName,
    pub from: IpAddr,
    pub to: IpAddr,
    pub protocol: Protocol,
    /// The destination's port, of a protocol that has ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// What becomes of a new connection, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub allowed: bool,
    /// What the rules of the sender's group say, then those of the receiver's.
    pub ends: Vec<TraceEnd>,
    /// Why it is dropped before any rule is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// What the packet passes, in order, in words of `ip`.
    pub route: Vec<String>,
}

/// One end's say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceEnd {
    pub direction: Direction,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub action: Action,
    /// Absent: no rule matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<(PolicyName, RuleId)>,
}
