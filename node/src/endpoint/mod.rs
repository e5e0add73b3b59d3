//! The node's endpoints: their addresses, the journal, and the handle through which Docker, CNI and
//! the local socket attach and detach.

mod allocate;
pub mod copy;
mod decisions;
mod due;
#[cfg(test)]
pub(crate) mod fixture;
mod give_up;
mod give_up_journal;
mod handle;
mod in_progress;
mod journal;
mod lease;
mod manager;
mod message;
mod own;
pub mod restore;
mod settle;
#[cfg(test)]
mod tests;
pub mod vanished;

pub(crate) use message::CedeRequest;
#[cfg(test)]
pub(crate) use own::to_published;

pub use handle::{EndpointsConfig, EndpointsHandle, Kernel, REQUEST_TIMEOUT};
pub use journal::{Damage, JournalState, cluster_in, set_aside, writer_of};
pub use manager::Snapshot;
pub use node_core::endpoint::{
    Attach, AttachError, Attachment, Claim, Description, Ledger, LocalEndpoint, Locals, NetworkKey,
    Owner, Record, Reserve, Usage, ledger, pool,
};
pub use own::{OwnEndpoints, Published};
pub use settle::Settler;

use std::sync::atomic::{AtomicBool, Ordering};

use bus_schema::NodeName;

use node_core::projection::Projection;

/// Refuses new endpoints on a node that is drained, has left or isn't in the cluster.
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
