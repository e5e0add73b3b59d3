//! Removes a node. A live node is drained first and asked whether it is empty; if it isn't, the drain is
//! taken back, unless an operator had drained the node before, or drains it meanwhile through this
//! netmaster. A node that can't be asked is removed if it holds no block, or if it is lost.
//!
//! The command may be sent again while it is carried out, also to another netmaster: the id of each step
//! derives from the command's, so that it happens once.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::aggregate::ClusterFacts;
use actors::shell::External;
use bus_schema::command::{NodeDrain, NodeRemove, NodeUncordon, Request};
use bus_schema::node::{ALIVE_MS, NodeReply, NodeRequest};
use bus_schema::{Command, CommandId, NodeName, Rejection, Reply, Revision};

use super::desk::Desk;
use runtime::{now, pause};

/// Time reserved for taking the drain back and for the answer's way.
const RESERVED_MS: u64 = 1_500;
/// How long the node may take to become empty; its netplugin gives up before.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);
/// The pause between two questions to a node that doesn't answer.
const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// Whether a live node is empty.
enum Emptiness {
    /// Empty since it was drained for this time.
    Empty(u32),
    /// It has fallen silent meanwhile.
    Silent,
    Refused(Rejection),
    /// It isn't known yet whether it is empty; why.
    Unknown(String),
}

pub(super) async fn remove(desk: &Rc<Desk>, request: Request<Command>, c: &NodeRemove) -> Reply {
    let removal = NodeRemoval {
        desk,
        node: &c.node,
        id: request.id,
        until: request.deadline.saturating_sub(RESERVED_MS),
    };
    if let Err(reason) = desk.prove(Instant::now(), request.deadline).await {
        return removal.unknown(reason);
    }
    let is_alive = removal.is_alive().await;
    if c.lost || !is_alive {
        return removal.decide(request, None).await;
    }
    let under_way = desk.removals.begin(&c.node);
    let (revision, drained_here) = match removal.drain().await {
        Reply::Accepted { revision, events } => (revision, !events.is_empty()),
        // The node is gone, perhaps by this very command: then its answer is in the log.
        Reply::Rejected { .. } => return removal.decide(request, None).await,
        unknown @ Reply::Unknown { .. } => return unknown,
    };
    let asked = removal.ask(revision).await;
    if !removal.is_member() {
        // The same command, sent twice, has removed it already.
        return removal.decide(request, None).await;
    }
    let refusal = match asked {
        Emptiness::Empty(drains) => return removal.decide(request, Some(drains)).await,
        Emptiness::Silent => match removal.decide(request, None).await {
            Reply::Rejected { rejection, .. } => rejection,
            reply => return reply,
        },
        Emptiness::Refused(rejection) => rejection,
        Emptiness::Unknown(reason) => return removal.unknown(reason),
    };
    match drained_here && !under_way.operator_drained.get() {
        true => removal.uncordon(refusal).await,
        false => Reply::rejected(refusal, desk.revision()),
    }
}

struct NodeRemoval<'a> {
    desk: &'a Rc<Desk>,
    node: &'a NodeName,
    id: CommandId,
    /// In milliseconds since 1970.
    until: u64,
}

impl NodeRemoval<'_> {
    /// Whether the node is alive. A netmaster that started a moment ago, or gets no statuses because it was
    /// cut off, waits for as long as a node may be silent.
    async fn is_alive(&self) -> bool {
        let heard = || self.desk.shared.read(|view| view.alive(self.node, now()));
        let hears_nobody = self.desk.shared.read(|view| view.hears_nobody(now()));
        let since = match hears_nobody {
            true => now(),
            false => self.desk.since,
        };
        let listened = since.saturating_add(ALIVE_MS).min(self.until);
        while !heard() && now() < listened {
            pause(RETRY_PAUSE).await;
        }
        heard()
    }

    fn is_member(&self) -> bool {
        let shared = &self.desk.shared;
        shared.read(|view| view.nodes.contains_key(self.node))
    }

    /// Has the cluster decide, with the node's state and its blocks as of a proved end of the log.
    async fn decide(&self, request: Request<Command>, emptied: Option<u32>) -> Reply {
        if let Err(reason) = self.desk.prove(Instant::now(), request.deadline).await {
            return self.unknown(reason);
        }
        let cluster = self.desk.shared.read(|view| ClusterFacts {
            alive: view.alive(self.node, now()),
            holds: view.held_by(self.node),
            emptied,
            ..ClusterFacts::default()
        });
        let external = External {
            cluster,
            ..External::default()
        };
        self.desk.registry.execute(request, external).await
    }

    async fn drain(&self) -> Reply {
        let node = self.node.clone();
        let drain = Command::NodeDrain(NodeDrain { node });
        self.step("drain", drain).await
    }

    /// Takes back the drain of this removal, which is refused.
    async fn uncordon(&self, refusal: Rejection) -> Reply {
        let node = self.node.clone();
        let uncordon = Command::NodeUncordon(NodeUncordon { node });
        match self.step("uncordon", uncordon).await {
            Reply::Accepted { revision, .. } | Reply::Rejected { revision, .. } => {
                Reply::rejected(refusal, revision)
            }
            Reply::Unknown { reason, .. } => self.unknown(format!(
                "{refusal}; and it isn't known whether the node is uncordoned again ({reason}): see `netctl node ls`"
            )),
        }
    }

    async fn step(&self, name: &str, body: Command) -> Reply {
        let request = Request {
            id: CommandId::derive(self.id.0, &format!("{name} {}", self.node)),
            deadline: self.until.saturating_add(RESERVED_MS),
            within: None,
            seen: self.desk.revision(),
            linearizable: false,
            body,
        };
        match self.desk.execute(request).await {
            Reply::Unknown { reason, .. } => self.unknown(reason),
            reply => reply,
        }
    }

    /// Asks the node, which was drained at `revision`, until it answers or falls silent.
    async fn ask(&self, revision: Revision) -> Emptiness {
        if !self.desk.shared.reach(revision, self.until).await {
            return Emptiness::Unknown(format!(
                "this netmaster has read the log up to {}, not yet {revision}; node {} is drained: remove it again, or end the drain with `netctl node uncordon {}`",
                self.desk.revision(),
                self.node,
                self.node
            ));
        }
        // The number of the drain must be read before the node is asked.
        let (drains, revision) = self.desk.shared.read(|view| {
            let node = view.nodes.get(self.node).filter(|node| node.drained);
            (node.map(|node| node.drains), revision.max(view.applied))
        });
        let Some(drains) = drains else {
            return self.not_drained("it was uncordoned meanwhile".to_owned());
        };
        let request = NodeRequest::DrainNode { revision };
        loop {
            let left = Duration::from_millis(self.until.saturating_sub(now()));
            let asked = self
                .desk
                .ask_node(self.node, &request, left.min(ANSWER_TIMEOUT));
            let reason = match asked.await {
                Ok(NodeReply::Done) => return Emptiness::Empty(drains),
                Ok(NodeReply::InUse { endpoints }) => {
                    let node = self.node.clone();
                    return Emptiness::Refused(Rejection::NodeHasEndpoints { node, endpoints });
                }
                Ok(NodeReply::Refused { reason } | NodeReply::HoldsBlocks { reason }) => {
                    return self.not_drained(reason);
                }
                Ok(_) => return self.not_drained("it sent another kind of answer".to_owned()),
                Err(reason) => reason,
            };
            if !self.desk.shared.read(|view| view.alive(self.node, now())) {
                return Emptiness::Silent;
            }
            if now() >= self.until {
                return self.not_drained(reason);
            }
            pause(RETRY_PAUSE).await;
        }
    }

    fn not_drained(&self, reason: String) -> Emptiness {
        let node = self.node.clone();
        Emptiness::Refused(Rejection::NodeNotDrained { node, reason })
    }

    fn unknown(&self, reason: String) -> Reply {
        Reply::Unknown {
            id: self.id,
            reason,
        }
    }
}
