//! Chooses addresses to allocate and to give up, out of the blocks that the log leases to this node.
//!
//! Pure; `now` is an argument. The address that was freed longest ago comes first, and a recently
//! freed one only when no other is left. An address of a block that is being returned, one that was
//! ceded to another node and one that another request names are never allocated. An address that was
//! ceded to this node is allocated like those of its blocks. The manager calls it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::node::Spare;
use bus_schema::{GroupName, NodeName, Pool};
use ipnet::IpNet;

use super::ledger::Usage;
use crate::projection::NetworkFact;

/// The time in ms that an address rests after use, so that no late packet reaches its next owner.
pub const REST_MS: u64 = 10_000;

/// The next address for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Rested(IpAddr),
    /// Only addresses that were freed within [`REST_MS`] are left; this is the one freed first.
    Recent(IpAddr),
    /// Another block is needed.
    None,
}

/// Selects the pool of an address: the group's, if it has one, else the network's.
#[derive(Debug, Clone, Copy)]
pub struct PoolSelector<'a> {
    pub group: Option<&'a GroupName>,
    pub v6: bool,
}

/// The addresses of a network that a node holds, and their states.
#[derive(Debug, Clone, Copy)]
pub struct NodeAddresses<'a> {
    pub network: &'a NetworkFact,
    pub me: &'a NodeName,
    pub usage: &'a Usage,
    /// The addresses of the network that requests under way name.
    pub asked: &'a BTreeSet<IpAddr>,
}

impl<'a> NodeAddresses<'a> {
    /// Chooses an address of `me`'s blocks.
    pub fn choose(self, selector: PoolSelector<'_>, now: u64) -> Choice {
        let pool = self.network.pool(selector.group, selector.v6);
        let free = pool.iter().flat_map(|pool| self.free_in(pool, selector));
        match free.min_by_key(|address| self.freed(*address)) {
            None => Choice::None,
            Some(address) if self.is_rested(address, now) => Choice::Rested(address),
            Some(address) => Choice::Recent(address),
        }
    }

    /// The free addresses of `me`'s blocks, the one that was freed longest ago first.
    pub fn free(self, selector: PoolSelector<'_>) -> Vec<IpAddr> {
        let pool = self.network.pool(selector.group, selector.v6);
        let free = pool.iter().flat_map(|pool| self.free_in(pool, selector));
        let mut free: Vec<IpAddr> = free.collect();
        free.sort_by_key(|address| self.freed(*address));
        free
    }

    fn free_in<'b>(
        self,
        pool: &'b Pool,
        selector: PoolSelector<'b>,
    ) -> impl Iterator<Item = IpAddr> + 'b
    where
        'a: 'b,
    {
        self.blocks(pool, selector)
            .filter(move |block| !self.usage.returning.contains(block))
            .flat_map(move |block| self.usable(pool, block, selector))
            .filter(move |address| self.is_free(*address))
    }

    /// The order of choice: the time at which an address was freed, 0: never.
    fn freed(self, address: IpAddr) -> (u64, IpAddr) {
        let freed = self.usage.freed.get(&address).copied();
        (freed.unwrap_or(0), address)
    }

    fn is_rested(self, address: IpAddr, now: u64) -> bool {
        let freed = self.usage.freed.get(&address);
        freed.is_none_or(|at| at.saturating_add(REST_MS) <= now)
    }

    /// Whether half of the addresses that `me` may allocate are taken, so that it needs the next block.
    pub fn is_half_full(self, selector: PoolSelector<'_>) -> bool {
        let Some(pool) = self.network.pool(selector.group, selector.v6) else {
            return false;
        };
        let blocks = self.blocks(&pool, selector);
        let blocks = blocks.filter(|block| !self.usage.returning.contains(block));
        let usable = blocks.flat_map(|block| self.usable(&pool, block, selector));
        let (mut taken, mut all) = (0, 0);
        for address in usable {
            all += 1;
            taken += usize::from(self.usage.is_taken(address));
        }
        taken * 2 >= all
    }

    /// The number of a pool's addresses that `me` holds and could give up.
    pub fn spare(self, selector: PoolSelector<'_>, now: u64) -> Spare {
        let mut spare = Spare::default();
        let Some(pool) = self.network.pool(selector.group, selector.v6) else {
            return spare;
        };
        for block in self.blocks(&pool, selector) {
            let returning = self.usage.returning.contains(&block);
            let mut recent = 0;
            for address in self.usable(&pool, block, selector) {
                if self.usage.ceding.contains_key(&address) {
                    spare.ceding += 1;
                    continue;
                }
                spare.addresses += 1;
                let could_cede = !returning && self.is_free(address);
                if self.usage.is_taken(address) {
                    spare.in_use += 1;
                } else if could_cede && self.is_rested(address, now) {
                    spare.free += 1;
                } else if could_cede {
                    recent += 1;
                }
            }
            spare.recent += recent;
            let is_unused = recent == 0 && self.is_returnable(&pool, block, selector);
            spare.blocks += u64::from(returning || is_unused);
        }
        spare
    }

    /// The block to return: of those without a used address the one that was used longest ago.
    pub fn returnable_block(self, selector: PoolSelector<'_>) -> Option<IpNet> {
        let pool = self.network.pool(selector.group, selector.v6)?;
        let used = |block: &IpNet| {
            let freed = self.usage.freed.iter();
            let freed = freed.filter(|(address, _)| block.contains(*address));
            freed.map(|(_, at)| *at).max()
        };
        self.blocks(&pool, selector)
            .filter(|block| !self.usage.returning.contains(block))
            .filter(|block| self.is_returnable(&pool, *block, selector))
            .min_by_key(|block| (used(block), *block))
    }

    /// A block of the pool that `me` is returning according to its journal.
    pub fn returning_block(self, selector: PoolSelector<'_>) -> Option<IpNet> {
        let pool = self.network.pool(selector.group, selector.v6)?;
        self.blocks(&pool, selector)
            .find(|block| self.usage.returning.contains(block))
    }

    /// Whether no address in the block is in use, reserved, promised, requested or being ceded.
    pub fn is_unused(self, block: IpNet) -> bool {
        self.usage.taken_in(block) == 0
            && !self.usage.ceding.keys().any(|it| block.contains(it))
            && !self.asked.iter().any(|it| block.contains(it))
    }

    /// Whether another node can lease this block once `me` returned it: an address that was ceded to
    /// `me` lies inside a block that may be another node's.
    fn is_returnable(self, pool: &Pool, block: IpNet, selector: PoolSelector<'_>) -> bool {
        !is_ceded(self.network, block)
            && self.is_unused(block)
            && self.usable(pool, block, selector).next().is_some()
    }

    fn is_free(self, address: IpAddr) -> bool {
        !self.usage.is_taken(address) && !self.asked.contains(&address)
    }

    /// The addresses of a block of `me` that an endpoint of the pool may have.
    fn usable<'b>(
        self,
        pool: &'b Pool,
        block: IpNet,
        selector: PoolSelector<'b>,
    ) -> impl Iterator<Item = IpAddr> + 'b
    where
        'a: 'b,
    {
        block.hosts_of().filter(move |address| {
            let holder = self.network.block_of(*address);
            pool.is_assignable(*address)
                && is_for(self.network, *address, selector.group)
                && holder == Some((block, self.me))
        })
    }

    /// The blocks of `me` in the pool, addresses that were ceded to it included.
    fn blocks<'b>(
        self,
        pool: &'b Pool,
        selector: PoolSelector<'b>,
    ) -> impl Iterator<Item = IpNet> + 'b
    where
        'a: 'b,
    {
        let own = selector
            .group
            .filter(|it| self.network.pools.contains_key(*it));
        let network = self.network;
        network
            .blocks_of(self.me)
            .filter(move |block| pool.subnet.contains(block) && network.pool_around(*block) == own)
    }
}

/// Whether an address is for members of the group; without a pool of the group, for the network's.
fn is_for(network: &NetworkFact, address: IpAddr, group: Option<&GroupName>) -> bool {
    let of = network.pool_of(address).map(|(group, _)| group);
    of == group.filter(|it| network.pools.contains_key(*it))
}

/// Whether a block is one address that its holder ceded, not a block of the pool's own size.
pub fn is_ceded(network: &NetworkFact, block: IpNet) -> bool {
    let group = network.pool_of(block.addr()).map(|(group, _)| group);
    let pool = network.pool(group, block.addr().is_ipv6());
    block.prefix_len() == block.max_prefix_len()
        && pool.is_some_and(|pool| pool.block_at(block.addr()) != block)
}

trait HostsOf {
    fn hosts_of(&self) -> Box<dyn Iterator<Item = IpAddr>>;
}

impl HostsOf for IpNet {
    /// Every address of the block; the pool excludes those that no endpoint may have.
    fn hosts_of(&self) -> Box<dyn Iterator<Item = IpAddr>> {
        match self {
            Self::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                Box::new((first..=last).map(|bits| IpAddr::V4(bits.into())))
            }
            Self::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                Box::new((first..=last).map(|bits| IpAddr::V6(bits.into())))
            }
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
