//! What an attach or a reservation waits for when this node has no free address: a block that
//! netmaster leases, or an address that another node cedes.

use std::net::IpAddr;
use std::sync::Arc;

use bus_schema::command::BlockLease;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, NodeName, PoolKey, Rejection};
use tokio::time::{Instant, timeout_at};

use super::handle::{Asking, DEADLINE};
use super::ledger::NetworkKey;
use super::manager::{Answer, Haste, Inbox, Snapshot, Step};
use super::pool::{For, is_half_full};
use super::{AttachError, EndpointsHandle};
use crate::bus::AskError;
use crate::lock::lock;
use crate::projection::Projection;

impl EndpointsHandle {
    /// Waits until this node has read the log: what is unknown before may be in it.
    async fn log_read(&self, deadline: Instant, unknown: &Rejection) -> Result<(), AttachError> {
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
            Err(AttachError::Rejected(unknown)) if unknown.is_of_an_unknown_name() => {
                self.log_read(deadline, &unknown).await?;
                ask().await
            }
            first => first,
        };
        if let Step::Done(done) = first? {
            return Ok(done);
        }
        let turn = self.turn(key);
        let waited = timeout_at(deadline, turn.lock()).await;
        let _turn = waited.map_err(|_| unreachable(key, "netmaster doesn't answer"))?;
        let mut asked = Vec::new();
        let mut refused = None;
        // A tiny block may hold nothing but the gateway, so one may not be enough.
        for _ in 0..4 {
            // Others may have had a block leased while this one waited for its turn.
            let haste = match refused {
                None => Haste::Rested,
                Some(_) => Haste::Any,
            };
            let address = match self.ask(|it| message(haste, it)).await? {
                Step::Done(done) => return Ok(done),
                Step::Lease(address) => address,
            };
            if let Some(error) = refused {
                return Err(error);
            }
            asked.extend(address.map(|address| self.ask_for(key, address)));
            let leased = timeout_at(deadline, self.lease(key, address, promised)).await;
            refused = match leased {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error),
                Err(_) => Some(unreachable(key, "netmaster doesn't answer in time")),
            };
        }
        Err(unreachable(key, "the blocks leased hold no free address"))
    }

    fn ask_for(&self, key: &PoolKey, address: IpAddr) -> AskedFor {
        let it = ((key.tenant.clone(), key.network.clone()), address);
        lock(&self.asking).insert(it.clone());
        AskedFor {
            all: self.asking.clone(),
            it,
        }
    }

    fn turn(&self, key: &PoolKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.leasing);
        turns.entry(key.clone()).or_default().clone()
    }

    /// An address that is on its way back to the pool can be leased when it has arrived there.
    async fn until_returned(&self, key: &PoolKey, address: IpAddr) -> Result<(), AttachError> {
        let network = (key.tenant.clone(), key.network.clone());
        let arrived = |snapshot: &Snapshot| {
            let usage = snapshot.ledger.usage(&network);
            usage.is_none_or(|usage| !usage.returning.iter().any(|it| it.contains(&address)))
        };
        let mut snapshots = self.snapshot.clone();
        let there = snapshots.wait_for(arrived).await;
        there.map_err(|_| unreachable(key, "netplugin is stopping"))?;
        Ok(())
    }

    /// Has a block leased to this node, or one address ceded, and waits for the log to say so.
    async fn lease(
        &self,
        key: &PoolKey,
        address: Option<IpAddr>,
        promised: bool,
    ) -> Result<(), AttachError> {
        if let Some(address) = address {
            self.until_returned(key, address).await?;
        }
        let command = Command::BlockLease(BlockLease {
            tenant: key.tenant.clone(),
            network: key.network.clone(),
            group: key.group.clone(),
            node: self.me.clone(),
            address,
            v6: false,
            ahead: false,
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
            let network = (key.tenant.clone(), key.network.clone());
            let usage = snapshot.ledger.usage(&network);
            let usage = usage.cloned().unwrap_or_default();
            let whom = For {
                group: key.group.as_ref(),
                v6: false,
            };
            let network = facts.network(&key.tenant, &key.network);
            network.is_some_and(|it| is_half_full(it, &usage, &self.me, whom))
        };
        let started = due && lock(&self.ahead).insert(key.clone());
        if !started {
            return;
        }
        let (handle, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let turn = handle.turn(&key);
            let _turn = turn.lock().await;
            let leased = tokio::time::timeout(DEADLINE, handle.lease(&key, None, false)).await;
            if let Ok(Err(error)) = leased {
                tracing::debug!(pool = %key, %error, "no further block yet");
            }
            lock(&handle.ahead).remove(&key);
        });
    }
}

/// Is asked for until this is dropped.
struct AskedFor {
    all: Asking,
    it: (NetworkKey, IpAddr),
}

impl Drop for AskedFor {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.it);
    }
}

fn unreachable(key: &PoolKey, reason: &str) -> AttachError {
    AttachError::Unreachable {
        network: key.network.clone(),
        reason: reason.to_owned(),
    }
}
