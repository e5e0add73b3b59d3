//! Tells everybody how this node is: at each change and at least once a second.

use std::time::Duration;

use async_nats::Client;
use bus_schema::node::{NodeStatus, STATUS_EVERY_MS};
use bus_schema::{codec, subject};
use tokio::sync::watch;

use super::connection::Link;
use runtime::now;
use runtime::pause;

/// Changes closer together than this are told as one.
const COALESCE: Duration = Duration::from_millis(20);

/// Publishes while connected; a node that isn't a member is silent, since its name may be another's.
pub(super) async fn publish(
    client: Client,
    mut status: watch::Receiver<NodeStatus>,
    link: watch::Receiver<Link>,
) {
    loop {
        let due = stamped(status.borrow_and_update().clone());
        if link.borrow().trouble.is_none() && !due.log.is_outside() {
            let to = subject::of_status(&due.node);
            let sent = client.publish(to, codec::to_bytes(&due).into()).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "status not sent");
            }
        }
        pause(COALESCE).await;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = pause(Duration::from_millis(STATUS_EVERY_MS)) => {}
        }
    }
}

/// The status as it is sent at this moment.
pub(super) fn stamped(status: NodeStatus) -> NodeStatus {
    NodeStatus {
        at: Some(now()),
        ..status
    }
}
