//! Publishes this node's endpoints and healings on the bus.
//!
//! The journal decides: the publisher sends the difference between the endpoints in the stream and
//! those in the journal while connected, and again after a reconnect. So no queue is needed, and
//! endpoints that an earlier process left in the stream are removed at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::{self, ErrorCode};
use bus_schema::node::LogState;
use bus_schema::{Endpoint, EndpointEvent, EndpointId, Revision, codec, subject};
use tokio::sync::watch;

use super::endpoints_stream::StoredEndpoints;
use super::error::SessionError;
use super::leave::Leave;
use crate::endpoint::{EndpointsHandle, OwnEndpoints, Published};
use crate::healing::Healings;
use crate::identity::Identity;
use node_core::projection::Projection;

/// The lifetime of a removal's mark; a node that was away for longer reads the whole stream.
const REMOVAL_TTL: &str = "1h";

/// Publishes endpoints and reports how many the bus has acknowledged.
#[derive(Debug)]
pub(super) struct Publisher<'a> {
    pub context: &'a jetstream::Context,
    pub me: &'a Identity,
    pub endpoints: &'a EndpointsHandle,
    pub facts: watch::Receiver<Projection>,
    pub leave: &'a Leave,
    pub log: watch::Receiver<LogState>,
    pub healings: &'a Healings,
    pub published: &'a watch::Sender<Published>,
}

impl Publisher<'_> {
    /// Publishes until an acknowledgement is missing; then the caller begins again. `stored` are this
    /// node's endpoints in the stream.
    pub(super) async fn run(self, stored: StoredEndpoints) -> SessionError {
        match self.publish(stored).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn publish(
        mut self,
        mut stored: StoredEndpoints,
    ) -> Result<std::convert::Infallible, SessionError> {
        let mut leaving = self.leave.requested();
        let mut healed = self.healings.subscribe();
        let (mut snapshots, mut kernel) = (self.endpoints.snapshots(), self.endpoints.kernel());
        // A damaged journal is restored from the stream, so the stream stays until then.
        let known = snapshots.wait_for(|it| !it.ledger.is_incomplete());
        known.await.map_err(|_| stopping())?;
        // Before, the node doesn't know which endpoints the log has closed: it would publish them as
        // open.
        let in_sync = kernel.wait_for(|kernel| kernel.was_in_sync);
        in_sync.await.map_err(|_| stopping())?;
        let mut sent = OwnEndpoints::default();
        let mut too_long = BTreeMap::new();
        // Endpoints that an earlier process left in the stream are compared at once.
        let mut due: BTreeSet<EndpointId> = stored.keys().cloned().collect();
        loop {
            let removed = *self.log.borrow_and_update() == LogState::Removed;
            let left = *leaving.borrow_and_update() || removed;
            let own = OwnEndpoints::of(&snapshots.borrow_and_update(), &kernel.borrow_and_update());
            let own = if left { OwnEndpoints::default() } else { own };
            due.extend(sent.changes(&own));
            let due = std::mem::take(&mut due);
            too_long.retain(|id, _| !due.contains(id));
            too_long.append(&mut self.send_changes(due, &own, &mut stored).await?);
            sent = own.clone();
            let mut published = Published::all(own, left);
            published.too_long.clone_from(&too_long);
            self.published.send_replace(published);
            healed.borrow_and_update();
            if !removed {
                self.send_healings().await?;
            }
            if left {
                self.leave.set_withdrawn();
            }
            let changed = tokio::select! {
                changed = snapshots.changed() => changed,
                changed = kernel.wait_for(|kernel| !left && !sent.is_closed_as(kernel)) => changed.map(drop),
                changed = leaving.changed() => changed,
                changed = self.log.changed() => changed,
                changed = healed.changed() => changed,
            };
            changed.map_err(|_| stopping())?;
        }
    }

    /// Sends the endpoints with these ids if their published form isn't the stored one. Returns those
    /// that the stream refuses for their length, with its reason.
    async fn send_changes(
        &self,
        ids: BTreeSet<EndpointId>,
        own: &OwnEndpoints,
        stored: &mut StoredEndpoints,
    ) -> Result<BTreeMap<EndpointId, String>, SessionError> {
        let mut too_long = BTreeMap::new();
        for id in ids {
            let now = own.published(&id, self.me);
            let before = stored.get(&id).cloned().flatten();
            if now == before {
                continue;
            }
            match self.send_endpoint(now.as_ref(), before.as_ref()).await? {
                None => {
                    stored.insert(id, now);
                }
                Some(why) => {
                    tracing::error!(%id, why, "the stream ENDPOINTS refuses an endpoint");
                    too_long.insert(id, why);
                }
            }
        }
        stored.retain(|_, endpoint| endpoint.is_some());
        Ok(too_long)
    }

    /// Returns the server's reason if the message is too long.
    async fn send_endpoint(
        &self,
        now: Option<&Endpoint>,
        before: Option<&Endpoint>,
    ) -> Result<Option<String>, SessionError> {
        let applied = self.applied();
        let mut headers = HeaderMap::new();
        let (to, event) = match (now, before) {
            (Some(endpoint), _) => {
                let up = EndpointEvent::Up {
                    endpoint: endpoint.clone(),
                    applied,
                };
                (subject::of_endpoint(endpoint), up)
            }
            (None, Some(gone)) => {
                headers.insert("Nats-TTL", REMOVAL_TTL);
                let down = EndpointEvent::Down {
                    tenant: gone.tenant.clone(),
                    network: gone.network.clone(),
                    node: gone.node.clone(),
                    id: gone.id.clone(),
                    applied,
                };
                (subject::of_endpoint(gone), down)
            }
            (None, None) => return Ok(None),
        };
        let payload = codec::to_bytes(&event).into();
        let sent = self.context.publish_with_headers(to, headers, payload);
        let acknowledged = match sent.await {
            Ok(sent) => sent.await.map(drop),
            Err(error) => Err(error),
        };
        match acknowledged {
            Ok(()) => Ok(None),
            Err(error) if is_too_long(&error) => Ok(Some(error.to_string())),
            Err(error) => Err(refused(error)),
        }
    }

    /// Publishes the healings since the last publication; those of a time without the bus are one
    /// event.
    async fn send_healings(&self) -> Result<(), SessionError> {
        let Some((kinds, last, healing)) = self.healings.unreported() else {
            return Ok(());
        };
        let node = &self.me.node;
        let event = EndpointEvent::Healed {
            node: node.clone(),
            kinds,
            last,
            applied: self.applied(),
        };
        let payload = codec::to_bytes(&event).into();
        let sent = self.context.publish(subject::healed_by(node), payload);
        let sent = sent.await.map_err(refused)?;
        sent.await.map_err(refused)?;
        self.healings.set_reported(healing);
        Ok(())
    }

    fn applied(&self) -> Revision {
        self.facts.borrow().applied
    }
}

fn stopping() -> SessionError {
    SessionError::endpoints("netplugin is stopping")
}

fn refused(error: PublishError) -> SessionError {
    match error.kind() {
        PublishErrorKind::TimedOut => SessionError::endpoints(subject::NOT_WRITTEN),
        _ => SessionError::endpoints(error),
    }
}

/// Whether the stream, or the server, takes no message of this length. Only this endpoint suffers: the
/// others must be published.
fn is_too_long(error: &PublishError) -> bool {
    let refusal = error
        .source()
        .and_then(|it| it.downcast_ref::<jetstream::Error>());
    let code = refusal.map(jetstream::Error::error_code);
    error.kind() == PublishErrorKind::MaxPayloadExceeded
        || code == Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM)
}
