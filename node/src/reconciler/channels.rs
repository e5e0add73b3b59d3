//! The inputs of the reconciler, and which of them is next.

use bus_schema::node::LogState;
use bus_schema::surroundings::Surroundings;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cleanup::CleanupReply;
use crate::endpoint::Snapshot;
use node_core::projection::{EndpointsView, Projection};
use node_datapath::{KernelChange, KernelChanges};
use runtime::pause;

#[derive(Debug)]
pub(super) struct Channels {
    pub(super) facts: watch::Receiver<Projection>,
    pub(super) snapshots: watch::Receiver<Snapshot>,
    pub(super) log: watch::Receiver<LogState>,
    pub(super) cleanups: mpsc::Receiver<CleanupReply>,
    pub(super) views: watch::Receiver<EndpointsView>,
    pub(super) surroundings: watch::Receiver<Surroundings>,
    /// Absent: kernel changes aren't listened to.
    pub(super) changes: Option<KernelChanges>,
}

/// The event that ends a wait.
pub(super) enum Wake {
    Closed,
    /// Facts, endpoints or the log's state changed, or a timer fired.
    Work,
    Clean(CleanupReply),
    View,
    Change(KernelChange),
    Poll,
}

impl Channels {
    /// The next event; `poll` and `step` are the times of the timers.
    pub(super) async fn next(&mut self, poll: Instant, step: Instant) -> Wake {
        tokio::select! {
            changed = self.facts.changed() => wake(Wake::Work, &changed),
            changed = self.snapshots.changed() => wake(Wake::Work, &changed),
            changed = self.log.changed() => wake(Wake::Work, &changed),
            changed = self.views.changed() => wake(Wake::View, &changed),
            changed = self.surroundings.changed() => wake(Wake::Work, &changed),
            change = next_change(self.changes.as_mut()) => Wake::Change(change),
            () = until(poll) => Wake::Poll,
            Some(asked) = self.cleanups.recv() => Wake::Clean(asked),
            () = until(step) => Wake::Work,
        }
    }

    /// Drops the kernel changes that a resync sees anyway; the rest.
    pub(super) fn clear_changes(&mut self) -> Vec<KernelChange> {
        self.changes
            .as_mut()
            .map(KernelChanges::clear)
            .unwrap_or_default()
    }
}

fn wake(changed_to: Wake, changed: &Result<(), watch::error::RecvError>) -> Wake {
    match changed {
        Ok(()) => changed_to,
        Err(_) => Wake::Closed,
    }
}

async fn next_change(changes: Option<&mut KernelChanges>) -> KernelChange {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

async fn until(when: Instant) {
    pause(when.saturating_duration_since(Instant::now())).await;
}
