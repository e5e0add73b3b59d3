//! Keeps the view of all endpoints at what this node itself knows: its own endpoints at once, and
//! what others said as soon as the log has got there.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus_schema::EndpointId;
use bus_schema::node::LogState;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::{Identity, pause, public};
use crate::endpoint::{Kernel, Locals, Snapshot};
use crate::projection::{EndpointsView, Projection};

/// After a start, how long the bus has to answer before what was saved counts for all there is.
const BUS_ANSWERS: Duration = Duration::from_millis(700);

/// This node's own endpoints, and which of them nobody can reach, and why.
#[derive(Default)]
struct Own {
    endpoints: Locals,
    closed: BTreeMap<EndpointId, String>,
}

/// Runs until its channels close.
pub async fn keep(
    me: Identity,
    view: watch::Sender<EndpointsView>,
    mut facts: watch::Receiver<Projection>,
    mut snapshots: watch::Receiver<Snapshot>,
    mut kernel: watch::Receiver<Kernel>,
    mut log: watch::Receiver<LogState>,
) {
    let begin = Instant::now();
    let mut shown = Own::default();
    loop {
        let projection = facts.borrow_and_update().clone();
        let own = Own {
            endpoints: snapshots.borrow_and_update().endpoints.clone(),
            closed: kernel.borrow_and_update().closed.clone(),
        };
        let state = log.borrow_and_update().clone();
        let reads = matches!(state, LogState::CatchingUp | LogState::InSync);
        let left = BUS_ANSWERS.saturating_sub(begin.elapsed());
        view.send_modify(|view| {
            if projection.cluster.is_none() {
                view.is_of_no_log();
            }
            view.advance(projection.applied, &projection.nodes);
            view.await_stream(reads || !left.is_zero());
            show(view, &me, &shown, &own);
        });
        shown = own;
        let closed = tokio::select! {
            changed = facts.changed() => changed.is_err(),
            changed = snapshots.changed() => changed.is_err(),
            changed = kernel.wait_for(|kernel| kernel.closed != shown.closed) => changed.is_err(),
            changed = log.changed() => changed.is_err(),
            () = pause(left), if !left.is_zero() => false,
        };
        if closed {
            return;
        }
    }
}

fn show(view: &mut EndpointsView, me: &Identity, before: &Own, after: &Own) {
    for item in before.endpoints.diff(&after.endpoints) {
        match item {
            DiffItem::Remove(id, _) => view.remove(id, &me.node),
            DiffItem::Add(id, _) | DiffItem::Update { new: (id, _), .. } => {
                show_one(view, me, id, after);
            }
        }
    }
    for id in before.closed.keys().chain(after.closed.keys()) {
        if before.closed.get(id) != after.closed.get(id) {
            show_one(view, me, id, after);
        }
    }
}

fn show_one(view: &mut EndpointsView, me: &Identity, id: &EndpointId, own: &Own) {
    if let Some(endpoint) = own.endpoints.get(id) {
        let mut endpoint = public(endpoint, &me.node, me.vtep);
        endpoint.closed = own.closed.get(id).cloned();
        view.show(Arc::new(endpoint));
    }
}
