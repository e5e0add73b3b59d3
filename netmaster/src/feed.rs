//! Feeds the view, and with the log the actors: pull loops over LOG and ENDPOINTS with a heartbeat of one
//! second, recreated behind the last read message, and the nodes' statuses.
//!
//! A log that was replaced under a running netmaster ends it: the folds of its actors are of another
//! log. The word of one server is no proof: a former leader, cut off or just back, answers with an
//! earlier end.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::journal::Record;
use actors::shell::Registry;
use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::{Client, jetstream::stream::Stream};
use bus_schema::codec::{self, Decoded};
use bus_schema::node::NodeStatus;
use bus_schema::{EndpointEvent, Revision, limits, subject};
use futures::StreamExt;
use runtime::{now, pause};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::metrics;
use crate::view::log::lacks;
use crate::view::{self, View};

/// How often the server must send a heartbeat on a pull.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// How long one pull lasts.
const PULL_TIME: Duration = Duration::from_secs(30);
/// How long a request to the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before a loop is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// The view, shared by the tasks of one thread; every change wakes the waiting ones.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    view: Rc<RefCell<View>>,
    changed: Rc<watch::Sender<Revision>>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            view: Rc::default(),
            changed: Rc::new(watch::Sender::new(Revision(0))),
        }
    }

    /// Reads the view. The closure must not wait for anything.
    pub(crate) fn read<T>(&self, how: impl FnOnce(&View) -> T) -> T {
        how(&self.view.borrow())
    }

    /// Folds the log's next message in.
    pub(crate) fn apply(&self, record: &Record) {
        let event = record.envelope().map(|envelope| &envelope.body);
        let newer = matches!(record.event, Ok(Decoded::Newer(_)));
        let newer = subject::tenant_of(&record.subject).filter(|_| newer);
        self.change(|view| {
            view.apply(record.revision, event);
            if let Some(tenant) = newer {
                view.is_older(tenant, record.revision);
            }
        });
    }

    pub(crate) fn change(&self, how: impl FnOnce(&mut View)) {
        let applied = {
            let mut view = self.view.borrow_mut();
            how(&mut view);
            view.applied
        };
        metrics::applied(applied);
        self.changed.send_replace(applied);
    }

    /// Woken by every change, with the revision that the view has reached.
    pub(crate) fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }

    /// Waits until the view has reached `revision`, at most until `deadline` in milliseconds since 1970,
    /// and answers whether it has.
    pub(crate) async fn reach(&self, revision: Revision, deadline: u64) -> bool {
        let mut changes = self.changes();
        let left = Duration::from_millis(deadline.saturating_sub(now()));
        let reached = changes.wait_for(|applied| *applied >= revision);
        timeout(left, reached).await.is_ok_and(|r| r.is_ok())
    }
}

/// Why a feed can't go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error(
        "the log was replaced under this netmaster ({0}): it ends here, and serves the new log when it is started again"
    )]
    Replaced(String),
    #[error("{}", subject::missing(subject::LOG))]
    NoLog,
    /// The leader's copy has a hole.
    #[error("{0}")]
    Damaged(String),
    #[error("{0}")]
    Trouble(String),
}

fn trouble(e: impl std::fmt::Display) -> FeedError {
    FeedError::Trouble(e.to_string())
}

/// The mark of this log beside its events: the time of its creation.
#[derive(Debug, Default)]
struct Identity {
    created: Option<String>,
}

/// Feeds the actors, and through them the view, as long as it is the same log. It calls `ready` when it
/// has reached the log's end, or a hole in it.
pub(crate) async fn log(
    client: Client,
    registry: Rc<Registry>,
    shared: Shared,
    ready: impl Fn(),
) -> FeedError {
    let read = |unread: Option<String>| {
        shared.change(|view| view.log.unread = unread);
        ready();
    };
    let context = jetstream::new(client.clone());
    let mut identity = Identity::default();
    loop {
        match pull_log(&context, &registry, &mut identity, &read).await {
            Ok(()) => {}
            Err(FeedError::Trouble(reason)) => {
                if client.connection_state() == State::Connected {
                    tracing::warn!("reading the log: {reason}; trying again");
                }
            }
            Err(FeedError::Damaged(reason)) => read(Some(reason)),
            // The first answer decides; later a server may be behind or be restored.
            Err(FeedError::NoLog) if identity.created.is_some() => {
                tracing::error!("{}", FeedError::NoLog);
            }
            Err(e @ (FeedError::Replaced(_) | FeedError::NoLog)) => return e,
        }
        pause(RETRY_PAUSE).await;
    }
}

async fn pull_log(
    context: &jetstream::Context,
    registry: &Rc<Registry>,
    identity: &mut Identity,
    read: &impl Fn(Option<String>),
) -> Result<(), FeedError> {
    let stream = stream(context, subject::LOG).await?;
    let after = registry.log().fed();
    check(&stream, identity)?;
    recognise(&stream, registry).await?;
    let state = &stream.cached_info().state;
    if let Some(lacks) = lacks(state.messages, state.first_sequence, state.last_sequence) {
        return Err(FeedError::Damaged(lacks));
    }
    let end = stream.cached_info().state.last_sequence;
    if after.0 >= end {
        read(None);
    }
    let consumer = consumer(&stream, after.next().0).await?;
    let mut messages = pull(&consumer).await?;
    let mut delivered = 0;
    while let Some(message) = messages.next().await {
        let message = message.map_err(trouble)?;
        let info = message.info().map_err(trouble)?;
        let revision = Revision(info.stream_sequence);
        // Without acknowledgements, messages that were sent to a broken connection aren't sent again.
        delivered += 1;
        if info.consumer_sequence != delivered {
            return Err(trouble("messages were lost on the way"));
        }
        if revision > registry.log().fed().next() {
            return Err(skipped(registry).await);
        }
        // Messages that were appended here are known.
        if revision > registry.log().fed() {
            let record = Record::new(revision, message.subject.to_string(), &message.payload);
            report(&record);
            registry.log().feed(&record);
        }
        if revision.0 == end {
            read(None);
        }
    }
    Ok(())
}

fn check(stream: &Stream, identity: &mut Identity) -> Result<(), FeedError> {
    let created = stream.cached_info().created.to_string();
    match &identity.created {
        None => identity.created = Some(created),
        Some(known) if *known != created => {
            return Err(FeedError::Replaced(format!(
                "created {created}, not {known}"
            )));
        }
        Some(_) => {}
    }
    Ok(())
}

/// Checks that the log holds the messages that were read of it. An earlier end must be proved by an
/// append.
async fn recognise(stream: &Stream, registry: &Rc<Registry>) -> Result<(), FeedError> {
    let read = registry.log().fed();
    let end = Revision(stream.cached_info().state.last_sequence);
    if end < read {
        let proof = registry.prove(Instant::now(), ANSWER_TIMEOUT).await;
        let end = proof.map_err(trouble)?.before();
        return Err(match end < read {
            true => FeedError::Replaced(format!(
                "it ends at {end}, before revision {read} that was read"
            )),
            false => trouble("a server answered that doesn't hold the log to its end"),
        });
    }
    let Some(known) = registry.log().last_event() else {
        return Ok(());
    };
    let before = Revision(read.0.saturating_sub(1));
    let log = registry.log().journal();
    let found = log
        .load(subject::LOG_ALL, before, 1)
        .await
        .map_err(trouble)?;
    let found = found.first().filter(|record| record.revision == read);
    match found.map(|record| record.envelope().map(|it| it.header.id)) {
        Some(Some(id)) if id == known => Ok(()),
        Some(_) => Err(FeedError::Replaced(format!(
            "it holds another event at revision {read}"
        ))),
        None => Err(trouble(format!(
            "the server that answers doesn't hold revision {read}"
        ))),
    }
}

/// The error of a consumer that left out the next revision. Its server may not be the leader, whose copy
/// counts.
async fn skipped(registry: &Registry) -> FeedError {
    let (read, next) = (registry.log().fed(), registry.log().fed().next());
    match registry
        .log()
        .journal()
        .load(subject::LOG_ALL, read, 1)
        .await
    {
        Ok(found) if found.first().is_some_and(|it| it.revision == next) => trouble(format!(
            "the server that sends it lacks revision {next}, which the leader has; see `netctl doctor`"
        )),
        Ok(_) => FeedError::Damaged(format!("revision {next} is missing")),
        Err(e) => trouble(e),
    }
}

fn report(record: &Record) {
    let Record {
        revision, subject, ..
    } = record;
    match &record.event {
        Ok(Decoded::Known(_)) => {}
        Ok(Decoded::Newer(header)) => tracing::error!(
            "the event at revision {revision} ({subject}) is of schema {}, newer than this netmaster: upgrade it; commands for its tenant are refused until then",
            header.schema
        ),
        Err(e) => tracing::error!(
            "the event at revision {revision} ({subject}) can't be read ({e}): another program than netmaster wrote it; commands that it concerns are refused"
        ),
    }
}

async fn stream(context: &jetstream::Context, name: &str) -> Result<Stream, FeedError> {
    use async_nats::jetstream::{ErrorCode, context::GetStreamErrorKind};
    let found = timeout(ANSWER_TIMEOUT, context.get_stream(name)).await;
    found.map_err(trouble)?.map_err(|e| match e.kind() {
        GetStreamErrorKind::JetStream(error)
            if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            match name {
                subject::LOG => FeedError::NoLog,
                _ => trouble(subject::missing(name)),
            }
        }
        _ => trouble(e),
    })
}

async fn consumer(stream: &Stream, from: u64) -> Result<PullConsumer, FeedError> {
    let config = pull::Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: from,
        },
        ack_policy: AckPolicy::None,
        inactive_threshold: 3 * PULL_TIME,
        memory_storage: true,
        num_replicas: 1,
        ..Default::default()
    };
    let created = timeout(ANSWER_TIMEOUT, stream.create_consumer(config)).await;
    created.map_err(trouble)?.map_err(trouble)
}

async fn pull(consumer: &PullConsumer) -> Result<pull::Stream, FeedError> {
    let messages = consumer
        .stream()
        .heartbeat(HEARTBEAT_INTERVAL)
        .expires(PULL_TIME)
        .max_messages_per_batch(1_000)
        .messages();
    messages.await.map_err(trouble)
}

/// Keeps the view's endpoints. Each loop reads all of them again: the mark of a removal may have expired
/// meanwhile.
pub(crate) async fn endpoints(client: Client, shared: Shared) {
    let context = jetstream::new(client.clone());
    loop {
        if let Err(e) = pull_endpoints(&context, &shared).await
            && client.connection_state() == State::Connected
        {
            tracing::warn!("reading endpoints: {e}; trying again");
        }
        pause(RETRY_PAUSE).await;
    }
}

async fn pull_endpoints(context: &jetstream::Context, shared: &Shared) -> Result<(), FeedError> {
    let stream = stream(context, subject::ENDPOINTS).await?;
    let consumer = consumer(&stream, 1).await?;
    let mut pending = consumer.cached_info().num_pending;
    let mut fresh = BTreeMap::new();
    if pending == 0 {
        shared.change(|view| view.endpoints.clear());
    }
    let mut messages = pull(&consumer).await?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(trouble)?;
        let event = match limits::read_endpoint(&message.payload) {
            // Nodes raise the alarm of names that exceed the limits.
            Ok((event, _)) => event,
            // An empty message marks an expiry.
            Err(_) if message.payload.is_empty() => EndpointEvent::Unknown,
            Err(e) => {
                tracing::warn!("{}: {e}", message.subject);
                EndpointEvent::Unknown
            }
        };
        match pending {
            0 => shared.change(|view| view::publish(&mut view.endpoints, &event)),
            1 => {
                view::publish(&mut fresh, &event);
                let caught_up = std::mem::take(&mut fresh);
                shared.change(|view| view.endpoints = caught_up);
            }
            _ => view::publish(&mut fresh, &event),
        }
        pending = pending.saturating_sub(1);
    }
    Ok(())
}

/// Follows the statuses that nodes publish.
pub(crate) async fn statuses(client: Client, shared: Shared) {
    loop {
        match client.subscribe(subject::STATUS_ALL).await {
            Ok(mut statuses) => {
                while let Some(message) = statuses.next().await {
                    match codec::from_bytes::<NodeStatus>(&message.payload) {
                        Ok(status) if subject::of_status(&status.node) == *message.subject => {
                            shared.change(|view| view.hear(status, now()));
                        }
                        Ok(status) => {
                            tracing::debug!(
                                "{}: the status of another node, {}",
                                message.subject,
                                status.node
                            );
                        }
                        Err(e) => tracing::debug!("{}: {e}", message.subject),
                    }
                }
            }
            Err(e) => tracing::warn!("listening to nodes: {e}"),
        }
        pause(RETRY_PAUSE).await;
    }
}
