//! Keeps the view of all endpoints at what this node itself knows: its own endpoints at once, and
//! what others said as soon as the log has got there.

use std::sync::Arc;

use imbl::ordmap::DiffItem;
use tokio::sync::watch;

use crate::bus::{Identity, public};
use crate::endpoint::{Locals, Snapshot};
use crate::projection::{EndpointsView, Projection};

/// Runs until its channels close.
pub async fn keep(
    me: Identity,
    view: watch::Sender<EndpointsView>,
    mut facts: watch::Receiver<Projection>,
    mut snapshots: watch::Receiver<Snapshot>,
) {
    let mut shown = Locals::default();
    loop {
        let applied = facts.borrow_and_update().applied;
        let endpoints = snapshots.borrow_and_update().endpoints.clone();
        view.send_modify(|view| {
            view.advance(applied);
            show(view, &me, &shown, &endpoints);
        });
        shown = endpoints;
        let closed = tokio::select! {
            changed = facts.changed() => changed.is_err(),
            changed = snapshots.changed() => changed.is_err(),
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
