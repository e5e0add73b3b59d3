//! Finds the blocks and addresses that this node should give up, as a value.
//!
//! Pure. They follow from the facts and the ledger, so a lost reply, a restart or an absent bus only
//! delays them. [`settle`](super::settle) gives them up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::{GroupName, NodeName, PoolKey, Revision};
use ipnet::IpNet;
use tokio::time::Instant;

use super::give_up::is_closing;
use super::ledger::{Ledger, NetworkKey, Record, Usage};
use super::pool::{NodeAddresses, is_ceded};
use node_core::projection::{NetworkFact, Projection};

/// The work that is due, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Returns and cedes that ended, by the log: to be journaled.
    pub ended: Vec<Record>,
    /// Blocks that aren't needed any more: to be returned.
    pub unused: Vec<BlockKey>,
    /// Journaled as being returned: netmaster is to be asked.
    pub returning: Vec<BlockKey>,
    pub ceding: Vec<(NetworkKey, IpAddr, NodeName)>,
    /// Blocks without a used address: to be returned when they have been idle for a while.
    pub idle: Vec<IdleBlock>,
}

/// A block of a network, or a ceded address as a block of one.
pub(super) type BlockKey = (NetworkKey, IpNet);

/// A block in which this node uses no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdleBlock {
    pub block: BlockKey,
    /// Never returned for being idle: it is this node's last block of a pool of which no other node
    /// holds any, or this node requests a block of the pool.
    pub stays: bool,
}

/// The revisions by which netmaster decided about blocks that this node gives up: it refused, or
/// accepted, perhaps long ago by the same command.
pub(super) type Decisions = BTreeMap<BlockKey, Revision>;

/// The facts and ledgers from which the due work follows. They are read in this order, from `journaled`
/// to `ledger`.
#[derive(Debug, Clone, Copy)]
pub(super) struct DueInputs<'a> {
    /// The ledger as it was before the facts were read: the facts know of each block that it gives up
    /// that this node held it.
    pub journaled: &'a Ledger,
    pub facts: &'a Projection,
    /// Pools of which this node requests a block.
    pub leasing: &'a BTreeSet<PoolKey>,
    /// Addresses that are requested by name and have no endpoint yet.
    pub requested: &'a BTreeSet<(NetworkKey, IpAddr)>,
    /// The ledger as it was after the facts were read: it has every endpoint with an address of theirs.
    pub ledger: &'a Ledger,
    /// A block that is still ours in facts of the revision of the decision stays ours.
    pub decisions: &'a Decisions,
    pub me: &'a NodeName,
}

/// Finds the work that is due by the facts and the ledger.
pub(super) fn due(inputs: DueInputs<'_>) -> Due {
    let mut due = Due::default();
    for (key, usage) in inputs.ledger.networks() {
        inputs.add_given_up(key, usage, &mut due);
    }
    // A ledger that lost records lacks addresses in use.
    if inputs.ledger.is_incomplete() {
        return due;
    }
    for (tenant, network) in inputs.facts.networks() {
        let key = (tenant.clone(), network.spec.name.clone());
        inputs.add_unneeded(&key, network, &mut due);
    }
    due
}

impl DueInputs<'_> {
    /// Adds the blocks and addresses that the journal records as given up.
    fn add_given_up(self, key: &NetworkKey, usage: &Usage, due: &mut Due) {
        let network = self.facts.network(&key.0, &key.1);
        let before = self.journaled.usage(key);
        let stays = |block: IpNet| {
            let at = self.decisions.get(&(key.clone(), block));
            at.is_some_and(|at| self.facts.applied >= *at)
        };
        for block in &usage.returning {
            let ours = network.is_some_and(|it| it.blocks.get(block) == Some(self.me));
            if ours && !stays(*block) {
                due.returning.push((key.clone(), *block));
            } else if before.is_some_and(|it| it.returning.contains(block)) {
                due.ended.push(Record::ReturnEnded {
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
                due.ended.push(Record::CedeEnded {
                    key: key.clone(),
                    address: *address,
                });
            }
        }
    }

    /// Adds the blocks of a network that this node doesn't need.
    fn add_unneeded(self, key: &NetworkKey, network: &NetworkFact, due: &mut Due) {
        let usage = self.ledger.usage(key).cloned().unwrap_or_default();
        let requested = self.requested.iter().filter(|(it, _)| it == key);
        let requested = requested.map(|(_, address)| *address).collect();
        let holding = NodeAddresses {
            network,
            me: self.me,
            usage: &usage,
            asked: &requested,
        };
        let (mut idle, mut kept) = (Vec::new(), BTreeSet::new());
        let held = network.blocks_of(self.me);
        for block in held.filter(|block| !usage.returning.contains(block)) {
            if is_closing(self.facts, key, block) {
                // A reserved address isn't given to an endpoint any more.
                if !usage.in_use.keys().any(|address| block.contains(address)) {
                    due.unused.push((key.clone(), block));
                }
            } else if holding.is_unused(block) {
                idle.push(block);
            } else {
                kept.insert(pool_of(network, block));
            }
        }
        // The last one that stays is a block rather than a ceded address.
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
                false => due.idle.push(IdleBlock { block, stays }),
            }
        }
    }
}

/// The group whose pool the block belongs to, and whether it is IPv6.
fn pool_of(network: &NetworkFact, block: IpNet) -> (Option<GroupName>, bool) {
    let group = network.pool_around(block).cloned();
    (group, block.addr().is_ipv6())
}

/// Whether another node holds a block or a ceded address of the pool.
fn is_shared(network: &NetworkFact, pool: &(Option<GroupName>, bool), me: &NodeName) -> bool {
    let mut others = network.blocks.iter().filter(|(_, holder)| *holder != me);
    others.any(|(block, _)| pool_of(network, *block) == *pool)
}

/// The times since when blocks have been idle. They are in memory only: a restart begins anew.
#[derive(Debug, Default)]
pub(super) struct IdleTimes(BTreeMap<BlockKey, Instant>);

impl IdleTimes {
    /// Updates the times with the blocks that are idle `now`. Returns the blocks that have been idle for
    /// `after`, and the time at which the next one will have been.
    pub(super) fn expired(
        &mut self,
        idle: &[IdleBlock],
        now: Instant,
        after: Duration,
    ) -> (Vec<BlockKey>, Option<Instant>) {
        let since = |it: &IdleBlock| (it.block.clone(), *self.0.get(&it.block).unwrap_or(&now));
        self.0 = idle.iter().map(since).collect();
        let ends = idle.iter().filter(|it| !it.stays);
        let ends = ends.map(|it| (it.block.clone(), self.0[&it.block] + after));
        let (expired, waiting): (Vec<_>, Vec<_>) = ends.partition(|(_, end)| *end <= now);
        let expired = expired.into_iter().map(|(block, _)| block).collect();
        (expired, waiting.into_iter().map(|(_, end)| end).min())
    }
}

#[cfg(test)]
#[path = "due_tests.rs"]
mod tests;
