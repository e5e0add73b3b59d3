//! The one way in which Docker, CNI and the local socket attach and detach.
//!
//! The waiting happens here, in the caller's task and bounded: for a block that netmaster leases,
//! for an address that another node cedes, for the kernel. The decisions are the manager's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::command::{BlockCede, BlockLease};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{
    Command, Endpoint, EndpointId, GroupName, NetworkName, NodeName, PoolKey, Rejection, TenantName,
};
use ipnet::IpNet;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::journal::{Found, Journal};
use super::ledger::{NetworkKey, Record, Usage};
use super::manager::{Answer, Attached, Ceding, Haste, INBOX, Inbox, Manager, Snapshot, Step, now};
use super::pool::{Choice, For, choose, is_half_full};
use super::{Attach, AttachError, Attachment, Claim, Description, LocalEndpoint, Reserve, settle};
use crate::bus::{AskError, BusHandle};
use crate::lock::lock;
use crate::projection::{NetworkFact, Projection};

/// Everything that one attach, detach or reservation may wait for, together.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// What the core has made of the endpoints in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The generation of [`Snapshot`] that it has worked off.
    pub generation: u64,
    /// Endpoints that the kernel doesn't have, and why.
    pub failed: BTreeMap<EndpointId, String>,
    /// Endpoints that nobody can reach, and why: those, and what the log closed.
    pub closed: BTreeMap<EndpointId, String>,
    /// The node was in sync with the log since its start: until then it doesn't know what that
    /// closed.
    pub was_in_sync: bool,
    pub in_sync: bool,
}

/// What the manager starts from.
#[derive(Debug)]
pub struct Parts<'a> {
    pub me: NodeName,
    pub journal: &'a Path,
    /// Bytes of a packet inside.
    pub mtu: u32,
    pub facts: watch::Receiver<Projection>,
    pub kernel: watch::Receiver<Kernel>,
    pub bus: BusHandle,
}

/// Cheap to clone; the manager ends with the last clone.
#[derive(Debug, Clone)]
pub struct EndpointsHandle {
    me: NodeName,
    mtu: u32,
    inbox: mpsc::Sender<Inbox>,
    snapshot: watch::Receiver<Snapshot>,
    facts: watch::Receiver<Projection>,
    kernel: watch::Receiver<Kernel>,
    bus: BusHandle,
    /// Pools for which somebody asks for a block right now: one request is enough for all.
    leasing: Arc<Mutex<BTreeMap<PoolKey, Arc<tokio::sync::Mutex<()>>>>>,
    ahead: Arc<Mutex<BTreeSet<PoolKey>>>,
    asking: Asking,
    pub(super) published: watch::Sender<Option<Vec<Endpoint>>>,
}

/// Addresses that somebody asks for right now: they aren't given back for lack of an endpoint.
type Asking = Arc<Mutex<BTreeSet<(NetworkKey, IpAddr)>>>;

impl EndpointsHandle {
    /// Opens the journal and starts the manager.
    pub fn start(parts: Parts<'_>) -> Result<(Self, Found), AttachError> {
        let failed = |error: std::io::Error| AttachError::Journal {
            path: parts.journal.display().to_string(),
            reason: error.to_string(),
        };
        let (journal, ledger, found) = Journal::open(parts.journal).map_err(failed)?;
        let (inbox, received) = mpsc::channel(INBOX);
        let (sender, snapshot) = watch::channel(Snapshot {
            generation: 0,
            endpoints: ledger.endpoints().clone(),
            ledger: Arc::new(ledger.clone()),
        });
        let manager = Manager {
            me: parts.me.clone(),
            journal,
            ledger,
            facts: parts.facts.clone(),
            snapshot: sender,
        };
        std::thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn(move || manager.run(received))
            .map_err(failed)?;
        let handle = Self {
            me: parts.me,
            mtu: parts.mtu,
            inbox,
            snapshot,
            facts: parts.facts,
            kernel: parts.kernel,
            bus: parts.bus,
            leasing: Arc::default(),
            ahead: Arc::default(),
            asking: Arc::default(),
            published: watch::Sender::default(),
        };
        Ok((handle, found))
    }

    /// Takes an address before its endpoint exists. The same address again is fine.
    pub async fn reserve(&self, ask: Reserve) -> Result<IpAddr, AttachError> {
        let key = self.pool_key(&ask.tenant, &ask.network, ask.group.as_ref());
        // Out of the blocks of the swarm's manager: it says nothing of how full ours are.
        let promised = ask.claim == Claim::Task;
        let ask = |haste, answer| Inbox::Reserve(ask.clone(), haste, answer);
        let deadline = Instant::now() + DEADLINE;
        let address = self.with_block(&key, deadline, promised, ask).await?;
        if !promised {
            self.lease_ahead(&key);
        }
        Ok(address)
    }

    /// Ends what [`reserve`](Self::reserve) began; nothing happens to an address without that claim.
    pub async fn release(
        &self,
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        claim: Claim,
    ) -> Result<(), AttachError> {
        self.ask(|answer| Inbox::Release((tenant, network), address, claim, answer))
            .await
    }

    /// Returns when the endpoint is journaled: the kernel gets it next ([`Self::attached`]). The same
    /// again gives the same answer.
    pub async fn start_attach(&self, ask: Attach) -> Result<Attachment, AttachError> {
        let attached = self.claim(ask, Instant::now() + DEADLINE).await?;
        Ok(self.attachment(attached.endpoint))
    }

    /// Returns when the kernel has the endpoint, or says why it hasn't.
    pub async fn attached(&self, id: &EndpointId) -> Result<(), AttachError> {
        let generation = self.snapshot.borrow().generation;
        let done = self.in_kernel(id, generation, Instant::now() + DEADLINE);
        done.await.map_err(AttachError::Datapath)
    }

    async fn claim(&self, ask: Attach, deadline: Instant) -> Result<Attached, AttachError> {
        let key = self.pool_key(&ask.tenant, &ask.network, ask.group.as_ref());
        let message = |haste, answer| Inbox::Attach(ask.clone(), haste, answer);
        let attached = self.with_block(&key, deadline, false, message).await?;
        if ask.addresses.is_empty() {
            self.lease_ahead(&key);
        }
        Ok(attached)
    }

    /// Returns when the kernel has the endpoint. The same again gives the same answer.
    pub async fn attach(&self, ask: Attach) -> Result<Attachment, AttachError> {
        let deadline = Instant::now() + DEADLINE;
        let attached = self.claim(ask, deadline).await?;
        let id = attached.endpoint.id.clone();
        if let Err(reason) = self.in_kernel(&id, attached.generation, deadline).await {
            if attached.fresh {
                self.ask(|answer| Inbox::Detach(id, answer)).await.ok();
            }
            return Err(AttachError::Datapath(reason));
        }
        Ok(self.attachment(attached.endpoint))
    }

    /// Removes the endpoint and its claim on its addresses. The core takes it out of the kernel next,
    /// before it puts in what is attached later. Answers the generation in which that is done.
    pub async fn start_detach(&self, id: &EndpointId) -> Result<u64, AttachError> {
        self.ask(|answer| Inbox::Detach(id.clone(), answer)).await
    }

    /// Removes the endpoint and its claim on its addresses, and waits a while for the kernel.
    pub async fn detach(&self, id: &EndpointId) -> Result<(), AttachError> {
        let deadline = Instant::now() + DEADLINE;
        let generation = self.start_detach(id).await?;
        // The core goes on trying; the address rests before it is used again.
        self.in_kernel(id, generation, deadline).await.ok();
        Ok(())
    }

    /// Takes in what is known of an endpoint after it was made.
    pub async fn describe(&self, id: &EndpointId, told: Description) -> Result<(), AttachError> {
        self.ask(|answer| Inbox::Describe(id.clone(), told, answer))
            .await
    }

    pub fn list(&self) -> Vec<LocalEndpoint> {
        self.snapshot
            .borrow()
            .endpoints
            .values()
            .map(|it| it.as_ref().clone())
            .collect()
    }

    /// Addresses that are reserved and belong to no endpoint.
    pub fn reserved(&self) -> Vec<(TenantName, NetworkName, IpAddr)> {
        self.taken(|usage| {
            let idle = usage.reserved.iter().copied();
            idle.filter(|it| !usage.in_use.contains_key(it)).collect()
        })
    }

    /// Addresses that are promised to tasks of the swarm that this node manages.
    pub fn promised(&self) -> Vec<(TenantName, NetworkName, IpAddr)> {
        self.taken(|usage| usage.promised.iter().copied().collect())
    }

    fn taken(&self, of: fn(&Usage) -> Vec<IpAddr>) -> Vec<(TenantName, NetworkName, IpAddr)> {
        let snapshot = self.snapshot.borrow();
        let networks = snapshot.ledger.networks();
        let all = networks.flat_map(|((tenant, network), usage)| {
            let addresses = of(usage).into_iter();
            addresses.map(move |it| (tenant.clone(), network.clone(), it))
        });
        all.collect()
    }

    pub(super) fn asking(&self) -> BTreeSet<(NetworkKey, IpAddr)> {
        lock(&self.asking).clone()
    }

    pub fn endpoint(&self, id: &EndpointId) -> Option<LocalEndpoint> {
        let snapshot = self.snapshot.borrow();
        snapshot.endpoints.get(id).map(|it| it.as_ref().clone())
    }

    /// Whether an endpoint of the network, or of the group in it, can be had without asking for a
    /// block.
    pub fn has_free(
        &self,
        network: &NetworkFact,
        key: &NetworkKey,
        group: Option<&GroupName>,
    ) -> bool {
        let snapshot = self.snapshot.borrow();
        let usage = snapshot.ledger.usage(key).cloned().unwrap_or_default();
        let whom = For { group, v6: false };
        choose(network, &usage, &self.me, whom, now()) != Choice::None
    }

    /// The endpoints of this node, as they change.
    pub fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// What the kernel has of them, as it changes.
    pub fn kernel(&self) -> watch::Receiver<Kernel> {
        self.kernel.clone()
    }

    /// Lets another node have an address of a block of ours.
    pub(crate) async fn cede(&self, asked: Ceding) -> Result<(), AttachError> {
        self.ask(|answer| Inbox::Cede(asked.clone(), answer))
            .await?;
        let Ceding {
            key, address, to, ..
        } = asked;
        let command = Command::BlockCede(BlockCede {
            tenant: key.0.clone(),
            network: key.1.clone(),
            group: settle::pool_of(&self.facts.borrow(), &key, address),
            address,
            from: self.me.clone(),
            to,
        });
        match self.bus.command(command).await {
            Ok(_) => Ok(()),
            // Whether the address is ours again is for `settle` to find out: an earlier request may
            // have been granted, of which the facts don't know yet.
            Err(AskError::Rejected { rejection, .. }) => Err(AttachError::Rejected(*rejection)),
            Err(AskError::Unreachable(reason)) => Err(AttachError::Unreachable {
                network: key.1,
                reason,
            }),
        }
    }

    pub(crate) async fn start_return(
        &self,
        key: NetworkKey,
        block: IpNet,
    ) -> Result<(), AttachError> {
        self.ask(|answer| Inbox::Return(key, block, answer)).await
    }

    pub(crate) async fn settled(&self, records: Vec<Record>) -> Result<(), AttachError> {
        self.ask(|answer| Inbox::Settled(records, answer)).await
    }

    pub(super) async fn ask<T>(
        &self,
        message: impl FnOnce(Answer<T>) -> Inbox,
    ) -> Result<T, AttachError> {
        let stopping = || AttachError::Datapath("netplugin is stopping".to_owned());
        let (answer, answered) = oneshot::channel();
        let sent = self.inbox.send(message(answer)).await;
        sent.map_err(|_| stopping())?;
        answered.await.map_err(|_| stopping())?
    }

    /// Whether this node is in sync with the log: what it doesn't know then doesn't exist.
    pub fn has_read_log(&self) -> bool {
        self.kernel.borrow().in_sync
    }

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
    async fn with_block<T>(
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

    /// Whose blocks an endpoint gets its address from.
    fn pool_key(
        &self,
        tenant: &TenantName,
        network: &NetworkName,
        group: Option<&GroupName>,
    ) -> PoolKey {
        let facts = self.facts.borrow();
        let fact = facts.network(tenant, network);
        PoolKey {
            tenant: tenant.clone(),
            network: network.clone(),
            group: fact.and_then(|fact| fact.pool_group(group)),
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
    fn lease_ahead(&self, key: &PoolKey) {
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

    async fn in_kernel(
        &self,
        id: &EndpointId,
        generation: u64,
        deadline: Instant,
    ) -> Result<(), String> {
        let mut kernel = self.kernel.clone();
        let done = kernel.wait_for(|kernel| kernel.generation >= generation);
        match timeout_at(deadline, done).await {
            Ok(Ok(kernel)) => kernel.failed.get(id).map_or(Ok(()), |why| Err(why.clone())),
            Ok(Err(_)) => Err("netplugin is stopping".to_owned()),
            Err(_) => Err(format!(
                "it took longer than {} s; try again",
                DEADLINE.as_secs()
            )),
        }
    }

    fn attachment(&self, endpoint: LocalEndpoint) -> Attachment {
        let facts = self.facts.borrow();
        let network = facts.network(&endpoint.tenant, &endpoint.network);
        let pools = network.into_iter().flat_map(|network| network.spec.pools());
        let gateways = pools
            .filter(|pool| endpoint.addresses.iter().any(|it| pool.subnet.contains(it)))
            .map(|pool| pool.gateway)
            .collect();
        drop(facts);
        Attachment {
            gateways,
            mtu: self.mtu,
            endpoint,
        }
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
