//! Sends what the node asks of netmaster and of other nodes, many at once.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, RequestErrorKind};
use bus_schema::codec;
use bus_schema::command::Request;
use bus_schema::node::{LogState, NodeReply, NodeRequest};
use bus_schema::{Command, CommandId, NodeName, Reply, Revision, subject};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::connection::pause;
use super::{Ask, AskError};
use crate::endpoint::now;
use crate::projection::Projection;

/// A command is given up after this.
const DEADLINE: Duration = Duration::from_secs(4);
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
        Ask::Command { command, answer } => {
            let outcome = match client {
                Ok(client) => ask_command(&client, command, seen).await,
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
    };
    match (client.borrow().clone(), reason) {
        (Some(client), None) => Ok(client),
        (_, reason) => Err(AskError::Unreachable(
            reason.unwrap_or_else(|| "the bus is away".to_owned()),
        )),
    }
}

/// Asks until the outcome is known or the deadline passes; always with the same id, so that the
/// command happens once.
pub(super) async fn ask_command(
    client: &Client,
    command: Command,
    seen: Revision,
) -> Result<Revision, AskError> {
    let until = Instant::now() + DEADLINE;
    let to = subject::of_command(&command);
    let id = CommandId(Uuid::new_v4());
    let request = codec::to_bytes(&Request {
        seen,
        ..Request::new(id, command, DEADLINE, now())
    });
    loop {
        let reason = match ask::<Reply>(client, &to, &request, until).await {
            Ok(Reply::Accepted { revision, .. }) => return Ok(revision),
            Ok(Reply::Rejected {
                rejection, text, ..
            }) if rejection.is_undecided() => rejection.told(text),
            Ok(Reply::Rejected { rejection, .. }) => return Err(AskError::Rejected(rejection)),
            Ok(Reply::Unknown { reason, .. }) => reason,
            Err(reason) => reason,
        };
        if Instant::now() + Duration::from_millis(200) >= until {
            return Err(AskError::Unreachable(reason));
        }
        pause(Duration::from_millis(100)).await;
    }
}

async fn ask_node(
    client: &Client,
    node: &NodeName,
    request: &NodeRequest,
) -> Result<NodeReply, AskError> {
    let to = subject::of_node(node, request.verb());
    let until = Instant::now() + DEADLINE;
    let answer = ask(client, &to, &codec::to_bytes(request), until).await;
    answer.map_err(AskError::Unreachable)
}

async fn ask<T: serde::de::DeserializeOwned>(
    client: &Client,
    to: &str,
    request: &[u8],
    until: Instant,
) -> Result<T, String> {
    let asked = client.request(to.to_owned(), request.to_vec().into());
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
