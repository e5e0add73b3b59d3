//! The feed: the log's events, one after another, into the facts.
//!
//! Our own pull loop with a heartbeat of one second, because async-nats's ordered consumer takes
//! 15 s to notice a dead server. Any trouble ends it; the session recognises the log anew and the
//! feed goes on behind what was applied.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::stream::Stream;
use bus_schema::codec::{self, Decoded};
use bus_schema::{Envelope, Event, Header, Revision, subject};
use futures::{FutureExt, StreamExt};

use super::facts::Facts;
use crate::store::Message;
use node_core::projection::Projection;
use node_core::recognise::LogFacts;

const HEARTBEAT: Duration = Duration::from_secs(1);
/// Events on their way; more would only take memory.
const BATCH: usize = 1_000;

/// Why the feed ended; the session starts it again.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    #[error("can't read the log: {0}")]
    Read(String),
    #[error("{0}")]
    Endpoints(String),
    #[error("the log skipped from revision {0} to {1}")]
    Gap(Revision, Revision),
    /// Nothing is wrong that the session hasn't said.
    #[error("waiting")]
    Waiting,
}

impl FeedError {
    pub(super) fn read(error: impl std::fmt::Display) -> Self {
        Self::Read(error.to_string())
    }

    /// Trouble with the stream ENDPOINTS.
    pub(super) fn endpoints(error: impl std::fmt::Display) -> Self {
        Self::Endpoints(format!("stream ENDPOINTS: {error}"))
    }
}

/// What the log says of itself, as far as this node needs it to know it again.
pub(super) async fn log_facts(
    stream: &mut Stream,
    known: &Projection,
) -> Result<LogFacts, FeedError> {
    let info = stream.info().await.map_err(FeedError::read)?;
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

/// The event at a revision; `None`: there is nothing, or nothing that can be read.
async fn event_at(stream: &Stream, at: Revision) -> Result<Option<Decoded<Event>>, FeedError> {
    use async_nats::jetstream::stream::LastRawMessageErrorKind::NoMessageFound;
    match stream.get_raw_message(at.0).await {
        Ok(message) => Ok(codec::decode::<Event>(&message.payload).ok()),
        Err(error) if error.kind() == NoMessageFound => Ok(None),
        Err(error) => Err(FeedError::read(error)),
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
) -> FeedError {
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
) -> Result<std::convert::Infallible, FeedError> {
    let mut applied = facts.snapshot().applied;
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: applied.next().0,
            },
            ack_policy: AckPolicy::None,
            filter_subject: subject::LOG_ALL.to_owned(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await
        .map_err(FeedError::read)?;
    let mut messages = consumer
        .stream()
        .heartbeat(HEARTBEAT)
        .expires(Duration::from_secs(10))
        .max_messages_per_batch(BATCH)
        .messages()
        .await
        .map_err(FeedError::read)?;
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
        // What is there already is written to disk together.
        while let Some(message) = next {
            match read(message, &mut applied) {
                Ok(message) => batch.extend(message),
                Err(error) => {
                    ended = Some(error);
                    break;
                }
            }
            next = match batch.len() < BATCH {
                true => messages.next().now_or_never(),
                false => None,
            };
        }
        facts.take_in(batch).await;
        if let Some(error) = ended {
            return Err(error);
        }
    }
}

/// What the stream delivered, if it comes behind what was read.
fn read<E: std::fmt::Display>(
    delivered: Option<Result<async_nats::jetstream::Message, E>>,
    applied: &mut Revision,
) -> Result<Option<Message>, FeedError> {
    let message = delivered.ok_or_else(|| FeedError::read("the server ended it"))?;
    let message = message.map_err(FeedError::read)?;
    let info = message.info().map_err(FeedError::read)?;
    let revision = Revision(info.stream_sequence);
    if revision <= *applied {
        return Ok(None);
    }
    if revision != applied.next() {
        return Err(FeedError::Gap(*applied, revision));
    }
    *applied = revision;
    let async_nats::Message {
        subject, payload, ..
    } = message.message;
    Ok(Some(Message {
        revision,
        subject: subject.to_string(),
        payload,
    }))
}
