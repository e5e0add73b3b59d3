//! Endpoints on the bus: ours published, everybody's heard.
//!
//! What is published follows the journal: the difference between what the bus holds of this node
//! and what the journal knows, worked off while connected and taken up again after a reconnect.
//! So nothing waits in a queue, and what a former life left on the bus is removed at the start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishErrorKind};
use async_nats::jetstream::{self, consumer::AckPolicy, consumer::DeliverPolicy, consumer::pull};
use bus_schema::node::LogState;
use bus_schema::{Endpoint, EndpointEvent, EndpointId, NodeName, Revision, codec, subject};
use futures::StreamExt;
use tokio::sync::watch;

use super::Identity;
use super::farewell::Farewell;
use super::feed::FeedError;
use super::own::{Own, Published};
use super::session::is_missing;
use crate::endpoint::EndpointsHandle;
use crate::healing::Healings;
use node_core::projection::{EndpointsView, Projection};

/// How long a removal's mark stands; who was away longer reads everything anew.
const MARK_TTL: &str = "1h";
const HEARTBEAT: Duration = Duration::from_secs(1);

/// What of this node stands on the bus.
pub(super) type OnBus = BTreeMap<EndpointId, Option<Endpoint>>;

/// Reads the stream from its start, keeps the view at what it says, and tells what it holds of
/// this node as soon as it is through. Ends with an error only.
pub(super) async fn read(
    context: &jetstream::Context,
    me: &NodeName,
    view: &watch::Sender<EndpointsView>,
    mine: tokio::sync::oneshot::Sender<OnBus>,
) -> FeedError {
    match follow(context, me, view, mine).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn follow(
    context: &jetstream::Context,
    me: &NodeName,
    view: &watch::Sender<EndpointsView>,
    mine: tokio::sync::oneshot::Sender<OnBus>,
) -> Result<std::convert::Infallible, FeedError> {
    let stream = context.get_stream(subject::ENDPOINTS).await;
    let stream = stream.map_err(|error| match is_missing(&error) {
        true => FeedError::Endpoints(subject::missing(subject::ENDPOINTS)),
        false => FeedError::endpoints(error),
    })?;
    let mut consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::LastPerSubject,
            ack_policy: AckPolicy::None,
            filter_subject: subject::ENDPOINT_ALL.to_owned(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await
        .map_err(FeedError::endpoints)?;
    let mut pending = consumer
        .info()
        .await
        .map_err(FeedError::endpoints)?
        .num_pending;
    let mut messages = consumer
        .stream()
        .heartbeat(HEARTBEAT)
        .expires(Duration::from_secs(10))
        .messages()
        .await
        .map_err(FeedError::endpoints)?;
    let (mut heard, mut on_bus, mut mine) = (BTreeSet::new(), OnBus::new(), Some(mine));
    loop {
        if pending == 0
            && let Some(mine) = mine.take()
        {
            view.send_modify(|view| view.prune(&heard, me));
            // Nobody waits for it when the session has ended.
            mine.send(std::mem::take(&mut on_bus)).ok();
        }
        let message = messages.next().await;
        let message = message.ok_or_else(|| FeedError::endpoints("the server ended it"))?;
        let message = message.map_err(FeedError::endpoints)?;
        if mine.is_some() {
            pending = message.info().map_err(FeedError::endpoints)?.pending;
        }
        let Some(event) = decode(&message.subject, &message.payload) else {
            continue;
        };
        if node_of(&event) == Some(me) {
            note(&mut on_bus, event);
            continue;
        }
        if let EndpointEvent::Up { endpoint, .. } = &event
            && mine.is_some()
        {
            heard.insert(endpoint.id.clone());
        }
        view.send_modify(|view| view.hear(event));
    }
}

/// What a message says; `None`: garbage, or one that speaks of something else than its subject,
/// which is what a node may write to.
fn decode(of: &str, payload: &[u8]) -> Option<EndpointEvent> {
    let event: EndpointEvent = match codec::from_bytes(payload) {
        Ok(event) => event,
        Err(error) => {
            tracing::warn!(subject = of, %error, "no endpoint, skipped");
            return None;
        }
    };
    let due = match &event {
        EndpointEvent::Up { endpoint, .. } => subject::of_endpoint(endpoint),
        EndpointEvent::Down {
            tenant, node, id, ..
        } => subject::endpoint_of(tenant, node, id),
        EndpointEvent::Healed { node, .. } => subject::healed_by(node),
        EndpointEvent::Unknown => return None,
    };
    if due != of {
        tracing::warn!(subject = of, "an endpoint on another's subject, skipped");
        return None;
    }
    Some(event)
}

fn node_of(event: &EndpointEvent) -> Option<&NodeName> {
    match event {
        EndpointEvent::Up { endpoint, .. } => Some(&endpoint.node),
        EndpointEvent::Down { node, .. } | EndpointEvent::Healed { node, .. } => Some(node),
        EndpointEvent::Unknown => None,
    }
}

fn note(on_bus: &mut OnBus, event: EndpointEvent) {
    match event {
        EndpointEvent::Up { endpoint, .. } => {
            on_bus.insert(endpoint.id.clone(), Some(endpoint));
        }
        EndpointEvent::Down { id, .. } => {
            on_bus.insert(id, None);
        }
        EndpointEvent::Healed { .. } | EndpointEvent::Unknown => {}
    }
}

/// Where what is published comes from, and who is told how far it is.
#[derive(Debug)]
pub(super) struct Publisher<'a> {
    pub me: &'a Identity,
    pub endpoints: &'a EndpointsHandle,
    pub facts: watch::Receiver<Projection>,
    pub farewell: &'a Farewell,
    pub log: watch::Receiver<LogState>,
    pub healing: &'a Healings,
    pub published: &'a watch::Sender<Published>,
}

/// Publishes until an acknowledgement is missing; the caller starts over then.
pub(super) async fn publish(
    context: &jetstream::Context,
    mut on_bus: OnBus,
    publisher: Publisher<'_>,
) -> FeedError {
    let Publisher {
        me,
        endpoints,
        facts,
        farewell,
        mut log,
        healing,
        published,
    } = publisher;
    let mut leaving = farewell.asked();
    let mut healed = healing.subscribe();
    let (mut snapshots, mut kernel) = (endpoints.snapshots(), endpoints.kernel());
    // What the journal lost is restored from what is published.
    let known = snapshots.wait_for(|it| !it.ledger.is_incomplete());
    if known.await.is_err() {
        return FeedError::read("netplugin is stopping");
    }
    // Else what was taken away meanwhile would be shown as open once more.
    if kernel.wait_for(|kernel| kernel.was_in_sync).await.is_err() {
        return FeedError::endpoints("netplugin is stopping");
    }
    let mut said = Own::default();
    // What a former life left on the bus is looked at once.
    let mut due: BTreeSet<EndpointId> = on_bus.keys().cloned().collect();
    loop {
        let removed = *log.borrow_and_update() == LogState::Removed;
        let left = *leaving.borrow_and_update() || removed;
        let own = Own::of(&snapshots.borrow_and_update(), &kernel.borrow_and_update());
        let own = if left { Own::default() } else { own };
        due.extend(said.changes(&own));
        for id in std::mem::take(&mut due) {
            let now = own.shown(&id, me);
            let was = on_bus.get(&id).cloned().flatten();
            if now == was {
                continue;
            }
            let applied = facts.borrow().applied;
            if let Err(error) = say(context, now.as_ref(), was.as_ref(), applied).await {
                return error;
            }
            on_bus.insert(id, now);
        }
        on_bus.retain(|_, said| said.is_some());
        said = own.clone();
        published.send_replace(Published::all(own, left));
        healed.borrow_and_update();
        let applied = facts.borrow().applied;
        if !removed && let Err(error) = say_healed(context, &me.node, healing, applied).await {
            return error;
        }
        if left {
            farewell.is_said();
        }
        let closed = tokio::select! {
            changed = snapshots.changed() => changed.is_err(),
            changed = kernel.wait_for(|kernel| !left && !said.is_closed_as(kernel)) => changed.is_err(),
            changed = leaving.changed() => changed.is_err(),
            changed = log.changed() => changed.is_err(),
            changed = healed.changed() => changed.is_err(),
        };
        if closed {
            return FeedError::endpoints("netplugin is stopping");
        }
    }
}

/// Tells what this node put right since it last said so; what happened while the bus was away is
/// told as one.
async fn say_healed(
    context: &jetstream::Context,
    me: &NodeName,
    healing: &Healings,
    applied: Revision,
) -> Result<(), FeedError> {
    let Some((news, last, healing_told)) = healing.untold() else {
        return Ok(());
    };
    let event = EndpointEvent::Healed {
        node: me.clone(),
        kinds: news,
        last,
        applied,
    };
    let to = subject::healed_by(me);
    let sent = context.publish(to, codec::to_bytes(&event).into()).await;
    acknowledged(sent.map_err(FeedError::endpoints)?).await?;
    healing.is_told(healing_told);
    Ok(())
}

async fn say(
    context: &jetstream::Context,
    due: Option<&Endpoint>,
    was: Option<&Endpoint>,
    applied: Revision,
) -> Result<(), FeedError> {
    let mut headers = HeaderMap::new();
    let (to, event) = match (due, was) {
        (Some(endpoint), _) => {
            let up = EndpointEvent::Up {
                endpoint: endpoint.clone(),
                applied,
            };
            (subject::of_endpoint(endpoint), up)
        }
        (None, Some(gone)) => {
            headers.insert("Nats-TTL", MARK_TTL);
            let down = EndpointEvent::Down {
                tenant: gone.tenant.clone(),
                network: gone.network.clone(),
                node: gone.node.clone(),
                id: gone.id.clone(),
                applied,
            };
            (subject::of_endpoint(gone), down)
        }
        (None, None) => return Ok(()),
    };
    let payload = codec::to_bytes(&event);
    let sent = context
        .publish_with_headers(to, headers, payload.into())
        .await
        .map_err(FeedError::endpoints)?;
    acknowledged(sent).await
}

async fn acknowledged(sent: PublishAckFuture) -> Result<(), FeedError> {
    match sent.await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == PublishErrorKind::TimedOut => {
            Err(FeedError::endpoints(subject::NOT_WRITTEN))
        }
        Err(error) => Err(FeedError::endpoints(error)),
    }
}
