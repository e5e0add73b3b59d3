//! The log as actors use it: they load messages, and append events atomically and fenced.
//!
//! A fence is the last revision of an aggregate's subjects that a decision saw; an append whose
//! fence no longer holds is refused whole. `shell` and netmaster's `init` call it.

mod jetstream;
mod memory;

pub use jetstream::{JetStream, check_server};
pub use memory::{Fault, Memory};

use bus_schema::codec::{self, Decoded, Malformed};
use bus_schema::{AggregateId, CommandId, Envelope, Event, EventId, Header, Revision, subject};
use bytes::Bytes;
use futures::future::BoxFuture;
use uuid::Uuid;

/// One message of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub revision: Revision,
    pub subject: String,
    pub event: Result<Decoded<Event>, Malformed>,
}

impl Record {
    pub fn new(revision: Revision, subject: String, payload: &[u8]) -> Self {
        let event = codec::decode(payload);
        Self {
            revision,
            subject,
            event,
        }
    }

    /// The event, if this build can read it.
    pub fn envelope(&self) -> Option<&Envelope<Event>> {
        match &self.event {
            Ok(Decoded::Known(envelope)) => Some(envelope),
            Ok(Decoded::Newer(_)) | Err(_) => None,
        }
    }
}

/// The last message on `filter` must be the one at `last` (0: none).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub filter: String,
    pub last: Revision,
}

/// A message to append. At most one of a batch's messages for the same filter bears a fence: the
/// first one, since the server compares it with what the batch itself wrote too.
#[derive(Debug, Clone)]
pub struct NewRecord {
    pub subject: String,
    pub payload: Bytes,
    pub fence: Option<Fence>,
}

/// Encodes a command's events; the first of each aggregate bears that aggregate's fence. The envelopes
/// are what readers of the entries decode.
///
/// `time` is in milliseconds since 1970; `last` returns the revision that the decision saw, or `None`
/// if the batch bears that fence already.
pub fn batch(
    events: &[Event],
    cause: CommandId,
    actor: &str,
    time: u64,
    mut last: impl FnMut(&AggregateId) -> Option<Revision>,
) -> (Vec<NewRecord>, Vec<Envelope<Event>>) {
    let mut fenced: Vec<AggregateId> = Vec::new();
    let mut entries = Vec::with_capacity(events.len());
    let mut envelopes = Vec::with_capacity(events.len());
    for event in events {
        let Some(subject) = subject::of_event(event) else {
            continue;
        };
        let mut header = Header::new(EventId(Uuid::now_v7()), time, actor, cause);
        header.min_reader = event.min_reader();
        let body = event.clone();
        let envelope = Envelope { header, body };
        let unfenced = event.aggregate().filter(|it| !fenced.contains(it));
        let fence = unfenced.and_then(|aggregate| {
            let fence = last(&aggregate).map(|last| Fence {
                filter: subject::of_aggregate(&aggregate),
                last,
            });
            fenced.push(aggregate);
            fence
        });
        entries.push(NewRecord {
            subject,
            payload: Bytes::from(codec::to_bytes(&envelope)),
            fence,
        });
        envelopes.push(envelope);
    }
    (entries, envelopes)
}

/// Why the log couldn't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("the bus doesn't answer: {0}")]
    Unavailable(String),
    #[error("{}", subject::missing(subject::LOG))]
    NoLog,
}

/// Why an append wasn't acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Another netmaster appended in between; nothing was appended.
    #[error("another netmaster appended first")]
    Fenced,
    /// No acknowledgement came: it may have happened, or may happen yet.
    #[error("no acknowledgement: {0}")]
    Unknown(String),
    /// Nothing was appended.
    #[error("the log takes nothing: {0}")]
    Unavailable(String),
}

/// Why a server can't carry the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    #[error(
        "nats-server {found} is too old: contiv needs 2.12 or newer (older ones know no atomic batches and would lose events silently)"
    )]
    TooOld { found: String },
    #[error("{}", subject::NO_JETSTREAM)]
    NoJetStream,
}

/// The storage of the log.
pub trait Journal: std::fmt::Debug + Send + Sync + 'static {
    /// Loads at most `max` messages on `filter` behind `after`, in order, up to the log's end at the
    /// time of the call.
    fn load<'a>(
        &'a self,
        filter: &'a str,
        after: Revision,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, LoadError>>;

    /// Appends all or nothing, and returns the last one's revision. The entries' revisions are
    /// contiguous.
    fn append<'a>(
        &'a self,
        entries: &'a [NewRecord],
    ) -> BoxFuture<'a, Result<Revision, AppendError>>;

    /// The reason why the last append wasn't acknowledged, and the log's last revision then: a later
    /// revision shows that the log takes appends again.
    fn unwritten(&self) -> Option<(Revision, String)> {
        None
    }

    /// The revision of the log's last message.
    fn end(&self) -> BoxFuture<'_, Result<Revision, LoadError>>;
}
