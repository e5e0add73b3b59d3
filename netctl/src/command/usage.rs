//! What is used of addresses and by whom: of a network, of a group's pool, of a tenant. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::{Endpoint, NodeName, Pool};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::pool;

#[derive(Debug, Default)]
pub(crate) struct Usage {
    endpoints: usize,
    used: Vec<IpAddr>,
    /// As ranges; of several networks they'd say nothing.
    ranges: Option<[String; 2]>,
    free: u64,
    nodes: BTreeMap<NodeName, Share>,
}

/// One node's part.
#[derive(Debug, Default)]
struct Share {
    endpoints: usize,
    blocks: Vec<IpNet>,
    /// In its blocks, not in use.
    free: u64,
}

impl Usage {
    /// By these endpoints, out of these blocks of the pool.
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
        for (block, node) in blocks {
            let share = nodes.entry(node.clone()).or_default();
            let free = pool::available(&pool::within(pool, block), used.iter().copied());
            share.free += free.count();
            share.blocks.push(block);
        }
        Self {
            endpoints: endpoints.len(),
            used,
            ranges: None,
            free: 0,
            nodes,
        }
    }

    /// Counts what `users` leave of the pool.
    pub(crate) fn is_free_of(&mut self, pool: &Pool, users: &[&Endpoint]) {
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

    /// With Contiv's keys, and ours beside them.
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
