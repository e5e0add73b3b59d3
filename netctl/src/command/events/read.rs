//! A stream's messages, from somewhere to its end.

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

/// Messages asked for at once.
const PAGE: usize = 500;
/// For one page.
const ANSWER: Duration = Duration::from_secs(3);

/// The stream's last sequence; 0 if it isn't there.
pub(super) async fn end(context: &Context, name: &str) -> Result<u64, Failure> {
    Ok(open(context, name)
        .await?
        .map_or(0, |stream| stream.cached_info().state.last_sequence))
}

/// Where reading starts.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    Start,
    Sequence(u64),
    Time(Timestamp),
}

/// What the stream holds from there on. A stream of endpoints that isn't there is empty; without
/// a log there is no cluster.
pub(super) async fn stream(
    context: &Context,
    name: &str,
    from: From,
) -> Result<Vec<Item>, Failure> {
    let Some(stream) = open(context, name).await? else {
        return Ok(Vec::new());
    };
    let deliver_policy = match from {
        From::Start => DeliverPolicy::All,
        From::Sequence(sequence) => DeliverPolicy::ByStartSequence {
            start_sequence: sequence.max(1),
        },
        From::Time(time) => match async_nats::datetime::from_nanos(time.as_nanosecond()) {
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
            inactive_threshold: ANSWER * 2,
            memory_storage: true,
            ..pull::Config::default()
        })
        .await
        .map_err(|e| e.to_string())?;
    let name = consumer.cached_info().name.clone();
    let wanted = usize::try_from(consumer.cached_info().num_pending).unwrap_or(usize::MAX);
    let result = take(&mut consumer, wanted).await;
    // It goes by itself after a while; this is sooner.
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
            .max_messages(left.min(PAGE))
            .expires(ANSWER)
            .messages()
            .await
            .map_err(|e| e.to_string())?;
        let before = left;
        while let Some(message) = page.next().await {
            let message = message.map_err(|e| e.to_string())?;
            items.extend(Item::stored(&message));
            left = left.saturating_sub(1);
        }
        // Messages may have left by age since they were counted.
        if left == before {
            break;
        }
    }
    Ok(items)
}
