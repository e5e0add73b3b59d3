//! Removing a network or a group: closed first, then its nodes are asked; the answer names what
//! stands in the way. A network goes when its blocks came back, what isn't finished within the
//! deadline goes on by the reactions of `process`. A group goes when all nodes answered that they
//! hold none of it. `resume` asks nodes again that didn't answer in time.

mod resume;
mod target;

use std::rc::Rc;
use std::time::{Duration, Instant};

use bus_schema::command::{Removal, Request};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::rejection::EndpointUse;
use bus_schema::{Command, CommandId, Event, NodeName, Reply, Revision};
use futures::future::join_all;
use tokio::time::timeout;

use self::target::{Stand, Step};
use super::Desk;
use super::command::execute;
use crate::init::now;

pub(crate) use self::resume::resume;
pub(super) use self::target::Target;

/// Time kept for the answer's way back, in milliseconds.
const WAY_BACK: u64 = 300;
/// How long a node may take to answer, in milliseconds.
const DRAIN_MS: u64 = 3_000;
/// Between two questions to a node that can't answer yet.
const AGAIN: Duration = Duration::from_millis(200);

/// `request` closes `target`.
pub(super) async fn remove(desk: &Rc<Desk>, request: Request<Command>, target: Target) -> Reply {
    let (id, deadline, arrived) = (request.id, request.deadline, Instant::now());
    let closed = execute(desk, request).await;
    let Reply::Accepted { revision, events } = closed else {
        return closed;
    };
    let removal = Closing {
        desk,
        target,
        id,
        revision,
        until: deadline.saturating_sub(WAY_BACK),
    };
    // What the view says is an answer only at a proved end; most often the closing proves it.
    if let Err(reason) = desk.prove(arrived, removal.until).await {
        return removal.unknown(&reason);
    }
    removal.go_on(events).await
}

/// The removal of what was closed at `revision` or before.
struct Closing<'a> {
    desk: &'a Rc<Desk>,
    target: Target,
    id: CommandId,
    revision: Revision,
    /// In milliseconds since 1970.
    until: u64,
}

/// What nodes answered.
struct Answers {
    in_use: Vec<EndpointUse>,
    /// Who didn't answer, or can't.
    away: Vec<NodeName>,
}

impl Closing<'_> {
    async fn go_on(&self, mut events: Vec<Event>) -> Reply {
        // Before the nodes are asked: it counts for this closing alone.
        let closing = self.desk.shared.read(|view| self.target.closing(view));
        let mut drained = None;
        if let Stand::Unasked(nodes) | Stand::Held(nodes) = self.stand(None) {
            let answers = self.drain(&nodes, closing.unwrap_or_default().0).await;
            if !answers.in_use.is_empty() {
                return self.abort(answers.in_use).await;
            }
            if answers.away.is_empty() {
                drained = closing.map(|(_, number)| number);
            } else if self.target.is_group() {
                return self.held(answers.away);
            }
        }
        let mut changes = self.desk.shared.changes();
        loop {
            match self.stand(drained) {
                Stand::Gone(revision) => return Reply::Accepted { revision, events },
                Stand::Open => return self.reopened(),
                Stand::Unasked(nodes) => return self.held(nodes),
                Stand::Held(nodes) if now() >= self.until || !self.any_alive(&nodes) => {
                    return self.held(nodes);
                }
                Stand::Held(_) => {}
                Stand::Free(_) if now() >= self.until => {
                    return self.unknown("it is closed, but not yet removed");
                }
                Stand::Free(step) => self.finish(*step, &mut events).await,
            }
            let left = self.until.saturating_sub(now()).clamp(10, 200);
            // A change or the time for another look: either way, look.
            let _ = timeout(Duration::from_millis(left), changes.changed()).await;
        }
    }

    fn stand(&self, drained: Option<u32>) -> Stand {
        let shared = &self.desk.shared;
        shared.read(|view| self.target.stand(view, self.revision, drained))
    }

    async fn finish(&self, step: Step, events: &mut Vec<Event>) {
        let finish = self.request(step.id, step.command);
        let registry = &self.desk.registry;
        if let Reply::Accepted {
            revision,
            events: finished,
        } = registry.react(finish, step.external).await
        {
            events.extend(finished);
            self.desk.shared.reach(revision, self.until).await;
        }
    }

    fn any_alive(&self, nodes: &[NodeName]) -> bool {
        self.desk
            .shared
            .read(|view| nodes.iter().any(|node| view.alive(node, now())))
    }

    fn all_alive(&self, nodes: &[NodeName]) -> bool {
        self.desk
            .shared
            .read(|view| nodes.iter().all(|node| view.alive(node, now())))
    }

    /// Asks every node at once about what was closed at `closed`. Of a group, those who can't
    /// answer are asked again for a while: a node that just starts is no reason to wait for the
    /// operator. A network's go on by the log.
    async fn drain(&self, nodes: &[NodeName], closed: Revision) -> Answers {
        let request = self.target.drain(closed.max(self.revision));
        let patience = if self.target.is_group() { DRAIN_MS } else { 0 };
        let end = now().saturating_add(patience).min(self.until);
        let mut answers = Answers {
            in_use: Vec::new(),
            away: nodes.to_vec(),
        };
        loop {
            self.ask_away(&request, &mut answers).await;
            let settled = answers.away.is_empty() || !answers.in_use.is_empty();
            if settled || now() >= end {
                return answers;
            }
            #[expect(
                clippy::disallowed_methods,
                reason = "the pause before a node is asked again: nothing says that it can answer"
            )]
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn ask_away(&self, request: &NodeRequest, answers: &mut Answers) {
        let nodes = std::mem::take(&mut answers.away);
        let asked = nodes.iter().map(|node| self.ask(node, request));
        let replies = join_all(asked).await;
        for (node, reply) in nodes.into_iter().zip(replies) {
            let why = match reply {
                Ok(NodeReply::InUse { endpoints }) => {
                    answers.in_use.extend(endpoints);
                    continue;
                }
                Ok(NodeReply::Done) => continue,
                Ok(NodeReply::Refused { reason }) | Err(reason) => reason,
                Ok(_) => "it answered another question".to_owned(),
            };
            tracing::info!("removing {}: node {node}: {why}", self.target);
            answers.away.push(node);
        }
    }

    async fn ask(&self, node: &NodeName, request: &NodeRequest) -> Result<NodeReply, String> {
        let left = self.until.saturating_sub(now()).min(DRAIN_MS);
        let within = Duration::from_millis(left);
        self.desk.ask_node(node, request, within).await
    }

    /// Endpoints stand in the way: it stays, and they are named.
    async fn abort(&self, mut endpoints: Vec<EndpointUse>) -> Reply {
        let abort = self.target.command(Removal::Abort);
        let step = format!("abort closing at {}", self.revision);
        let request = Request {
            deadline: self.until.saturating_add(WAY_BACK),
            ..self.request(CommandId::derive(self.id.0, &step), abort)
        };
        match execute(self.desk, request).await {
            Reply::Accepted { revision, .. } => {
                endpoints.sort();
                Reply::rejected(self.target.in_use(endpoints), revision)
            }
            // Another netmaster, or the resumed removal, opened it before.
            Reply::Rejected { .. } if matches!(self.stand(None), Stand::Open) => self.reopened(),
            rejected @ Reply::Rejected { .. } => rejected,
            Reply::Unknown { reason, .. } => self.unknown(&reason),
        }
    }

    /// It was closed by this very command once, and opened again because it is in use.
    fn reopened(&self) -> Reply {
        self.desk.shared.read(|view| {
            let users = self.target.users(view);
            Reply::rejected(self.target.in_use(users), view.applied)
        })
    }

    fn held(&self, nodes: Vec<NodeName>) -> Reply {
        Reply::rejected(self.target.held(nodes), self.desk.revision())
    }

    fn unknown(&self, reason: &str) -> Reply {
        Reply::Unknown {
            id: self.id,
            reason: reason.to_owned(),
        }
    }

    fn request(&self, id: CommandId, body: Command) -> Request<Command> {
        Request {
            id,
            deadline: self.until,
            within: None,
            seen: self.revision,
            linearizable: false,
            body,
        }
    }
}
