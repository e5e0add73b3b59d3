//! Removing a network: closed first, then its nodes are asked to give their blocks back; the
//! answer names what stands in the way. What isn't finished within the deadline goes on by the
//! reactions of `process`.

use std::rc::Rc;
use std::time::Duration;

use async_nats::connection::State;
use bus_schema::codec;
use bus_schema::command::{NetworkRemove, Removal, Request};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::rejection::EndpointUse;
use bus_schema::{Command, CommandId, Event, NodeName, Rejection, Reply, Revision, subject};
use bytes::Bytes;
use futures::future::join_all;
use tokio::time::timeout;

use super::Desk;
use super::command::execute;
use crate::init::now;
use crate::process;

/// Time kept for the answer's way back, in milliseconds.
const WAY_BACK: u64 = 300;
/// How long a node may take to give its blocks back, in milliseconds.
const DRAIN_MS: u64 = 3_000;

pub(super) async fn network_remove(
    desk: &Rc<Desk>,
    request: Request<Command>,
    c: &NetworkRemove,
) -> Reply {
    let (id, deadline) = (request.id, request.deadline);
    let closed = execute(desk, request).await;
    let Reply::Accepted { revision, events } = closed else {
        return closed;
    };
    let removal = Closing {
        desk,
        c,
        id,
        revision,
        until: deadline.saturating_sub(WAY_BACK),
    };
    removal.go_on(events).await
}

/// Where a removal stands.
enum Stand {
    /// Gone, as of this revision of the view.
    Gone(Revision),
    /// Not being removed any more.
    Open,
    /// These hold blocks.
    Held(Vec<NodeName>),
    /// Nobody holds a block: this finishes it.
    Free(CommandId, Command),
}

/// The removal of a network that was closed at `revision` or before.
struct Closing<'a> {
    desk: &'a Rc<Desk>,
    c: &'a NetworkRemove,
    id: CommandId,
    revision: Revision,
    /// In milliseconds since 1970.
    until: u64,
}

impl Closing<'_> {
    async fn go_on(&self, mut events: Vec<Event>) -> Reply {
        if !self.desk.shared.reach(self.revision, self.until).await {
            return self.unknown("this netmaster hasn't read the log so far yet");
        }
        if let Stand::Held(nodes) = self.stand() {
            let (in_use, refusals) = self.drain(&nodes).await;
            if !in_use.is_empty() {
                return self.abort(in_use).await;
            }
            for refusal in refusals {
                tracing::info!("removing network {}: {refusal}", self.c.network);
            }
        }
        let mut changes = self.desk.shared.changes();
        loop {
            match self.stand() {
                Stand::Gone(revision) => return Reply::Accepted { revision, events },
                Stand::Open => return self.reopened(),
                Stand::Held(nodes) if now() >= self.until || !self.any_alive(&nodes) => {
                    return self.held(nodes);
                }
                Stand::Held(_) => {}
                Stand::Free(..) if now() >= self.until => {
                    return self.unknown("the network is closed, its removal goes on");
                }
                Stand::Free(id, command) => self.finish(id, command, &mut events).await,
            }
            let left = self.until.saturating_sub(now()).clamp(10, 200);
            // A change or the time for another look: either way, look.
            let _ = timeout(Duration::from_millis(left), changes.changed()).await;
        }
    }

    fn stand(&self) -> Stand {
        self.desk.shared.read(|view| {
            let network = view.network(&self.c.tenant, &self.c.network);
            // A network of this name that was created since is another one.
            let Some(network) = network.filter(|n| n.created <= self.revision) else {
                return Stand::Gone(view.applied);
            };
            match (network.closing, view.cluster) {
                (Some(_), Some(cluster)) => match process::finish(cluster, network) {
                    Some((id, command)) => Stand::Free(id, command),
                    None => Stand::Held(network.holders()),
                },
                _ => Stand::Open,
            }
        })
    }

    async fn finish(&self, id: CommandId, command: Command, events: &mut Vec<Event>) {
        let finish = self.request(id, command);
        if let Reply::Accepted {
            revision,
            events: finished,
        } = execute(self.desk, finish).await
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

    /// Asks every holder at once for its blocks: who uses the network, and who can't be asked.
    async fn drain(&self, nodes: &[NodeName]) -> (Vec<EndpointUse>, Vec<String>) {
        let answers = join_all(nodes.iter().map(|node| self.ask(node))).await;
        let mut in_use = Vec::new();
        let mut refusals = Vec::new();
        for (node, answer) in nodes.iter().zip(answers) {
            match answer {
                Ok(NodeReply::InUse { endpoints }) => in_use.extend(endpoints),
                Ok(NodeReply::Done) => {}
                Ok(NodeReply::Refused { reason }) | Err(reason) => {
                    refusals.push(format!("node {node}: {reason}"));
                }
                Ok(_) => {
                    refusals.push(format!("node {node} answered another question"));
                }
            }
        }
        (in_use, refusals)
    }

    async fn ask(&self, node: &NodeName) -> Result<NodeReply, String> {
        if self.desk.client.connection_state() != State::Connected {
            return Err("the bus is away".to_owned());
        }
        let request = NodeRequest::Drain {
            tenant: self.c.tenant.clone(),
            network: self.c.network.clone(),
            revision: self.revision,
        };
        let left = self.until.saturating_sub(now()).min(DRAIN_MS);
        let subject = subject::of_node(node, request.verb());
        let payload = Bytes::from(codec::to_bytes(&request));
        let asked = self.desk.client.request(subject, payload);
        match timeout(Duration::from_millis(left), asked).await {
            Ok(Ok(message)) => codec::from_bytes(&message.payload).map_err(|e| e.to_string()),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Endpoints stand in the way: the network stays, and they are named.
    async fn abort(&self, mut endpoints: Vec<EndpointUse>) -> Reply {
        let abort = Command::NetworkRemove(NetworkRemove {
            mode: Removal::Abort,
            ..self.c.clone()
        });
        let step = format!("abort closing at {}", self.revision);
        let request = Request {
            deadline: self.until.saturating_add(WAY_BACK),
            ..self.request(CommandId::derive(self.id.0, &step), abort)
        };
        match execute(self.desk, request).await {
            Reply::Accepted { revision, .. } => {
                endpoints.sort();
                let rejection = Rejection::NetworkInUse {
                    tenant: self.c.tenant.clone(),
                    network: self.c.network.clone(),
                    endpoints,
                };
                Reply::Rejected {
                    rejection,
                    revision,
                }
            }
            rejected @ Reply::Rejected { .. } => rejected,
            Reply::Unknown { reason, .. } => self.unknown(&reason),
        }
    }

    /// It was closed by this very command once, and opened again because it is in use.
    fn reopened(&self) -> Reply {
        let (tenant, network) = (self.c.tenant.clone(), self.c.network.clone());
        self.desk.shared.read(|view| Reply::Rejected {
            revision: view.applied,
            rejection: Rejection::NetworkInUse {
                endpoints: view.users(&tenant, &network),
                tenant,
                network,
            },
        })
    }

    fn held(&self, nodes: Vec<NodeName>) -> Reply {
        Reply::Rejected {
            revision: self.desk.revision(),
            rejection: Rejection::NetworkHeld {
                tenant: self.c.tenant.clone(),
                network: self.c.network.clone(),
                nodes,
            },
        }
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
            seen: self.revision,
            body,
        }
    }
}
