//! Updates the view of all endpoints: the node's own endpoints at once, and other nodes' when the log
//! has reached their revision.

use std::sync::Arc;
use std::time::Duration;

use bus_schema::node::LogState;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::endpoint::{Kernel, OwnEndpoints, Snapshot};
use crate::identity::Identity;
use node_core::projection::{EndpointsView, Projection};
use runtime::pause;

/// Limits the wait for the bus after a start; then the saved endpoints count as complete. A busy bus
/// takes a while, and connecting to a silent one fails after two seconds.
const BUS_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The view and its sources.
#[derive(Debug)]
pub struct Viewer {
    pub me: Identity,
    pub view: watch::Sender<EndpointsView>,
    pub facts: watch::Receiver<Projection>,
    pub snapshots: watch::Receiver<Snapshot>,
    pub kernel: watch::Receiver<Kernel>,
    pub log: watch::Receiver<LogState>,
}

/// Updates the view until its sources close.
pub async fn keep(viewer: Viewer) {
    let Viewer {
        me,
        view,
        mut facts,
        mut snapshots,
        mut kernel,
        mut log,
    } = viewer;
    let (begin, connecting) = (Instant::now(), log.borrow().clone());
    let mut is_open = true;
    let mut shown = OwnEndpoints::default();
    loop {
        let projection = facts.borrow_and_update().clone();
        let own = OwnEndpoints::of(&snapshots.borrow_and_update(), &kernel.borrow_and_update());
        let state = log.borrow_and_update().clone();
        let reads = state == LogState::CatchingUp || state.has_read_log();
        let left = BUS_ANSWER_TIMEOUT.saturating_sub(begin.elapsed());
        is_open &= state == connecting && !left.is_zero();
        view.send_modify(|view| {
            if projection.cluster.is_none() {
                view.is_of_no_log();
            }
            view.follow_intent(&projection.tenants);
            view.advance(projection.applied, &projection.nodes);
            view.await_stream(reads || is_open);
            show(view, &me, &shown, &own);
        });
        shown = own;
        let closed = tokio::select! {
            changed = facts.changed() => changed.is_err(),
            changed = snapshots.changed() => changed.is_err(),
            changed = kernel.wait_for(|kernel| !shown.is_closed_as(kernel)) => changed.is_err(),
            changed = log.changed() => changed.is_err(),
            () = pause(left), if is_open => false,
        };
        if closed {
            return;
        }
    }
}

fn show(view: &mut EndpointsView, me: &Identity, before: &OwnEndpoints, after: &OwnEndpoints) {
    for id in before.changes(after) {
        match after.published(&id, me) {
            Some(endpoint) => view.show(Arc::new(endpoint)),
            None => view.remove(&id, &me.node),
        }
    }
}
