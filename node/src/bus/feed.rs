//! The feed folds the log's events, one after another, into the facts.
//!
//! It is our own pull loop with a heartbeat of one second, because async-nats's ordered consumer takes
//! 15 s to notice a dead server. Any error ends it; the next session recognises the log again, and
//! the feed continues behind the applied revision.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use bus_schema::codec::{self, Decoded};
use bus_schema::{Envelope, Event, Header, Revision, subject};
use futures::{FutureExt, StreamExt};

use super::error::SessionError;
use super::facts::Facts;
use crate::store::LogMessage;
use node_core::projection::Projection;
use node_core::recognise::LogFacts;

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// The number of events of one fetch and one write to disk; more would only take memory.
const MAX_BATCH_EVENTS: usize = 1_000;

/// Reads the facts by which this node recognises its log.
pub(super) async fn log_facts(
    stream: &mut Stream,
    known: &Projection,
) -> Result<LogFacts, SessionError> {
    let info = stream.info().await.map_err(SessionError::read)?;
    let end = Revision(info.state.last_sequence);
    if end == Revision(0) {
        return Ok(LogFacts {
            cluster: None,
            end,
            at_applied: None,
        });
    }
    let first = event_at(stream, Revision(1)).await?;
    let cluster = match first {
        Some(Decoded::Known(envelope)) => match envelope.body {
            Event::ClusterCreated(created) => Some(created.cluster),
            _ => None,
        },
        _ => None,
    };
    let at_applied = if known.applied == Revision(0) || known.applied > end {
        None
    } else {
        event_at(stream, known.applied)
            .await?
            .map(|decoded| header(&decoded).id)
    };
    Ok(LogFacts {
        cluster,
        end,
        at_applied,
    })
}

/// The event at a revision; `None`: there is no message, or none that can be decoded.
async fn event_at(stream: &Stream, at: Revision) -> Result<Option<Decoded<Event>>, SessionError> {
    use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
    match stream.get_raw_message(at.0).await {
        Ok(message) => Ok(codec::decode::<Event>(&message.payload).ok()),
        Err(error) if error.kind() == NoMessageFound => Ok(None),
        Err(error) => Err(SessionError::read(error)),
    }
}

fn header(decoded: &Decoded<Event>) -> &Header {
    match decoded {
        Decoded::Known(Envelope { header, .. }) | Decoded::Newer(header) => header,
    }
}

/// Folds events into the facts until something fails. `caught_up` is called once, when the fold
/// has reached `end`.
pub(super) async fn run(
    stream: &Stream,
    facts: &Facts,
    end: Revision,
    caught_up: impl FnOnce(),
) -> SessionError {
    match follow(stream, facts, end, caught_up).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn follow(
    stream: &Stream,
    facts: &Facts,
    end: Revision,
    caught_up: impl FnOnce(),
) -> Result<std::convert::Infallible, SessionError> {
    let mut applied = facts.snapshot().applied;
    let mut messages = messages_from(stream, applied.next()).await?;
    let mut caught_up = Some(caught_up);
    loop {
        if applied >= end
            && let Some(caught_up) = caught_up.take()
        {
            caught_up();
        }
        let first = messages.next().await;
        let (mut batch, mut ended) = (Vec::new(), None);
        let mut next = Some(first);
        // Events that have arrived are written to disk together.
        while let Some(message) = next {
            match read(message, &mut applied) {
                Ok(message) => batch.extend(message),
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
            next = match batch.len() < MAX_BATCH_EVENTS {
                true => messages.next().now_or_never(),
                false => None,
            };
        }
        facts.append(batch).await;
        if let Some(error) = ended {
            return Err(error);
        }
    }
}

/// The log's messages from this revision on.
async fn messages_from(stream: &Stream, first: Revision) -> Result<pull::Stream, SessionError> {
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: first.0,
            },
            ack_policy: AckPolicy::None,
            filter_subject: subject::LOG_ALL.to_owned(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await
        .map_err(SessionError::read)?;
    let messages = consumer
        .stream()
        .heartbeat(HEARTBEAT_INTERVAL)
        .expires(Duration::from_secs(10))
        .max_messages_per_batch(MAX_BATCH_EVENTS)
        .messages();
    messages.await.map_err(SessionError::read)
}

/// The delivered message, if it comes behind the applied revision.
fn read<E: std::fmt::Display>(
    delivered: Option<Result<async_nats::jetstream::Message, E>>,
    applied: &mut Revision,
) -> Result<Option<LogMessage>, SessionError> {
    let message = delivered.ok_or_else(|| SessionError::read("the server ended it"))?;
    let message = message.map_err(SessionError::read)?;
    let info = message.info().map_err(SessionError::read)?;
    let revision = Revision(info.stream_sequence);
    if revision <= *applied {
        return Ok(None);
    }
    if revision != applied.next() {
        return Err(SessionError::Gap(*applied, revision));
    }
    *applied = revision;
    let async_nats::Message {
        subject, payload, ..
    } = message.message;
    Ok(Some(LogMessage {
        revision,
        subject: subject.to_string(),
        payload,
    }))
}
