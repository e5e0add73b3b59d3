//! What an attach or a reservation waits for when this node has no free address: a block that
//! netmaster leases, or an address that another node cedes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bus_schema::command::BlockLease;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, NodeName, PoolKey, Rejection};
use tokio::time::{Instant, timeout_at};

use super::give_up::network_of;
use super::handle::DEADLINE;
use super::manager::{Answer, Haste, Inbox, Snapshot, Step, asked_in};
use super::pool::{NodeAddresses, PoolSelector};
use super::{AttachError, EndpointsHandle};
use crate::bus::AskError;
use node_core::projection::Projection;
use runtime::lock;

/// How long an endpoint waits for another block when only addresses that were freed a moment ago
/// are left: then it gets one of those.
const AHEAD_TIMEOUT: Duration = Duration::from_secs(2);

impl EndpointsHandle {
    /// Waits until this node has read the log: what is unknown before may be in it.
    async fn log_read(&self, deadline: Instant, unknown: &AttachError) -> Result<(), AttachError> {
        let mut kernel = self.kernel.clone();
        let read = kernel.wait_for(|kernel| kernel.in_sync);
        match timeout_at(deadline, read).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(AttachError::LogUnread(unknown.to_string())),
        }
    }

    /// Asks the manager until it needs no further block.
    pub(super) async fn with_block<T>(
        &self,
        key: &PoolKey,
        deadline: Instant,
        promised: bool,
        message: impl Fn(Haste, Answer<Step<T>>) -> Inbox,
    ) -> Result<T, AttachError> {
        let ask = || self.ask(|it| message(Haste::Rested, it));
        let first = match ask().await {
            Err(unknown) if unknown.may_be_of_unread_log() => {
                self.log_read(deadline, &unknown).await?;
                ask().await
            }
            first => first,
        };
        if let Step::Done(done) = first? {
            return Ok(done);
        }
        let _leasing = self.leasing.mark(key.clone());
        let turn = self.turn(key);
        let waited = timeout_at(deadline, turn.lock()).await;
        let _turn = waited
            .map_err(|_| unreachable(key, "other endpoints of this node wait for it, too"))?;
        let mut asked = BTreeMap::new();
        let mut haste = Haste::Rested;
        let mut refused = None;
        // Another endpoint of this node may take an address before this one does, and a tiny block
        // may hold nothing but the gateway: so netmaster is asked as long as it gives something.
        loop {
            let lease = match self.ask(|it| message(haste, it)).await? {
                Step::Done(done) => return Ok(done),
                Step::Recent => Lease::Ahead,
                Step::Lease(address) => Lease::Needed { address, promised },
            };
            // Others may have had a block leased, or have freed an address, after the refusal.
            if let Some(error) = refused {
                return Err(error);
            }
            if let Lease::Needed {
                address: Some(address),
                ..
            } = lease
            {
                let mark = || self.asking.mark((network_of(key), address));
                asked.entry(address).or_insert_with(mark);
            }
            let until = match lease {
                Lease::Needed { .. } => deadline,
                Lease::Ahead => deadline.min(Instant::now() + AHEAD_TIMEOUT),
            };
            if let Err(error) = self.lease_until(until, key, lease).await {
                haste = Haste::Any;
                refused = matches!(lease, Lease::Needed { .. }).then_some(error);
            }
        }
    }

    async fn lease_until(
        &self,
        until: Instant,
        key: &PoolKey,
        lease: Lease,
    ) -> Result<(), AttachError> {
        let late = || unreachable(key, "netmaster doesn't answer in time");
        if Instant::now() >= until {
            return Err(late());
        }
        let leased = timeout_at(until, self.lease(key, lease)).await;
        leased.unwrap_or_else(|_| Err(late()))
    }

    fn turn(&self, key: &PoolKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        turns.entry(key.clone()).or_default().clone()
    }

    /// An address that is on its way back to the pool, or to another node, can be asked for when it
    /// has arrived there.
    async fn until_given_up(&self, key: &PoolKey, address: IpAddr) -> Result<(), AttachError> {
        let network = network_of(key);
        let arrived = |snapshot: &Snapshot| {
            let usage = snapshot.ledger.usage(&network);
            usage.is_none_or(|usage| {
                let returning = usage.returning.iter().any(|it| it.contains(&address));
                !returning && !usage.ceding.contains_key(&address)
            })
        };
        let mut snapshots = self.snapshot.clone();
        let there = snapshots.wait_for(arrived).await;
        there.map_err(|_| unreachable(key, "netplugin is stopping"))?;
        Ok(())
    }

    /// Has a block leased to this node, or one address ceded, and waits for the log to say so.
    async fn lease(&self, key: &PoolKey, lease: Lease) -> Result<(), AttachError> {
        let (address, promised) = match lease {
            Lease::Needed { address, promised } => (address, promised),
            Lease::Ahead => (None, false),
        };
        if let Some(address) = address {
            self.until_given_up(key, address).await?;
        }
        let command = Command::BlockLease(BlockLease {
            tenant: key.tenant.clone(),
            network: key.network.clone(),
            group: key.group.clone(),
            node: self.me.clone(),
            address,
            v6: false,
            ahead: matches!(lease, Lease::Ahead),
            waiting: u16::try_from(self.leasing.count(key)).unwrap_or(u16::MAX),
        });
        let mut facts = self.facts.clone();
        match self.bus.command(command).await {
            Ok(revision) => {
                let there = facts.wait_for(|facts| facts.applied >= revision).await;
                there.map_err(|_| unreachable(key, "netplugin is stopping"))?;
                Ok(())
            }
            Err(AskError::Rejected { rejection, .. }) => match *rejection {
                Rejection::AddressHeld { address, node, .. } => {
                    self.ask_holder(key, address, node, promised).await
                }
                rejection => Err(AttachError::Rejected(rejection)),
            },
            Err(AskError::Unreachable(reason)) => Err(unreachable(key, &reason)),
        }
    }

    async fn ask_holder(
        &self,
        key: &PoolKey,
        address: IpAddr,
        holder: NodeName,
        promised: bool,
    ) -> Result<(), AttachError> {
        let not_ceded = |reason: String| AttachError::NotCeded {
            address,
            node: holder.to_string(),
            reason,
        };
        if holder == self.me {
            return Err(not_ceded("is giving its block back; try again".to_owned()));
        }
        let request = NodeRequest::Cede {
            tenant: key.tenant.clone(),
            network: key.network.clone(),
            address,
            to: self.me.clone(),
            promised,
        };
        match self.bus.node(holder.clone(), request).await {
            Ok(NodeReply::Done) => {}
            Ok(NodeReply::InUse { endpoints }) => {
                let users: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
                return Err(not_ceded(format!("uses it for {}", users.join(", "))));
            }
            Ok(NodeReply::Refused { reason }) => {
                return Err(not_ceded(format!("doesn't cede it: {reason}")));
            }
            Ok(
                NodeReply::Status(_)
                | NodeReply::Counters { .. }
                | NodeReply::Spare(_)
                | NodeReply::GaveUp { .. }
                | NodeReply::HoldsBlocks { .. }
                | NodeReply::Traced(_)
                | NodeReply::Resolved(_)
                | NodeReply::Steps(_)
                | NodeReply::CleanedUp(_)
                | NodeReply::Examined(_),
            ) => {
                return Err(not_ceded("misunderstood".to_owned()));
            }
            Err(error) => return Err(not_ceded(format!("can't be asked: {error}"))),
        }
        let ours = |facts: &Projection| {
            let network = facts.network(&key.tenant, &key.network);
            network.is_none_or(|it| it.is_held_by(address, &self.me))
        };
        let mut facts = self.facts.clone();
        let there = facts.wait_for(ours).await;
        there.map_err(|_| unreachable(key, "netplugin is stopping"))?;
        Ok(())
    }

    /// Asks for the next block when half of ours is taken, without anybody waiting for it.
    pub(super) fn lease_ahead(&self, key: &PoolKey) {
        let due = {
            let facts = self.facts.borrow();
            let snapshot = self.snapshot.borrow();
            let of = network_of(key);
            let usage = snapshot.ledger.usage(&of).cloned().unwrap_or_default();
            let whom = PoolSelector {
                group: key.group.as_ref(),
                v6: false,
            };
            let network = facts.network(&key.tenant, &key.network);
            let half_full = network.is_some_and(|network| {
                let holding = NodeAddresses {
                    network,
                    me: &self.me,
                    usage: &usage,
                    asked: &asked_in(&self.asking, &of),
                };
                holding.is_half_full(whom)
            });
            // A node that takes no endpoints would return it at once.
            half_full && !facts.takes_no_endpoints(&self.me)
        };
        let started = due && lock(&self.ahead).insert(key.clone());
        if !started {
            return;
        }
        let (handle, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let _leasing = handle.leasing.mark(key.clone());
            let turn = handle.turn(&key);
            let _turn = turn.lock().await;
            let leased = tokio::time::timeout(DEADLINE, handle.lease(&key, Lease::Ahead)).await;
            if let Ok(Err(error)) = leased {
                tracing::debug!(pool = %key, %error, "no further block yet");
            }
            lock(&handle.ahead).remove(&key);
        });
    }
}

/// What netmaster is asked for.
#[derive(Debug, Clone, Copy)]
enum Lease {
    /// The block that holds this address, or any. When none is free, netmaster asks other nodes to
    /// give up addresses.
    Needed {
        address: Option<IpAddr>,
        /// For the task that the address was promised to.
        promised: bool,
    },
    /// Any, if one is free: this node has an address to go on with.
    Ahead,
}

fn unreachable(key: &PoolKey, reason: &str) -> AttachError {
    AttachError::Unreachable {
        network: key.network.clone(),
        reason: reason.to_owned(),
    }
}
