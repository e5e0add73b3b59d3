//! Which address comes next: out of the blocks that the log leases to this node.
//!
//! Pure; `now` is an argument. The longest-freed address first, and one that was freed a moment
//! ago only when nothing else is left. A block that is being returned and an address that was
//! ceded are never given out. The manager asks.

use std::net::IpAddr;

use bus_schema::{NodeName, Pool};
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

/// Picks an address out of `me`'s blocks.
pub fn choose(network: &NetworkFact, usage: &Usage, me: &NodeName, v6: bool, now: u64) -> Choice {
    let Some(pool) = pool_of(network, v6) else {
        return Choice::None;
    };
    let free = own_blocks(network, pool, usage, me)
        .flat_map(|block| block.hosts_of())
        .filter(|address| pool.is_assignable(*address) && !usage.is_taken(*address))
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
pub fn is_half_full(network: &NetworkFact, usage: &Usage, me: &NodeName, v6: bool) -> bool {
    let Some(pool) = pool_of(network, v6) else {
        return false;
    };
    let (mut taken, mut all) = (0, 0);
    for block in own_blocks(network, pool, usage, me) {
        let assignable = block.hosts_of().filter(|it| pool.is_assignable(*it));
        all += assignable.count();
        taken += usage.taken_in(block);
    }
    taken * 2 >= all
}

/// The addresses of one family.
pub fn pool_of(network: &NetworkFact, v6: bool) -> Option<&Pool> {
    if v6 {
        network.spec.v6.as_ref()
    } else {
        Some(&network.spec.v4)
    }
}

/// Whether a block is one address that its holder ceded, not a block of the pool's own size.
pub fn is_ceded(network: &NetworkFact, block: IpNet) -> bool {
    let pool = network
        .spec
        .pools()
        .find(|pool| pool.subnet.contains(&block));
    block.prefix_len() == block.max_prefix_len()
        && pool.is_some_and(|pool| pool.block_prefix() != block.max_prefix_len())
}

/// The blocks that ordinary endpoints get their addresses from. An address that was ceded to this
/// node was asked for by name, and goes back when that endpoint does.
fn own_blocks<'a>(
    network: &'a NetworkFact,
    pool: &'a Pool,
    usage: &'a Usage,
    me: &'a NodeName,
) -> impl Iterator<Item = IpNet> + 'a {
    network.blocks_of(me).filter(move |block| {
        pool.subnet.contains(block)
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
