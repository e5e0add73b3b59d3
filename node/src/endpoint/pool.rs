//! Which address comes next: out of the blocks that the log leases to this node.
//!
//! Pure; `now` is an argument. The longest-freed address first, and one that was freed a moment
//! ago only when nothing else is left. A block that is being returned and an address that was
//! ceded are never given out. The manager asks.

use std::net::IpAddr;

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

/// Picks an address out of `me`'s blocks.
pub fn choose(
    network: &NetworkFact,
    usage: &Usage,
    me: &NodeName,
    whom: For<'_>,
    now: u64,
) -> Choice {
    let Some(pool) = network.pool(whom.group, whom.v6) else {
        return Choice::None;
    };
    let free = own_blocks(network, &pool, usage, me, whom)
        .flat_map(|block| block.hosts_of())
        .filter(|address| pool.is_assignable(*address) && !usage.is_taken(*address))
        .filter(|address| is_for(network, *address, whom.group))
        .filter(|address| network.is_held_by(*address, me));
    let best =
        free.min_by_key(|address| (usage.freed.get(address).copied().unwrap_or(0), *address));
    match best {
        None => Choice::None,
        Some(address) => match usage.freed.get(&address) {
            Some(at) if now < at.saturating_add(REST_MS) => Choice::Recent(address),
            _ => Choice::Rested(address),
        },
    }
}

/// Whether half of what `me` may give out is taken: time to ask for the next block.
pub fn is_half_full(network: &NetworkFact, usage: &Usage, me: &NodeName, whom: For<'_>) -> bool {
    let Some(pool) = network.pool(whom.group, whom.v6) else {
        return false;
    };
    let (mut taken, mut all) = (0, 0);
    for block in own_blocks(network, &pool, usage, me, whom) {
        let assignable = block.hosts_of().filter(|it| pool.is_assignable(*it));
        let assignable = assignable.filter(|it| is_for(network, *it, whom.group));
        all += assignable.count();
        taken += usage.taken_in(block);
    }
    taken * 2 >= all
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

/// The blocks that ordinary endpoints get their addresses from. An address that was ceded to this
/// node was asked for by name, and goes back when that endpoint does.
fn own_blocks<'a>(
    network: &'a NetworkFact,
    pool: &'a Pool,
    usage: &'a Usage,
    me: &'a NodeName,
    whom: For<'a>,
) -> impl Iterator<Item = IpNet> + 'a {
    let own = whom.group.filter(|it| network.pools.contains_key(*it));
    network.blocks_of(me).filter(move |block| {
        pool.subnet.contains(block)
            && network.pool_around(*block) == own
            && !usage.returning.contains(block)
            && !is_ceded(network, *block)
    })
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
