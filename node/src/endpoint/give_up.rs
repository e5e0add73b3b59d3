//! Gives up blocks, which this node returns, and addresses, which it cedes to other nodes.
//!
//! First the manager journals it ([`super::give_up_journal`]), so that no endpoint gets such an address
//! any more. Then this waits until the kernel has dropped the endpoint that had the address: else two
//! nodes would have one address. Then netmaster is asked. [`settle`](super::settle) asks again after a
//! failure.

use std::net::IpAddr;
use std::time::Duration;

use bus_schema::command::{BlockCede, BlockReturn as BlockReturnCommand};
use bus_schema::node::Spare;
use bus_schema::{Command, CommandId, GroupName, NodeName, PoolKey, Revision};
use futures::future::join_all;
use ipnet::IpNet;
use tokio::time::timeout;
use uuid::Uuid;

use super::allocate::requested_in;
use super::due::BlockKey;
use super::ledger::{NetworkKey, Record};
use super::message::{BlockReturn, CedeRequest, GiveUp, ManagerMessage};
use super::pool::{NodeAddresses, PoolSelector};
use super::{AttachError, EndpointsHandle};
use crate::requests::BusError;
use node_core::projection::{NetworkFact, Projection};
use runtime::now;

/// How long a request of netmaster waits for the kernel to drop the endpoint; netmaster waits a little
/// longer. `settle` continues afterwards.
const KERNEL_DROP_TIMEOUT: Duration = Duration::from_millis(800);
/// How long a second request waits for a return in progress, and a refused command for the revision
/// by which it was refused.
const LOG_TIMEOUT: Duration = Duration::from_secs(2);

/// How long [`EndpointsHandle::spare`] waits for the revision; netmaster waits a little longer.
const SPARE_TIMEOUT: Duration = Duration::from_millis(600);

impl EndpointsHandle {
    /// Counts the addresses that this node holds of a pool and those that it could give up, by facts
    /// not older than `at`: older ones may lack a block that it was given a moment ago.
    pub async fn spare(
        &self,
        pool: &PoolKey,
        v6: bool,
        at: Revision,
    ) -> Result<Spare, AttachError> {
        let mut facts = self.facts.clone();
        let read = facts.wait_for(|facts| facts.applied >= at);
        let facts = match timeout(SPARE_TIMEOUT, read).await {
            Ok(Ok(facts)) => facts.clone(),
            _ => return Err(nothing(pool, &self.me, "it is behind with the log")),
        };
        Ok(self.spare_by(&facts, pool, v6))
    }

    fn spare_by(&self, facts: &Projection, pool: &PoolKey, v6: bool) -> Spare {
        let key = network_of(pool);
        let requested = requested_in(&self.requested, &key);
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
            asked: &requested,
        };
        let spare = holding.spare(whom, now());
        match ledger.is_incomplete() {
            // The ledger doesn't have all addresses in use.
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

    /// Returns a block of the pool in which this node uses no address. The result is a revision at
    /// which the log has the event.
    pub async fn return_block(&self, pool: PoolKey, v6: bool) -> Result<Revision, AttachError> {
        let started = self
            .ask(|result| ManagerMessage::ReturnAny(pool, v6, result))
            .await?;
        match started {
            BlockReturn::Started(give_up) => self.give_up(give_up).await,
            BlockReturn::InProgress(key, block) => self.wait_until_returned(&key, block).await,
        }
    }

    /// Cedes at most `count` free addresses of the pool to another node, the longest freed first. The
    /// result is a revision at which the log has the event of one of them at least.
    pub async fn cede_any(
        &self,
        pool: PoolKey,
        v6: bool,
        to: NodeName,
        count: u16,
    ) -> Result<Revision, AttachError> {
        let nothing = nothing(&pool, &self.me, "none of its addresses is free");
        let started = self.ask(|result| ManagerMessage::CedeAny(pool, v6, to, count, result));
        let given_up = started
            .await?
            .into_iter()
            .map(|give_up| self.give_up(give_up));
        let outcomes = join_all(given_up).await;
        let better = |one: Result<Revision, AttachError>, other| match (one, other) {
            (Ok(one), Ok(other)) => Ok(one.max(other)),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(_), Err(why)) => Err(why),
        };
        outcomes.into_iter().fold(Err(nothing), better)
    }

    /// Cedes an address of this node's block to another node.
    pub(crate) async fn cede(&self, request: CedeRequest) -> Result<(), AttachError> {
        let started = self.ask(|result| ManagerMessage::Cede(request, result));
        self.give_up(started.await?).await.map(drop)
    }

    /// Has the manager allocate no more addresses from the block. The result is the generation in which
    /// no endpoint had any of them.
    pub(super) async fn start_return(
        &self,
        key: NetworkKey,
        block: IpNet,
    ) -> Result<u64, AttachError> {
        self.ask(|result| ManagerMessage::Return(key, block, result))
            .await
    }

    /// Waits until the kernel has dropped the endpoints that the journal dropped in this generation.
    pub(super) async fn wait_until_dropped(
        &self,
        generation: u64,
        within: Duration,
    ) -> Result<(), AttachError> {
        let mut kernel = self.kernel.clone();
        // Before it is in sync the reconciler keeps the kernel objects of an earlier process.
        let dropped = kernel.wait_for(|it| it.in_sync && it.generation >= generation);
        match timeout(within, dropped).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(AttachError::Datapath("netplugin is stopping".to_owned())),
            Err(_) => Err(AttachError::Datapath(format!(
                "it hasn't dropped the address's endpoint yet, after {} ms; the address is given up when it has: see the alarms of `netplugin status`",
                within.as_millis()
            ))),
        }
    }

    /// The id of the command that gives up the block, or its one address.
    fn command_id(&self, key: &NetworkKey, block: IpNet) -> CommandId {
        let snapshot = self.snapshot.borrow();
        let usage = snapshot.ledger.usage(key);
        let journaled = usage.and_then(|usage| usage.commands.get(&block).copied());
        journaled.unwrap_or_else(|| CommandId(Uuid::now_v7()))
    }

    /// Waits for the kernel, then sends the command to netmaster.
    async fn give_up(&self, give_up: GiveUp) -> Result<Revision, AttachError> {
        let GiveUp {
            key,
            block,
            to,
            generation,
            guard,
        } = give_up;
        self.wait_until_dropped(generation, KERNEL_DROP_TIMEOUT)
            .await?;
        let is_return = to.is_none();
        let command = command(&self.facts.borrow(), &self.me, &key, block, to);
        let held = (key, block);
        // Until the outcome is known no other task sends another command for the block.
        let outcome = self.send_give_up(&held, command).await;
        drop(guard);
        let (key, block) = held;
        match outcome {
            Ok(revision) => Ok(revision),
            Err(BusError::Rejected {
                rejection,
                revision,
                ..
            }) => {
                self.wait_for_revision(revision).await;
                // An earlier command may have been accepted, whose event the facts don't have yet.
                // `settle` finds out whether the block stays ours.
                let facts = self.facts.borrow();
                let ours = match is_return {
                    true => holds(&facts, &self.me, &key, block),
                    false => allocates(&facts, &self.me, &key, block.addr()),
                };
                match ours {
                    true => Err(AttachError::Rejected(*rejection)),
                    false => Ok(revision),
                }
            }
            Err(BusError::Unreachable(reason)) => Err(not_given_up(&key, block, &reason)),
        }
    }

    /// Sends netmaster the command that gives up the block, and records its decision.
    pub(super) async fn send_give_up(
        &self,
        held: &BlockKey,
        command: Command,
    ) -> Result<Revision, BusError> {
        let id = self.command_id(&held.0, held.1);
        self.decisions.forget(held);
        let outcome = self.bus.command_as(id, command).await;
        match &outcome {
            Ok(revision)
            | Err(BusError::Rejected {
                revision,
                is_final: true,
                ..
            }) => self.decisions.record(held, *revision),
            Err(_) => self.decisions.forget(held),
        }
        outcome
    }

    async fn wait_for_revision(&self, revision: Revision) {
        let mut facts = self.facts.clone();
        let read = facts.wait_for(|facts| facts.applied >= revision);
        timeout(LOG_TIMEOUT, read).await.ok();
    }

    /// Waits until the log says that the block is returned, by the command of another task.
    async fn wait_until_returned(
        &self,
        key: &NetworkKey,
        block: IpNet,
    ) -> Result<Revision, AttachError> {
        let mut facts = self.facts.clone();
        let gone = facts.wait_for(|facts| !holds(facts, &self.me, key, block));
        match timeout(LOG_TIMEOUT, gone).await {
            Ok(Ok(facts)) => Ok(facts.applied),
            _ => Err(not_given_up(key, block, "netmaster hasn't answered yet")),
        }
    }
}

/// The record that a block is being returned, by a new command.
pub(super) fn returning(key: NetworkKey, block: IpNet) -> Record {
    Record::Returning {
        key,
        block,
        command: Some(CommandId(Uuid::now_v7())),
    }
}

/// The command that returns a block, or cedes its one address.
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
        None => Command::BlockReturn(BlockReturnCommand {
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

/// Whether the block's network, or the group whose pool it belongs to, is being removed.
pub(super) fn is_closing(facts: &Projection, key: &NetworkKey, block: IpNet) -> bool {
    let Some(network) = facts.network(&key.0, &key.1) else {
        return false;
    };
    let group = network.pool_around(block);
    let group = group.and_then(|group| facts.group_fact(&key.0, group));
    network.closing || group.is_some_and(|group| group.closing)
}

/// The group whose pool the block belongs to.
pub(super) fn pool_around(facts: &Projection, key: &NetworkKey, block: IpNet) -> Option<GroupName> {
    facts.network(&key.0, &key.1)?.pool_around(block).cloned()
}

/// Whether node `me` holds the block, by the log.
pub(super) fn holds(facts: &Projection, me: &NodeName, key: &NetworkKey, block: IpNet) -> bool {
    let network = facts.network(&key.0, &key.1);
    network.is_some_and(|it| it.blocks.get(&block) == Some(me))
}

/// Whether node `me` allocates the address, by the log.
pub(super) fn allocates(
    facts: &Projection,
    me: &NodeName,
    key: &NetworkKey,
    address: IpAddr,
) -> bool {
    let network = facts.network(&key.0, &key.1);
    network.is_some_and(|it| it.is_held_by(address, me))
}

pub(super) fn network_of(pool: &PoolKey) -> NetworkKey {
    (pool.tenant.clone(), pool.network.clone())
}

/// The pool's addresses; `None`: the facts lack the pool.
pub(super) fn whom<'a>(
    network: &NetworkFact,
    pool: &'a PoolKey,
    v6: bool,
) -> Option<PoolSelector<'a>> {
    let group = pool.group.as_ref();
    let known = group.is_none_or(|group| network.pools.contains_key(group));
    known.then_some(PoolSelector { group, v6 })
}

pub(super) fn unknown_pool(pool: &PoolKey, me: &NodeName) -> AttachError {
    nothing(pool, me, "it hasn't read this pool's event in the log yet")
}

pub(super) fn nothing(pool: &PoolKey, me: &NodeName, reason: &str) -> AttachError {
    AttachError::NothingToGive {
        pool: pool.to_string(),
        node: me.to_string(),
        reason: reason.to_owned(),
    }
}

pub(super) fn not_given_up((_, network): &NetworkKey, block: IpNet, reason: &str) -> AttachError {
    AttachError::NotGivenUp {
        block,
        network: network.clone(),
        reason: reason.to_owned(),
    }
}
