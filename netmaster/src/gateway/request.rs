//! Decodes one request, has it answered, and responds. A request that can't be decoded is answered
//! with a rejection.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::service::Request as Incoming;
use bus_schema::command::Request;
use bus_schema::{
    Answer, Command, CommandId, Query, Rejection, Reply, Revision, codec, limits, subject,
};
use bytes::Bytes;
use runtime::now;
use tokio::time::timeout;
use tracing::Instrument;
use uuid::Uuid;

use super::desk::Desk;
use super::places::RequestKind;
use super::{command, query};
use crate::metrics;

/// How much later than its deadline a command may be answered; askers wait for a second longer.
const MAX_DELAY: Duration = Duration::from_millis(300);

/// Answers one request, or answers "busy".
pub(super) async fn answer(desk: &Rc<Desk>, incoming: &Incoming, kind: RequestKind) {
    let Some(_place) = desk.places.take(kind) else {
        return respond(desk, incoming, busy(incoming, kind)).await;
    };
    if let Some(refused) = too_long(&incoming.message.payload) {
        let revision = desk.revision();
        let answer = match kind.is_command() {
            true => codec::to_bytes(&Reply::rejected(refused, revision)),
            false => codec::to_bytes(&Answer::rejected(refused, revision)),
        };
        return respond(desk, incoming, answer).await;
    }
    match kind.is_command() {
        true => Box::pin(answer_command(desk, incoming)).await,
        false => answer_query(desk, incoming).await,
    }
}

fn too_long(payload: &[u8]) -> Option<Rejection> {
    let number = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let max = limits::MAX_REQUEST_BYTES;
    (payload.len() > max).then(|| Rejection::RequestTooLong {
        bytes: number(payload.len()),
        max: number(max),
    })
}

async fn answer_command(desk: &Rc<Desk>, incoming: &Incoming) {
    let bytes = &incoming.message.payload;
    let rejected = |rejection| Reply::rejected(rejection, desk.revision());
    let request = match codec::from_bytes::<Request<Command>>(bytes) {
        Ok(request) if subject::of_command(&request.body) == *incoming.message.subject => {
            desk.arrived(request)
        }
        misled => {
            let why = misled.map_or_else(
                |e| malformed(&e),
                |request| wrong_subject(subject::of_command(&request.body)),
            );
            return respond(desk, incoming, codec::to_bytes(&rejected(why))).await;
        }
    };
    let (id, (noun, verb)) = (request.id, request.body.verb());
    let started = Instant::now();
    // All log lines on the way name the command.
    let span = tracing::info_span!("command", command = %id, noun, verb);
    let reply = in_time(desk, request).instrument(span.clone()).await;
    let took = started.elapsed();
    respond(desk, incoming, codec::to_bytes(&reply)).await;
    // It leaves when this thread has nothing else to do.
    tokio::task::yield_now().await;
    metrics::command((noun, verb), &reply, took);
    span.in_scope(|| report(&reply, took));
}

/// Answers "unknown" at the deadline: an asker that gets no answer doesn't learn the next step. The
/// command goes on.
async fn in_time(desk: &Rc<Desk>, request: Request<Command>) -> Reply {
    let id = request.id;
    let left = Duration::from_millis(request.deadline.saturating_sub(now())) + MAX_DELAY;
    let desk = Rc::clone(desk);
    let log = Arc::clone(desk.registry.log().journal());
    let carried = async move { command::carry_out(&desk, request).await };
    let carried = tokio::task::spawn_local(carried.in_current_span());
    let none_yet = || {
        let unwritten = log.unwritten().map(|(_, reason)| reason);
        unwritten.unwrap_or_else(|| "the log didn't answer in time".to_owned())
    };
    match timeout(left, carried).await {
        Ok(Ok(reply)) => reply,
        Ok(Err(e)) => Reply::Unknown {
            id,
            reason: e.to_string(),
        },
        Err(_) => Reply::Unknown {
            id,
            reason: none_yet(),
        },
    }
}

fn report(reply: &Reply, took: Duration) {
    match reply {
        Reply::Accepted { revision, .. } => tracing::info!(%revision, ?took, "accepted"),
        Reply::Rejected {
            rejection,
            revision,
            ..
        } => {
            let reason = runtime::log::excerpt(&rejection.to_string());
            tracing::info!(%revision, ?took, reason, "rejected");
        }
        Reply::Unknown { reason, .. } => {
            let reason = runtime::log::excerpt(reason);
            tracing::warn!(?took, reason, "outcome unknown");
        }
    }
}

async fn answer_query(desk: &Desk, incoming: &Incoming) {
    let bytes = &incoming.message.payload;
    let rejected = |rejection| Answer::rejected(rejection, desk.revision());
    let answer = match codec::from_bytes::<Request<Query>>(bytes) {
        Ok(request) if subject::of_query(&request.body) == *incoming.message.subject => {
            let started = Instant::now();
            let answer = query::answer(desk, desk.arrived(request)).await;
            metrics::query(started.elapsed());
            answer
        }
        Ok(request) => rejected(wrong_subject(subject::of_query(&request.body))),
        Err(e) => rejected(malformed(&e)),
    };
    let max = desk.client.server_info().max_payload;
    let answer = carried(codec::to_bytes(&answer), max, desk.revision());
    respond(desk, incoming, answer).await;
}

fn malformed(e: &codec::Malformed) -> Rejection {
    Rejection::Malformed {
        reason: e.to_string(),
    }
}

fn wrong_subject(subject: String) -> Rejection {
    Rejection::WrongSubject { subject }
}

fn busy(incoming: &Incoming, kind: RequestKind) -> Vec<u8> {
    let reason = "netmaster is busy: try again".to_owned();
    match kind.is_command() {
        true => {
            let request = codec::from_bytes::<Request<Command>>(&incoming.message.payload);
            let id = request.map_or(CommandId(Uuid::nil()), |request| request.id);
            codec::to_bytes(&Reply::Unknown { id, reason })
        }
        false => codec::to_bytes(&Answer::Behind {
            revision: Revision(0),
            reason,
        }),
    }
}

/// The answer, or a rejection if the bus can't carry it: the asker would wait in vain. (The events of a
/// command are in the log, and the same id again gets them.)
fn carried(answer: Vec<u8>, max: usize, revision: Revision) -> Vec<u8> {
    if answer.len() <= max {
        return answer;
    }
    let number = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    let (bytes, max) = (number(answer.len()), number(max));
    let rejection = Rejection::AnswerTooLong { bytes, max };
    codec::to_bytes(&Answer::rejected(rejection, revision))
}

async fn respond(desk: &Desk, incoming: &Incoming, answer: Vec<u8>) {
    if incoming.message.reply.is_none() || desk.client.connection_state() != State::Connected {
        return;
    }
    if let Err(e) = incoming.respond(Ok(Bytes::from(answer))).await {
        tracing::debug!("answering {}: {e}", incoming.message.subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_the_bus_cannot_carry_becomes_a_rejection() {
        let revision = Revision(7);
        let of = |max| carried(vec![0; 100], max, revision);
        assert_eq!(of(100), vec![0; 100]);
        match codec::from_bytes(&of(99)) {
            Ok(Answer::Rejected { rejection, .. }) => {
                let text = rejection.to_string();
                assert!(
                    text.contains("100 bytes") && text.contains("max_payload"),
                    "{text}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
