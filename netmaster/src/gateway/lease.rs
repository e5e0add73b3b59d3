//! Leases of blocks. When no block of the pool is free, the nodes that hold its blocks are asked to
//! give up addresses: a whole block, which is then leased, or a single address, which its holder
//! cedes to the asker.
//!
//! One pool is searched once at a time, so that two askers don't take the same addresses. A command that is
//! sent again waits for the outcome of its search.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use actors::aggregate::{Next, Search};
use bus_schema::command::{BlockLease, Request};
use bus_schema::node::{NodeReply, NodeRequest, Spare};
use bus_schema::rejection::Holders;
use bus_schema::{Command, NodeName, PoolKey, Rejection, Reply, Revision};
use futures::{StreamExt, stream};
use ipnet::IpNet;
use runtime::{now, pause};
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;

use super::desk::Desk;
use crate::view::Held;

/// How long a node may take to report how much it could give up.
const SPARE_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a node may take to return a block or to cede an address.
const GIVE_UP_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Nodes that are asked at the same time.
const MAX_ASKED_AT_ONCE: usize = 64;
/// Addresses that a node cedes to another at once: each is an event of its own.
const MAX_CEDED_AT_ONCE: u16 = 64;
/// With less time left, no holder is asked again.
const MIN_ROUND_TIME: Duration = Duration::from_millis(200);
/// How long a search waits for the feed.
const FEED_TIMEOUT_MS: u64 = 500;
/// The pause before all holders are asked again.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// Time reserved for the last decision and for the answer's way.
const RESERVED_MS: u64 = 300;

/// Leases a block to a node that needs an address, or has another node cede it one.
pub(super) async fn lease(desk: &Rc<Desk>, request: Request<Command>, c: &BlockLease) -> Reply {
    let id = request.id;
    let outcome = match desk.searches.outcome(id) {
        Some(outcome) => outcome,
        None => match desk.execute(request.clone()).await {
            reply if exhausted_at(&reply).is_none() => return reply,
            _ => desk.searches.begin(id, now()),
        },
    };
    let search = async || {
        let lease = Lease {
            desk,
            until: request.deadline.saturating_sub(RESERVED_MS),
            request: request.clone(),
            pool: c.pool(),
            v6: c.v6,
            asker: c.node.clone(),
            waiting: c.waiting,
        };
        match lease.search().await {
            unknown @ Reply::Unknown { .. } => Err(unknown),
            reply => Ok(reply),
        }
    };
    match outcome.get_or_try_init(search).await {
        Ok(reply) => reply.clone(),
        // If the command is sent again, the search begins again.
        Err(unknown) => unknown,
    }
}

/// A lease for which no block is free.
struct Lease<'a> {
    desk: &'a Rc<Desk>,
    request: Request<Command>,
    pool: PoolKey,
    v6: bool,
    asker: NodeName,
    /// Endpoints that wait at the asker.
    waiting: u16,
    /// In milliseconds since 1970.
    until: u64,
}

type Blocks = BTreeMap<IpNet, Held>;

/// How a round of questions to the holders ended.
enum Round {
    /// A node has returned a block.
    Returned,
    /// A node has ceded an address to the asker, at this revision.
    Ceded(Revision),
    /// Every node that offered addresses gave none up.
    GaveNothing,
    /// Nobody offered an address.
    Exhausted,
}

impl Lease<'_> {
    /// Each round begins with a decision of the lease: a block that comes back may be leased to
    /// another node first, and one may come back by itself. Nodes that didn't answer another search
    /// a moment ago are asked last: else each search would wait for the same silent node.
    async fn search(&self) -> Reply {
        let Some(_turn) = self.turn().await else {
            return self.unknown(&format!(
                "other nodes wait for addresses of {}, too",
                self.pool
            ));
        };
        let mut search = Search::new(self.asker.clone(), []);
        // The blocks of which every holder was asked in vain. If others are held now, addresses
        // went to a node that had answered before they did.
        let mut asked_in_vain = None;
        let mut ask_all = false;
        loop {
            let reply = self.desk.execute(self.request.clone()).await;
            let Some(decided_at) = exhausted_at(&reply) else {
                return reply;
            };
            let Some(blocks) = self.blocks(decided_at).await else {
                return self.unknown("this netmaster is behind with the log");
            };
            let holders = search.holders();
            let is_late = self.left() < MIN_ROUND_TIME;
            if is_late && holders.is_empty() {
                return self.unknown("there was no time left to ask other nodes for addresses");
            }
            if is_late || asked_in_vain.as_ref() == Some(&blocks) {
                return with_holders(reply, holders);
            }
            let all: BTreeSet<NodeName> = blocks.values().map(|it| it.node.clone()).collect();
            let mut asked = all.clone();
            asked.retain(|node| ask_all || !self.desk.searches.is_unresponsive(node, now()));
            let is_all = asked == all;
            search = Search::new(self.asker.clone(), asked);
            match self.round(&mut search, decided_at).await {
                Round::Returned => {}
                Round::Ceded(revision) => {
                    let events = vec![];
                    return Reply::Accepted { revision, events };
                }
                Round::GaveNothing => pause(ROUND_PAUSE).await,
                Round::Exhausted if is_all => asked_in_vain = Some(blocks),
                Round::Exhausted => ask_all = true,
            }
        }
    }

    /// Waits for the other searches in the pool; `None`: they weren't over in time.
    async fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        let turn = self.desk.searches.turn(&self.pool);
        timeout(self.left(), turn.lock_owned()).await.ok()
    }

    fn left(&self) -> Duration {
        Duration::from_millis(self.until.saturating_sub(now()))
    }

    /// The leased blocks of the pool, as of this revision or later; `None`: the feed is behind.
    async fn blocks(&self, revision: Revision) -> Option<Blocks> {
        let until = now().saturating_add(FEED_TIMEOUT_MS);
        let shared = &self.desk.shared;
        let is_read = shared.reach(revision, until).await;
        is_read.then(|| shared.read(|view| view.blocks_of_pool(&self.pool, self.v6)))
    }

    fn unknown(&self, reason: &str) -> Reply {
        Reply::Unknown {
            id: self.request.id,
            reason: reason.to_owned(),
        }
    }

    /// Asks all holders once how much they could give up, and those that offer addresses for them.
    async fn round(&self, search: &mut Search, decided_at: Revision) -> Round {
        let holders: Vec<NodeName> = search.awaited().cloned().collect();
        let answers = stream::iter(holders).map(async |node| {
            let answer = self.spare(&node, decided_at).await;
            (node, answer)
        });
        let mut answers = std::pin::pin!(answers.buffer_unordered(MAX_ASKED_AT_ONCE));
        loop {
            match search.next() {
                Next::Wait => match answers.next().await {
                    Some((node, answer)) => search.answered(&node, answer),
                    None => return Round::Exhausted,
                },
                Next::ReturnBlock(node) => match self.return_block(&node).await {
                    Ok(_) => return Round::Returned,
                    Err(reason) => search.gave_nothing(&node, reason),
                },
                Next::CedeAny(node) => match self.cede_any(&node).await {
                    Ok(revision) => return Round::Ceded(revision),
                    Err(reason) => search.gave_nothing(&node, reason),
                },
                Next::AskAgain => return Round::GaveNothing,
                Next::Exhausted(_) => return Round::Exhausted,
            }
        }
    }

    async fn spare(&self, node: &NodeName, revision: Revision) -> Result<Spare, String> {
        if let Some(reason) = self.desk.shared.read(|view| view.silence(node, now())) {
            return Err(reason);
        }
        let (pool, v6) = (self.pool.clone(), self.v6);
        let request = NodeRequest::Spare { pool, v6, revision };
        match self.ask(node, &request, SPARE_TIMEOUT).await? {
            NodeReply::Spare(spare) => Ok(spare),
            _ => Err("it sent another kind of answer".to_owned()),
        }
    }

    async fn return_block(&self, node: &NodeName) -> Result<Revision, String> {
        let (pool, v6) = (self.pool.clone(), self.v6);
        self.give_up(node, &NodeRequest::ReturnBlock { pool, v6 })
            .await
    }

    async fn cede_any(&self, node: &NodeName) -> Result<Revision, String> {
        let request = NodeRequest::CedeAny {
            pool: self.pool.clone(),
            v6: self.v6,
            to: self.asker.clone(),
            count: self.waiting.min(MAX_CEDED_AT_ONCE),
        };
        self.give_up(node, &request).await
    }

    async fn give_up(&self, node: &NodeName, request: &NodeRequest) -> Result<Revision, String> {
        match self.ask(node, request, GIVE_UP_TIMEOUT).await {
            Ok(NodeReply::GaveUp { revision }) => Ok(revision),
            Ok(_) => Err("it sent another kind of answer".to_owned()),
            Err(reason) => {
                let (pool, verb) = (&self.pool, request.verb());
                tracing::info!("{verb} of {pool}: node {node}: {reason}");
                Err(reason)
            }
        }
    }

    async fn ask(
        &self,
        node: &NodeName,
        request: &NodeRequest,
        within: Duration,
    ) -> Result<NodeReply, String> {
        let within = within.min(self.left());
        let answer = self.desk.ask_node(node, request, within).await;
        self.desk.searches.heard(node, answer.is_ok(), now());
        match answer? {
            NodeReply::Refused { reason } => Err(reason),
            reply => Ok(reply),
        }
    }
}

/// The revision at which a lease is refused because no block is free; `None`: it isn't.
fn exhausted_at(reply: &Reply) -> Option<Revision> {
    match reply {
        Reply::Rejected {
            rejection: Rejection::PoolExhausted { .. } | Rejection::GroupPoolExhausted { .. },
            revision,
            ..
        } => Some(*revision),
        _ => None,
    }
}

/// Adds the holders of the pool's addresses to the refusal.
fn with_holders(reply: Reply, found: Holders) -> Reply {
    match reply {
        Reply::Rejected {
            mut rejection,
            revision,
            ..
        } => {
            if let Rejection::PoolExhausted { holders, .. }
            | Rejection::GroupPoolExhausted { holders, .. } = &mut rejection
            {
                **holders = found;
            }
            Reply::rejected(rejection, revision)
        }
        reply => reply,
    }
}
