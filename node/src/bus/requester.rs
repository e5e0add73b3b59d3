//! Sends this node's requests to netmaster and to other nodes, many at once.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use bus_schema::codec;
use bus_schema::command::Request;
use bus_schema::node::{LogState, NodeReply, NodeRequest};
use bus_schema::{Command, CommandId, NodeName, Reply, Revision, subject};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use crate::requests::{BusError, BusRequest};
use node_core::projection::Projection;
use runtime::now;

/// How long a request waits for its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// The interval at which a command without an answer is sent again.
const RESEND_INTERVAL: Duration = Duration::from_secs(1);
/// The pause before a command is sent again after an answer without an outcome.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The number of requests in progress; more would only wait at netmaster.
const MAX_CONCURRENT_REQUESTS: usize = 64;

/// Serves the queue until its last handle is gone.
pub(super) async fn serve(
    mut requests: mpsc::Receiver<BusRequest>,
    client: watch::Receiver<Option<Client>>,
    log: watch::Receiver<LogState>,
    facts: watch::Receiver<Projection>,
) {
    let room = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
    while let Some(request) = requests.recv().await {
        let ready = ready(&client, &log);
        let seen = facts.borrow().applied;
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        tokio::spawn(async move {
            let _permit = permit;
            send(ready, request, seen).await;
        });
    }
}

/// Sends one request. If its sender has stopped waiting, the answer is dropped.
async fn send(client: Result<Client, BusError>, request: BusRequest, seen: Revision) {
    match request {
        BusRequest::Command {
            id,
            command,
            answer,
        } => {
            let outcome = match client {
                Ok(client) => request_command(&client, id, command, seen).await,
                Err(error) => Err(error),
            };
            answer.send(outcome).ok();
        }
        BusRequest::Node {
            node,
            request,
            answer,
        } => {
            let outcome = match client {
                Ok(client) => request_node(&client, &node, &request).await,
                Err(error) => Err(error),
            };
            answer.send(outcome).ok();
        }
    }
}

fn ready(
    client: &watch::Receiver<Option<Client>>,
    log: &watch::Receiver<LogState>,
) -> Result<Client, BusError> {
    let reason = match &*log.borrow() {
        LogState::InSync | LogState::CatchingUp => None,
        LogState::Disconnected { reason } => Some(reason.clone()),
        LogState::Foreign { reason } | LogState::Refused { reason } => Some(reason.clone()),
        LogState::Removed => Some(LogState::REMOVED.to_owned()),
    };
    match (client.borrow().clone(), reason) {
        (Some(client), None) => Ok(client),
        (_, reason) => Err(BusError::Unreachable(
            reason.unwrap_or_else(|| "the bus is away".to_owned()),
        )),
    }
}

/// Sends a command until its outcome is known or the timeout passes, always with the same id, so that
/// the command happens once. A netmaster whose host vanished gets requests for some seconds more, until
/// its server misses it; so a request without an answer is sent again, perhaps to another netmaster.
pub(super) async fn request_command(
    client: &Client,
    id: CommandId,
    command: Command,
    seen: Revision,
) -> Result<Revision, BusError> {
    let to = subject::of_command(&command);
    let until = Instant::now() + REQUEST_TIMEOUT;
    let send = || {
        let left = until.saturating_duration_since(Instant::now());
        let request = Request {
            seen,
            ..Request::new(id, command.clone(), left, now())
        };
        send_request::<Reply>(client, &to, codec::to_bytes(&request), until)
    };
    // The answer of a slow netmaster counts, too.
    let mut sent = FuturesUnordered::new();
    let mut again = tokio::time::interval(RESEND_INTERVAL);
    let mut why = format!("{to} didn't answer in time");
    let (mut rejected, mut is_final) = (None, true);
    loop {
        tokio::select! {
            biased;
            Some(reply) = sent.next() => {
                is_final &= is_rejection(&reply);
                why = match reply {
                    Ok(Reply::Accepted { revision, .. }) => return Ok(revision),
                    Ok(Reply::Rejected { rejection, text, .. }) if rejection.is_undecided() => {
                        rejection.told(text)
                    }
                    // An earlier request may still be accepted.
                    Ok(Reply::Rejected { rejection, revision, .. }) => {
                        let why = rejection.to_string();
                        rejected = Some((Box::new(rejection), revision));
                        why
                    }
                    Ok(Reply::Unknown { reason, .. }) => reason,
                    Err(BusError::Unreachable(reason)) => reason,
                    Err(BusError::Rejected { rejection, .. }) => rejection.to_string(),
                };
                again.reset_after(RETRY_PAUSE);
            }
            _ = again.tick(), if rejected.is_none() && Instant::now() + 2 * RETRY_PAUSE < until => {
                sent.push(send());
            }
            else => return Err(match rejected {
                Some((rejection, revision)) => BusError::Rejected { rejection, revision, is_final },
                None => BusError::Unreachable(why),
            }),
        }
    }
}

fn is_rejection(reply: &Result<Reply, BusError>) -> bool {
    matches!(reply, Ok(Reply::Rejected { rejection, .. }) if !rejection.is_undecided())
}

async fn request_node(
    client: &Client,
    node: &NodeName,
    request: &NodeRequest,
) -> Result<NodeReply, BusError> {
    let to = subject::of_node(node, request.verb());
    let until = Instant::now() + REQUEST_TIMEOUT;
    send_request(client, &to, codec::to_bytes(request), until).await
}

async fn send_request<T: serde::de::DeserializeOwned>(
    client: &Client,
    to: &str,
    request: Vec<u8>,
    until: Instant,
) -> Result<T, BusError> {
    let sent = client.request(to.to_owned(), request.into());
    let reason = match tokio::time::timeout_at(until, sent).await {
        Ok(Ok(answer)) => match codec::from_bytes(&answer.payload) {
            Ok(answer) => return Ok(answer),
            Err(error) => error.to_string(),
        },
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            format!("no process serves {to}: is it running?")
        }
        Ok(Err(error)) => format!("{to}: {error}"),
        Err(_) => format!("{to} didn't answer in time"),
    };
    Err(BusError::Unreachable(reason))
}
