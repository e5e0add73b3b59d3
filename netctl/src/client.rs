//! Requests on the bus. Every wait is bounded: whoever isn't there is reported within two
//! seconds.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Request as BusRequest, RequestErrorKind,
};
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{
    Answer, ClusterId, Command, CommandId, NodeName, Query, Rejection, Reply, Revision, codec,
    subject,
};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Serialize;
use uuid::Uuid;

use crate::bus_url::BusUrl;
use crate::failure::Failure;
use crate::output;
use crate::seen::Seen;

/// For a connection and the server's greeting, all addresses of all servers together.
const CONNECT: Duration = Duration::from_millis(1_500);
/// For the answer to a query: an election of the log's leader takes longer, but then the same
/// query again is the user's to decide.
const ANSWER: Duration = Duration::from_secs(5);
/// A request without an answer is sent again after this.
const RESEND: Duration = Duration::from_secs(1);
/// Times that a request is sent again at most.
const RESENDS: u32 = 5;
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
    /// The highest revision that this user has seen of the cluster.
    revision: Revision,
    seen: Seen,
    /// Queries ask for a proved end of the log.
    linearizable: bool,
    /// Whether an answer may be older than what this user has seen.
    takes_any_revision: bool,
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
    // A server whose host vanished takes no time from the next one.
    let servers = u32::try_from(url.servers.len()).unwrap_or(1).max(1);
    let connecting = options
        .name("netctl")
        .connection_timeout(CONNECT / servers)
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
    /// only. `linearizable`: see [`Request::linearizable`].
    pub(crate) async fn open(url: BusUrl, linearizable: bool) -> Result<Self, Failure> {
        let bus = connect(&url).await?;
        let mut session = Self {
            bus,
            url,
            cluster: None,
            revision: Revision::default(),
            seen: Seen::load(),
            linearizable: false,
            takes_any_revision: false,
        };
        let answer = session.ask(Query::ClusterInfo).await?;
        if let Answer::Cluster { cluster, revision } = answer {
            session.cluster = Some(cluster.cluster);
            session.revision = session.seen.of(cluster.cluster).max(revision);
        }
        session.linearizable = linearizable;
        Ok(session)
    }

    /// From here on netmaster answers at once with what it has, although this user has seen more of
    /// the log: for commands that show what is wrong with a cluster, or repair it.
    pub(crate) fn take_any_revision(&mut self) {
        self.takes_any_revision = true;
    }

    /// What an answer must not be older than.
    fn floor(&self) -> Revision {
        match self.takes_any_revision {
            true => Revision::default(),
            false => self.revision,
        }
    }

    fn saw(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
        if let Some(cluster) = self.cluster {
            self.seen.note(cluster, self.revision);
        }
    }

    /// The proved end of the log lies below what was seen: goes on from there. Whether that is news;
    /// the same request can then be sent again.
    fn is_shorter(&mut self, rejection: &Rejection) -> bool {
        let Rejection::LogShorter { end, seen } = rejection else {
            return false;
        };
        if *end >= self.revision {
            return false;
        }
        output::note(&format!(
            "warning: the log ends at revision {end}, but revision {seen} was seen of it: it was restored from an older copy, and what was newer is lost"
        ));
        self.revision = *end;
        if let Some(cluster) = self.cluster {
            self.seen.lower(cluster, *end);
        }
        true
    }

    /// Refuses by what netmaster answered.
    pub(crate) fn refuse(&self, rejection: &Rejection) -> Failure {
        Failure::Rejected {
            text: rejection.to_string(),
            revision: Some(self.revision),
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
        let unknown = |reason: String| Failure::Unknown { id, reason };
        loop {
            let request = Request {
                seen: self.floor(),
                ..Request::new(id, command.clone(), within, now())
            };
            let bytes = match self.netmaster(&to, request, within).await {
                Ok(bytes) => bytes,
                Err(Trouble::Nobody) => return Err(self.nobody()),
                Err(Trouble::Silent(reason)) => return Err(unknown(reason)),
                Err(Trouble::Service(text)) => return Err(Failure::Refused(text)),
            };
            return match codec::from_bytes::<Reply>(&bytes) {
                Ok(Reply::Accepted { revision, events }) => {
                    self.saw(revision);
                    Ok(Accepted {
                        id,
                        revision,
                        unchanged: events.is_empty(),
                    })
                }
                Ok(Reply::Rejected { rejection, .. }) if self.is_shorter(&rejection) => continue,
                Ok(Reply::Rejected {
                    rejection,
                    revision,
                    text,
                }) => {
                    self.saw(revision);
                    Err(Failure::Rejected {
                        text: rejection.told(text),
                        revision: Some(revision),
                    })
                }
                Ok(Reply::Unknown { id, reason }) => Err(Failure::Unknown { id, reason }),
                Err(error) => Err(unknown(format!(
                    "netmaster's answer can't be read: {error}"
                ))),
            };
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
                Answer::Rejected { rejection, .. } if self.is_shorter(&rejection) => continue,
                Answer::Rejected {
                    rejection,
                    revision,
                    text,
                } => {
                    return Err(Failure::Rejected {
                        text: rejection.told(text),
                        revision: Some(revision),
                    });
                }
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
            seen: self.floor(),
            linearizable: self.linearizable,
            ..Request::new(CommandId(Uuid::now_v7()), query, within, now())
        };
        let bytes = match self.netmaster(&to, request, within).await {
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
        match &answer {
            Answer::Cluster { revision, .. }
            | Answer::Tenants { revision, .. }
            | Answer::Networks { revision, .. }
            | Answer::Groups { revision, .. }
            | Answer::Policies { revision, .. }
            | Answer::Nodes { revision, .. }
            | Answer::Endpoints { revision, .. }
            | Answer::Waited { revision, .. } => self.saw(*revision),
            Answer::Rejected { .. } | Answer::Behind { .. } => {}
        }
        Ok(answer)
    }

    /// Asks netmaster for at most `within`. A netmaster whose host vanished gets requests for some
    /// seconds more, until its server misses it; so a request without an answer is sent again, and
    /// the first answer counts. It keeps its id, so that a command happens once.
    async fn netmaster<T: Serialize + Clone>(
        &self,
        to: &str,
        request: Request<T>,
        within: Duration,
    ) -> Result<Vec<u8>, Trouble> {
        let end = Instant::now() + within;
        let left = || end.saturating_duration_since(Instant::now());
        let send = || {
            let left = left();
            let request = Request {
                seen: request.seen,
                linearizable: request.linearizable,
                ..Request::new(request.id, request.body.clone(), left, now())
            };
            // Netmaster answers at its deadline too; it gets a moment for that.
            self.request(to.to_owned(), request, left + Duration::from_secs(1))
        };
        let mut sent = FuturesUnordered::from_iter([send()]);
        let mut again = tokio::time::interval((within / RESENDS).max(RESEND));
        // The first tick is at once.
        again.tick().await;
        let mut silent = None;
        loop {
            tokio::select! {
                biased;
                Some(answer) = sent.next() => match answer {
                    // One that was sent before may have been delivered.
                    Err(Trouble::Nobody) if silent.is_some() || !sent.is_empty() => {}
                    Err(Trouble::Silent(why)) => silent = Some(why),
                    answer => return answer,
                },
                _ = again.tick(), if !left().is_zero() => sent.push(send()),
                else => {
                    let why = silent.unwrap_or_else(|| "it left while it was asked".to_owned());
                    return Err(Trouble::Silent(why));
                }
            }
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
        let reply = codec::from_bytes::<NodeReply>(&bytes).map_err(|error| {
            Failure::Unreachable(format!("the answer of node {node} can't be read: {error}"))
        })?;
        Ok(reply.of_older_node("netctl"))
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
        value: T,
        within: Duration,
    ) -> Result<Vec<u8>, Trouble> {
        let request = BusRequest::new()
            .payload(codec::to_bytes(&value).into())
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
