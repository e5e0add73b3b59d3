//! A network's addresses: which block of them is leased to which node.
//!
//! The hot path of attaching: a lease contends with leases of the same network only. A ceded
//! address is a block of one address inside another; the most specific block says who gives an
//! address out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use bus_schema::command::{BlockCede, BlockLease, BlockReturn, BlockRevoke};
use bus_schema::event::{BlockCeded, BlockLeased, BlockReturned, BlockRevoked};
use bus_schema::{Event, NetworkName, NodeName, Pool, Rejection, TenantName};
use ipnet::IpNet;

use super::{Aggregate, Cluster};

/// The fold of `contiv.log.<tenant>.lease.<network>`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    pub state: LeaseState,
    pub v4: Option<Pool>,
    pub v6: Option<Pool>,
    pub blocks: BTreeMap<IpNet, NodeName>,
}

/// Whether blocks are given out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeaseState {
    /// No such network, or not any more.
    #[default]
    Closed,
    Open,
    /// Blocks come back, none is leased.
    Closing,
}

#[derive(Debug, Clone)]
pub enum NetworkCommand {
    Lease(BlockLease),
    Return(BlockReturn),
    Cede(BlockCede),
    Revoke(BlockRevoke),
}

#[derive(Debug, Clone, Default)]
pub struct NetworkFacts {
    pub cluster: Arc<Cluster>,
}

impl Network {
    /// Who holds blocks, each once, by name.
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

    fn lease(&self, c: &BlockLease, facts: &NetworkFacts) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant, &c.network)?;
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
                .ok_or_else(|| Rejection::PoolExhausted {
                    tenant: c.tenant.clone(),
                    network: c.network.clone(),
                    subnet: pool.subnet,
                })?,
        };
        Ok(vec![Event::BlockLeased(BlockLeased {
            tenant: c.tenant.clone(),
            network: c.network.clone(),
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
        must_be_assignable(pool, address, &c.network)?;
        match self.holder(address) {
            Some((_, node)) if *node == c.node => Ok(None),
            Some((block, node)) => Err(Rejection::AddressHeld {
                address,
                block,
                node: node.clone(),
            }),
            None => Ok(Some(aligned(address, pool.block_prefix()))),
        }
    }

    fn lowest_free(&self, pool: &Pool) -> Option<IpNet> {
        let (first, last) = match pool.range {
            Some(range) => (range.first, range.last),
            None => (pool.subnet.network(), pool.subnet.broadcast()),
        };
        let prefix = pool.block_prefix();
        let end = number(last);
        let mut block = aligned(first, prefix);
        loop {
            if !self.blocks.contains_key(&block) && self.has_free_address(pool, block) {
                return Some(block);
            }
            let next = number(block.broadcast()).checked_add(1)?;
            if next > end {
                return None;
            }
            block = aligned(address(next, pool.subnet), prefix);
        }
    }

    fn has_free_address(&self, pool: &Pool, block: IpNet) -> bool {
        (number(block.network())..=number(block.broadcast()))
            .map(|n| address(n, block))
            .any(|a| pool.is_assignable(a) && !self.blocks.contains_key(&single(a)))
    }

    fn give_back(&self, c: &BlockReturn) -> Result<Vec<Event>, Rejection> {
        self.must_exist(&c.tenant, &c.network)?;
        self.must_hold(c.block, &c.node, &c.network)?;
        Ok(vec![Event::BlockReturned(BlockReturned {
            tenant: c.tenant.clone(),
            network: c.network.clone(),
            block: c.block,
            node: c.node.clone(),
        })])
    }

    fn cede(&self, c: &BlockCede, facts: &NetworkFacts) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant, &c.network)?;
        must_be_member(&c.to, facts)?;
        let block = single(c.address);
        let not_held = || Rejection::BlockNotHeld {
            block,
            network: c.network.clone(),
            node: c.from.clone(),
        };
        let pool = self.pool(c.address.is_ipv6()).ok_or_else(not_held)?;
        must_be_assignable(pool, c.address, &c.network)?;
        match self.holder(c.address) {
            Some((_, node)) if *node == c.to => Ok(vec![]),
            Some((_, node)) if *node == c.from => Ok(vec![Event::BlockCeded(BlockCeded {
                tenant: c.tenant.clone(),
                network: c.network.clone(),
                address: c.address,
                from: c.from.clone(),
                to: c.to.clone(),
            })]),
            _ => Err(not_held()),
        }
    }

    fn revoke(&self, c: &BlockRevoke, facts: &NetworkFacts) -> Result<Vec<Event>, Rejection> {
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
                    block: *block,
                    node: node.clone(),
                })
            })
            .collect())
    }

    fn must_exist(&self, tenant: &TenantName, network: &NetworkName) -> Result<(), Rejection> {
        match self.state {
            LeaseState::Open | LeaseState::Closing => Ok(()),
            LeaseState::Closed => Err(Rejection::NetworkUnknown {
                tenant: tenant.clone(),
                network: network.clone(),
            }),
        }
    }

    fn must_be_open(&self, tenant: &TenantName, network: &NetworkName) -> Result<(), Rejection> {
        self.must_exist(tenant, network)?;
        match self.state {
            LeaseState::Closing => Err(Rejection::NetworkClosing {
                tenant: tenant.clone(),
                network: network.clone(),
            }),
            LeaseState::Open | LeaseState::Closed => Ok(()),
        }
    }

    fn must_hold(
        &self,
        block: IpNet,
        node: &NodeName,
        network: &NetworkName,
    ) -> Result<(), Rejection> {
        if self.blocks.get(&block) == Some(node) {
            return Ok(());
        }
        Err(Rejection::BlockNotHeld {
            block,
            network: network.clone(),
            node: node.clone(),
        })
    }
}

fn must_be_member(node: &NodeName, facts: &NetworkFacts) -> Result<(), Rejection> {
    if facts.cluster.nodes.contains_key(node) {
        return Ok(());
    }
    Err(Rejection::NodeUnknown { node: node.clone() })
}

fn must_be_assignable(
    pool: &Pool,
    address: IpAddr,
    network: &NetworkName,
) -> Result<(), Rejection> {
    if pool.is_assignable(address) {
        return Ok(());
    }
    Err(Rejection::AddressNotAssignable {
        address,
        network: network.clone(),
        subnet: pool.subnet,
    })
}

/// The block of one address.
fn single(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// The block of this prefix length with the address in it.
fn aligned(address: IpAddr, prefix: u8) -> IpNet {
    IpNet::new(address, prefix).map_or(single(address), |net| net.trunc())
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

impl Aggregate for Network {
    type Command = NetworkCommand;
    type Facts = NetworkFacts;

    fn decide(
        &self,
        command: &NetworkCommand,
        facts: &NetworkFacts,
    ) -> Result<Vec<Event>, Rejection> {
        match command {
            NetworkCommand::Lease(c) => self.lease(c, facts),
            NetworkCommand::Return(c) => self.give_back(c),
            NetworkCommand::Cede(c) => self.cede(c, facts),
            NetworkCommand::Revoke(c) => self.revoke(c, facts),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::LeasesOpened(e) => {
                *self = Self {
                    state: LeaseState::Open,
                    v4: Some(e.v4.clone()),
                    v6: e.v6.clone(),
                    blocks: BTreeMap::new(),
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
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
