//! The one way in which Docker, CNI and the local socket attach and detach.
//!
//! The waiting happens here and in `lease`, in the caller's task and bounded: for a block that
//! netmaster leases, for an address that another node cedes, for the kernel. The decisions are the
//! manager's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::{Endpoint, EndpointId, GroupName, NetworkName, NodeName, PoolKey, TenantName};
use ipnet::IpNet;
use runtime::now;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::journal::{Found, Journal};
use super::ledger::{NetworkKey, Record, Usage};
use super::manager::{Answer, Attached, INBOX, Inbox, Manager, Snapshot, asked_in};
use super::marks::Marks;
use super::pool::{Choice, NodeAddresses, PoolSelector};
use super::{
    Attach, AttachError, Attachment, Claim, Description, LocalEndpoint, Reserve,
    must_take_endpoints,
};
use crate::bus::BusHandle;
use node_core::projection::{NetworkFact, Projection};

/// Everything that one attach, detach or reservation may wait for, together.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// What an attach leaves to the kernel at least, however long it waited for an address.
const KERNEL_DEADLINE: Duration = Duration::from_secs(3);

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
    leaving: Arc<AtomicBool>,
    pub(super) me: NodeName,
    mtu: u32,
    inbox: mpsc::Sender<Inbox>,
    pub(super) snapshot: watch::Receiver<Snapshot>,
    pub(super) facts: watch::Receiver<Projection>,
    pub(super) kernel: watch::Receiver<Kernel>,
    pub(super) bus: BusHandle,
    /// Whose turn it is to ask for a block of a pool: one request is enough for all.
    pub(super) turns: Arc<Mutex<BTreeMap<PoolKey, Arc<tokio::sync::Mutex<()>>>>>,
    /// Pools for which an attach or a reservation asks for addresses right now.
    pub(super) leasing: Marks<PoolKey>,
    pub(super) ahead: Arc<Mutex<BTreeSet<PoolKey>>>,
    /// Addresses that somebody asks for by name right now: nobody else gets them, and they aren't
    /// given up for lack of an endpoint.
    pub(super) asking: Marks<(NetworkKey, IpAddr)>,
    /// Blocks whose command is on its way to netmaster.
    pub(super) giving: Marks<(NetworkKey, IpNet)>,
    /// Notified when one of these ends.
    pub(super) ended: Arc<Notify>,
    pub(super) published: watch::Sender<Option<Vec<Endpoint>>>,
}

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
        let ended = Arc::new(Notify::new());
        let (asking, giving) = (Marks::new(ended.clone()), Marks::new(ended.clone()));
        let leaving = Arc::<AtomicBool>::default();
        let manager = Manager {
            leaving: leaving.clone(),
            me: parts.me.clone(),
            journal,
            ledger,
            facts: parts.facts.clone(),
            snapshot: sender,
            asking: asking.clone(),
            giving: giving.clone(),
        };
        std::thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn(move || manager.run(received))
            .map_err(failed)?;
        let handle = Self {
            leaving,
            me: parts.me,
            mtu: parts.mtu,
            inbox,
            snapshot,
            facts: parts.facts,
            kernel: parts.kernel,
            bus: parts.bus,
            turns: Arc::default(),
            leasing: Marks::new(ended.clone()),
            ahead: Arc::default(),
            asking,
            giving,
            ended,
            published: watch::Sender::default(),
        };
        Ok((handle, found))
    }

    /// Takes no new endpoints until this process ends: its node leaves the cluster.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
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
        // What the address took isn't the kernel's fault.
        let deadline = deadline.max(Instant::now() + KERNEL_DEADLINE);
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

    pub fn endpoint(&self, id: &EndpointId) -> Option<LocalEndpoint> {
        let snapshot = self.snapshot.borrow();
        snapshot.endpoints.get(id).map(|it| it.as_ref().clone())
    }

    /// A node that is drained, has left or was removed takes no new endpoints.
    pub fn must_take_endpoints(&self) -> Result<(), AttachError> {
        must_take_endpoints(&self.facts.borrow(), &self.me, &self.leaving)
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
        let whom = PoolSelector { group, v6: false };
        let holding = NodeAddresses {
            network,
            me: &self.me,
            usage: &usage,
            asked: &asked_in(&self.asking, key),
        };
        holding.choose(whom, now()) != Choice::None
    }

    /// The endpoints of this node, as they change.
    pub fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// What the kernel has of them, as it changes.
    pub fn kernel(&self) -> watch::Receiver<Kernel> {
        self.kernel.clone()
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
