//! The events of the log, each on the subject of its object.
//!
//! An event belongs to one aggregate; an append is fenced on that aggregate's subjects. A change of two
//! aggregates is one atomic batch with an event for each.

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

use serde::{Deserialize, Serialize};

use crate::policy::Peer;
use crate::{GroupName, NetworkName, PoolKey, TenantName};

/// One event of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    ClusterCreated(ClusterCreated),
    ClusterChanged(ClusterChanged),
    /// Nothing happened. Its acknowledgement proves to a netmaster how far the log reaches.
    Barrier,
    LogAccepted(LogAccepted),

    TenantCreated(TenantCreated),
    TenantRemoved(TenantRemoved),
    TenantOpened(TenantOpened),
    TenantClosed(TenantClosed),
    TenantUpdated(TenantUpdated),

    NodeJoined(NodeJoined),
    NodeRemoved(NodeRemoved),
    NodeDrained(NodeDrained),
    NodeUncordoned(NodeUncordoned),
    NodeLeft(NodeLeft),

    VniAssigned(VniAssigned),
    VniReleased(VniReleased),

    NetworkCreated(NetworkCreated),
    NetworkUpdated(NetworkUpdated),
    NetworkClosing(NetworkClosing),
    NetworkReopened(NetworkReopened),
    NetworkRemoved(NetworkRemoved),

    GroupCreated(GroupCreated),
    GroupUpdated(GroupUpdated),
    GroupClosing(GroupClosing),
    GroupReopened(GroupReopened),
    GroupRemoved(GroupRemoved),

    PolicyCreated(PolicyCreated),
    PolicyRemoved(PolicyRemoved),
    PolicyApplied(PolicyApplied),
    RuleAdded(RuleAdded),
    RuleRemoved(RuleRemoved),

    LeasesOpened(LeasesOpened),
    LeasesClosing(LeasesClosing),
    LeasesReopened(LeasesReopened),
    LeasesClosed(LeasesClosed),
    BlockLeased(BlockLeased),
    BlockReturned(BlockReturned),
    BlockCeded(BlockCeded),
    BlockRevoked(BlockRevoked),
    PoolReserved(PoolReserved),
    PoolReleased(PoolReleased),

    /// An event that this build doesn't know and that it may skip, by its header.
    #[serde(other)]
    Unknown,
}

/// A boundary of consistency: a fence covers the events of one aggregate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AggregateId {
    /// Tenants, nodes, VNIs, settings.
    Cluster,
    /// A tenant's intent.
    Tenant(TenantName),
    /// The blocks of a network, or of a group's pool in it.
    Leases(PoolKey),
}

impl AggregateId {
    /// Whether it is the blocks of a group's own pool.
    fn is_of_group(&self) -> bool {
        matches!(self, Self::Leases(pool) if pool.group.is_some())
    }
}

impl Event {
    /// The aggregate of this event; `None` for a barrier and for an unknown event.
    pub fn aggregate(&self) -> Option<AggregateId> {
        use AggregateId::{Cluster, Leases, Tenant};
        let leases = |tenant: &TenantName, network: &NetworkName, group: Option<&GroupName>| {
            Leases(PoolKey {
                tenant: tenant.clone(),
                network: network.clone(),
                group: group.cloned(),
            })
        };
        Some(match self {
            Self::ClusterCreated(_)
            | Self::ClusterChanged(_)
            | Self::LogAccepted(_)
            | Self::TenantCreated(_)
            | Self::TenantRemoved(_)
            | Self::NodeJoined(_)
            | Self::NodeRemoved(_)
            | Self::NodeDrained(_)
            | Self::NodeUncordoned(_)
            | Self::NodeLeft(_)
            | Self::VniAssigned(_)
            | Self::VniReleased(_) => Cluster,

            Self::TenantOpened(e) => Tenant(e.tenant.clone()),
            Self::TenantClosed(e) => Tenant(e.tenant.clone()),
            Self::TenantUpdated(e) => Tenant(e.tenant.clone()),
            Self::NetworkCreated(e) => Tenant(e.network.tenant.clone()),
            Self::NetworkUpdated(e) => Tenant(e.tenant.clone()),
            Self::NetworkClosing(e) => Tenant(e.tenant.clone()),
            Self::NetworkReopened(e) => Tenant(e.tenant.clone()),
            Self::NetworkRemoved(e) => Tenant(e.tenant.clone()),

            Self::GroupCreated(e) => Tenant(e.group.tenant.clone()),
            Self::GroupUpdated(e) => Tenant(e.tenant.clone()),
            Self::GroupClosing(e) => Tenant(e.tenant.clone()),
            Self::GroupReopened(e) => Tenant(e.tenant.clone()),
            Self::GroupRemoved(e) => Tenant(e.tenant.clone()),
            Self::PolicyCreated(e) => Tenant(e.tenant.clone()),
            Self::PolicyRemoved(e) => Tenant(e.tenant.clone()),
            Self::PolicyApplied(e) => Tenant(e.tenant.clone()),
            Self::RuleAdded(e) => Tenant(e.tenant.clone()),
            Self::RuleRemoved(e) => Tenant(e.tenant.clone()),

            Self::LeasesOpened(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::LeasesClosing(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::LeasesReopened(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::LeasesClosed(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::BlockLeased(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::BlockReturned(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::BlockCeded(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::BlockRevoked(e) => leases(&e.tenant, &e.network, e.group.as_ref()),
            Self::PoolReserved(e) => leases(&e.tenant, &e.network, None),
            Self::PoolReleased(e) => leases(&e.tenant, &e.network, None),

            Self::Barrier | Self::Unknown => return None,
        })
    }

    /// The oldest schema whose reader may act on the event or skip it: a node that skipped a
    /// group or a rule would allow connections that the rule denies, and one that didn't know a group's
    /// pool would give its addresses to others. A way out isn't worth a refusal: a node that doesn't know
    /// it has none.
    pub fn min_reader(&self) -> u16 {
        match self {
            Self::RuleAdded(e) if e.rule.spec.peer == Some(Peer::World) => 4,
            Self::GroupCreated(e) if e.group.pool.is_some() => 3,
            Self::PoolReserved(_) | Self::PoolReleased(_) => 3,
            _ if self.aggregate().is_some_and(|it| it.is_of_group()) => 3,
            Self::GroupCreated(_)
            | Self::GroupUpdated(_)
            | Self::GroupClosing(_)
            | Self::GroupReopened(_)
            | Self::GroupRemoved(_)
            | Self::PolicyCreated(_)
            | Self::PolicyRemoved(_)
            | Self::PolicyApplied(_)
            | Self::RuleAdded(_)
            | Self::RuleRemoved(_) => 2,
            _ => 1,
        }
    }
}

/// Implements `kind` and `KINDS`. The match is exhaustive, so the list is complete.
macro_rules! kinds {
    ($($variant:ident => $kind:literal,)*) => {
        impl Event {
            /// The name of every kind of event.
            pub const KINDS: &[&str] = &[$($kind),*];

            /// The event's name as it is encoded, for people and for metrics.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $kind,)*
                }
            }
        }
    };
}

kinds! {
    ClusterCreated => "cluster-created",
    ClusterChanged => "cluster-changed",
    Barrier => "barrier",
    LogAccepted => "log-accepted",
    TenantCreated => "tenant-created",
    TenantRemoved => "tenant-removed",
    TenantOpened => "tenant-opened",
    TenantClosed => "tenant-closed",
    TenantUpdated => "tenant-updated",
    NodeJoined => "node-joined",
    NodeRemoved => "node-removed",
    NodeDrained => "node-drained",
    NodeUncordoned => "node-uncordoned",
    NodeLeft => "node-left",
    VniAssigned => "vni-assigned",
    VniReleased => "vni-released",
    NetworkCreated => "network-created",
    NetworkUpdated => "network-updated",
    NetworkClosing => "network-closing",
    NetworkReopened => "network-reopened",
    NetworkRemoved => "network-removed",
    GroupCreated => "group-created",
    GroupUpdated => "group-updated",
    GroupClosing => "group-closing",
    GroupReopened => "group-reopened",
    GroupRemoved => "group-removed",
    PolicyCreated => "policy-created",
    PolicyRemoved => "policy-removed",
    PolicyApplied => "policy-applied",
    RuleAdded => "rule-added",
    RuleRemoved => "rule-removed",
    LeasesOpened => "leases-opened",
    LeasesClosing => "leases-closing",
    LeasesReopened => "leases-reopened",
    LeasesClosed => "leases-closed",
    BlockLeased => "block-leased",
    BlockReturned => "block-returned",
    BlockCeded => "block-ceded",
    BlockRevoked => "block-revoked",
    PoolReserved => "pool-reserved",
    PoolReleased => "pool-released",
    Unknown => "unknown",
}
