//! The usage of the addresses of networks and of groups' pools, by the published endpoints and the leased
//! blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bus_schema::query::{AddressCount, BlockUsage};
use bus_schema::{
    AddressRange, Endpoint, GroupName, NetworkName, NodeName, Pool, PoolKey, TenantName,
};
use ipnet::IpNet;

use super::{Held, NetworkView, View};

/// The IPv4 addresses of a network, or of a group's own pool in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolCount {
    pub(crate) pool: PoolKey,
    pub(crate) count: AddressCount,
}

impl View {
    /// The leased blocks of the pool in this family, with their holders and since when.
    pub(crate) fn blocks_of_pool(&self, pool: &PoolKey, v6: bool) -> BTreeMap<IpNet, Held> {
        let network = self.network(&pool.tenant, &pool.network);
        let blocks = network.into_iter().flat_map(|it| &it.blocks);
        let of_pool =
            blocks.filter(|(block, held)| held.group == pool.group && block.addr().is_ipv6() == v6);
        let blocks = of_pool.map(|(block, held)| (*block, held.clone()));
        blocks.collect()
    }

    /// The reason why a node can't answer at `now` (milliseconds since 1970); `None`: it may. A node that
    /// never sent a status may answer: this netmaster may have started a moment ago.
    pub(crate) fn silence(&self, node: &NodeName, now: u64) -> Option<String> {
        if !self.nodes.contains_key(node) {
            return Some("it was removed, its addresses come back in a moment".to_owned());
        }
        let heard = self.statuses.get(node)?;
        let age = now.saturating_sub(heard.at) / 1_000;
        (!self.alive(node, now)).then(|| format!("nothing was heard of it for {age} s"))
    }

    /// The counts of every network and of every group with a pool of its own.
    pub(crate) fn pool_counts(&self) -> Vec<PoolCount> {
        let mut used: BTreeMap<(&TenantName, &NetworkName), BTreeSet<IpAddr>> = BTreeMap::new();
        for endpoint in self.endpoints_of_members() {
            let network = (&endpoint.tenant, &endpoint.network);
            let addresses = used.entry(network).or_default();
            addresses.extend(endpoint.addresses());
        }
        let mut counts = Vec::new();
        for network in self.networks() {
            let (tenant, name) = (&network.spec.tenant, &network.spec.name);
            let used = used.remove(&(tenant, name)).unwrap_or_default();
            let addresses = Addresses::new(self, network, used);
            let groups = addresses.pools.keys().map(|group| Some(*group));
            counts.extend([None].into_iter().chain(groups).map(|group| PoolCount {
                pool: PoolKey {
                    group: group.cloned(),
                    ..PoolKey::of_network(tenant, name)
                },
                count: addresses.count(group),
            }));
        }
        counts
    }

    /// The addresses of one network.
    pub(super) fn addresses<'a>(&'a self, network: &'a NetworkView) -> Addresses<'a> {
        let endpoints = self.endpoints_in(&network.spec.tenant, &network.spec.name);
        let used = endpoints.flat_map(Endpoint::addresses).collect();
        Addresses::new(self, network, used)
    }

    /// The usage of the blocks that a node holds.
    pub(super) fn usage_of(&self, node: &NodeName) -> Vec<BlockUsage> {
        self.networks()
            .filter(|network| network.blocks.values().any(|held| held.node == *node))
            .flat_map(|network| self.addresses(network).usage(|held| held.node == *node))
            .collect()
    }
}

/// A network's addresses and their usage.
pub(super) struct Addresses<'a> {
    network: &'a NetworkView,
    /// Of its groups with a pool of their own.
    pools: BTreeMap<&'a GroupName, AddressRange>,
    /// Of endpoints.
    used: BTreeSet<IpAddr>,
}

impl<'a> Addresses<'a> {
    fn new(view: &'a View, network: &'a NetworkView, used: BTreeSet<IpAddr>) -> Self {
        let tenant = view.tenants.get(&network.spec.tenant);
        let groups = tenant.into_iter().flat_map(|it| it.groups.values());
        let pools = groups
            .filter(|group| group.spec.network == network.spec.name)
            .filter_map(|group| Some((&group.spec.name, group.spec.pool?)));
        Self {
            network,
            pools: pools.collect(),
            used,
        }
    }

    /// Counts the IPv4 addresses of the network, those of its groups' pools left out; or of one such
    /// pool.
    pub(super) fn count(&self, group: Option<&GroupName>) -> AddressCount {
        let Some(pool) = self.pool(group, false) else {
            return AddressCount::default();
        };
        let assignable = assignable(&pool, pool.span());
        let of_groups = match group {
            Some(_) => 0,
            None => self
                .pools
                .values()
                .map(|it| self::assignable(&pool, *it))
                .sum(),
        };
        let in_use = self.used.iter().filter(|address| address.is_ipv4());
        let in_use = in_use.filter(|address| self.is_assignable(group, **address));
        AddressCount {
            assignable: assignable.saturating_sub(of_groups),
            in_use: u64::try_from(in_use.count()).unwrap_or(u64::MAX),
        }
    }

    /// The usage of the wanted blocks of the network and its groups' pools.
    pub(super) fn usage(&self, is_wanted: impl Fn(&Held) -> bool) -> Vec<BlockUsage> {
        let blocks = self.network.blocks.iter();
        blocks
            .filter(|(_, held)| is_wanted(held))
            .map(|(block, held)| self.block_usage(*block, held))
            .collect()
    }

    fn block_usage(&self, block: IpNet, held: &Held) -> BlockUsage {
        let spec = &self.network.spec;
        let mut usage = BlockUsage {
            tenant: spec.tenant.clone(),
            network: spec.name.clone(),
            group: held.group.clone(),
            block,
            node: held.node.clone(),
            in_use: 0,
            free: 0,
            ceded: 0,
        };
        for address in each_address(block) {
            let ceded = IpNet::from(address);
            if !self.is_assignable(held.group.as_ref(), address) {
                continue;
            }
            if ceded != block && self.network.blocks.contains_key(&ceded) {
                usage.ceded += 1;
            } else if self.used.contains(&address) {
                usage.in_use += 1;
            } else {
                usage.free += 1;
            }
        }
        usage
    }

    /// The network's pool, or the group's own in it; `None`: there is none of this family.
    fn pool(&self, group: Option<&GroupName>, v6: bool) -> Option<Pool> {
        let spec = &self.network.spec;
        match (group, v6) {
            (None, false) => Some(spec.v4.clone()),
            (None, true) => spec.v6.clone(),
            (Some(group), _) => Some(Pool {
                range: Some(*self.pools.get(group)?),
                ..spec.v4.clone()
            }),
        }
    }

    /// Whether an endpoint can have the address out of the network, or out of the group's pool.
    fn is_assignable(&self, group: Option<&GroupName>, address: IpAddr) -> bool {
        let pool = self.pool(group, address.is_ipv6());
        let of_group = || self.pools.values().any(|range| range.contains(address));
        pool.is_some_and(|it| it.is_assignable(address)) && (group.is_some() || !of_group())
    }
}

/// How many IPv4 addresses of a range an endpoint could have out of the pool.
fn assignable(pool: &Pool, range: AddressRange) -> u64 {
    let span = pool.span();
    let (first, last) = (span.first.max(range.first), span.last.min(range.last));
    let (IpAddr::V4(low), IpAddr::V4(high)) = (first, last) else {
        return 0;
    };
    let Some(more) = u32::from(high).checked_sub(u32::from(low)) else {
        return 0;
    };
    let (net, range) = (pool.subnet, AddressRange { first, last });
    let reserved = BTreeSet::from([net.network(), net.broadcast(), pool.gateway]);
    let reserved = reserved
        .into_iter()
        .filter(|address| range.contains(*address) && !pool.is_assignable(*address));
    let reserved = u64::try_from(reserved.count()).unwrap_or_default();
    (u64::from(more) + 1).saturating_sub(reserved)
}

/// All addresses of a block; blocks are small.
fn each_address(block: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match (block.network(), block.broadcast()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let numbers = u32::from(first)..=u32::from(last);
            Box::new(numbers.map(|number| IpAddr::V4(Ipv4Addr::from(number))))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let numbers = u128::from(first)..=u128::from(last);
            Box::new(numbers.map(|number| IpAddr::V6(Ipv6Addr::from(number))))
        }
        _ => Box::new(std::iter::empty()),
    }
}
