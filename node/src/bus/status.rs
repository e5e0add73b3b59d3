//! Publishes this node's status at each change and at least once a second.

use std::time::Duration;

use async_nats::Client;
use bus_schema::node::{NodeStatus, STATUS_EVERY_MS};
use bus_schema::{codec, subject};
use tokio::sync::watch;

use super::connection::Link;
use runtime::now;
use runtime::pause;

/// The shortest pause between two statuses; changes within it are published as one.
const MIN_STATUS_PAUSE: Duration = Duration::from_millis(20);

/// Publishes while connected. A node that isn't a member publishes nothing, since its name may be
/// another machine's.
pub(super) async fn publish(
    client: Client,
    mut status: watch::Receiver<NodeStatus>,
    link: watch::Receiver<Link>,
) {
    loop {
        let current = stamped(status.borrow_and_update().clone());
        if link.borrow().trouble.is_none() && !current.log.is_outside() {
            let to = subject::of_status(&current.node);
            let sent = client.publish(to, codec::to_bytes(&current).into()).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "status not sent");
            }
        }
        pause(MIN_STATUS_PAUSE).await;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            () = pause(Duration::from_millis(STATUS_EVERY_MS)) => {}
        }
    }
}

/// The status with the current time.
pub(super) fn stamped(status: NodeStatus) -> NodeStatus {
    NodeStatus {
        at: Some(now()),
        ..status
    }
}
