//! Which address comes next, and which can be given up: out of the blocks that the log leases to
//! this node.
//!
//! Pure; `now` is an argument. The longest-freed address first, and one that was freed a moment
//! ago only when nothing else is left. A block that is being returned, an address that was ceded
//! to another node and one that somebody asks for by name are never given out. An address that was
//! ceded to this node is given out like those of its blocks. The manager asks.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::node::Spare;
use bus_schema::{GroupName, NodeName, Pool};
use ipnet::IpNet;

use super::ledger::Usage;
use crate::projection::NetworkFact;

/// Milliseconds that an address rests after use, so that nobody's late packet meets its next owner.
pub const REST_MS: u64 = 10_000;

/// The next address for an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Rested(IpAddr),
    /// Nothing but addresses freed a moment ago is left; this one the longest.
    Recent(IpAddr),
    /// Another block is needed.
    None,
}

/// Whose address is chosen: a member's of a group, if its group has a pool of its own.
#[derive(Debug, Clone, Copy)]
pub struct For<'a> {
    pub group: Option<&'a GroupName>,
    pub v6: bool,
}

/// What a node holds of a network, and what of it is taken.
#[derive(Debug, Clone, Copy)]
pub struct Holding<'a> {
    pub network: &'a NetworkFact,
    pub me: &'a NodeName,
    pub usage: &'a Usage,
    /// Addresses of the network that somebody asks for by name right now.
    pub asked: &'a BTreeSet<IpAddr>,
}

impl<'a> Holding<'a> {
    /// Picks an address out of `me`'s blocks.
    pub fn choose(self, whom: For<'_>, now: u64) -> Choice {
        let pool = self.network.pool(whom.group, whom.v6);
        let free = pool.iter().flat_map(|pool| self.free_in(pool, whom));
        match free.min_by_key(|address| self.freed(*address)) {
            None => Choice::None,
            Some(address) if self.is_rested(address, now) => Choice::Rested(address),
            Some(address) => Choice::Recent(address),
        }
    }

    /// The free addresses of `me`'s blocks, that which was freed longest ago first.
    pub fn free(self, whom: For<'_>) -> Vec<IpAddr> {
        let pool = self.network.pool(whom.group, whom.v6);
        let free = pool.iter().flat_map(|pool| self.free_in(pool, whom));
        let mut free: Vec<IpAddr> = free.collect();
        free.sort_by_key(|address| self.freed(*address));
        free
    }

    fn free_in<'b>(self, pool: &'b Pool, whom: For<'b>) -> impl Iterator<Item = IpAddr> + 'b
    where
        'a: 'b,
    {
        self.blocks(pool, whom)
            .filter(move |block| !self.usage.returning.contains(block))
            .flat_map(move |block| self.usable(pool, block, whom))
            .filter(move |address| self.is_free(*address))
    }

    /// When an address was freed, 0: never; by this the next one is picked.
    fn freed(self, address: IpAddr) -> (u64, IpAddr) {
        let freed = self.usage.freed.get(&address).copied();
        (freed.unwrap_or(0), address)
    }

    fn is_rested(self, address: IpAddr, now: u64) -> bool {
        let freed = self.usage.freed.get(&address);
        freed.is_none_or(|at| at.saturating_add(REST_MS) <= now)
    }

    /// Whether half of what `me` may give out is taken: time to ask for the next block.
    pub fn is_half_full(self, whom: For<'_>) -> bool {
        let Some(pool) = self.network.pool(whom.group, whom.v6) else {
            return false;
        };
        let blocks = self.blocks(&pool, whom);
        let blocks = blocks.filter(|block| !self.usage.returning.contains(block));
        let usable = blocks.flat_map(|block| self.usable(&pool, block, whom));
        let (mut taken, mut all) = (0, 0);
        for address in usable {
            all += 1;
            taken += usize::from(self.usage.is_taken(address));
        }
        taken * 2 >= all
    }

    /// What of a pool's addresses `me` holds and could give up.
    pub fn spare(self, whom: For<'_>, now: u64) -> Spare {
        let mut spare = Spare::default();
        let Some(pool) = self.network.pool(whom.group, whom.v6) else {
            return spare;
        };
        for block in self.blocks(&pool, whom) {
            let returning = self.usage.returning.contains(&block);
            let mut recent = 0;
            for address in self.usable(&pool, block, whom) {
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
            let is_unused = recent == 0 && self.is_returnable(&pool, block, whom);
            spare.blocks += u64::from(returning || is_unused);
        }
        spare
    }

    /// A block in which `me` uses no address: the one that was used longest ago.
    pub fn returnable_block(self, whom: For<'_>) -> Option<IpNet> {
        let pool = self.network.pool(whom.group, whom.v6)?;
        let used = |block: &IpNet| {
            let freed = self.usage.freed.iter();
            let freed = freed.filter(|(address, _)| block.contains(*address));
            freed.map(|(_, at)| *at).max()
        };
        self.blocks(&pool, whom)
            .filter(|block| !self.usage.returning.contains(block))
            .filter(|block| self.is_returnable(&pool, *block, whom))
            .min_by_key(|block| (used(block), *block))
    }

    /// A block of the pool that `me` has begun to return, according to its journal.
    pub fn returning_block(self, whom: For<'_>) -> Option<IpNet> {
        let pool = self.network.pool(whom.group, whom.v6)?;
        self.blocks(&pool, whom)
            .find(|block| self.usage.returning.contains(block))
    }

    /// Whether no address in the block is used, promised, asked for or being ceded.
    pub fn is_unused(self, block: IpNet) -> bool {
        self.usage.taken_in(block) == 0
            && !self.usage.ceding.keys().any(|it| block.contains(it))
            && !self.asked.iter().any(|it| block.contains(it))
    }

    /// Whether another node gets a block to lease when `me` returns this one. What was ceded to
    /// `me` lies inside a block that may be somebody else's.
    fn is_returnable(self, pool: &Pool, block: IpNet, whom: For<'_>) -> bool {
        !is_ceded(self.network, block)
            && self.is_unused(block)
            && self.usable(pool, block, whom).next().is_some()
    }

    fn is_free(self, address: IpAddr) -> bool {
        !self.usage.is_taken(address) && !self.asked.contains(&address)
    }

    /// The addresses of a block of `me` that an endpoint of the pool could have.
    fn usable<'b>(
        self,
        pool: &'b Pool,
        block: IpNet,
        whom: For<'b>,
    ) -> impl Iterator<Item = IpAddr> + 'b
    where
        'a: 'b,
    {
        block.hosts_of().filter(move |address| {
            let holder = self.network.block_of(*address);
            pool.is_assignable(*address)
                && is_for(self.network, *address, whom.group)
                && holder == Some((block, self.me))
        })
    }

    /// The blocks of `me` in the pool, addresses that were ceded to it included.
    fn blocks<'b>(self, pool: &'b Pool, whom: For<'b>) -> impl Iterator<Item = IpNet> + 'b
    where
        'a: 'b,
    {
        let own = whom.group.filter(|it| self.network.pools.contains_key(*it));
        let network = self.network;
        network
            .blocks_of(self.me)
            .filter(move |block| pool.subnet.contains(block) && network.pool_around(*block) == own)
    }
}

/// Whether an address is one for members of the group, or for those of none with a pool.
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
    /// Every address: what of them can't be an endpoint's is the pool's to say.
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
