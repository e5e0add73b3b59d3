//! The waits of an attach or a reservation when this node has no free address: for a block that
//! netmaster leases, or for an address that another node cedes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bus_schema::command::BlockLease;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, NodeName, PoolKey, Rejection};
use tokio::time::{Instant, timeout_at};

use super::allocate::requested_in;
use super::give_up::network_of;
use super::handle::REQUEST_TIMEOUT;
use super::manager::Snapshot;
use super::message::{Attempt, ManagerMessage, RestPeriod, ResultSender};
use super::pool::{NodeAddresses, PoolSelector};
use super::{AttachError, EndpointsHandle};
use crate::requests::BusError;
use node_core::projection::Projection;
use runtime::lock;

/// How long an endpoint waits for another block while this node has only addresses that were freed a
/// moment ago. Then it gets one of those.
const LEASE_AHEAD_TIMEOUT: Duration = Duration::from_secs(2);

impl EndpointsHandle {
    /// Sends the message to the manager until no further block is needed.
    pub(super) async fn with_block<T>(
        &self,
        key: &PoolKey,
        deadline: Instant,
        promised: bool,
        message: impl Fn(RestPeriod, ResultSender<Attempt<T>>) -> ManagerMessage,
    ) -> Result<T, AttachError> {
        let ask = || self.ask(|it| message(RestPeriod::Required, it));
        let first = match ask().await {
            Err(unknown) if unknown.may_be_of_unread_log() => {
                self.wait_for_log(deadline, &unknown).await?;
                ask().await
            }
            first => first,
        };
        if let Attempt::Done(done) = first? {
            return Ok(done);
        }
        let _leasing = self.leasing.begin(key.clone());
        let turn = self.turn(key);
        let waited = timeout_at(deadline, turn.lock()).await;
        let _turn = waited
            .map_err(|_| unreachable(key, "other endpoints of this node wait for it, too"))?;
        let mut requested = BTreeMap::new();
        let mut rest = RestPeriod::Required;
        let mut refused = None;
        // Another endpoint of this node may take an address before this one does, and a tiny block
        // may hold only the gateway. So netmaster is asked again as long as it leases something.
        loop {
            let lease = match self.ask(|it| message(rest, it)).await? {
                Attempt::Done(done) => return Ok(done),
                Attempt::OnlyRecent => Lease::Ahead,
                Attempt::NeedsBlock(address) => Lease::Needed { address, promised },
            };
            // After a refusal another endpoint may still have got a block, or freed an address.
            if let Some(error) = refused {
                return Err(error);
            }
            if let Some(address) = lease.address() {
                let begin = || self.requested.begin((network_of(key), address));
                requested.entry(address).or_insert_with(begin);
            }
            if let Err(error) = self.lease_until(deadline, key, lease).await {
                rest = RestPeriod::Waived;
                refused = matches!(lease, Lease::Needed { .. }).then_some(error);
            }
        }
    }

    /// Waits until this node has read the log: it may hold what is unknown so far.
    async fn wait_for_log(
        &self,
        deadline: Instant,
        unknown: &AttachError,
    ) -> Result<(), AttachError> {
        let mut kernel = self.kernel.clone();
        let read = kernel.wait_for(|kernel| kernel.in_sync);
        match timeout_at(deadline, read).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(AttachError::LogUnread(unknown.to_string())),
        }
    }

    async fn lease_until(
        &self,
        deadline: Instant,
        key: &PoolKey,
        lease: Lease,
    ) -> Result<(), AttachError> {
        let until = match lease {
            Lease::Needed { .. } => deadline,
            Lease::Ahead => deadline.min(Instant::now() + LEASE_AHEAD_TIMEOUT),
        };
        let late = || unreachable(key, "netmaster doesn't answer in time");
        if Instant::now() >= until {
            return Err(late());
        }
        let leased = timeout_at(until, self.lease(key, lease)).await;
        leased.unwrap_or_else(|_| Err(late()))
    }

    /// The lock that one request for a block of the pool holds.
    fn turn(&self, key: &PoolKey) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = lock(&self.turns);
        turns.entry(key.clone()).or_default().clone()
    }

    /// Waits until the address is no longer being returned or ceded: only then can it be leased.
    async fn wait_until_given_up(&self, key: &PoolKey, address: IpAddr) -> Result<(), AttachError> {
        let network = network_of(key);
        let given_up = |snapshot: &Snapshot| {
            let usage = snapshot.ledger.usage(&network);
            usage.is_none_or(|usage| {
                let returning = usage.returning.iter().any(|it| it.contains(&address));
                !returning && !usage.ceding.contains_key(&address)
            })
        };
        let mut snapshots = self.snapshot.clone();
        let waited = snapshots.wait_for(given_up).await;
        waited.map_err(|_| unreachable(key, "netplugin is stopping"))?;
        Ok(())
    }

    /// Has a block leased to this node, or one address ceded, and waits until the facts say so.
    async fn lease(&self, key: &PoolKey, lease: Lease) -> Result<(), AttachError> {
        if let Some(address) = lease.address() {
            self.wait_until_given_up(key, address).await?;
        }
        let command = Command::BlockLease(BlockLease {
            tenant: key.tenant.clone(),
            network: key.network.clone(),
            group: key.group.clone(),
            node: self.me.clone(),
            address: lease.address(),
            v6: false,
            ahead: matches!(lease, Lease::Ahead),
            waiting: u16::try_from(self.leasing.count(key)).unwrap_or(u16::MAX),
        });
        match self.bus.command(command).await {
            Ok(revision) => {
                self.wait_for_facts(key, |facts| facts.applied >= revision)
                    .await
            }
            Err(BusError::Rejected { rejection, .. }) => match *rejection {
                Rejection::AddressHeld { address, node, .. } => {
                    let promised = matches!(lease, Lease::Needed { promised: true, .. });
                    self.request_cede(key, address, node, promised).await
                }
                rejection => Err(AttachError::Rejected(rejection)),
            },
            Err(BusError::Unreachable(reason)) => Err(unreachable(key, &reason)),
        }
    }

    /// Asks the node that holds the address to cede it, and waits until the facts say so.
    async fn request_cede(
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
            return Err(not_ceded("is returning its block; try again".to_owned()));
        }
        let request = NodeRequest::Cede {
            tenant: key.tenant.clone(),
            network: key.network.clone(),
            address,
            to: self.me.clone(),
            promised,
        };
        let reply = self.bus.node(holder.clone(), request).await;
        if let Some(reason) = why_not_ceded(reply) {
            return Err(not_ceded(reason));
        }
        self.wait_for_facts(key, |facts| {
            let network = facts.network(&key.tenant, &key.network);
            network.is_none_or(|it| it.is_held_by(address, &self.me))
        })
        .await
    }

    async fn wait_for_facts(
        &self,
        key: &PoolKey,
        condition: impl FnMut(&Projection) -> bool,
    ) -> Result<(), AttachError> {
        let mut facts = self.facts.clone();
        let waited = facts.wait_for(condition).await;
        waited.map_err(|_| unreachable(key, "netplugin is stopping"))?;
        Ok(())
    }

    /// Leases the next block in the background when half of this node's addresses are taken.
    pub(super) fn lease_ahead(&self, key: &PoolKey) {
        let started = self.needs_block_ahead(key) && lock(&self.leasing_ahead).insert(key.clone());
        if !started {
            return;
        }
        let (handle, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            let _leasing = handle.leasing.begin(key.clone());
            let turn = handle.turn(&key);
            let _turn = turn.lock().await;
            let lease = handle.lease(&key, Lease::Ahead);
            let leased = tokio::time::timeout(REQUEST_TIMEOUT, lease).await;
            if let Ok(Err(error)) = leased {
                tracing::debug!(pool = %key, %error, "no further block yet");
            }
            lock(&handle.leasing_ahead).remove(&key);
        });
    }

    fn needs_block_ahead(&self, key: &PoolKey) -> bool {
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
                asked: &requested_in(&self.requested, &of),
            };
            holding.is_half_full(whom)
        });
        // A node that takes no endpoints would return the block at once.
        half_full && !facts.takes_no_endpoints(&self.me)
    }
}

/// A lease that is requested of netmaster.
#[derive(Debug, Clone, Copy)]
enum Lease {
    /// The block that holds this address, or any block. If none is free, netmaster asks other nodes
    /// to give up addresses.
    Needed {
        address: Option<IpAddr>,
        /// The address was promised to the task that waits for it.
        promised: bool,
    },
    /// Any block, if one is free. This node has an address that it can use meanwhile.
    Ahead,
}

impl Lease {
    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Needed { address, .. } => address,
            Self::Ahead => None,
        }
    }
}

/// The reason why the holder didn't cede an address, by its reply: the predicate of a sentence whose
/// subject is the holder.
fn why_not_ceded(reply: Result<NodeReply, BusError>) -> Option<String> {
    match reply {
        Ok(NodeReply::Done) => None,
        Ok(NodeReply::InUse { endpoints }) => {
            let users: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
            Some(format!("uses it for {}", users.join(", ")))
        }
        Ok(NodeReply::Refused { reason }) => Some(format!("doesn't cede it: {reason}")),
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
        ) => Some("sent a reply of another kind".to_owned()),
        Err(error) => Some(format!("can't be asked: {error}")),
    }
}

fn unreachable(key: &PoolKey, reason: &str) -> AttachError {
    AttachError::Unreachable {
        network: key.network.clone(),
        reason: reason.to_owned(),
    }
}
