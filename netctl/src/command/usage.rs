//! The used and free addresses of a network, a group's pool or a tenant, by node. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::query::{AddressCount, BlockUsage};
use bus_schema::{Endpoint, NodeName, Pool};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::pool;

#[derive(Debug, Default)]
pub(crate) struct Usage {
    endpoints: usize,
    used: Vec<IpAddr>,
    /// Used and free addresses as ranges; absent for several networks together.
    ranges: Option<[String; 2]>,
    free: u64,
    nodes: BTreeMap<NodeName, Share>,
}

/// The addresses of one node.
#[derive(Debug, Default)]
struct Share {
    endpoints: usize,
    blocks: Vec<IpNet>,
    /// The unused addresses of its blocks.
    free: u64,
}

impl Usage {
    /// Counts the addresses of these endpoints and blocks of a pool.
    pub(crate) fn of<'a>(
        endpoints: &[&Endpoint],
        blocks: impl Iterator<Item = (IpNet, &'a NodeName)>,
        pool: &Pool,
    ) -> Self {
        let used: Vec<IpAddr> = endpoints.iter().flat_map(|it| it.addresses()).collect();
        let mut nodes: BTreeMap<NodeName, Share> = BTreeMap::new();
        for endpoint in endpoints {
            nodes.entry(endpoint.node.clone()).or_default().endpoints += 1;
        }
        let blocks: Vec<(IpNet, &NodeName)> = blocks.collect();
        for (block, node) in &blocks {
            // A ceded address is a block with one address.
            let ceded = blocks.iter().map(|(other, _)| *other);
            let ceded = ceded.filter(|other| other != block && block.contains(other));
            let taken = used.iter().copied().chain(ceded.map(|it| it.network()));
            let free = pool::available(&pool::within(pool, *block), taken);
            let share = nodes.entry((*node).clone()).or_default();
            share.free += free.count();
            share.blocks.push(*block);
        }
        Self {
            endpoints: endpoints.len(),
            used,
            ranges: None,
            free: 0,
            nodes,
        }
    }

    /// Counts the addresses of the pool that `users` leave free.
    pub(crate) fn count_free(&mut self, pool: &Pool, users: &[&Endpoint]) {
        let free = pool::available(pool, users.iter().flat_map(|it| it.addresses()));
        self.free = free.count();
        let used = pool::ranges(self.used.iter().copied());
        self.ranges = Some([used.to_string(), free.to_string()]);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.endpoints += other.endpoints;
        self.used.extend(other.used);
        self.free += other.free;
        for (node, share) in other.nodes {
            let mine = self.nodes.entry(node).or_default();
            mine.endpoints += share.endpoints;
            mine.free += share.free;
            mine.blocks.extend(share.blocks);
        }
    }

    /// Adds Contiv's keys to an Oper, and our own ones.
    pub(crate) fn show(&self, oper: &mut Value) {
        oper["numEndpoints"] = json!(self.endpoints);
        oper["allocatedAddressesCount"] = json!(self.used.len());
        oper["availableAddressesCount"] = json!(self.free);
        if let Some([used, free]) = &self.ranges {
            oper["allocatedIPAddresses"] = json!(used);
            oper["availableIPAddresses"] = json!(free);
        }
        let nodes = self.nodes.iter().map(|(node, share)| {
            json!({
                "node": node,
                "endpoints": share.endpoints,
                "blocks": share.blocks,
                "freeAddresses": share.free,
            })
        });
        oper["nodes"] = nodes.collect();
    }
}

/// The assignable, used and free addresses of a network or a group's pool.
pub(super) fn count(of: AddressCount) -> Value {
    json!({
        "assignable": of.assignable,
        "inUse": of.in_use,
        "free": of.assignable.saturating_sub(of.in_use),
    })
}

/// A block with the use of its addresses.
pub(super) fn block(of: &BlockUsage) -> Value {
    let mut value = json!({
        "block": of.block,
        "node": of.node,
        "inUse": of.in_use,
        "free": of.free,
        "ceded": of.ceded,
    });
    if let Some(group) = &of.group {
        value["group"] = json!(group);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::endpoint::tests::endpoint;

    #[test]
    fn ceded_address_is_free_for_the_node_that_has_it_alone() {
        let pool = Pool {
            subnet: "20.1.1.0/24".parse().unwrap(),
            gateway: "20.1.1.254".parse().unwrap(),
            range: None,
        };
        let nodes: Vec<NodeName> = ["n1", "n2"].map(|it| it.parse().unwrap()).into();
        let blocks = [
            ("20.1.1.0/28".parse().unwrap(), &nodes[0]),
            ("20.1.1.7/32".parse().unwrap(), &nodes[1]),
        ];
        // The endpoint has 20.1.1.1.
        let endpoint = endpoint("e1", "db");
        let usage = Usage::of(&[&endpoint], blocks.into_iter(), &pool);
        let free: Vec<u64> = usage.nodes.values().map(|share| share.free).collect();
        assert_eq!(free, [13, 1]);
    }
}
