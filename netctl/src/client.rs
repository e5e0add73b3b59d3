//! Requests on the bus. Every wait is bounded: a bus or a netmaster that doesn't run is reported
//! within two seconds.

use std::time::{Duration, Instant};

use async_nats::{Client, Request as BusRequest, RequestErrorKind};
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{
    Answer, ClusterId, Command, CommandId, NodeName, Query, Rejection, Reply, Revision, codec,
    subject,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::bus_url::BusUrl;
use crate::clocks::now;
use crate::connection::{self, error_chain};
use crate::failure::Failure;
use crate::output;
use crate::seen::SeenRevisions;

/// Timeout of a query. An election of the log's leader takes longer; the user may then repeat the
/// query.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a command; longer than an election of the log's leader (4 to 8 s).
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of a removal: netmaster asks the nodes before it answers.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(20);
/// A request without an answer is sent again after at least this time.
const MIN_RESEND_INTERVAL: Duration = Duration::from_secs(1);
/// A request is sent again at most this often.
const MAX_RESENDS: u32 = 5;
/// Timeout of a request to a node.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// The header by which a NATS service reports an error of its own, outside of our answers.
const SERVICE_ERROR_HEADER: &str = "Nats-Service-Error";
/// The pause before a netmaster that is behind is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) bus: Client,
    url: BusUrl,
    cluster: Option<ClusterId>,
    /// The highest revision of the cluster that this user has seen.
    revision: Revision,
    seen: SeenRevisions,
    /// Queries require a proved end of the log.
    linearizable: bool,
    /// Whether an answer may be older than the revision that this user has seen.
    accepts_any_revision: bool,
}

/// The outcome of an accepted command.
#[derive(Debug)]
pub(crate) struct Accepted {
    id: CommandId,
    pub(crate) revision: Revision,
    /// The command changed nothing: the wanted state was there already.
    pub(crate) unchanged: bool,
}

impl std::fmt::Display for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.unchanged {
            true => writeln!(f, "unchanged at revision {}", self.revision),
            false => writeln!(
                f,
                "done at revision {} by command {}",
                self.revision, self.id
            ),
        }
    }
}

impl Accepted {
    #[cfg(test)]
    pub(crate) fn of(id: CommandId, revision: Revision) -> Self {
        Self {
            id,
            revision,
            unchanged: false,
        }
    }

    /// The type of the outcome in JSON.
    pub(crate) fn kind(&self) -> &'static str {
        if self.unchanged { "unchanged" } else { "done" }
    }

    pub(crate) fn value(&self) -> Value {
        json!({ "revision": self.revision, "commandId": self.id })
    }
}

/// The failure where the bus answers, but no netmaster does.
pub(crate) fn no_netmaster(url: &BusUrl) -> Failure {
    Failure::Unreachable(format!(
        "no netmaster answers on the bus at {url}: start one there with `netmaster run`"
    ))
}

impl Session {
    /// Connects and asks for the cluster's id, since revisions of different clusters can't be compared.
    /// `linearizable`: see [`Request::linearizable`].
    pub(crate) async fn open(url: BusUrl, linearizable: bool) -> Result<Self, Failure> {
        let bus = connection::connect(&url).await?;
        let mut session = Self {
            bus,
            url,
            cluster: None,
            revision: Revision::default(),
            seen: SeenRevisions::load(),
            linearizable: false,
            accepts_any_revision: false,
        };
        let answer = session.ask(Query::ClusterInfo).await?;
        if let Answer::Cluster { cluster, revision } = answer {
            session.cluster = Some(cluster.cluster);
            session.revision = session.seen.of(cluster.cluster).max(revision);
        }
        session.linearizable = linearizable;
        Ok(session)
    }

    /// From here on netmaster answers at once with the state it has, although this user has seen a higher
    /// revision. For commands that diagnose a cluster or repair it.
    pub(crate) fn accept_any_revision(&mut self) {
        self.accepts_any_revision = true;
    }

    /// The lowest revision that an answer may have.
    fn min_revision(&self) -> Revision {
        match self.accepts_any_revision {
            true => Revision::default(),
            false => self.revision,
        }
    }

    fn note_revision(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
        if let Some(cluster) = self.cluster {
            self.seen.note(cluster, self.revision);
        }
    }

    /// Lowers the seen revision where the proved end of the log lies below it. Returns true if it did:
    /// then the same request can be sent again.
    fn accept_shorter_log(&mut self, rejection: &Rejection) -> bool {
        let Rejection::LogShorter { end, seen } = rejection else {
            return false;
        };
        if *end >= self.revision {
            return false;
        }
        output::note(&format!(
            "warning: the log ends at revision {end}, but revision {seen} was seen of it: it was restored from an older copy, and newer changes are lost"
        ));
        self.revision = *end;
        if let Some(cluster) = self.cluster {
            self.seen.lower(cluster, *end);
        }
        true
    }

    /// The failure for a rejection that netctl itself decides on netmaster's answer.
    pub(crate) fn rejected(&self, rejection: &Rejection) -> Failure {
        Failure::rejected(rejection, None, Some(self.revision))
    }

    /// Sends a command to netmaster, and returns its decision.
    pub(crate) async fn command(
        &mut self,
        command: Command,
        id: Option<CommandId>,
    ) -> Result<Accepted, Failure> {
        let id = id.unwrap_or_else(|| CommandId(Uuid::now_v7()));
        let within = match command {
            Command::NetworkRemove(_) | Command::GroupRemove(_) => REMOVAL_TIMEOUT,
            _ => COMMAND_TIMEOUT,
        };
        let to = subject::of_command(&command);
        let unknown = |reason: String| Failure::Unknown { id, reason };
        loop {
            let request = Request {
                seen: self.min_revision(),
                ..Request::new(id, command.clone(), within, now())
            };
            let bytes = match self.ask_netmaster(&to, request, within).await {
                Ok(bytes) => bytes,
                Err(NoReply::NoResponders) => return Err(no_netmaster(&self.url)),
                Err(NoReply::TimedOut(reason)) => return Err(unknown(reason)),
                Err(NoReply::Service(text)) => return Err(Failure::Refused(text)),
            };
            return match codec::from_bytes::<Reply>(&bytes) {
                Ok(Reply::Accepted { revision, events }) => {
                    self.note_revision(revision);
                    Ok(Accepted {
                        id,
                        revision,
                        unchanged: events.is_empty(),
                    })
                }
                Ok(Reply::Rejected { rejection, .. }) if self.accept_shorter_log(&rejection) => {
                    continue;
                }
                Ok(Reply::Rejected {
                    rejection,
                    revision,
                    text,
                }) => {
                    self.note_revision(revision);
                    Err(Failure::rejected(&rejection, text, Some(revision)))
                }
                Ok(Reply::Unknown { id, reason }) => Err(Failure::Unknown { id, reason }),
                Err(error) => Err(unknown(format!(
                    "netmaster's answer can't be read: {error}"
                ))),
            };
        }
    }

    pub(crate) async fn ask(&mut self, query: Query) -> Result<Answer, Failure> {
        self.ask_within(query, QUERY_TIMEOUT).await
    }

    /// Asks, and asks again while the netmaster that answers is behind the seen revision.
    pub(crate) async fn ask_within(
        &mut self,
        query: Query,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.ask_once(query.clone(), left).await? {
                Answer::Rejected { rejection, .. } if self.accept_shorter_log(&rejection) => {
                    continue;
                }
                Answer::Rejected {
                    rejection,
                    revision,
                    text,
                } => {
                    return Err(Failure::rejected(&rejection, text, Some(revision)));
                }
                Answer::Behind { reason, .. } if Instant::now() + RETRY_PAUSE >= end => {
                    return Err(Failure::Behind(reason));
                }
                Answer::Behind { .. } => {}
                answer => return Ok(answer),
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "another netmaster, or the same one a little later, may have the revision"
            )]
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn ask_once(&mut self, query: Query, within: Duration) -> Result<Answer, Failure> {
        let to = subject::of_query(&query);
        let request = Request {
            seen: self.min_revision(),
            linearizable: self.linearizable,
            ..Request::new(CommandId(Uuid::now_v7()), query, within, now())
        };
        let bytes = match self.ask_netmaster(&to, request, within).await {
            Ok(bytes) => bytes,
            Err(NoReply::NoResponders) => return Err(no_netmaster(&self.url)),
            Err(NoReply::TimedOut(reason)) => {
                return Err(Failure::Unreachable(format!(
                    "netmaster doesn't answer on the bus at {}: {reason}",
                    self.url
                )));
            }
            Err(NoReply::Service(text)) => return Err(Failure::Refused(text)),
        };
        let answer: Answer = codec::from_bytes(&bytes).map_err(|error| {
            Failure::Unreachable(format!(
                "netmaster's answer can't be read ({error}): is it of another version? see `netctl --version`"
            ))
        })?;
        match &answer {
            Answer::Cluster { revision, .. }
            | Answer::Tenants { revision, .. }
            | Answer::Networks { revision, .. }
            | Answer::Groups { revision, .. }
            | Answer::Policies { revision, .. }
            | Answer::Nodes { revision, .. }
            | Answer::Endpoints { revision, .. }
            | Answer::Waited { revision, .. } => self.note_revision(*revision),
            Answer::Rejected { .. } | Answer::Behind { .. } => {}
        }
        Ok(answer)
    }

    /// Asks netmaster for at most `within`. A netmaster whose host vanished still gets requests for some
    /// seconds, until its server notices. So a request without an answer is sent again, and the first
    /// answer counts. It keeps its id, so that a command takes effect once.
    async fn ask_netmaster<T: Serialize + Clone>(
        &self,
        to: &str,
        request: Request<T>,
        within: Duration,
    ) -> Result<Vec<u8>, NoReply> {
        let end = Instant::now() + within;
        let left = || end.saturating_duration_since(Instant::now());
        let send = || {
            let left = left();
            let request = Request {
                seen: request.seen,
                linearizable: request.linearizable,
                ..Request::new(request.id, request.body.clone(), left, now())
            };
            // netmaster also answers at its deadline; the extra second is for that answer.
            self.request(to.to_owned(), request, left + Duration::from_secs(1))
        };
        let mut sent = FuturesUnordered::from_iter([send()]);
        let mut again = tokio::time::interval((within / MAX_RESENDS).max(MIN_RESEND_INTERVAL));
        // The first tick is at once.
        again.tick().await;
        let mut timeout = None;
        loop {
            tokio::select! {
                biased;
                Some(answer) = sent.next() => match answer {
                    // A request that was sent before may have been delivered.
                    Err(NoReply::NoResponders) if timeout.is_some() || !sent.is_empty() => {}
                    Err(NoReply::TimedOut(why)) => timeout = Some(why),
                    answer => return answer,
                },
                _ = again.tick(), if !left().is_zero() => sent.push(send()),
                else => {
                    let why = timeout.unwrap_or_else(|| "it stopped before it answered".to_owned());
                    return Err(NoReply::TimedOut(why));
                }
            }
        }
    }

    /// Sends a request to one node.
    pub(crate) async fn node(
        &self,
        node: &NodeName,
        request: &NodeRequest,
    ) -> Result<NodeReply, Failure> {
        let to = subject::of_node(node, request.verb());
        let bytes = match self.request(to, request, NODE_TIMEOUT).await {
            Ok(bytes) => bytes,
            Err(NoReply::NoResponders) => {
                return Err(Failure::Unreachable(format!(
                    "node {node} isn't on the bus: is netplugin running there?"
                )));
            }
            Err(NoReply::TimedOut(reason)) => {
                return Err(Failure::Unreachable(format!(
                    "node {node} doesn't answer: {reason}"
                )));
            }
            Err(NoReply::Service(text)) => return Err(Failure::Refused(text)),
        };
        let reply = codec::from_bytes::<NodeReply>(&bytes).map_err(|error| {
            Failure::Unreachable(format!("the answer of node {node} can't be read: {error}"))
        })?;
        Ok(reply.of_older_node("netctl"))
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    async fn request<T: Serialize>(
        &self,
        to: String,
        value: T,
        within: Duration,
    ) -> Result<Vec<u8>, NoReply> {
        let request = BusRequest::new()
            .payload(codec::to_bytes(&value).into())
            .timeout(Some(within));
        match self.bus.send_request(to, request).await {
            Ok(message) => {
                let error = message
                    .headers
                    .as_ref()
                    .and_then(|headers| headers.get(SERVICE_ERROR_HEADER))
                    .map(ToString::to_string);
                match error {
                    Some(text) if message.payload.is_empty() => Err(NoReply::Service(text)),
                    _ => Ok(message.payload.to_vec()),
                }
            }
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => NoReply::NoResponders,
                RequestErrorKind::TimedOut => {
                    NoReply::TimedOut(format!("no answer within {} s", within.as_secs()))
                }
                _ => NoReply::TimedOut(error_chain(&error)),
            }),
        }
    }
}

/// The reasons why a request has no answer.
enum NoReply {
    /// The server reports no subscriber: the request wasn't delivered.
    NoResponders,
    /// The request may have been delivered.
    TimedOut(String),
    /// The service failed before it decided.
    Service(String),
}

/// The failure for an answer of another type than the query's.
pub(crate) fn unexpected_answer(answer: &Answer) -> Failure {
    Failure::Unreachable(format!(
        "netmaster's answer doesn't fit the request ({answer:?}): is it of another version?"
    ))
}

/// The failure for a node's refusal, or for its reply to another request; `cannot` is the verb.
pub(crate) fn node_refusal(node: &NodeName, cannot: &str, reply: NodeReply) -> Failure {
    Failure::Refused(match reply {
        NodeReply::Refused { reason } => format!("node {node} {cannot}: {reason}"),
        _ => {
            format!("the reply of node {node} doesn't fit the request: is it of another version?")
        }
    })
}
