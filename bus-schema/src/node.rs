//! The statuses of nodes, and the requests to them (`contiv.node.<node>.…`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::healing::{Cleanup, Healing, Steps};
use crate::lookup::{Lookup, Resolution};
use crate::policy::{Action, Direction, Protocol};
use crate::rejection::EndpointUse;
use crate::surroundings::Surroundings;
use crate::{
    ClusterId, GroupName, MachineId, NetworkName, NodeName, PolicyName, PoolKey, Revision, RuleId,
    TenantName,
};

/// A node publishes its status at least this often, in milliseconds, and at every change.
pub const STATUS_EVERY_MS: u64 = 1_000;

/// A node whose status is older than this, in milliseconds, is not waited for.
pub const ALIVE_MS: u64 = 3_500;

/// A node's status, published on `contiv.status.<node>`.
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
    /// Messages for the operator, the worst grade first.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// The counters of its name servers since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsCounters>,
    /// Its repairs since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healing: Option<Box<Healing>>,
    /// Milliseconds since 1970-01-01 UTC by the node's clock, when it was sent. Absent: an older
    /// node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
    /// The addresses that a new network should not cover. Absent: an older node's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surroundings: Option<Box<Surroundings>>,
    /// The settings of intent that this node carries out beyond those that every build does: [`EGRESS`].
    /// A build that doesn't know a setting does without it, and closes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carries: Vec<String>,
}

/// In [`NodeStatus::carries`]: ways out of networks ([`crate::Egress`]).
pub const EGRESS: &str = "egress";

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The outcomes of the messages that a node's name servers got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// By the cluster's endpoints.
    pub answered: u64,
    /// By the host's resolvers.
    pub forwarded: u64,
    /// From earlier answers of the host's resolvers.
    #[serde(default)]
    pub cached: u64,
    /// No resolver of the host answered, or too many queries were waiting for one.
    pub failed: u64,
    /// No DNS question; dropped.
    pub malformed: u64,
    /// Refused: the asker's `out` rules deny a connection to the host's resolvers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub refused: u64,
}

impl NodeStatus {
    /// Whether the node carries out a setting, by its name.
    pub fn carries(&self, setting: &str) -> bool {
        self.carries.iter().any(|it| it == setting)
    }

    /// Whether the node has carried out `revision`: in the kernel and, when an engine answers, in its
    /// networks. A node that follows another log has applied nothing of
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
    /// The refusal of a node that was removed.
    pub const REMOVED: &str =
        "this node was removed from the cluster: restart its netplugin to have it join again";

    /// Whether the node has read the log to its end: an object that it doesn't know doesn't exist.
    pub fn has_read_log(&self) -> bool {
        matches!(self, Self::InSync | Self::Removed)
    }

    /// Whether the node is no member, so that it publishes nothing.
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

/// A message for the operator, who can act on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Alarm {
    /// `Wrong`: something doesn't work until somebody acts. `Warning`: everything works, or works
    /// again, but somebody should know. A node that sends no grade is older; its alarms count as
    /// warnings, so that an upgrade of netctl changes no exit code.
    #[serde(default = "Grade::warning")]
    pub grade: Grade,
    /// Stable, for scripts: `foreign-log`, `journal-truncated`, `block-revoked`, …
    pub code: String,
    /// The problem and its remedy.
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

/// A request to one node.
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
    /// The counters of a tenant's rules on this node.
    Counters {
        tenant: TenantName,
    },
    /// The verdict of this node's rules on a connection to one of its endpoints.
    Trace(Flow),
    /// The answer of this node to one of its containers about a name.
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
    /// The addresses of a pool that the node could give up, by facts not older than `revision`.
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
    /// Examines its machine and the path to the other nodes; this takes some seconds.
    Examine,
    /// The progress of these revisions here.
    Steps {
        revisions: Vec<Revision>,
    },
    /// Find and return the objects of an earlier run.
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

/// The answer of a node.
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
    /// Endpoints prevent it.
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
    /// Replaces the refusal of a node that doesn't know the request by a plain one: its netplugin is older
    /// than `asker`, the program that sent the request.
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

/// The addresses of a pool that a node holds, and the unused ones of them.
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
    /// Addresses that it is ceding. The outcome isn't known yet: ask again.
    #[serde(default)]
    pub ceding: u64,
}

/// The result of examining a node's machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examination {
    /// Milliseconds since 1970-01-01 UTC by the node's clock, when it answered.
    pub at: u64,
    pub findings: Vec<Finding>,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    pub grade: Grade,
    /// The subject of the check, for scripts: `kernel`, `underlay`, `firewall`, …
    pub about: String,
    /// The result, with a remedy if something is wrong.
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
    /// The check failed.
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

/// The packets that a rule decided: the first ones of connections.
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

/// The verdict on a new connection, with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    pub allowed: bool,
    /// The verdict of the sender's group, then that of the receiver's.
    pub ends: Vec<TraceEnd>,
    /// The reason why it is dropped before any rule is evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// The devices and routes of the packet, in order, in words of `ip`.
    pub route: Vec<String>,
    /// The translation of its addresses on its way out, if it leaves the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translation: Option<String>,
}

/// The verdict of one end.
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
