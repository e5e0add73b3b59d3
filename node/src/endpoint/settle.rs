//! Gives back what isn't needed: blocks in which this node has used no address for a while, all of
//! its unused blocks when it is drained or has left, and those of a network that is being removed.
//! An address that was ceded to this node is a block of one address here.
//!
//! What is due follows from the facts and the ledger, so that a lost answer, a restart or a bus that
//! was away only makes it later. That a block or an address is given back for good is journaled when
//! the events that say so are on disk: with older facts a restart would give it out again. The daemon
//! runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::command::BlockLease;
use bus_schema::node::LogState;
use bus_schema::{Command, GroupName, NodeName, PoolKey, Revision};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use super::give_up::{command, is_closing, pool_around};
use super::ledger::{Ledger, NetworkKey, Record, Usage};
use super::pool::{NodeAddresses, is_ceded};
use super::{EndpointsHandle, Snapshot};
use crate::bus::{AskError, BusHandle};
use crate::store::Saved;
use node_core::projection::{NetworkFact, Projection};
use runtime::pause;

/// What is tried again when nobody answered.
const RETRY: Duration = Duration::from_secs(1);
/// How long the kernel may take to drop what had an address, before that is told.
const KERNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// What there is to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// The log has settled these.
    pub settled: Vec<Record>,
    /// Not used any more: to be returned.
    pub unused: Vec<Held>,
    /// To be asked of netmaster, after it is in the journal.
    pub returning: Vec<Held>,
    pub ceding: Vec<(NetworkKey, IpAddr, NodeName)>,
    /// Not used now: to be returned when they have been idle for a while.
    pub idle: Vec<Idle>,
}

/// A block of a network, or a ceded address as a block of one.
pub type Held = (NetworkKey, IpNet);

/// A block in which this node uses no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idle {
    pub block: Held,
    /// However long it is idle: it is this node's last one of a pool of which nobody else holds
    /// any, or this node asks for a block of the pool.
    pub stays: bool,
}

/// What netmaster has decided about what this node gives up, and by which revision: refused, or
/// carried out, perhaps long ago by the same command.
pub type Decided = BTreeMap<Held, Revision>;

/// What is due follows from these. They are read in this order, from `journaled` to `ledger`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The ledger as it was before the facts were read: of what it gives up the facts know at least
    /// that it was this node's.
    pub journaled: &'a Ledger,
    pub facts: &'a Projection,
    /// Pools of which this node asks for a block.
    pub leasing: &'a BTreeSet<PoolKey>,
    /// Addresses that are asked for by name and have no endpoint yet.
    pub asked: &'a BTreeSet<(NetworkKey, IpAddr)>,
    /// Whoever was given an address of the facts has it in here.
    pub ledger: &'a Ledger,
    /// What is still ours in facts of the revision by which it was decided stays ours.
    pub decided: &'a Decided,
    pub me: &'a NodeName,
}

/// What the facts and the ledger ask for.
pub fn due(inputs: Inputs<'_>) -> Due {
    let mut due = Due::default();
    for (key, usage) in inputs.ledger.networks() {
        inputs.given_up(key, usage, &mut due);
    }
    // A ledger that lost records doesn't know what is used.
    if inputs.ledger.is_incomplete() {
        return due;
    }
    for (tenant, network) in inputs.facts.networks() {
        let key = (tenant.clone(), network.spec.name.clone());
        inputs.unused(&key, network, &mut due);
    }
    due
}

impl Inputs<'_> {
    /// What the journal says that this node gives up.
    fn given_up(self, key: &NetworkKey, usage: &Usage, due: &mut Due) {
        let network = self.facts.network(&key.0, &key.1);
        let before = self.journaled.usage(key);
        let stays = |block: IpNet| {
            let at = self.decided.get(&(key.clone(), block));
            at.is_some_and(|at| self.facts.applied >= *at)
        };
        for block in &usage.returning {
            let ours = network.is_some_and(|it| it.blocks.get(block) == Some(self.me));
            if ours && !stays(*block) {
                due.returning.push((key.clone(), *block));
            } else if before.is_some_and(|it| it.returning.contains(block)) {
                due.settled.push(Record::ReturnEnded {
                    key: key.clone(),
                    block: *block,
                });
            }
        }
        for (address, to) in &usage.ceding {
            let ours = network.is_some_and(|it| it.is_held_by(*address, self.me));
            if ours && !stays(IpNet::from(*address)) {
                due.ceding.push((key.clone(), *address, to.clone()));
            } else if before.is_some_and(|it| it.ceding.contains_key(address)) {
                due.settled.push(Record::CedeEnded {
                    key: key.clone(),
                    address: *address,
                });
            }
        }
    }

    /// What this node doesn't need of a network.
    fn unused(self, key: &NetworkKey, network: &NetworkFact, due: &mut Due) {
        let usage = self.ledger.usage(key).cloned().unwrap_or_default();
        let asked = self.asked.iter().filter(|(it, _)| it == key);
        let asked = asked.map(|(_, address)| *address).collect();
        let holding = NodeAddresses {
            network,
            me: self.me,
            usage: &usage,
            asked: &asked,
        };
        let (mut idle, mut kept) = (Vec::new(), BTreeSet::new());
        let held = network.blocks_of(self.me);
        for block in held.filter(|block| !usage.returning.contains(block)) {
            if is_closing(self.facts, key, block) {
                // Whoever reserved an address doesn't get it any more.
                if !usage.in_use.keys().any(|address| block.contains(address)) {
                    due.unused.push((key.clone(), block));
                }
            } else if holding.is_unused(block) {
                idle.push(block);
            } else {
                kept.insert(pool_of(network, block));
            }
        }
        // Rather a block than an address that was ceded.
        idle.sort_by_key(|block| (is_ceded(network, *block), *block));
        let leaves = self.facts.takes_no_endpoints(self.me);
        for block in idle {
            let pool = pool_of(network, block);
            let is_last =
                !leaves && !is_shared(network, &pool, self.me) && kept.insert(pool.clone());
            let leased = PoolKey {
                tenant: key.0.clone(),
                network: key.1.clone(),
                group: pool.0,
            };
            let stays = is_last || self.leasing.contains(&leased);
            let block = (key.clone(), block);
            match leaves && !stays {
                true => due.unused.push(block),
                false => due.idle.push(Idle { block, stays }),
            }
        }
    }
}

/// The group whose pool the block is of, and its family.
fn pool_of(network: &NetworkFact, block: IpNet) -> (Option<GroupName>, bool) {
    let group = network.pool_around(block).cloned();
    (group, block.addr().is_ipv6())
}

/// Whether another node holds a block or a ceded address of the pool.
fn is_shared(network: &NetworkFact, pool: &(Option<GroupName>, bool), me: &NodeName) -> bool {
    let mut others = network.blocks.iter().filter(|(_, holder)| *holder != me);
    others.any(|(block, _)| pool_of(network, *block) == *pool)
}

/// Since when blocks have been idle. In memory: a restart begins anew.
#[derive(Debug, Default)]
pub struct IdleTimes(BTreeMap<Held, Instant>);

impl IdleTimes {
    /// Takes in which blocks are idle `now`. Answers with those to return, which have been idle for
    /// `after`, and when the next one will have been.
    pub fn expired(
        &mut self,
        idle: &[Idle],
        now: Instant,
        after: Duration,
    ) -> (Vec<Held>, Option<Instant>) {
        let since = |it: &Idle| (it.block.clone(), *self.0.get(&it.block).unwrap_or(&now));
        self.0 = idle.iter().map(since).collect();
        let ends = idle.iter().filter(|it| !it.stays);
        let ends = ends.map(|it| (it.block.clone(), self.0[&it.block] + after));
        let (expired, waiting): (Vec<_>, Vec<_>) = ends.partition(|(_, end)| *end <= now);
        let expired = expired.into_iter().map(|(block, _)| block).collect();
        (expired, waiting.into_iter().map(|(_, end)| end).min())
    }
}

/// Works off what is due, whenever the facts, the endpoints or the bus change. A block in which this
/// node uses no address for `block_idle` is returned.
pub async fn run(
    endpoints: EndpointsHandle,
    bus: BusHandle,
    me: NodeName,
    mut facts: watch::Receiver<Projection>,
    mut saved: watch::Receiver<Saved>,
    mut log: watch::Receiver<LogState>,
    block_idle: Duration,
) {
    let mut snapshots: watch::Receiver<Snapshot> = endpoints.snapshots();
    let (mut decided, mut idle_times) = (Decided::new(), IdleTimes::default());
    loop {
        let ready = *log.borrow_and_update() == LogState::InSync;
        // In the order that `Inputs` says.
        let journaled = snapshots.borrow_and_update().ledger.clone();
        let projection = facts.borrow_and_update().clone();
        let (leasing, asked) = (endpoints.leasing.all(), endpoints.asking.all());
        let snapshot = snapshots.borrow_and_update().clone();
        let mut due = due(Inputs {
            journaled: &journaled,
            facts: &projection,
            leasing: &leasing,
            asked: &asked,
            ledger: &snapshot.ledger,
            decided: &decided,
            me: &me,
        });
        let (expired, next) = idle_times.expired(&due.idle, Instant::now(), block_idle);
        let mut when = When::Changed;
        if ready {
            if saved.borrow_and_update().revision < projection.applied {
                due.settled.clear();
            }
            let work = Work {
                endpoints: &endpoints,
                bus: &bus,
                me: &me,
                facts: &projection,
                generation: snapshot.generation,
            };
            // A block that is being returned serves nobody until netmaster has taken it.
            let mut answers = true;
            if let Some((key, block)) = expired.first() {
                answers = work.netmaster_answers(key, *block).await;
            }
            due.unused.extend(expired.into_iter().filter(|_| answers));
            when = work.run(due, &mut decided).await;
            if !answers {
                when = when.max(When::Later);
            }
        }
        if when == When::Now {
            continue;
        }
        let retry = (when == When::Later).then(|| Instant::now() + RETRY);
        let again = next.into_iter().chain(retry).min();
        let again = async {
            match again {
                Some(when) => pause(when.saturating_duration_since(Instant::now())).await,
                None => std::future::pending().await,
            }
        };
        let gone = tokio::select! {
            changed = facts.changed() => changed.is_err(),
            changed = snapshots.changed() => changed.is_err(),
            changed = log.changed() => changed.is_err(),
            changed = saved.changed() => changed.is_err(),
            () = endpoints.ended.notified() => false,
            () = again => false,
        };
        if gone {
            return;
        }
    }
}

/// When there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum When {
    /// When the facts or the endpoints have changed.
    Changed,
    Later,
    /// A decision is known that the facts hold already.
    Now,
}

/// Works off what was due with these facts.
struct Work<'a> {
    endpoints: &'a EndpointsHandle,
    bus: &'a BusHandle,
    me: &'a NodeName,
    facts: &'a Projection,
    /// Of the snapshot from which it follows.
    generation: u64,
}

impl Work<'_> {
    /// Asks netmaster for an address of a block that this node holds: that changes nothing.
    async fn netmaster_answers(&self, (tenant, network): &NetworkKey, block: IpNet) -> bool {
        let command = Command::BlockLease(BlockLease {
            tenant: tenant.clone(),
            network: network.clone(),
            group: pool_around(self.facts, &(tenant.clone(), network.clone()), block),
            node: self.me.clone(),
            address: Some(block.addr()),
            v6: block.addr().is_ipv6(),
            ahead: true,
            waiting: 0,
        });
        let answer = self.bus.command(command).await;
        !matches!(answer, Err(AskError::Unreachable(_)))
    }

    async fn run(&self, due: Due, decided: &mut Decided) -> When {
        let mut when = When::Changed;
        if !due.settled.is_empty() && self.endpoints.settled(due.settled).await.is_err() {
            when = When::Later;
        }
        decided.retain(|held, _| {
            let ceded = |it: &(NetworkKey, IpAddr, NodeName)| {
                (&it.0, IpNet::from(it.1)) == (&held.0, held.1)
            };
            due.returning.contains(held) || due.ceding.iter().any(ceded)
        });
        let mut generation = self.generation;
        let mut returning = due.returning;
        for (key, block) in due.unused {
            match self.endpoints.start_return(key.clone(), block).await {
                Ok(empty_at) => {
                    generation = generation.max(empty_at);
                    returning.push((key, block));
                }
                Err(error) => {
                    tracing::debug!(%block, %error, "a block isn't returned");
                    when = When::Later;
                }
            }
        }
        let returning = returning.into_iter().map(|held| (held, None));
        let ceding = due.ceding.into_iter();
        let ceding = ceding.map(|(key, address, to)| ((key, IpNet::from(address)), Some(to)));
        let given_up: Vec<_> = returning.chain(ceding).collect();
        if given_up.is_empty() {
            return when;
        }
        if let Err(error) = self
            .endpoints
            .until_dropped(generation, KERNEL_TIMEOUT)
            .await
        {
            tracing::warn!(%error, "addresses aren't given up yet");
            return When::Later;
        }
        for (held, to) in given_up {
            when = when.max(self.give_up(held, to, decided).await);
        }
        when
    }

    /// Asks netmaster, unless somebody else does.
    async fn give_up(&self, held: Held, to: Option<NodeName>, decided: &mut Decided) -> When {
        // Whoever sends it wakes `run` at its end.
        let Some(_mark) = self.endpoints.giving.try_mark(held.clone()) else {
            return When::Changed;
        };
        let (network, block) = (&held.0.1, held.1);
        let command = command(self.facts, self.me, &held.0, block, to);
        let id = self.endpoints.command_id(&held.0, block);
        let revision = match self.bus.command_as(id, command).await {
            Ok(revision) => {
                tracing::info!(%network, %block, %revision, "given up");
                revision
            }
            // Not ours according to the log, mostly: the facts will say so.
            Err(AskError::Rejected {
                rejection,
                revision,
            }) => {
                tracing::info!(%network, %block, %rejection, "not given up");
                revision
            }
            Err(AskError::Unreachable(reason)) => {
                tracing::debug!(%network, %block, reason, "not given up yet");
                return When::Later;
            }
        };
        decided.insert(held, revision);
        match revision <= self.facts.applied {
            true => When::Now,
            false => When::Changed,
        }
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
