//! The boundaries of consistency: each aggregate owns its facts alone, and decides about them.
//!
//! Pure: no I/O, no clock, no randomness. `decide` never changes anything and `evolve` never
//! fails, so folding the same events always gives the same state, on every netmaster. Facts of
//! other aggregates come as snapshots; the shell fences the append on those that a batch writes.

mod cluster;
mod leases;
mod search;
mod tenant;

pub use cluster::{Cluster, ClusterCommand, ClusterFacts, Member};
pub use leases::{LeaseState, Leases, LeasesCommand, LeasesFacts};
pub use search::{Next, Search};
pub use tenant::{
    Drained, GroupIntent, NetworkIntent, PolicyIntent, Tenant, TenantCommand, TenantFacts,
};

use bus_schema::{Command, Event, PoolKey, Rejection, TenantName};

/// A fold of one aggregate's events that decides about commands.
pub trait Aggregate: Clone + Default + std::fmt::Debug + Send + Sync + Unpin + 'static {
    type Command: Clone + std::fmt::Debug + Send + 'static;
    /// The facts of others on which a decision depends.
    type Facts;

    /// Returns the events that carry out `command`, none if there is nothing to change. They may belong
    /// to several aggregates, and are appended all or none.
    fn decide(&self, command: &Self::Command, facts: &Self::Facts)
    -> Result<Vec<Event>, Rejection>;

    /// Folds in one of this aggregate's own events. Unknown events change nothing.
    fn evolve(&mut self, event: &Event);
}

/// A command and the aggregate that decides about it.
#[derive(Debug, Clone)]
pub enum Routed {
    Cluster(ClusterCommand),
    Tenant(TenantName, TenantCommand),
    Leases(PoolKey, LeasesCommand),
}

/// Chooses the aggregate that decides about a command.
pub fn route(command: Command) -> Routed {
    let of_tenant = |tenant: &TenantName, command| Routed::Tenant(tenant.clone(), command);
    match command {
        Command::ClusterSet(c) => Routed::Cluster(ClusterCommand::Set(c)),
        Command::LogAccept(c) => Routed::Cluster(ClusterCommand::LogAccept(c)),
        Command::NodeJoin(c) => Routed::Cluster(ClusterCommand::NodeJoin(c)),
        Command::NodeRemove(c) => Routed::Cluster(ClusterCommand::NodeRemove(c)),
        Command::NodeDrain(c) => Routed::Cluster(ClusterCommand::NodeDrain(c)),
        Command::NodeUncordon(c) => Routed::Cluster(ClusterCommand::NodeUncordon(c)),
        Command::NodeLeave(c) => Routed::Cluster(ClusterCommand::NodeLeave(c)),
        Command::TenantCreate(c) => of_tenant(&c.tenant.clone(), TenantCommand::Create(c)),
        Command::TenantUpdate(c) => of_tenant(&c.tenant.clone(), TenantCommand::Update(c)),
        Command::TenantRemove(c) => of_tenant(&c.tenant.clone(), TenantCommand::Remove(c)),
        Command::NetworkCreate(c) => of_tenant(&c.tenant.clone(), TenantCommand::NetworkCreate(c)),
        Command::NetworkUpdate(c) => of_tenant(&c.tenant.clone(), TenantCommand::NetworkUpdate(c)),
        Command::NetworkRemove(c) => of_tenant(&c.tenant.clone(), TenantCommand::NetworkRemove(c)),
        Command::GroupCreate(c) => of_tenant(&c.tenant.clone(), TenantCommand::GroupCreate(c)),
        Command::GroupUpdate(c) => of_tenant(&c.tenant.clone(), TenantCommand::GroupUpdate(c)),
        Command::GroupRemove(c) => of_tenant(&c.tenant.clone(), TenantCommand::GroupRemove(c)),
        Command::PolicyCreate(c) => of_tenant(&c.tenant.clone(), TenantCommand::PolicyCreate(c)),
        Command::PolicyRemove(c) => of_tenant(&c.tenant.clone(), TenantCommand::PolicyRemove(c)),
        Command::PolicyApply(c) => of_tenant(&c.tenant.clone(), TenantCommand::PolicyApply(c)),
        Command::RuleAdd(c) => of_tenant(&c.tenant.clone(), TenantCommand::RuleAdd(c)),
        Command::RuleRemove(c) => of_tenant(&c.tenant.clone(), TenantCommand::RuleRemove(c)),
        Command::BlockLease(c) => Routed::Leases(c.pool(), LeasesCommand::Lease(c)),
        Command::BlockReturn(c) => Routed::Leases(c.pool(), LeasesCommand::Return(c)),
        Command::BlockCede(c) => Routed::Leases(c.pool(), LeasesCommand::Cede(c)),
        Command::BlockRevoke(c) => Routed::Leases(c.pool(), LeasesCommand::Revoke(c)),
    }
}
