//! Sends what the node asks of netmaster and of other nodes, many at once.

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

use super::{Ask, AskError};
use node_core::projection::Projection;
use runtime::now;

/// A command is given up after this.
const DEADLINE: Duration = Duration::from_secs(4);
/// A command without an answer is sent again after this.
const RESEND: Duration = Duration::from_secs(1);
/// The pause before a command is sent again whose outcome its answer didn't tell.
const RETRY: Duration = Duration::from_millis(100);
/// Requests under way; more would only wait at netmaster.
const AT_ONCE: usize = 64;

/// Serves the queue until its last handle is gone.
pub(super) async fn serve(
    mut asks: mpsc::Receiver<Ask>,
    client: watch::Receiver<Option<Client>>,
    log: watch::Receiver<LogState>,
    facts: watch::Receiver<Projection>,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(ask) = asks.recv().await {
        let ready = ready(&client, &log);
        let seen = facts.borrow().applied;
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        tokio::spawn(async move {
            let _permit = permit;
            send(ready, ask, seen).await;
        });
    }
}

/// Whoever asked may have stopped waiting; its answer is dropped then.
async fn send(client: Result<Client, AskError>, ask: Ask, seen: Revision) {
    match ask {
        Ask::Command {
            id,
            command,
            answer,
        } => {
            let outcome = match client {
                Ok(client) => ask_command(&client, id, command, seen).await,
                Err(error) => Err(error),
            };
            answer.send(outcome).ok();
        }
        Ask::Node {
            node,
            request,
            answer,
        } => {
            let outcome = match client {
                Ok(client) => ask_node(&client, &node, &request).await,
                Err(error) => Err(error),
            };
            answer.send(outcome).ok();
        }
    }
}

fn ready(
    client: &watch::Receiver<Option<Client>>,
    log: &watch::Receiver<LogState>,
) -> Result<Client, AskError> {
    let reason = match &*log.borrow() {
        LogState::InSync | LogState::CatchingUp => None,
        LogState::Disconnected { reason } => Some(reason.clone()),
        LogState::Foreign { reason } | LogState::Refused { reason } => Some(reason.clone()),
        LogState::Removed => Some(LogState::REMOVED.to_owned()),
    };
    match (client.borrow().clone(), reason) {
        (Some(client), None) => Ok(client),
        (_, reason) => Err(AskError::Unreachable(
            reason.unwrap_or_else(|| "the bus is away".to_owned()),
        )),
    }
}

/// Asks until the outcome is known or the deadline passes, always with the same id, so that the
/// command happens once. A netmaster whose host vanished gets requests for some seconds more, until
/// its server misses it; so a request without an answer is sent again, perhaps to another one.
pub(super) async fn ask_command(
    client: &Client,
    id: CommandId,
    command: Command,
    seen: Revision,
) -> Result<Revision, AskError> {
    let to = subject::of_command(&command);
    let until = Instant::now() + DEADLINE;
    let send = || {
        let left = until.saturating_duration_since(Instant::now());
        let request = Request {
            seen,
            ..Request::new(id, command.clone(), left, now())
        };
        ask::<Reply>(client, &to, codec::to_bytes(&request), until)
    };
    // A slow netmaster's answer counts, too.
    let mut sent = FuturesUnordered::new();
    let mut again = tokio::time::interval(RESEND);
    let mut why = format!("{to} didn't answer in time");
    let mut rejected = None;
    loop {
        tokio::select! {
            biased;
            Some(reply) = sent.next() => {
                why = match reply {
                    Ok(Reply::Accepted { revision, .. }) => return Ok(revision),
                    Ok(Reply::Rejected { rejection, text, .. }) if rejection.is_undecided() => {
                        rejection.told(text)
                    }
                    // One that was sent before may be accepted yet.
                    Ok(Reply::Rejected { rejection, revision, .. }) => {
                        let why = rejection.to_string();
                        let rejection = Box::new(rejection);
                        rejected = Some(AskError::Rejected { rejection, revision });
                        why
                    }
                    Ok(Reply::Unknown { reason, .. }) => reason,
                    Err(reason) => reason,
                };
                again.reset_after(RETRY);
            }
            _ = again.tick(), if rejected.is_none() && Instant::now() + 2 * RETRY < until => {
                sent.push(send());
            }
            else => return Err(rejected.unwrap_or(AskError::Unreachable(why))),
        }
    }
}

async fn ask_node(
    client: &Client,
    node: &NodeName,
    request: &NodeRequest,
) -> Result<NodeReply, AskError> {
    let to = subject::of_node(node, request.verb());
    let until = Instant::now() + DEADLINE;
    let answer = ask(client, &to, codec::to_bytes(request), until).await;
    answer.map_err(AskError::Unreachable)
}

async fn ask<T: serde::de::DeserializeOwned>(
    client: &Client,
    to: &str,
    request: Vec<u8>,
    until: Instant,
) -> Result<T, String> {
    let asked = client.request(to.to_owned(), request.into());
    let answer = match tokio::time::timeout_at(until, asked).await {
        Ok(Ok(message)) => message,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(format!("nobody serves {to}: is it running?"));
        }
        Ok(Err(error)) => return Err(format!("{to}: {error}")),
        Err(_) => return Err(format!("{to} didn't answer in time")),
    };
    codec::from_bytes(&answer.payload).map_err(|error| error.to_string())
}
