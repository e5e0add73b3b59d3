//! What this node gives up: blocks that it returns, and addresses that it cedes to other nodes.
//!
//! The manager journals it first, so that no endpoint gets such an address any more. Then the kernel
//! must have dropped the endpoint that had it: else two nodes would answer for one address. Then
//! netmaster is asked. [`settle`](super::settle) asks again for what was lost on the way.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::command::{BlockCede, BlockReturn};
use bus_schema::node::Spare;
use bus_schema::{Command, CommandId, GroupName, NodeName, PoolKey, Revision};
use futures::future::join_all;
use ipnet::IpNet;
use runtime::now;
use tokio::time::timeout;
use uuid::Uuid;

use super::ledger::{NetworkKey, Record, Usage};
use super::manager::{Ceding, Giving, Inbox, Manager, Returning, asked_in};
use super::pool::{NodeAddresses, PoolSelector};
use super::{AttachError, EndpointsHandle};
use crate::bus::AskError;
use node_core::projection::{NetworkFact, Projection};

/// How long a request of netmaster, who waits a little longer, waits for the kernel to drop what had
/// the address. `settle` goes on afterwards.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a second request waits for a return that is under way, and a refused command for the
/// log that refused it.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the log is waited for before what could be given up is counted; netmaster waits a
/// little longer.
const READ_TIMEOUT: Duration = Duration::from_millis(600);

impl EndpointsHandle {
    /// What this node holds of a pool, and what of it it could give up, by facts not older than
    /// `at`: by older ones it would leave out what it was given a moment ago.
    pub async fn spare(
        &self,
        pool: &PoolKey,
        v6: bool,
        at: Revision,
    ) -> Result<Spare, AttachError> {
        let mut facts = self.facts.clone();
        let read = facts.wait_for(|facts| facts.applied >= at);
        let facts = match timeout(READ_TIMEOUT, read).await {
            Ok(Ok(facts)) => facts.clone(),
            _ => return Err(nothing(pool, &self.me, "it is behind with the log")),
        };
        Ok(self.spare_by(&facts, pool, v6))
    }

    fn spare_by(&self, facts: &Projection, pool: &PoolKey, v6: bool) -> Spare {
        let key = network_of(pool);
        let asked = asked_in(&self.asking, &key);
        let ledger = self.snapshot.borrow().ledger.clone();
        let network = facts.network(&key.0, &key.1);
        let Some((network, whom)) = network.and_then(|it| Some((it, whom(it, pool, v6)?))) else {
            return Spare::default();
        };
        let usage = ledger.usage(&key).cloned().unwrap_or_default();
        let holding = NodeAddresses {
            network,
            me: &self.me,
            usage: &usage,
            asked: &asked,
        };
        let spare = holding.spare(whom, now());
        match ledger.is_incomplete() {
            // It doesn't know which addresses are in use.
            true => Spare {
                blocks: 0,
                free: 0,
                recent: 0,
                ceding: 0,
                ..spare
            },
            false => spare,
        }
    }

    /// Returns a block of the pool in which this node uses no address. Answers with a revision at
    /// which the log says so.
    pub async fn return_block(&self, pool: PoolKey, v6: bool) -> Result<Revision, AttachError> {
        let started = self
            .ask(|answer| Inbox::ReturnAny(pool, v6, answer))
            .await?;
        match started {
            Returning::Started(giving) => self.give_up(giving).await,
            Returning::UnderWay(key, block) => self.until_gone(&key, block).await,
        }
    }

    /// Cedes free addresses of the pool to another node: those that were freed longest ago, at most
    /// `count`. Answers with a revision at which the log says so of one of them at least.
    pub async fn cede_any(
        &self,
        pool: PoolKey,
        v6: bool,
        to: NodeName,
        count: u16,
    ) -> Result<Revision, AttachError> {
        let nothing = nothing(&pool, &self.me, "none of its addresses is free");
        let started = self.ask(|answer| Inbox::CedeAny(pool, v6, to, count, answer));
        let given_up = started
            .await?
            .into_iter()
            .map(|giving| self.give_up(giving));
        let outcomes = join_all(given_up).await;
        let better = |one: Result<Revision, AttachError>, other| match (one, other) {
            (Ok(one), Ok(other)) => Ok(one.max(other)),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(_), Err(why)) => Err(why),
        };
        outcomes.into_iter().fold(Err(nothing), better)
    }

    /// Lets another node have an address of a block of ours.
    pub(crate) async fn cede(&self, asked: Ceding) -> Result<(), AttachError> {
        let started = self.ask(|answer| Inbox::Cede(asked, answer));
        self.give_up(started.await?).await.map(drop)
    }

    /// Has the manager give no address of the block any more. Answers with the generation in which
    /// no endpoint had any of them.
    pub(super) async fn start_return(
        &self,
        key: NetworkKey,
        block: IpNet,
    ) -> Result<u64, AttachError> {
        self.ask(|answer| Inbox::Return(key, block, answer)).await
    }

    /// The kernel has dropped what the journal had dropped in this generation.
    pub(super) async fn until_dropped(
        &self,
        generation: u64,
        within: Duration,
    ) -> Result<(), AttachError> {
        let mut kernel = self.kernel.clone();
        // Before it is in sync the core leaves alone what an earlier life had put there.
        let dropped = kernel.wait_for(|it| it.in_sync && it.generation >= generation);
        match timeout(within, dropped).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(AttachError::Datapath("netplugin is stopping".to_owned())),
            Err(_) => Err(AttachError::Datapath(format!(
                "it hasn't dropped yet what had the address, after {} ms; the address is given up when it has: see the alarms of `netplugin status`",
                within.as_millis()
            ))),
        }
    }

    /// The id of the command by which the block, or its one address, is given up.
    pub(super) fn command_id(&self, key: &NetworkKey, block: IpNet) -> CommandId {
        let snapshot = self.snapshot.borrow();
        let usage = snapshot.ledger.usage(key);
        let journaled = usage.and_then(|usage| usage.commands.get(&block).copied());
        journaled.unwrap_or_else(|| CommandId(Uuid::now_v7()))
    }

    async fn give_up(&self, giving: Giving) -> Result<Revision, AttachError> {
        let Giving {
            key,
            block,
            to,
            generation,
            mark,
        } = giving;
        self.until_dropped(generation, REQUEST_TIMEOUT).await?;
        let is_return = to.is_none();
        let id = self.command_id(&key, block);
        let command = command(&self.facts.borrow(), &self.me, &key, block, to);
        // Until its outcome is known nobody else sends another.
        let outcome = self.bus.command_as(id, command).await;
        drop(mark);
        match outcome {
            Ok(revision) => Ok(revision),
            // Whether it is ours again is for `settle` to find out: an earlier request may have been
            // granted, of which the facts don't know yet.
            Err(AskError::Rejected {
                rejection,
                revision,
            }) => {
                let mut facts = self.facts.clone();
                let read = facts.wait_for(|facts| facts.applied >= revision);
                timeout(LOG_TIMEOUT, read).await.ok();
                let facts = self.facts.borrow();
                let ours = match is_return {
                    true => holds(&facts, &self.me, &key, block),
                    false => gives_out(&facts, &self.me, &key, block.addr()),
                };
                match ours {
                    true => Err(AttachError::Rejected(*rejection)),
                    false => Ok(revision),
                }
            }
            Err(AskError::Unreachable(reason)) => Err(not_given_up(&key, block, &reason)),
        }
    }

    /// Waits until the log says that the block is returned, which somebody asks netmaster for.
    async fn until_gone(&self, key: &NetworkKey, block: IpNet) -> Result<Revision, AttachError> {
        let mut facts = self.facts.clone();
        let gone = facts.wait_for(|facts| !holds(facts, &self.me, key, block));
        match timeout(LOG_TIMEOUT, gone).await {
            Ok(Ok(facts)) => Ok(facts.applied),
            _ => Err(not_given_up(key, block, "netmaster hasn't answered yet")),
        }
    }
}

impl Manager {
    /// While a network or a group closes, only endpoints keep it: who reserved an address doesn't
    /// get it any more.
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
        let asked = asked_in(&self.asking, key);
        // Of a network that is gone nothing is held.
        facts.network(&key.0, &key.1).is_none_or(|network| {
            let holding = self.holding(network, usage, &asked);
            holding.is_unused(block)
        })
    }

    pub(super) fn return_any(
        &mut self,
        pool: &PoolKey,
        v6: bool,
    ) -> Result<Returning, AttachError> {
        let key = network_of(pool);
        let network = self.open_network(&key)?;
        let whom = whom(&network, pool, v6).ok_or_else(|| unknown_pool(pool, &self.me))?;
        let (usage, asked) = (self.usage(&key), asked_in(&self.asking, &key));
        let holding = self.holding(&network, &usage, &asked);
        let generation = self.snapshot.borrow().generation;
        if let Some(block) = holding.returning_block(whom) {
            return Ok(match self.giving.try_mark((key.clone(), block)) {
                None => Returning::UnderWay(key, block),
                Some(mark) => Returning::Started(Giving {
                    key,
                    block,
                    to: None,
                    generation,
                    mark,
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
        let mark = self.giving.mark((key.clone(), block));
        self.write(&[returning(key.clone(), block)])?;
        Ok(Returning::Started(Giving {
            key,
            block,
            to: None,
            generation,
            mark,
        }))
    }

    pub(super) fn cede_any(
        &mut self,
        pool: &PoolKey,
        v6: bool,
        to: &NodeName,
        count: u16,
    ) -> Result<Vec<Giving>, AttachError> {
        if *to == self.me {
            return Err(nothing(pool, &self.me, "it asks for the address itself"));
        }
        let key = network_of(pool);
        let network = self.open_network(&key)?;
        let whom = whom(&network, pool, v6).ok_or_else(|| unknown_pool(pool, &self.me))?;
        let (usage, asked) = (self.usage(&key), asked_in(&self.asking, &key));
        let mut free = self.holding(&network, &usage, &asked).free(whom);
        // The node's next endpoint shouldn't have to ask for an address back.
        free.truncate(usize::from(count.max(1)).min(free.len().div_ceil(2)));
        free.into_iter()
            .map(|address| self.journal_cede(key.clone(), address, to.clone()))
            .collect()
    }

    pub(super) fn start_cede(&mut self, asked: Ceding) -> Result<Giving, AttachError> {
        let Ceding {
            key,
            address,
            to,
            promised,
        } = asked;
        let network = self.open_network(&key)?;
        let usage = self.usage(&key);
        if usage.ceding.get(&address) == Some(&to) {
            return self.journal_cede(key, address, to);
        }
        if !self.claim(&network, &usage, address, None, promised)? {
            return Err(AttachError::NotCeded {
                address,
                node: self.me.to_string(),
                reason: "doesn't give it out any more; try again".to_owned(),
            });
        }
        if usage.reserved.contains(&address) || asked_in(&self.asking, &key).contains(&address) {
            let user = "a container that is starting".to_owned();
            return Err(AttachError::AddressInUse(address, user));
        }
        self.journal_cede(key, address, to)
    }

    /// The same again is journaled once.
    fn journal_cede(
        &mut self,
        key: NetworkKey,
        address: IpAddr,
        to: NodeName,
    ) -> Result<Giving, AttachError> {
        let generation = self.snapshot.borrow().generation;
        let block = IpNet::from(address);
        let mark = self.giving.mark((key.clone(), block));
        if self.usage(&key).ceding.get(&address) != Some(&to) {
            self.write(&[Record::Ceding {
                key: key.clone(),
                address,
                to: to.clone(),
                command: Some(CommandId(Uuid::now_v7())),
            }])?;
        }
        Ok(Giving {
            key,
            block,
            to: Some(to),
            generation,
            mark,
        })
    }

    fn holding<'a>(
        &'a self,
        network: &'a NetworkFact,
        usage: &'a Usage,
        asked: &'a BTreeSet<IpAddr>,
    ) -> NodeAddresses<'a> {
        NodeAddresses {
            network,
            me: &self.me,
            usage,
            asked,
        }
    }
}

/// The record that a block is returned, by a command of its own.
pub(super) fn returning(key: NetworkKey, block: IpNet) -> Record {
    Record::Returning {
        key,
        block,
        command: Some(CommandId(Uuid::now_v7())),
    }
}

/// The command by which a block is returned, or its one address ceded.
pub(super) fn command(
    facts: &Projection,
    me: &NodeName,
    (tenant, network): &NetworkKey,
    block: IpNet,
    to: Option<NodeName>,
) -> Command {
    let (tenant, network) = (tenant.clone(), network.clone());
    let group = pool_around(facts, &(tenant.clone(), network.clone()), block);
    match to {
        None => Command::BlockReturn(BlockReturn {
            tenant,
            network,
            group,
            block,
            node: me.clone(),
        }),
        Some(to) => Command::BlockCede(BlockCede {
            tenant,
            network,
            group,
            address: block.addr(),
            from: me.clone(),
            to,
        }),
    }
}

/// Whether the block's network is being removed, or the group whose pool it is of.
pub(super) fn is_closing(facts: &Projection, key: &NetworkKey, block: IpNet) -> bool {
    let Some(network) = facts.network(&key.0, &key.1) else {
        return false;
    };
    let group = network.pool_around(block);
    let group = group.and_then(|group| facts.group_fact(&key.0, group));
    network.closing || group.is_some_and(|group| group.closing)
}

/// The group whose pool the block is of.
pub(super) fn pool_around(facts: &Projection, key: &NetworkKey, block: IpNet) -> Option<GroupName> {
    facts.network(&key.0, &key.1)?.pool_around(block).cloned()
}

/// Whether the log says that the block is `me`'s.
fn holds(facts: &Projection, me: &NodeName, key: &NetworkKey, block: IpNet) -> bool {
    let network = facts.network(&key.0, &key.1);
    network.is_some_and(|it| it.blocks.get(&block) == Some(me))
}

/// Whether the log says that the address is `me`'s to give out.
fn gives_out(facts: &Projection, me: &NodeName, key: &NetworkKey, address: IpAddr) -> bool {
    let network = facts.network(&key.0, &key.1);
    network.is_some_and(|it| it.is_held_by(address, me))
}

pub(super) fn network_of(pool: &PoolKey) -> NetworkKey {
    (pool.tenant.clone(), pool.network.clone())
}

/// Whose addresses they are; `None`: this node knows no such pool.
fn whom<'a>(network: &NetworkFact, pool: &'a PoolKey, v6: bool) -> Option<PoolSelector<'a>> {
    let group = pool.group.as_ref();
    let known = group.is_none_or(|group| network.pools.contains_key(group));
    known.then_some(PoolSelector { group, v6 })
}

fn unknown_pool(pool: &PoolKey, me: &NodeName) -> AttachError {
    nothing(pool, me, "it hasn't read of this pool in the log yet")
}

fn nothing(pool: &PoolKey, me: &NodeName, reason: &str) -> AttachError {
    AttachError::NothingToGive {
        pool: pool.to_string(),
        node: me.to_string(),
        reason: reason.to_owned(),
    }
}

fn not_given_up((_, network): &NetworkKey, block: IpNet, reason: &str) -> AttachError {
    AttachError::NotGivenUp {
        block,
        network: network.clone(),
        reason: reason.to_owned(),
    }
}
