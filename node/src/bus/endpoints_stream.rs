//! Reads all nodes' endpoints from the stream ENDPOINTS.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use async_nats::jetstream::{self, consumer::AckPolicy, consumer::DeliverPolicy, consumer::pull};
use bus_schema::limits::{self, UnreadEndpoint};
use bus_schema::{Endpoint, EndpointEvent, EndpointId, NodeName, subject};
use futures::StreamExt;
use tokio::sync::{oneshot, watch};

use super::error::SessionError;
use super::session::is_missing;
use node_core::projection::EndpointsView;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// This node's endpoints in the stream; `None`: the mark of a removed one.
pub(super) type StoredEndpoints = BTreeMap<EndpointId, Option<Endpoint>>;

/// Reads the stream from its start and updates the view. Sends this node's endpoints through `own` when
/// it has read the stream to its end. Ends with an error only.
pub(super) async fn read(
    context: &jetstream::Context,
    me: &NodeName,
    view: &watch::Sender<EndpointsView>,
    own: oneshot::Sender<StoredEndpoints>,
) -> SessionError {
    match follow(context, me, view, own).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn follow(
    context: &jetstream::Context,
    me: &NodeName,
    view: &watch::Sender<EndpointsView>,
    own: oneshot::Sender<StoredEndpoints>,
) -> Result<Infallible, SessionError> {
    let mut consumer = open(context).await?;
    let mut pending = consumer
        .info()
        .await
        .map_err(SessionError::endpoints)?
        .num_pending;
    let mut messages = consumer
        .stream()
        .heartbeat(HEARTBEAT_INTERVAL)
        .expires(Duration::from_secs(10))
        .messages()
        .await
        .map_err(SessionError::endpoints)?;
    let (mut seen, mut stored, mut own) = (BTreeSet::new(), StoredEndpoints::new(), Some(own));
    loop {
        if pending == 0
            && let Some(own) = own.take()
        {
            view.send_modify(|view| view.prune(&seen, me));
            // If the session has ended, there is no receiver.
            own.send(std::mem::take(&mut stored)).ok();
        }
        let message = messages.next().await;
        let message = message.ok_or_else(|| SessionError::endpoints("the server ended it"))?;
        let message = message.map_err(SessionError::endpoints)?;
        if own.is_some() {
            pending = message.info().map_err(SessionError::endpoints)?.pending;
        }
        let (event, excess) = match decode(&message.subject, &message.payload) {
            Ok(decoded) => decoded,
            Err(Undecoded::TooLong(why)) => {
                view.send_modify(|view| view.note_excess(&message.subject, Some(why)));
                continue;
            }
            Err(Undecoded::Skipped) => continue,
        };
        if node_of(&event) == Some(me) {
            store(&mut stored, event);
            continue;
        }
        if let EndpointEvent::Up { endpoint, .. } = &event
            && own.is_some()
        {
            seen.insert((endpoint.id.clone(), endpoint.node.clone()));
        }
        view.send_modify(|view| {
            view.note_excess(&message.subject, excess);
            view.hear(event);
        });
    }
}

async fn open(
    context: &jetstream::Context,
) -> Result<jetstream::consumer::PullConsumer, SessionError> {
    let stream = context.get_stream(subject::ENDPOINTS).await;
    let stream = stream.map_err(|error| match is_missing(&error) {
        true => SessionError::Endpoints(subject::missing(subject::ENDPOINTS)),
        false => SessionError::endpoints(error),
    })?;
    let consumer = stream.create_consumer(pull::Config {
        deliver_policy: DeliverPolicy::LastPerSubject,
        ack_policy: AckPolicy::None,
        filter_subject: subject::ENDPOINT_ALL.to_owned(),
        inactive_threshold: Duration::from_secs(30),
        memory_storage: true,
        num_replicas: 1,
        ..pull::Config::default()
    });
    consumer.await.map_err(SessionError::endpoints)
}

/// The reason why a message isn't decoded.
#[derive(Debug, PartialEq, Eq)]
enum Undecoded {
    /// Garbage, or an event whose subject isn't the message's. A node may only write to its own
    /// subjects.
    Skipped,
    /// It is longer than the limit, with the text of an alarm.
    TooLong(String),
}

/// Decodes a message, without what exceeds the limits, and the excess.
fn decode(of: &str, payload: &[u8]) -> Result<(EndpointEvent, Option<String>), Undecoded> {
    let (event, excess) = match limits::read_endpoint(payload) {
        Ok(read) => read,
        Err(error @ UnreadEndpoint::TooLong { .. }) => {
            return Err(Undecoded::TooLong(error.to_string()));
        }
        Err(error @ UnreadEndpoint::Malformed(_)) => {
            tracing::warn!(subject = of, %error, "skipped a message that is no endpoint");
            return Err(Undecoded::Skipped);
        }
    };
    let expected = match &event {
        EndpointEvent::Up { endpoint, .. } => subject::of_endpoint(endpoint),
        EndpointEvent::Down {
            tenant, node, id, ..
        } => subject::endpoint_of(tenant, node, id),
        EndpointEvent::Healed { node, .. } => subject::healed_by(node),
        EndpointEvent::Unknown => return Err(Undecoded::Skipped),
    };
    if expected != of {
        tracing::warn!(
            subject = of,
            "skipped an endpoint on another endpoint's subject"
        );
        return Err(Undecoded::Skipped);
    }
    Ok((event, excess.map(|it| it.to_string())))
}

fn node_of(event: &EndpointEvent) -> Option<&NodeName> {
    match event {
        EndpointEvent::Up { endpoint, .. } => Some(&endpoint.node),
        EndpointEvent::Down { node, .. } | EndpointEvent::Healed { node, .. } => Some(node),
        EndpointEvent::Unknown => None,
    }
}

fn store(stored: &mut StoredEndpoints, event: EndpointEvent) {
    match event {
        EndpointEvent::Up { endpoint, .. } => {
            stored.insert(endpoint.id.clone(), Some(endpoint));
        }
        EndpointEvent::Down { id, .. } => {
            stored.insert(id, None);
        }
        EndpointEvent::Healed { .. } | EndpointEvent::Unknown => {}
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::{MacAddr, Revision, codec};

    use super::*;
    use crate::status;

    fn message(id: &str, aliases: usize) -> (String, Vec<u8>) {
        let endpoint = Endpoint {
            id: id.parse().expect("an id"),
            tenant: "default".parse().expect("a name"),
            network: "front".parse().expect("a name"),
            group: None,
            node: "n2".parse().expect("a name"),
            v4: Some([20, 1, 1, 3].into()),
            v6: None,
            mac: MacAddr::of_endpoint([20, 1, 1, 3].into()),
            name: Some("web".to_owned()),
            aliases: (0..aliases).map(|it| format!("a{it}")).collect(),
            container: None,
            interface: "cv0".to_owned(),
            closed: None,
            vtep: [198, 18, 0, 2].into(),
        };
        let of = subject::of_endpoint(&endpoint);
        let applied = Revision(0);
        (
            of,
            codec::to_bytes(&EndpointEvent::Up { endpoint, applied }),
        )
    }

    #[test]
    fn excess_is_ignored_and_an_alarm_names_it() {
        let mut view = EndpointsView::default();
        let (of, payload) = message("e1", 65);
        let (event, excess) = decode(&of, &payload).expect("it is read");
        let EndpointEvent::Up { endpoint, .. } = &event else {
            panic!("{event:?}");
        };
        assert_eq!(endpoint.aliases.len(), 64);
        view.note_excess(&of, excess);
        let alarm = status::excess(&view).expect("an alarm");
        assert_eq!(alarm.code, "limit");
        assert!(
            alarm.text.contains("65 aliases") && alarm.text.contains(&of),
            "{alarm:?}"
        );

        // The next message of the endpoint is within the limits.
        let (of, payload) = message("e1", 64);
        let (_, excess) = decode(&of, &payload).expect("it is read");
        view.note_excess(&of, excess);
        assert_eq!(status::excess(&view), None);

        let (of, payload) = message("e2", 900_000);
        let Err(Undecoded::TooLong(why)) = decode(&of, &payload) else {
            panic!("it is read");
        };
        assert!(why.contains("at most 49152"), "{why}");
    }

    #[test]
    fn remembered_excess_is_bounded() {
        let mut view = EndpointsView::default();
        for subject in 0..1_000 {
            view.note_excess(&subject.to_string(), Some("too long".to_owned()));
        }
        assert_eq!(view.excess().count(), 64);
    }
}
