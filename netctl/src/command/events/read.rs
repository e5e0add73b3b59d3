//! Reads a stream's messages up to its end.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::{Context, GetStreamErrorKind};
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{self, ErrorCode};
use bus_schema::subject;
use futures::StreamExt;
use jiff::Timestamp;

use super::item::Item;
use crate::failure::Failure;

/// The number of messages per request.
const PAGE_MESSAGES: usize = 500;
/// Timeout of one page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(3);

/// The stream's last sequence; 0 if the stream is missing.
pub(super) async fn end(context: &Context, name: &str) -> Result<u64, Failure> {
    Ok(open(context, name)
        .await?
        .map_or(0, |stream| stream.cached_info().state.last_sequence))
}

/// The first message to read.
#[derive(Debug, Clone, Copy)]
pub(super) enum StartAt {
    Start,
    Sequence(u64),
    Time(Timestamp),
}

/// Reads a stream from a position to its end. A missing stream of endpoints is empty; a missing log is
/// an error, since there is no cluster then.
pub(super) async fn stream(
    context: &Context,
    name: &str,
    from: StartAt,
) -> Result<Vec<Item>, Failure> {
    let Some(stream) = open(context, name).await? else {
        return Ok(Vec::new());
    };
    let deliver_policy = match from {
        StartAt::Start => DeliverPolicy::All,
        StartAt::Sequence(sequence) => DeliverPolicy::ByStartSequence {
            start_sequence: sequence.max(1),
        },
        StartAt::Time(time) => match async_nats::datetime::from_nanos(time.as_nanosecond()) {
            Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
            Err(error) => return Err(Failure::Usage(format!("--since: {error}"))),
        },
    };
    pages(&stream, deliver_policy)
        .await
        .map_err(|reason| Failure::Unreachable(format!("can't read the stream {name}: {reason}")))
}

async fn open(context: &Context, name: &str) -> Result<Option<Stream>, Failure> {
    match context.get_stream(name).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(e)
                if e.error_code() == ErrorCode::STREAM_NOT_FOUND && name != subject::LOG =>
            {
                Ok(None)
            }
            GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Err(Failure::Unreachable(subject::missing(name)))
            }
            _ => Err(Failure::Unreachable(format!(
                "can't read the stream {name}: {error}; does nats-server run with JetStream?"
            ))),
        },
    }
}

async fn pages(stream: &Stream, deliver_policy: DeliverPolicy) -> Result<Vec<Item>, String> {
    let mut consumer = stream
        .create_consumer(pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            inactive_threshold: PAGE_TIMEOUT * 2,
            memory_storage: true,
            ..pull::Config::default()
        })
        .await
        .map_err(|e| e.to_string())?;
    let name = consumer.cached_info().name.clone();
    let wanted = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
    let result = take(&mut consumer, wanted).await;
    // The server would remove it later by itself.
    let _ = stream.delete_consumer(&name).await;
    result
}

async fn take(
    consumer: &mut jetstream::consumer::PullConsumer,
    wanted: usize,
) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut left = wanted;
    while left > 0 {
        let mut page = consumer
            .fetch()
            .max_messages(left.min(PAGE_MESSAGES))
            .expires(PAGE_TIMEOUT)
            .messages()
            .await
            .map_err(|e| e.to_string())?;
        let before = left;
        while let Some(message) = page.next().await {
            let message = message.map_err(|e| e.to_string())?;
            items.extend(Item::stored(&message));
            left = left.saturating_sub(1);
        }
        // Messages may have expired since they were counted.
        if left == before {
            break;
        }
    }
    Ok(items)
}
