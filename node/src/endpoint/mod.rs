//! The node's endpoints: who gives out addresses, what is journaled before it is answered, and
//! the one way in which Docker, CNI and the local socket attach and detach.

#[cfg(test)]
pub(crate) mod fixture;
mod give_up;
mod handle;
mod journal;
mod lease;
mod manager;
mod marks;
pub mod restore;
pub mod settle;
#[cfg(test)]
mod tests;
pub mod vanished;

pub(crate) use manager::Ceding;

pub use handle::{DEADLINE, EndpointsHandle, Kernel, Parts};
pub use journal::{Damage, Found, cluster_in};
pub use manager::Snapshot;
pub use node_core::endpoint::{
    Attach, AttachError, Attachment, Claim, Description, Ledger, LocalEndpoint, Locals, NetworkKey,
    Owner, Record, Reserve, Usage, ledger, pool,
};

use std::sync::atomic::{AtomicBool, Ordering};

use bus_schema::NodeName;

use node_core::projection::Projection;

/// A node that is drained, has left or isn't in the cluster takes no new endpoints.
fn must_take_endpoints(
    facts: &Projection,
    me: &NodeName,
    is_leaving: &AtomicBool,
) -> Result<(), AttachError> {
    match facts.nodes.get(me) {
        Some(fact) if fact.left || is_leaving.load(Ordering::Relaxed) => {
            Err(AttachError::Left(me.clone()))
        }
        Some(fact) if fact.drained => Err(AttachError::Drained(me.clone())),
        None if facts.cluster.is_some() => Err(AttachError::Removed(me.clone())),
        Some(_) | None => Ok(()),
    }
}
