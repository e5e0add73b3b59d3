//! The removal of one network or group, from its closing to its end.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bus_schema::command::{Removal, Request};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::rejection::EndpointUse;
use bus_schema::{Command, CommandId, Event, NodeName, Reply, Revision};
use futures::future::join_all;
use runtime::{now, pause};
use tokio::time::timeout;

use super::target::{Finish, RemovalState, Target};
use crate::gateway::desk::Desk;

/// Time reserved for the answer's way back.
const RESERVED_MS: u64 = 300;
/// How long a node may take to answer.
pub(super) const DRAIN_TIMEOUT_MS: u64 = 3_000;
/// The pause between two questions to a node that can't answer yet.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Carries out `request`, which closes `target`, and the steps that follow.
pub(in crate::gateway) async fn remove(
    desk: &Rc<Desk>,
    request: Request<Command>,
    target: Target,
) -> Reply {
    let (id, deadline, arrived) = (request.id, request.deadline, Instant::now());
    let closed = desk.execute(request).await;
    let Reply::Accepted { revision, events } = closed else {
        return closed;
    };
    let removal = Closing {
        desk,
        target,
        id,
        revision,
        until: deadline.saturating_sub(RESERVED_MS),
    };
    // The view may be answered only at a proved end; most often the closing proves it.
    if let Err(reason) = desk.prove(arrived, removal.until).await {
        return removal.unknown(&reason);
    }
    removal.go_on(events).await
}

/// The removal of a target that was closed at `revision` or before.
pub(super) struct Closing<'a> {
    pub(super) desk: &'a Rc<Desk>,
    pub(super) target: Target,
    pub(super) id: CommandId,
    pub(super) revision: Revision,
    /// In milliseconds since 1970.
    pub(super) until: u64,
}

/// The answers of the nodes.
struct Answers {
    in_use: Vec<EndpointUse>,
    /// Nodes that didn't answer, or can't.
    away: Vec<NodeName>,
}

impl Closing<'_> {
    pub(super) async fn go_on(&self, mut events: Vec<Event>) -> Reply {
        // Read before the nodes are asked: their answers count for this closing alone.
        let closing = self.desk.shared.read(|view| self.target.closing(view));
        let mut drained = None;
        if let RemovalState::Unasked(nodes) | RemovalState::Held(nodes) = self.state(None) {
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
            match self.state(drained) {
                RemovalState::Gone(revision) => return Reply::Accepted { revision, events },
                RemovalState::Open => return self.reopened(),
                RemovalState::Unasked(nodes) => return self.held(nodes),
                RemovalState::Held(nodes) if now() >= self.until || !self.any_alive(&nodes) => {
                    return self.held(nodes);
                }
                RemovalState::Held(_) => {}
                RemovalState::Free(_) if now() >= self.until => {
                    return self.unknown("it is closed, but not yet removed");
                }
                RemovalState::Free(step) => self.finish(*step, &mut events).await,
            }
            let left = self.until.saturating_sub(now()).clamp(10, 200);
            // The next check follows a change or a pause.
            let _ = timeout(Duration::from_millis(left), changes.changed()).await;
        }
    }

    pub(super) fn state(&self, drained: Option<u32>) -> RemovalState {
        let shared = &self.desk.shared;
        shared.read(|view| self.target.state(view, self.revision, drained))
    }

    async fn finish(&self, step: Finish, events: &mut Vec<Event>) {
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

    pub(super) fn any_alive(&self, nodes: &[NodeName]) -> bool {
        self.desk
            .shared
            .read(|view| nodes.iter().any(|node| view.alive(node, now())))
    }

    pub(super) fn all_alive(&self, nodes: &[NodeName]) -> bool {
        self.desk
            .shared
            .read(|view| nodes.iter().all(|node| view.alive(node, now())))
    }

    /// Asks every node at once about the target that was closed at `closed`. Nodes that can't answer
    /// about a group are asked again for a while: a node that just starts should need no operator. The
    /// removal of a network goes on by the log.
    async fn drain(&self, nodes: &[NodeName], closed: Revision) -> Answers {
        let request = self.target.drain(closed.max(self.revision));
        let time = if self.target.is_group() {
            DRAIN_TIMEOUT_MS
        } else {
            0
        };
        let end = now().saturating_add(time).min(self.until);
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
            // Nothing reports that it can answer.
            pause(RETRY_PAUSE).await;
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
                Ok(_) => "it sent another kind of answer".to_owned(),
            };
            tracing::info!("removing {}: node {node}: {why}", self.target);
            answers.away.push(node);
        }
    }

    async fn ask(&self, node: &NodeName, request: &NodeRequest) -> Result<NodeReply, String> {
        let left = self.until.saturating_sub(now()).min(DRAIN_TIMEOUT_MS);
        let within = Duration::from_millis(left);
        self.desk.ask_node(node, request, within).await
    }

    /// Opens the target again: endpoints use it, and the refusal names them.
    async fn abort(&self, mut endpoints: Vec<EndpointUse>) -> Reply {
        let abort = self.target.command(Removal::Abort);
        let step = format!("abort closing at {}", self.revision);
        let request = Request {
            deadline: self.until.saturating_add(RESERVED_MS),
            ..self.request(CommandId::derive(self.id.0, &step), abort)
        };
        match self.desk.execute(request).await {
            Reply::Accepted { revision, .. } => {
                endpoints.sort();
                Reply::rejected(self.target.in_use(endpoints), revision)
            }
            // Another netmaster, or the resumed removal, opened it before.
            Reply::Rejected { .. } if matches!(self.state(None), RemovalState::Open) => {
                self.reopened()
            }
            rejected @ Reply::Rejected { .. } => rejected,
            Reply::Unknown { reason, .. } => self.unknown(&reason),
        }
    }

    /// The answer when this very command closed the target, and it was opened again because it is in use.
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
