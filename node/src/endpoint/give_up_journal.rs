//! The manager's choice of a block or an address to give up, which it journals.

use std::net::IpAddr;

use bus_schema::{CommandId, NodeName, PoolKey};
use ipnet::IpNet;
use uuid::Uuid;

use super::AttachError;
use super::allocate::{NamedAddress, requested_in};
use super::give_up::{
    allocates, holds, is_closing, network_of, not_given_up, nothing, returning, unknown_pool, whom,
};
use super::ledger::{NetworkKey, Record, Usage};
use super::manager::Manager;
use super::message::{BlockReturn, CedeRequest, GiveUp};

impl Manager {
    /// Journals that the block is being returned, unless an address of it is taken. While its network or
    /// group closes only endpoints count: a reserved address isn't given to an endpoint any more.
    pub(super) fn start_return(
        &mut self,
        key: NetworkKey,
        block: IpNet,
    ) -> Result<u64, AttachError> {
        if self.ledger.is_incomplete() {
            return Err(AttachError::Incomplete);
        }
        let usage = self.usage(&key);
        let generation = self.snapshot.borrow().generation;
        if usage.returning.contains(&block) {
            return Ok(generation);
        }
        let mut users = usage.in_use.iter();
        if let Some((address, id)) = users.find(|(it, _)| block.contains(*it)) {
            return Err(AttachError::AddressInUse(*address, id.to_string()));
        }
        if !is_closing(&self.facts.borrow(), &key, block) && !self.is_unused(&key, &usage, block) {
            return Err(not_given_up(&key, block, "an address of it is taken"));
        }
        self.write(&[returning(key, block)])?;
        Ok(generation)
    }

    fn is_unused(&self, key: &NetworkKey, usage: &Usage, block: IpNet) -> bool {
        let facts = self.facts.borrow();
        let requested = requested_in(&self.requested, key);
        // If the network is gone, nothing of it is held.
        facts.network(&key.0, &key.1).is_none_or(|network| {
            let holding = self.holding(network, usage, &requested);
            holding.is_unused(block)
        })
    }

    /// Picks a block in which no address is used, and journals its return.
    pub(super) fn return_any(
        &mut self,
        pool: &PoolKey,
        v6: bool,
    ) -> Result<BlockReturn, AttachError> {
        let key = network_of(pool);
        let network = self.open_network(&key)?;
        let whom = whom(&network, pool, v6).ok_or_else(|| unknown_pool(pool, &self.me))?;
        let (usage, requested) = (self.usage(&key), requested_in(&self.requested, &key));
        let holding = self.holding(&network, &usage, &requested);
        let generation = self.snapshot.borrow().generation;
        if let Some(block) = holding.returning_block(whom) {
            return Ok(match self.giving_up.try_begin((key.clone(), block)) {
                None => BlockReturn::InProgress(key, block),
                Some(guard) => BlockReturn::Started(GiveUp {
                    key,
                    block,
                    to: None,
                    generation,
                    guard,
                }),
            });
        }
        let Some(block) = holding.returnable_block(whom) else {
            return Err(nothing(
                pool,
                &self.me,
                "it uses an address of each of its blocks",
            ));
        };
        let guard = self.giving_up.begin((key.clone(), block));
        self.write(&[returning(key.clone(), block)])?;
        Ok(BlockReturn::Started(GiveUp {
            key,
            block,
            to: None,
            generation,
            guard,
        }))
    }

    /// Picks free addresses for another node and journals them as ceded.
    pub(super) fn cede_any(
        &mut self,
        pool: &PoolKey,
        v6: bool,
        to: &NodeName,
        count: u16,
    ) -> Result<Vec<GiveUp>, AttachError> {
        if *to == self.me {
            return Err(nothing(pool, &self.me, "it asks for the address itself"));
        }
        let key = network_of(pool);
        let network = self.open_network(&key)?;
        let whom = whom(&network, pool, v6).ok_or_else(|| unknown_pool(pool, &self.me))?;
        let (usage, requested) = (self.usage(&key), requested_in(&self.requested, &key));
        let mut free = self.holding(&network, &usage, &requested).free(whom);
        // At most half of them: this node's next endpoint shouldn't have to request one back.
        free.truncate(usize::from(count.max(1)).min(free.len().div_ceil(2)));
        free.into_iter()
            .map(|address| self.journal_cede(key.clone(), address, to.clone()))
            .collect()
    }

    /// Journals a requested address as ceded, unless it is taken.
    pub(super) fn start_cede(&mut self, request: CedeRequest) -> Result<GiveUp, AttachError> {
        let CedeRequest {
            key,
            address,
            to,
            promised,
        } = request;
        let network = self.open_network(&key)?;
        let usage = self.usage(&key);
        if usage.ceding.get(&address) == Some(&to) {
            return self.journal_cede(key, address, to);
        }
        let named = NamedAddress {
            address,
            endpoint: None,
            promised,
        };
        if !self.check_address(&network, &usage, named)? {
            return Err(AttachError::NotCeded {
                address,
                node: self.me.to_string(),
                reason: "doesn't allocate it any more; try again".to_owned(),
            });
        }
        if usage.reserved.contains(&address)
            || requested_in(&self.requested, &key).contains(&address)
        {
            let user = "a container that is starting".to_owned();
            return Err(AttachError::AddressInUse(address, user));
        }
        self.journal_cede(key, address, to)
    }

    /// Whether the record ends a return or a cede of which a task asks netmaster again: netmaster may have
    /// leased the block to this node since, and without the record's command the task would give it up
    /// twice. Or whether a task has asked since `settle` decided, and the facts don't have the outcome: the
    /// block is still this node's by these facts, but perhaps not by the log.
    pub(super) fn ends_too_early(&self, record: &Record) -> bool {
        let facts = self.facts.borrow();
        let (given_up, is_ours) = match record {
            Record::ReturnEnded { key, block } => {
                ((key.clone(), *block), holds(&facts, &self.me, key, *block))
            }
            Record::CedeEnded { key, address } => (
                (key.clone(), IpNet::from(*address)),
                allocates(&facts, &self.me, key, *address),
            ),
            _ => return false,
        };
        self.giving_up.count(&given_up) > 0
            || is_ours && !self.decisions.is_in(&given_up, facts.applied)
    }

    /// Journals the address as ceded, once.
    fn journal_cede(
        &mut self,
        key: NetworkKey,
        address: IpAddr,
        to: NodeName,
    ) -> Result<GiveUp, AttachError> {
        let generation = self.snapshot.borrow().generation;
        let block = IpNet::from(address);
        let guard = self.giving_up.begin((key.clone(), block));
        if self.usage(&key).ceding.get(&address) != Some(&to) {
            self.write(&[Record::Ceding {
                key: key.clone(),
                address,
                to: to.clone(),
                command: Some(CommandId(Uuid::now_v7())),
            }])?;
        }
        Ok(GiveUp {
            key,
            block,
            to: Some(to),
            generation,
            guard,
        })
    }
}
