//! The log on JetStream: atomic batches (ADR-50), fenced on subject filters.
//!
//! Nothing is sent while disconnected: async-nats would buffer it and deliver it late. A lost
//! acknowledgement is `Unknown`, never a failure.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{ConsumerErrorKind, RawMessageErrorKind, Stream};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ServerInfo, header};
use bus_schema::{Revision, subject};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use super::{AppendError, Journal, LoadError, NewRecord, Record, ServerError};

/// How long one request to the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an acknowledgement of an append may take. An election takes 4 to 8 s, which is too long to
/// wait: the fold shows whether the append happened.
const ACK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the server may take to answer after it acknowledged nothing.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages that a consumer is asked for at once.
const MAX_PAGE: usize = 1_000;
/// Messages that are read one by one before a consumer is made: each costs a round trip, a consumer a
/// vote of the servers.
const MAX_SINGLE_READS: usize = 12;

/// The log in the stream `LOG`.
#[derive(Debug, Clone)]
pub struct JetStream {
    client: Client,
    context: jetstream::Context,
    unwritten: Arc<Mutex<Option<Unwritten>>>,
}

/// An append that the server didn't acknowledge, although it answers requests.
#[derive(Debug)]
struct Unwritten {
    reason: String,
    /// The log's end after it.
    end: Revision,
    /// The server's id, which is another one after a restart.
    server: String,
}

impl JetStream {
    pub fn new(client: Client) -> Self {
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER_TIMEOUT);
        let unwritten = Arc::default();
        Self {
            client,
            context,
            unwritten,
        }
    }

    fn connected(&self) -> Result<(), String> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err("not connected".to_owned()),
        }
    }

    async fn stream(&self) -> Result<Stream, LoadError> {
        self.connected().map_err(LoadError::Unavailable)?;
        self.context
            .get_stream(subject::LOG)
            .await
            .map_err(|e| match e.kind() {
                GetStreamErrorKind::JetStream(error) => refused(&error, &e),
                // Another server of its cluster may have it.
                _ if !self.client.server_info().jetstream => {
                    LoadError::Unavailable(subject::NO_JETSTREAM.to_owned())
                }
                _ => LoadError::Unavailable(e.to_string()),
            })
    }

    async fn load(
        &self,
        filter: &str,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Record>, LoadError> {
        self.connected().map_err(LoadError::Unavailable)?;
        // A reader that has read nothing yet has much to read.
        let few = if after == Revision(0) {
            0
        } else {
            MAX_SINGLE_READS.min(max)
        };
        let mut records = self.one_by_one(filter, after, few).await?;
        if few > 0 && (records.len() < few || few == max) {
            return Ok(records);
        }
        let after = records.last().map_or(after, |last| last.revision);
        records.extend(self.by_consumer(filter, after, max - few).await?);
        Ok(records)
    }

    /// Reads message by message. The leader answers; one that is cut off may not know the end, as with a
    /// consumer.
    async fn one_by_one(
        &self,
        filter: &str,
        mut after: Revision,
        max: usize,
    ) -> Result<Vec<Record>, LoadError> {
        let mut records = Vec::new();
        if max == 0 {
            return Ok(records);
        }
        let unavailable = |e: &dyn std::fmt::Display| LoadError::Unavailable(e.to_string());
        let stream = self.context.get_stream_no_info(subject::LOG).await;
        let stream = stream.map_err(|e| unavailable(&e))?;
        while records.len() < max {
            let next = stream.get_first_raw_message_by_subject(filter, after.next().0);
            let message = match next.await {
                Ok(message) => message,
                Err(error) => match error.kind() {
                    RawMessageErrorKind::NoMessageFound => break,
                    RawMessageErrorKind::JetStream(refusal) => {
                        return Err(refused(&refusal, &error));
                    }
                    _ => return Err(unavailable(&error)),
                },
            };
            after = Revision(message.sequence);
            let subject = message.subject.to_string();
            records.push(Record::new(after, subject, &message.payload));
        }
        Ok(records)
    }

    async fn by_consumer(
        &self,
        filter: &str,
        after: Revision,
        max: usize,
    ) -> Result<Vec<Record>, LoadError> {
        let mut consumer = self.reader(filter, after).await?;
        let name = consumer.cached_info().name.clone();
        let pending = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
        let wanted = pending.min(max);
        let result = read(&mut consumer, wanted).await;
        let context = self.context.clone();
        tokio::spawn(async move {
            // The server forgets it after its inactive threshold otherwise.
            let _ = context
                .delete_consumer_from_stream(name, subject::LOG)
                .await;
        });
        result
    }

    async fn reader(&self, filter: &str, after: Revision) -> Result<PullConsumer, LoadError> {
        let config = pull::Config {
            filter_subject: filter.to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: after.next().0,
            },
            ack_policy: AckPolicy::None,
            inactive_threshold: Duration::from_secs(10),
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let creation = self.context.create_consumer_on_stream(config, subject::LOG);
        match tokio::time::timeout(ANSWER_TIMEOUT, creation).await {
            Ok(Ok(consumer)) => Ok(consumer),
            Ok(Err(e)) => Err(match e.kind() {
                ConsumerErrorKind::JetStream(error) => refused(&error, &e),
                _ => LoadError::Unavailable(e.to_string()),
            }),
            Err(_) => Err(LoadError::Unavailable("no answer in time".to_owned())),
        }
    }

    async fn append(&self, entries: &[NewRecord]) -> Result<Revision, AppendError> {
        self.connected().map_err(AppendError::Unavailable)?;
        let Some((last, staged)) = entries.split_last() else {
            return Err(AppendError::Unavailable("nothing to append".to_owned()));
        };
        let batch = Uuid::now_v7().to_string();
        for (i, entry) in staged.iter().enumerate() {
            let mut headers = fence(entry);
            number(&mut headers, &batch, i + 1);
            self.client
                .publish_with_headers(entry.subject.clone(), headers, entry.payload.clone())
                .await
                .map_err(|e| AppendError::Unavailable(e.to_string()))?;
        }
        let mut headers = fence(last);
        if !staged.is_empty() {
            number(&mut headers, &batch, entries.len());
            headers.insert(header::NATS_BATCH_COMMIT, header::NATS_BATCH_COMMIT_FINAL);
        }
        headers.insert(header::NATS_EXPECTED_STREAM, subject::LOG);
        let request =
            self.client
                .request_with_headers(last.subject.clone(), headers, last.payload.clone());
        let reply = match tokio::time::timeout(ACK_TIMEOUT, request).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(e)) if e.kind() == async_nats::RequestErrorKind::NoResponders => {
                let reason = match self.stream().await {
                    Err(error) => error.to_string(),
                    Ok(_) => "JetStream is away".to_owned(),
                };
                return Err(AppendError::Unavailable(reason));
            }
            Ok(Err(e)) => return Err(AppendError::Unknown(e.to_string())),
            Err(_) => return Err(AppendError::Unknown(self.unacknowledged().await)),
        };
        let appended = acknowledged(&reply.payload);
        if appended.is_ok() {
            *self.lock() = None;
        }
        appended
    }

    /// The reason why no acknowledgement came. A server that answers requests can't write.
    async fn unacknowledged(&self) -> String {
        let asked = tokio::time::timeout(DIAGNOSIS_TIMEOUT, self.stream()).await;
        let Ok(Ok(stream)) = asked else {
            return format!("none within {ACK_TIMEOUT:?}");
        };
        let reason = subject::NOT_WRITTEN.to_owned();
        *self.lock() = Some(Unwritten {
            reason: reason.clone(),
            end: Revision(stream.cached_info().state.last_sequence),
            server: self.client.server_info().server_id,
        });
        reason
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Unwritten>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(refusal: &jetstream::Error, all: &dyn std::fmt::Display) -> LoadError {
    match refusal.error_code() {
        ErrorCode::STREAM_NOT_FOUND => LoadError::NoLog,
        _ => LoadError::Unavailable(all.to_string()),
    }
}

async fn read(consumer: &mut PullConsumer, wanted: usize) -> Result<Vec<Record>, LoadError> {
    let unavailable = |e: &dyn std::fmt::Display| LoadError::Unavailable(e.to_string());
    let mut records = Vec::with_capacity(wanted);
    while records.len() < wanted {
        let before = records.len();
        let mut page = consumer
            .batch()
            .max_messages((wanted - before).min(MAX_PAGE))
            .expires(ANSWER_TIMEOUT)
            .messages()
            .await
            .map_err(|e| unavailable(&e))?;
        while let Some(message) = tokio::time::timeout(ANSWER_TIMEOUT, page.next())
            .await
            .map_err(|_| unavailable(&"no message in time"))?
        {
            let message = message.map_err(|e| unavailable(&e))?;
            let info = message.info().map_err(|e| unavailable(&e))?;
            let revision = Revision(info.stream_sequence);
            let subject = message.subject.to_string();
            records.push(Record::new(revision, subject, &message.payload));
        }
        if records.len() == before {
            return Err(unavailable(&"the log ended before its end"));
        }
    }
    Ok(records)
}

fn fence(entry: &NewRecord) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(fence) = &entry.fence {
        headers.insert(
            header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
            fence.last.0.to_string(),
        );
        headers.insert(
            "Nats-Expected-Last-Subject-Sequence-Subject",
            fence.filter.as_str(),
        );
    }
    headers
}

fn number(headers: &mut HeaderMap, batch: &str, sequence: usize) {
    headers.insert(header::NATS_BATCH_ID, batch);
    headers.insert(header::NATS_BATCH_SEQUENCE, sequence.to_string());
}

fn acknowledged(payload: &[u8]) -> Result<Revision, AppendError> {
    match serde_json::from_slice::<Response<PublishAck>>(payload) {
        Ok(Response::Ok(ack)) => Ok(Revision(ack.sequence)),
        Ok(Response::Err { error }) => Err(match error.error_code() {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => AppendError::Fenced,
            _ => AppendError::Unavailable(error.to_string()),
        }),
        Err(e) => Err(AppendError::Unknown(format!("unreadable: {e}"))),
    }
}

impl Journal for JetStream {
    fn load<'a>(
        &'a self,
        filter: &'a str,
        after: Revision,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, LoadError>> {
        Self::load(self, filter, after, max).boxed()
    }

    fn append<'a>(
        &'a self,
        entries: &'a [NewRecord],
    ) -> BoxFuture<'a, Result<Revision, AppendError>> {
        Self::append(self, entries).boxed()
    }

    fn unwritten(&self) -> Option<(Revision, String)> {
        let unwritten = self.lock();
        let known = unwritten.as_ref()?;
        let same = known.server == self.client.server_info().server_id;
        same.then(|| (known.end, known.reason.clone()))
    }

    fn end(&self) -> BoxFuture<'_, Result<Revision, LoadError>> {
        async {
            let stream = self.stream().await?;
            Ok(Revision(stream.cached_info().state.last_sequence))
        }
        .boxed()
    }
}

/// Checks whether the connected server can carry the log.
pub fn check_server(info: &ServerInfo) -> Result<(), ServerError> {
    let mut numbers = info.version.split(['.', '-']).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    if version < (2, 12) {
        let found = info.version.clone();
        return Err(ServerError::TooOld { found });
    }
    if !info.jetstream {
        return Err(ServerError::NoJetStream);
    }
    Ok(())
}
