//! Where requests come in: the NATS service `netmaster`, one endpoint for each verb.
//!
//! Each request is answered by a task of its own, a bounded number at a time; what isn't decodable
//! is answered with a rejection. Nothing is answered while disconnected: the reply would wait in
//! the client and arrive late.

mod arrival;
mod command;
mod lease;
mod node;
mod query;
mod removal;

pub(crate) use removal::resume;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::shell::{Proof, Registry};
use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Request as Incoming, Service, ServiceExt};
use async_nats::{Client, Error};
use bus_schema::codec;
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{
    Answer, Command, CommandId, NodeName, Query, Rejection, Reply, Revision, subject,
};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument;
use uuid::Uuid;

use self::arrival::{Arrivals, TICK_MS, since_boot};
use self::lease::Searches;
use self::node::Removals;
use crate::bus::pause;
use crate::feed::Shared;
use crate::init::now;
use crate::metrics;

/// Requests in work at a time; more are answered "busy" at once. Each waits for the log, so this
/// is some seconds of what one log takes.
const IN_WORK: u32 = 4_096;
/// What is decided at the deadline may be answered so much later; askers wait for a second.
const LATE: Duration = Duration::from_millis(300);
/// How long requests in work may take when the process ends.
const DRAIN: Duration = Duration::from_secs(5);

const COMMANDS: [(&str, &str); 22] = [
    ("cluster", "accept-log"),
    ("tenant", "create"),
    ("tenant", "rm"),
    ("net", "create"),
    ("net", "rm"),
    ("group", "create"),
    ("group", "update"),
    ("group", "rm"),
    ("policy", "create"),
    ("policy", "rm"),
    ("policy", "apply"),
    ("policy", "rule-add"),
    ("policy", "rule-rm"),
    ("node", "join"),
    ("node", "rm"),
    ("node", "drain"),
    ("node", "uncordon"),
    ("node", "leave"),
    ("block", "lease"),
    ("block", "return"),
    ("block", "cede"),
    ("block", "revoke"),
];
const QUERIES: [(&str, &str); 8] = [
    ("cluster", "info"),
    ("tenant", "ls"),
    ("net", "ls"),
    ("group", "ls"),
    ("policy", "ls"),
    ("node", "ls"),
    ("endpoint", "ls"),
    ("cluster", "wait"),
];

/// What every request needs.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) client: Client,
    pub(crate) registry: Rc<Registry>,
    pub(crate) shared: Shared,
    /// When this netmaster began to listen to nodes, in milliseconds since 1970.
    pub(crate) since: u64,
    in_work: Semaphore,
    arrivals: Cell<Arrivals>,
    searches: Searches,
    removals: Removals,
}

impl Desk {
    pub(crate) fn new(client: Client, registry: Rc<Registry>, shared: Shared, since: u64) -> Self {
        Self {
            client,
            registry,
            shared,
            since,
            in_work: Semaphore::new(usize::try_from(IN_WORK).unwrap_or(usize::MAX)),
            arrivals: Cell::new(Arrivals::new(since_boot())),
            searches: Searches::default(),
            removals: Removals::default(),
        }
    }

    /// Brings the view to an end of the log that is proved for a request that arrived then, at most
    /// until `deadline` in milliseconds since 1970. An error says why not.
    async fn prove(&self, arrived: Instant, deadline: u64) -> Result<Proof, String> {
        let patience = Duration::from_millis(deadline.saturating_sub(now()));
        let proof = self.registry.prove(arrived, patience).await;
        let proof = proof.map_err(|e| e.to_string())?;
        if self.shared.reach(proof.end, deadline).await {
            return Ok(proof);
        }
        let (read, end) = (self.revision(), proof.end);
        Err(format!(
            "this netmaster has read the log up to {read}, not yet {end}"
        ))
    }

    /// Asks a node for at most `within`. An error says why there is no answer.
    async fn ask_node(
        &self,
        node: &NodeName,
        request: &NodeRequest,
        within: Duration,
    ) -> Result<NodeReply, String> {
        if self.client.connection_state() != State::Connected {
            return Err("the bus is away".to_owned());
        }
        let subject = subject::of_node(node, request.verb());
        let payload = Bytes::from(codec::to_bytes(request));
        match timeout(within, self.client.request(subject, payload)).await {
            Ok(Ok(message)) => {
                let reply = codec::from_bytes::<NodeReply>(&message.payload);
                let reply = reply.map_err(|e| e.to_string())?;
                Ok(reply.of_older_node("netmaster"))
            }
            Ok(Err(e)) if e.kind() == RequestErrorKind::NoResponders => {
                Err("its netplugin doesn't run, or lost the bus".to_owned())
            }
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    fn revision(&self) -> Revision {
        self.shared.read(|view| view.applied)
    }

    /// From here on the request's deadline is by this machine's clock.
    fn arrived<T>(&self, request: Request<T>) -> Request<T> {
        let waited = self.arrivals.get().waited(since_boot());
        request.arrived(now().saturating_sub(waited))
    }

    async fn watch_for_standstills(self: Rc<Self>) {
        loop {
            pause(Duration::from_millis(TICK_MS)).await;
            let mut arrivals = self.arrivals.get();
            arrivals.tick(since_boot());
            self.arrivals.set(arrivals);
        }
    }
}

/// The service while it is served.
pub(crate) struct Gateway {
    service: Service,
    desk: Rc<Desk>,
    endpoints: JoinSet<()>,
}

/// Which of the two kinds of requests an endpoint takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Command,
    Query,
}

/// Starts to serve, as `name`. Must run inside an actix `System`.
pub(crate) async fn serve(desk: Rc<Desk>, name: String) -> Result<Gateway, Error> {
    let (read, log) = (desk.shared.changes(), Arc::clone(desk.registry.journal()));
    let refusals = desk.registry.refusals();
    let service = desk
        .client
        .service_builder()
        // In the statistics of each endpoint: which netmaster this is, how far it has read, and why
        // the log takes nothing or nothing is decided.
        .stats_handler(move |_, _| {
            let revision = *read.borrow();
            let unwritten = log.unwritten().filter(|(end, _)| *end >= revision);
            let unwritten = unwritten.map(|(_, reason)| reason);
            let refuses = refusals.borrow().as_ref().map(ToString::to_string);
            json!({
                "netmaster": name,
                "revision": revision,
                "at": now(),
                "unwritten": unwritten,
                "refuses": refuses,
            })
        })
        .description("Contiv: intent, addresses and nodes of a cluster")
        .queue_group(subject::SERVICE)
        .start(subject::SERVICE, env!("CARGO_PKG_VERSION"))
        .await?;
    let group = service.group(subject::API);
    let mut endpoints = JoinSet::new();
    endpoints.spawn_local(Rc::clone(&desk).watch_for_standstills());
    let commands = COMMANDS.map(|verb| (verb, Kind::Command));
    let queries = QUERIES.map(|verb| (verb, Kind::Query));
    for ((noun, verb), kind) in commands.into_iter().chain(queries) {
        let endpoint = group
            .endpoint_builder()
            .name(format!("{noun}-{verb}"))
            .add(format!("{noun}.{verb}"))
            .await?;
        endpoints.spawn_local(listen(Rc::clone(&desk), endpoint, kind));
    }
    Ok(Gateway {
        service,
        desk,
        endpoints,
    })
}

impl Gateway {
    /// Takes no more requests and answers those in work.
    pub(crate) async fn drain(mut self) {
        if let Err(e) = self.service.stop().await {
            tracing::warn!("leaving the service: {e}");
        }
        let finished = self.desk.in_work.acquire_many(IN_WORK);
        if timeout(DRAIN, finished).await.is_err() {
            tracing::warn!("requests were still in work after {DRAIN:?}");
        }
        self.endpoints.abort_all();
    }
}

async fn listen(desk: Rc<Desk>, mut endpoint: Endpoint, kind: Kind) {
    while let Some(incoming) = endpoint.next().await {
        let desk = Rc::clone(&desk);
        actix::spawn(async move {
            let Ok(_permit) = desk.in_work.try_acquire() else {
                respond(&desk, &incoming, busy(&incoming, kind)).await;
                return;
            };
            match kind {
                Kind::Command => Box::pin(command(&desk, &incoming)).await,
                Kind::Query => query(&desk, &incoming).await,
            }
        });
    }
}

async fn command(desk: &Rc<Desk>, incoming: &Incoming) {
    let bytes = &incoming.message.payload;
    let rejected = |rejection| Reply::rejected(rejection, desk.revision());
    let request = match codec::from_bytes::<Request<Command>>(bytes) {
        Ok(request) if subject::of_command(&request.body) == *incoming.message.subject => {
            desk.arrived(request)
        }
        misled => {
            let why = misled.map_or_else(
                |e| malformed(&e),
                |request| elsewhere(&subject::of_command(&request.body)),
            );
            return respond(desk, incoming, codec::to_bytes(&rejected(why))).await;
        }
    };
    let (id, (noun, verb)) = (request.id, request.body.verb());
    let started = Instant::now();
    // Whatever is logged on the way tells which command it was for.
    let span = tracing::info_span!("command", command = %id, noun, verb);
    let reply = in_time(desk, request).instrument(span.clone()).await;
    let took = started.elapsed();
    respond(desk, incoming, codec::to_bytes(&reply)).await;
    // It leaves when this thread has nothing else to do.
    tokio::task::yield_now().await;
    metrics::command((noun, verb), &reply, took);
    span.in_scope(|| report(&reply, took));
}

/// The reply, or at the deadline that there is none yet: an asker that gets no answer doesn't learn
/// what to do. What is under way goes on.
async fn in_time(desk: &Rc<Desk>, request: Request<Command>) -> Reply {
    let id = request.id;
    let left = Duration::from_millis(request.deadline.saturating_sub(now())) + LATE;
    let desk = Rc::clone(desk);
    let log = Arc::clone(desk.registry.journal());
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
            tracing::info!(%revision, ?took, reason = %rejection, "rejected");
        }
        Reply::Unknown { reason, .. } => tracing::warn!(?took, reason, "outcome unknown"),
    }
}

async fn query(desk: &Desk, incoming: &Incoming) {
    let bytes = &incoming.message.payload;
    let rejected = |rejection| Answer::rejected(rejection, desk.revision());
    let answer = match codec::from_bytes::<Request<Query>>(bytes) {
        Ok(request) if subject::of_query(&request.body) == *incoming.message.subject => {
            let started = Instant::now();
            let answer = query::answer(desk, desk.arrived(request)).await;
            metrics::query(started.elapsed());
            answer
        }
        Ok(request) => rejected(elsewhere(&subject::of_query(&request.body))),
        Err(e) => rejected(malformed(&e)),
    };
    let most = desk.client.server_info().max_payload;
    let answer = carried(codec::to_bytes(&answer), most, desk.revision());
    respond(desk, incoming, answer).await;
}

fn malformed(e: &codec::Malformed) -> Rejection {
    Rejection::Malformed {
        reason: e.to_string(),
    }
}

/// Permissions on the bus are by subject, so a request counts only on its own.
fn elsewhere(subject: &str) -> Rejection {
    Rejection::Malformed {
        reason: format!("this request belongs on {subject}"),
    }
}

fn busy(incoming: &Incoming, kind: Kind) -> Vec<u8> {
    let reason = "netmaster is busy: try again".to_owned();
    match kind {
        Kind::Command => {
            let request = codec::from_bytes::<Request<Command>>(&incoming.message.payload);
            let id = request.map_or(CommandId(Uuid::nil()), |request| request.id);
            codec::to_bytes(&Reply::Unknown { id, reason })
        }
        Kind::Query => codec::to_bytes(&Answer::Behind {
            revision: Revision(0),
            reason,
        }),
    }
}

/// An answer, or why the bus can't carry it: who asks would wait in vain. (What a command wrote is
/// in the log, and its own id tells.)
fn carried(answer: Vec<u8>, most: usize, revision: Revision) -> Vec<u8> {
    if answer.len() <= most {
        return answer;
    }
    let bytes = answer.len();
    let reason = format!(
        "the answer is {bytes} bytes long and nats-server carries {most}: ask for one tenant, or raise max_payload in its nats.conf"
    );
    codec::to_bytes(&Answer::rejected(Rejection::Malformed { reason }, revision))
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
    fn an_answer_that_the_bus_cannot_carry_is_told_instead() {
        let revision = Revision(7);
        let of = |most| carried(vec![0; 100], most, revision);
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

    #[test]
    fn every_verb_is_served_once() {
        let mut all: Vec<_> = COMMANDS.iter().chain(&QUERIES).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), COMMANDS.len() + QUERIES.len());
    }
}
