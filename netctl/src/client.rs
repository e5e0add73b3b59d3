//! Requests on the bus. Every wait is bounded: whoever isn't there is reported within two
//! seconds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Request as BusRequest, RequestErrorKind,
};
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{
    Answer, ClusterId, Command, CommandId, NodeName, Query, Reply, Revision, codec, subject,
};
use serde::Serialize;
use uuid::Uuid;

use crate::bus_url::BusUrl;
use crate::failure::Failure;
use crate::seen::Seen;

/// For a connection and the server's greeting, all addresses of all servers together.
const CONNECT: Duration = Duration::from_millis(1_500);
/// For the answer to a query: an election of the log's leader takes longer, but then the same
/// query again is the user's to decide.
const ANSWER: Duration = Duration::from_secs(5);
/// For a node's answer to a request of its own.
const NODE: Duration = Duration::from_secs(10);
/// The server's own error of a NATS service, beside an answer of ours.
const SERVICE_ERROR: &str = "Nats-Service-Error";
/// Between two questions to who is behind.
const AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) bus: Client,
    url: BusUrl,
    cluster: Option<ClusterId>,
    revision: Revision,
    seen: Seen,
}

/// What a command led to.
#[derive(Debug)]
pub(crate) struct Accepted {
    id: CommandId,
    pub(crate) revision: Revision,
    /// All was so already.
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

/// Connects to the bus.
pub(crate) async fn connect(url: &BusUrl) -> Result<Client, Failure> {
    connect_with(url, url.options()).await
}

pub(crate) async fn connect_with(url: &BusUrl, options: ConnectOptions) -> Result<Client, Failure> {
    let connecting = options
        .name("netctl")
        .connection_timeout(CONNECT)
        .connect(url.servers.clone());
    let failed = |reason: &str| {
        Failure::Unreachable(format!(
            "can't reach the bus at {url}: {reason}; is nats-server running there? (--netmaster or CONTIV_NATS_URL names another)"
        ))
    };
    match tokio::time::timeout(CONNECT, connecting).await {
        Err(_) => Err(failed("no answer")),
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(match error.kind() {
            ConnectErrorKind::AuthorizationViolation => Failure::Unreachable(format!(
                "the bus at {url} refuses this token: nats.conf on its host has the right one, for CONTIV_NATS_URL=nats://TOKEN@HOST:PORT"
            )),
            _ => failed(&chain(&error)),
        }),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// There is a bus, and no netmaster on it.
pub(crate) fn nobody(url: &BusUrl) -> Failure {
    Failure::Unreachable(format!(
        "no netmaster answers on the bus at {url}: start one there with `netmaster run`"
    ))
}

/// Milliseconds since 1970-01-01 UTC, by this machine's clock.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl Session {
    /// Connects and asks which cluster this is, since a revision means something in one cluster
    /// only.
    pub(crate) async fn open(url: BusUrl) -> Result<Self, Failure> {
        let bus = connect(&url).await?;
        let mut session = Self {
            bus,
            url,
            cluster: None,
            revision: Revision::default(),
            seen: Seen::load(),
        };
        let answer = session.ask_once(Query::ClusterInfo, ANSWER).await?;
        if let Answer::Cluster { cluster, revision } = answer {
            session.cluster = Some(cluster.cluster);
            // A log that was lost and started again under the same id is shorter than what was
            // seen of it; nodes alarm about that, a reader has nothing to wait for.
            session.revision = session.seen.of(cluster.cluster).max(revision);
        }
        Ok(session)
    }

    fn saw(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
        if let Some(cluster) = self.cluster {
            self.seen.note(cluster, self.revision);
        }
    }

    /// Has a command decided. `within`: how long it may take, also for netmaster.
    pub(crate) async fn command(
        &mut self,
        command: Command,
        id: Option<CommandId>,
        within: Duration,
    ) -> Result<Accepted, Failure> {
        let id = id.unwrap_or_else(|| CommandId(Uuid::now_v7()));
        let to = subject::of_command(&command);
        let request = Request {
            seen: self.revision,
            ..Request::new(id, command, within, now())
        };
        let unknown = |reason: String| Failure::Unknown { id, reason };
        // Netmaster answers at its deadline too; it gets a moment for that.
        let within = within + Duration::from_secs(1);
        let bytes = match self.request(to, &request, within).await {
            Ok(bytes) => bytes,
            Err(Trouble::Nobody) => return Err(self.nobody()),
            Err(Trouble::Silent(reason)) => return Err(unknown(reason)),
            Err(Trouble::Service(text)) => return Err(Failure::Refused(text)),
        };
        match codec::from_bytes::<Reply>(&bytes) {
            Ok(Reply::Accepted { revision, events }) => {
                self.saw(revision);
                Ok(Accepted {
                    id,
                    revision,
                    unchanged: events.is_empty(),
                })
            }
            Ok(Reply::Rejected {
                rejection,
                revision,
                text,
            }) => {
                self.saw(revision);
                Err(Failure::Rejected(rejection.told(text)))
            }
            Ok(Reply::Unknown { id, reason }) => Err(Failure::Unknown { id, reason }),
            Err(error) => Err(unknown(format!(
                "netmaster's answer can't be read: {error}"
            ))),
        }
    }

    pub(crate) async fn ask(&mut self, query: Query) -> Result<Answer, Failure> {
        self.ask_within(query, ANSWER).await
    }

    /// Asks, and asks again while the one that answers is behind what was seen.
    pub(crate) async fn ask_within(
        &mut self,
        query: Query,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.ask_once(query.clone(), left).await? {
                Answer::Behind { reason, .. } if Instant::now() + AGAIN >= end => {
                    return Err(Failure::Behind(reason));
                }
                Answer::Behind { .. } => {}
                answer => return Ok(answer),
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the pause before another netmaster, or the same one a little later, is asked"
            )]
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn ask_once(&mut self, query: Query, within: Duration) -> Result<Answer, Failure> {
        let to = subject::of_query(&query);
        let request = Request {
            seen: self.revision,
            ..Request::new(CommandId(Uuid::now_v7()), query, within, now())
        };
        let within = within + Duration::from_secs(1);
        let bytes = match self.request(to, &request, within).await {
            Ok(bytes) => bytes,
            Err(Trouble::Nobody) => return Err(self.nobody()),
            Err(Trouble::Silent(reason)) => {
                return Err(Failure::Unreachable(format!(
                    "netmaster doesn't answer on the bus at {}: {reason}",
                    self.url
                )));
            }
            Err(Trouble::Service(text)) => return Err(Failure::Refused(text)),
        };
        let answer: Answer = codec::from_bytes(&bytes).map_err(|error| {
            Failure::Unreachable(format!(
                "netmaster's answer can't be read ({error}): is it of another version? see `netctl --version`"
            ))
        })?;
        match answer {
            Answer::Rejected {
                rejection, text, ..
            } => Err(Failure::Rejected(rejection.told(text))),
            Answer::Cluster { revision, .. }
            | Answer::Tenants { revision, .. }
            | Answer::Networks { revision, .. }
            | Answer::Groups { revision, .. }
            | Answer::Policies { revision, .. }
            | Answer::Nodes { revision, .. }
            | Answer::Endpoints { revision, .. }
            | Answer::Waited { revision, .. } => {
                self.saw(revision);
                Ok(answer)
            }
            Answer::Behind { .. } => Ok(answer),
        }
    }

    /// Asks one node something.
    pub(crate) async fn node(
        &self,
        node: &NodeName,
        request: &NodeRequest,
    ) -> Result<NodeReply, Failure> {
        let to = subject::of_node(node, request.verb());
        let bytes = match self.request(to, request, NODE).await {
            Ok(bytes) => bytes,
            Err(Trouble::Nobody) => {
                return Err(Failure::Unreachable(format!(
                    "node {node} isn't on the bus: is netplugin running there?"
                )));
            }
            Err(Trouble::Silent(reason)) => {
                return Err(Failure::Unreachable(format!(
                    "node {node} doesn't answer: {reason}"
                )));
            }
            Err(Trouble::Service(text)) => return Err(Failure::Refused(text)),
        };
        codec::from_bytes(&bytes).map_err(|error| {
            Failure::Unreachable(format!("the answer of node {node} can't be read: {error}"))
        })
    }

    fn nobody(&self) -> Failure {
        nobody(&self.url)
    }

    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    async fn request<T: Serialize>(
        &self,
        to: String,
        value: &T,
        within: Duration,
    ) -> Result<Vec<u8>, Trouble> {
        let request = BusRequest::new()
            .payload(codec::to_bytes(value).into())
            .timeout(Some(within));
        match self.bus.send_request(to, request).await {
            Ok(message) => {
                let error = message
                    .headers
                    .as_ref()
                    .and_then(|headers| headers.get(SERVICE_ERROR))
                    .map(ToString::to_string);
                match error {
                    Some(text) if message.payload.is_empty() => Err(Trouble::Service(text)),
                    _ => Ok(message.payload.to_vec()),
                }
            }
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => Trouble::Nobody,
                RequestErrorKind::TimedOut => {
                    Trouble::Silent(format!("no answer within {} s", within.as_secs()))
                }
                _ => Trouble::Silent(chain(&error)),
            }),
        }
    }
}

/// Why a request has no answer.
enum Trouble {
    /// The server says that nobody listens: it wasn't delivered.
    Nobody,
    /// It may have been delivered.
    Silent(String),
    Service(String),
}

/// An answer to another question than asked.
pub(crate) fn unexpected(answer: &Answer) -> Failure {
    Failure::Unreachable(format!(
        "netmaster answered something else than was asked ({answer:?}): is it of another version?"
    ))
}

/// A node's refusal, or its answer to another question than asked; `cannot` is what it then does.
pub(crate) fn refused(node: &NodeName, cannot: &str, reply: NodeReply) -> Failure {
    Failure::Refused(match reply {
        NodeReply::Refused { reason } => format!("node {node} {cannot}: {reason}"),
        _ => {
            format!("node {node} answered something else than was asked: is it of another version?")
        }
    })
}
