//! Keeps the view of all endpoints at what this node itself knows: its own endpoints at once, and
//! what others said as soon as the log has got there.

use std::sync::Arc;
use std::time::Duration;

use bus_schema::node::LogState;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bus::{Identity, pause, public};
use crate::endpoint::{Locals, Snapshot};
use crate::projection::{EndpointsView, Projection};

/// After a start, how long the bus has to answer before what was saved counts for all there is.
const BUS_ANSWERS: Duration = Duration::from_millis(700);

/// Runs until its channels close.
pub async fn keep(
    me: Identity,
    view: watch::Sender<EndpointsView>,
    mut facts: watch::Receiver<Projection>,
    mut snapshots: watch::Receiver<Snapshot>,
    mut log: watch::Receiver<LogState>,
) {
    let begin = Instant::now();
    let mut shown = Locals::default();
    loop {
        let projection = facts.borrow_and_update().clone();
        let endpoints = snapshots.borrow_and_update().endpoints.clone();
        let state = log.borrow_and_update().clone();
        let reads = matches!(state, LogState::CatchingUp | LogState::InSync);
        let left = BUS_ANSWERS.saturating_sub(begin.elapsed());
        view.send_modify(|view| {
            if projection.cluster.is_none() {
                view.is_of_no_log();
            }
            view.advance(projection.applied, &projection.nodes);
            view.await_stream(reads || !left.is_zero());
            show(view, &me, &shown, &endpoints);
        });
        shown = endpoints;
        let closed = tokio::select! {
            changed = facts.changed() => changed.is_err(),
            changed = snapshots.changed() => changed.is_err(),
            changed = log.changed() => changed.is_err(),
            () = pause(left), if !left.is_zero() => false,
        };
        if closed {
            return;
        }
    }
}

fn show(view: &mut EndpointsView, me: &Identity, before: &Locals, after: &Locals) {
    for item in before.diff(after) {
        match item {
            DiffItem::Remove(id, _) => {
                view.remove(id, &me.node);
            }
            DiffItem::Add(_, endpoint)
            | DiffItem::Update {
                new: (_, endpoint), ..
            } => view.show(Arc::new(public(endpoint, &me.node, me.vtep))),
        }
    }
}
