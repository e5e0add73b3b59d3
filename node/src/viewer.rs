//! Keeps the view of all endpoints at what this node itself knows: its own endpoints at once, and
//! what others said as soon as the log has got there.

use std::sync::Arc;
use std::time::Duration;

use bus_schema::node::LogState;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::{Identity, Own};
use crate::endpoint::{Kernel, Snapshot};
use node_core::projection::{EndpointsView, Projection};
use runtime::pause;

/// After a start, how long it may be open whether the bus is there, before what was saved counts for
/// all there is: a busy one takes a while, one that is silent is given up after two seconds.
const BUS_ANSWERS: Duration = Duration::from_secs(3);

/// Runs until its channels close.
pub async fn keep(
    me: Identity,
    view: watch::Sender<EndpointsView>,
    mut facts: watch::Receiver<Projection>,
    mut snapshots: watch::Receiver<Snapshot>,
    mut kernel: watch::Receiver<Kernel>,
    mut log: watch::Receiver<LogState>,
) {
    let (begin, connecting) = (Instant::now(), log.borrow().clone());
    let mut is_open = true;
    let mut shown = Own::default();
    loop {
        let projection = facts.borrow_and_update().clone();
        let own = Own::of(&snapshots.borrow_and_update(), &kernel.borrow_and_update());
        let state = log.borrow_and_update().clone();
        let reads = state == LogState::CatchingUp || state.has_read_log();
        let left = BUS_ANSWERS.saturating_sub(begin.elapsed());
        is_open &= state == connecting && !left.is_zero();
        view.send_modify(|view| {
            if projection.cluster.is_none() {
                view.is_of_no_log();
            }
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

fn show(view: &mut EndpointsView, me: &Identity, before: &Own, after: &Own) {
    for id in before.changes(after) {
        match after.shown(&id, me) {
            Some(endpoint) => view.show(Arc::new(endpoint)),
            None => view.remove(&id, &me.node),
        }
    }
}
