//! The addresses of a network, or of a group's own pool in it: each block of them is leased to one
//! node.
//!
//! This is the hot path of attaching: a lease contends with leases of the same pool only. A ceded
//! address is a block of one address inside another; the holder of the most specific block assigns an
//! address. A network also leases blocks that hold addresses of a group's pool: the other addresses in
//! them can be assigned.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bus_schema::command::{BlockCede, BlockLease, BlockReturn, BlockRevoke};
use bus_schema::event::{BlockCeded, BlockLeased, BlockReturned, BlockRevoked};
use bus_schema::{AddressRange, Event, GroupName, NodeName, Pool, PoolKey, Rejection};
use ipnet::IpNet;

use super::{Aggregate, Cluster};

/// The fold of `contiv.log.<tenant>.lease.<network>`, or of `….<network>.<group>`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Leases {
    pub state: LeaseState,
    pub v4: Option<Pool>,
    pub v6: Option<Pool>,
    pub blocks: BTreeMap<IpNet, NodeName>,
    /// Of a network: the ranges that only members of a group get.
    pub pools: BTreeMap<GroupName, AddressRange>,
}

/// Whether blocks are leased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeaseState {
    /// The network or group doesn't exist, or not any more.
    #[default]
    Closed,
    Open,
    /// Blocks are returned, and none is leased.
    Closing,
}

#[derive(Debug, Clone)]
pub enum LeasesCommand {
    Lease(BlockLease),
    Return(BlockReturn),
    Cede(BlockCede),
    Revoke(BlockRevoke),
}

#[derive(Debug, Clone, Default)]
pub struct LeasesFacts {
    pub cluster: Arc<Cluster>,
}

impl Leases {
    /// The nodes that hold blocks, each once, by name.
    pub fn holders(&self) -> Vec<NodeName> {
        let mut nodes: Vec<NodeName> = self.blocks.values().cloned().collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }

    /// The most specific block with this address, and its holder.
    fn holder(&self, address: IpAddr) -> Option<(IpNet, &NodeName)> {
        self.blocks
            .iter()
            .filter(|(block, _)| block.contains(&address))
            .max_by_key(|(block, _)| block.prefix_len())
            .map(|(block, node)| (*block, node))
    }

    fn pool(&self, v6: bool) -> Option<&Pool> {
        if v6 {
            self.v6.as_ref()
        } else {
            self.v4.as_ref()
        }
    }

    fn lease(&self, c: &BlockLease, facts: &LeasesFacts) -> Result<Vec<Event>, Rejection> {
        let key = c.pool();
        self.must_be_open(&key)?;
        must_be_member(&c.node, facts)?;
        let v6 = c.address.map_or(c.v6, |address| address.is_ipv6());
        let pool = self.pool(v6).ok_or_else(|| Rejection::Unsupported {
            what: format!("an IPv6 address in network {}", c.network),
            instead: "the network has IPv4 addresses only".to_owned(),
        })?;
        let block = match c.address {
            Some(address) => match self.block_of(pool, address, c)? {
                Some(block) => block,
                None => return Ok(vec![]),
            },
            None => self
                .lowest_free(pool)
                .ok_or_else(|| exhausted(&key, pool))?,
        };
        Ok(vec![Event::BlockLeased(BlockLeased {
            tenant: c.tenant.clone(),
            network: c.network.clone(),
            group: c.group.clone(),
            block,
            node: c.node.clone(),
        })])
    }

    /// The free block with the address; `None` when the node that asks holds it.
    fn block_of(
        &self,
        pool: &Pool,
        address: IpAddr,
        c: &BlockLease,
    ) -> Result<Option<IpNet>, Rejection> {
        self.must_be_assignable(pool, address, &c.pool())?;
        match self.holder(address) {
            Some((_, node)) if *node == c.node => Ok(None),
            Some((block, node)) => Err(Rejection::AddressHeld {
                address,
                block,
                node: node.clone(),
            }),
            None => Ok(Some(pool.block_at(address))),
        }
    }

    fn lowest_free(&self, pool: &Pool) -> Option<IpNet> {
        let span = pool.span();
        let end = number(span.last);
        let mut block = pool.block_at(span.first);
        loop {
            if !self.is_leased(block) && self.has_free_address(pool, block) {
                return Some(block);
            }
            let next = number(block.broadcast()).checked_add(1)?;
            if next > end {
                return None;
            }
            block = pool.block_at(address(next, pool.subnet));
        }
    }

    /// Whether a node holds all of the block, ceded addresses aside.
    fn is_leased(&self, block: IpNet) -> bool {
        (0..=block.prefix_len())
            .filter_map(|prefix| IpNet::new(block.addr(), prefix).ok())
            .any(|around| self.blocks.contains_key(&around.trunc()))
    }

    fn has_free_address(&self, pool: &Pool, block: IpNet) -> bool {
        (number(block.network())..=number(block.broadcast()))
            .map(|n| address(n, block))
            .any(|a| {
                pool.is_assignable(a)
                    && self.pool_of(a).is_none()
                    && !self.blocks.contains_key(&single(a))
            })
    }

    /// The group whose members alone get the address.
    fn pool_of(&self, address: IpAddr) -> Option<(&GroupName, &AddressRange)> {
        self.pools.iter().find(|(_, range)| range.contains(address))
    }

    fn must_be_assignable(
        &self,
        pool: &Pool,
        address: IpAddr,
        key: &PoolKey,
    ) -> Result<(), Rejection> {
        if let Some((group, range)) = self.pool_of(address) {
            return Err(Rejection::AddressInPool {
                address,
                group: group.clone(),
                pool: *range,
            });
        }
        if pool.is_assignable(address) {
            return Ok(());
        }
        Err(match &key.group {
            None => Rejection::AddressNotAssignable {
                address,
                network: key.network.clone(),
                subnet: pool.subnet,
            },
            Some(group) => Rejection::AddressOutsidePool {
                address,
                group: group.clone(),
                pool: pool.span(),
            },
        })
    }

    fn give_back(&self, c: &BlockReturn) -> Result<Vec<Event>, Rejection> {
        let key = c.pool();
        self.must_exist(&key)?;
        self.must_hold(c.block, &c.node, &key)?;
        Ok(vec![Event::BlockReturned(BlockReturned {
            tenant: c.tenant.clone(),
            network: c.network.clone(),
            group: c.group.clone(),
            block: c.block,
            node: c.node.clone(),
        })])
    }

    fn cede(&self, c: &BlockCede, facts: &LeasesFacts) -> Result<Vec<Event>, Rejection> {
        let key = c.pool();
        self.must_be_open(&key)?;
        must_be_member(&c.to, facts)?;
        let block = single(c.address);
        let not_held = || Rejection::BlockNotHeld {
            block,
            network: c.network.clone(),
            node: c.from.clone(),
        };
        let pool = self.pool(c.address.is_ipv6()).ok_or_else(not_held)?;
        self.must_be_assignable(pool, c.address, &key)?;
        match self.holder(c.address) {
            Some((_, node)) if *node == c.to => Ok(vec![]),
            Some((_, node)) if *node == c.from => Ok(vec![Event::BlockCeded(BlockCeded {
                tenant: c.tenant.clone(),
                network: c.network.clone(),
                group: c.group.clone(),
                address: c.address,
                from: c.from.clone(),
                to: c.to.clone(),
            })]),
            _ => Err(not_held()),
        }
    }

    fn revoke(&self, c: &BlockRevoke, facts: &LeasesFacts) -> Result<Vec<Event>, Rejection> {
        if facts.cluster.nodes.contains_key(&c.node) {
            let node = c.node.clone();
            return Err(Rejection::NodeAlive { node });
        }
        Ok(self
            .blocks
            .iter()
            .filter(|(_, node)| **node == c.node)
            .map(|(block, node)| {
                Event::BlockRevoked(BlockRevoked {
                    tenant: c.tenant.clone(),
                    network: c.network.clone(),
                    group: c.group.clone(),
                    block: *block,
                    node: node.clone(),
                })
            })
            .collect())
    }

    fn must_exist(&self, key: &PoolKey) -> Result<(), Rejection> {
        match self.state {
            LeaseState::Open | LeaseState::Closing => Ok(()),
            LeaseState::Closed => Err(unknown(key)),
        }
    }

    fn must_be_open(&self, key: &PoolKey) -> Result<(), Rejection> {
        match self.state {
            LeaseState::Open => Ok(()),
            LeaseState::Closing => Err(closing(key)),
            LeaseState::Closed => Err(unknown(key)),
        }
    }

    fn must_hold(&self, block: IpNet, node: &NodeName, key: &PoolKey) -> Result<(), Rejection> {
        if self.blocks.get(&block) == Some(node) {
            return Ok(());
        }
        Err(Rejection::BlockNotHeld {
            block,
            network: key.network.clone(),
            node: node.clone(),
        })
    }
}

fn unknown(key: &PoolKey) -> Rejection {
    let (tenant, network) = (key.tenant.clone(), key.network.clone());
    match key.group.clone() {
        None => Rejection::NetworkUnknown { tenant, network },
        Some(group) => Rejection::GroupUnknown { tenant, group },
    }
}

fn closing(key: &PoolKey) -> Rejection {
    let (tenant, network) = (key.tenant.clone(), key.network.clone());
    match key.group.clone() {
        None => Rejection::NetworkClosing { tenant, network },
        Some(group) => Rejection::GroupClosing { tenant, group },
    }
}

fn exhausted(key: &PoolKey, pool: &Pool) -> Rejection {
    let (tenant, network) = (key.tenant.clone(), key.network.clone());
    match key.group.clone() {
        None => Rejection::PoolExhausted {
            tenant,
            network,
            subnet: pool.subnet,
            holders: Box::default(),
        },
        Some(group) => Rejection::GroupPoolExhausted {
            tenant,
            network,
            group,
            pool: pool.span(),
            holders: Box::default(),
        },
    }
}

fn must_be_member(node: &NodeName, facts: &LeasesFacts) -> Result<(), Rejection> {
    if facts.cluster.nodes.contains_key(node) {
        return Ok(());
    }
    Err(Rejection::NodeUnknown { node: node.clone() })
}

/// The block of one address.
fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// The inverse of [`number`], of the family of `like`.
fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl Aggregate for Leases {
    type Command = LeasesCommand;
    type Facts = LeasesFacts;

    fn decide(
        &self,
        command: &LeasesCommand,
        facts: &LeasesFacts,
    ) -> Result<Vec<Event>, Rejection> {
        match command {
            LeasesCommand::Lease(c) => self.lease(c, facts),
            LeasesCommand::Return(c) => self.give_back(c),
            LeasesCommand::Cede(c) => self.cede(c, facts),
            LeasesCommand::Revoke(c) => self.revoke(c, facts),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::LeasesOpened(e) => {
                *self = Self {
                    state: LeaseState::Open,
                    v4: Some(e.v4.clone()),
                    v6: e.v6.clone(),
                    ..Self::default()
                };
            }
            Event::LeasesClosing(_) => self.state = LeaseState::Closing,
            Event::LeasesReopened(_) => self.state = LeaseState::Open,
            Event::LeasesClosed(_) => *self = Self::default(),
            Event::BlockLeased(e) => {
                self.blocks.insert(e.block, e.node.clone());
            }
            Event::BlockCeded(e) => {
                self.blocks.insert(single(e.address), e.to.clone());
            }
            Event::BlockReturned(e) => {
                self.blocks.remove(&e.block);
            }
            Event::BlockRevoked(e) => {
                self.blocks.remove(&e.block);
            }
            Event::PoolReserved(e) => {
                self.pools.insert(e.group.clone(), e.range);
            }
            Event::PoolReleased(e) => {
                self.pools.remove(&e.group);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
