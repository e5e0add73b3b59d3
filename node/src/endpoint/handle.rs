//! The handle through which Docker, CNI and the local socket attach and detach endpoints.
//!
//! The handle and `lease` wait in the caller's task, for a bounded time: for a block that netmaster
//! leases, for an address that another node cedes, for the kernel. The manager decides.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::{Endpoint, EndpointId, GroupName, NetworkName, NodeName, PoolKey, TenantName};
use ipnet::IpNet;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::allocate::requested_in;
use super::decisions::SharedDecisions;
use super::in_progress::InProgress;
use super::journal::{Journal, JournalState};
use super::ledger::{NetworkKey, Record, Usage};
use super::manager::{MAX_QUEUED_MESSAGES, Manager, Snapshot};
use super::message::{Attached, ManagerMessage, ResultSender};
use super::pool::{Choice, NodeAddresses, PoolSelector};
use super::{
    Attach, AttachError, Attachment, Claim, Description, LocalEndpoint, Reserve,
    must_take_endpoints,
};
use crate::requests::BusHandle;
use node_core::projection::{NetworkFact, Projection};
use runtime::now;

/// How long one attach, detach or reservation waits in all.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an attach waits for the kernel at least, however long it waited for an address.
const MIN_KERNEL_TIMEOUT: Duration = Duration::from_secs(3);

/// The state of the endpoints in the kernel, as the reconciler reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The generation of [`Snapshot`] that the reconciler has applied.
    pub generation: u64,
    /// The endpoints that the kernel doesn't have, with the reasons.
    pub failed: BTreeMap<EndpointId, String>,
    /// The endpoints that can't be reached, with the reasons: those above, and those that the log
    /// closed.
    pub closed: BTreeMap<EndpointId, String>,
    /// The node was in sync with the log since its start. Until then it doesn't know which endpoints
    /// the log closed.
    pub was_in_sync: bool,
    pub in_sync: bool,
}

/// The configuration and the channels of the manager.
#[derive(Debug)]
pub struct EndpointsConfig<'a> {
    pub me: NodeName,
    pub journal: &'a Path,
    /// Bytes of a packet inside.
    pub mtu: u32,
    pub facts: watch::Receiver<Projection>,
    pub kernel: watch::Receiver<Kernel>,
    pub bus: BusHandle,
}

/// Sends requests to the manager. Cheap to clone; the manager ends with the last clone.
#[derive(Debug, Clone)]
pub struct EndpointsHandle {
    leaving: Arc<AtomicBool>,
    pub(super) me: NodeName,
    mtu: u32,
    messages: mpsc::Sender<ManagerMessage>,
    pub(super) snapshot: watch::Receiver<Snapshot>,
    pub(super) facts: watch::Receiver<Projection>,
    pub(super) kernel: watch::Receiver<Kernel>,
    pub(super) bus: BusHandle,
    /// The lock of each pool for which a block is requested: one request is enough for all.
    pub(super) turns: Arc<Mutex<BTreeMap<PoolKey, Arc<tokio::sync::Mutex<()>>>>>,
    /// Pools for which an attach or a reservation requests addresses right now.
    pub(super) leasing: InProgress<PoolKey>,
    pub(super) leasing_ahead: Arc<Mutex<BTreeSet<PoolKey>>>,
    /// Addresses that are requested by name right now: no other endpoint gets them, and they aren't
    /// given up for lack of an endpoint.
    pub(super) requested: InProgress<(NetworkKey, IpAddr)>,
    /// Blocks whose command to netmaster is in progress.
    pub(super) giving_up: InProgress<(NetworkKey, IpNet)>,
    pub(super) decisions: SharedDecisions,
    /// Notified when an operation in progress ends.
    pub(super) operation_ended: Arc<Notify>,
    pub(super) published: watch::Sender<Option<Vec<Endpoint>>>,
}

impl EndpointsHandle {
    /// Opens the journal and starts the manager.
    pub fn start(config: EndpointsConfig<'_>) -> Result<(Self, JournalState), AttachError> {
        let failed = |error: std::io::Error| AttachError::Journal {
            path: config.journal.display().to_string(),
            reason: error.to_string(),
        };
        let (journal, ledger, found) = Journal::open(config.journal).map_err(failed)?;
        let (messages, received) = mpsc::channel(MAX_QUEUED_MESSAGES);
        let (sender, snapshot) = watch::channel(Snapshot {
            generation: 0,
            endpoints: ledger.endpoints().clone(),
            ledger: Arc::new(ledger.clone()),
        });
        let ended = Arc::new(Notify::new());
        let requested = InProgress::new(ended.clone());
        let giving_up = InProgress::new(ended.clone());
        let decisions = SharedDecisions::default();
        let leaving = Arc::<AtomicBool>::default();
        let manager = Manager {
            leaving: leaving.clone(),
            me: config.me.clone(),
            mtu: config.mtu,
            journal,
            ledger,
            facts: config.facts.clone(),
            snapshot: sender,
            requested: requested.clone(),
            giving_up: giving_up.clone(),
            decisions: decisions.clone(),
        };
        std::thread::Builder::new()
            .name("endpoints".to_owned())
            .spawn(move || manager.run(received))
            .map_err(failed)?;
        let handle = Self {
            leaving,
            me: config.me,
            mtu: config.mtu,
            messages,
            snapshot,
            facts: config.facts,
            kernel: config.kernel,
            bus: config.bus,
            turns: Arc::default(),
            leasing: InProgress::new(ended.clone()),
            leasing_ahead: Arc::default(),
            requested,
            giving_up,
            decisions,
            operation_ended: ended,
            published: watch::Sender::default(),
        };
        Ok((handle, found))
    }

    /// Refuses new endpoints until this process ends, because its node leaves the cluster.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Reserves an address before its endpoint exists. A repeated call with the address succeeds.
    pub async fn reserve(&self, ask: Reserve) -> Result<IpAddr, AttachError> {
        let key = self.pool_key(&ask.tenant, &ask.network, ask.group.as_ref());
        // A promised address is of a block of the swarm's manager, so no block is leased ahead here.
        let promised = ask.claim == Claim::Task;
        let ask = |rest, result| ManagerMessage::Reserve(ask.clone(), rest, result);
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let address = self.with_block(&key, deadline, promised, ask).await?;
        if !promised {
            self.lease_ahead(&key);
        }
        Ok(address)
    }

    /// Ends a reservation; does nothing if the address isn't reserved with this claim.
    pub async fn release(
        &self,
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        claim: Claim,
    ) -> Result<(), AttachError> {
        self.ask(|result| ManagerMessage::Release((tenant, network), address, claim, result))
            .await
    }

    /// Returns when the endpoint is journaled; the kernel gets it next
    /// ([`Self::wait_until_in_kernel`]). A repeated call returns the same.
    pub async fn start_attach(&self, ask: Attach) -> Result<Attachment, AttachError> {
        let attached = self
            .attach_in_journal(ask, Instant::now() + REQUEST_TIMEOUT)
            .await?;
        Ok(self.attachment(attached.endpoint))
    }

    /// Returns when the kernel has the endpoint, or the reason why it doesn't.
    pub async fn wait_until_in_kernel(&self, id: &EndpointId) -> Result<(), AttachError> {
        let generation = self.snapshot.borrow().generation;
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        self.wait_for_generation(id, generation, deadline).await
    }

    async fn attach_in_journal(
        &self,
        ask: Attach,
        deadline: Instant,
    ) -> Result<Attached, AttachError> {
        let key = self.pool_key(&ask.tenant, &ask.network, ask.group.as_ref());
        let message = |rest, result| ManagerMessage::Attach(ask.clone(), rest, result);
        let attached = self.with_block(&key, deadline, false, message).await?;
        if ask.addresses.is_empty() {
            self.lease_ahead(&key);
        }
        Ok(attached)
    }

    /// Returns when the kernel has the endpoint. A repeated call returns the same.
    pub async fn attach(&self, ask: Attach) -> Result<Attachment, AttachError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let attached = self.attach_in_journal(ask, deadline).await?;
        let id = attached.endpoint.id.clone();
        // The time that the address took isn't taken from the kernel's.
        let deadline = deadline.max(Instant::now() + MIN_KERNEL_TIMEOUT);
        if let Err(error) = self
            .wait_for_generation(&id, attached.generation, deadline)
            .await
        {
            if attached.fresh {
                self.ask(|result| ManagerMessage::Detach(id, result))
                    .await
                    .ok();
            }
            return Err(error);
        }
        Ok(self.attachment(attached.endpoint))
    }

    /// Removes the endpoint and frees its addresses. The core removes it from the kernel next, before
    /// it adds endpoints that are attached later. Returns the generation in which that is done.
    pub async fn start_detach(&self, id: &EndpointId) -> Result<u64, AttachError> {
        self.ask(|result| ManagerMessage::Detach(id.clone(), result))
            .await
    }

    /// Removes the endpoint, frees its addresses, and waits for the kernel until the deadline.
    pub async fn detach(&self, id: &EndpointId) -> Result<(), AttachError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let generation = self.start_detach(id).await?;
        // The core tries again; the address rests before it is used again.
        self.wait_for_generation(id, generation, deadline)
            .await
            .ok();
        Ok(())
    }

    /// Adds the endpoint's name, aliases and container, which are known after the attach.
    pub async fn describe(
        &self,
        id: &EndpointId,
        description: Description,
    ) -> Result<(), AttachError> {
        self.ask(|result| ManagerMessage::Describe(id.clone(), description, result))
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

    /// Refuses new endpoints on a node that is drained, has left or was removed.
    pub fn must_take_endpoints(&self) -> Result<(), AttachError> {
        must_take_endpoints(&self.facts.borrow(), &self.me, &self.leaving)
    }

    /// Whether this node has a free address for an endpoint of the network, or of the group in it.
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
            asked: &requested_in(&self.requested, key),
        };
        holding.choose(whom, now()) != Choice::None
    }

    /// The journaled endpoints of this node; receives every change.
    pub fn snapshots(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// The state of the endpoints in the kernel; receives every change.
    pub fn kernel(&self) -> watch::Receiver<Kernel> {
        self.kernel.clone()
    }

    /// Journals the records and returns when they, and all earlier requests, are journaled.
    pub(crate) async fn write_records(&self, records: Vec<Record>) -> Result<(), AttachError> {
        self.ask(|result| ManagerMessage::Write(records, result))
            .await
    }

    pub(super) async fn ask<T>(
        &self,
        message: impl FnOnce(ResultSender<T>) -> ManagerMessage,
    ) -> Result<T, AttachError> {
        let stopping = || AttachError::Datapath("netplugin is stopping".to_owned());
        let (sender, result) = oneshot::channel();
        let sent = self.messages.send(message(sender)).await;
        sent.map_err(|_| stopping())?;
        result.await.map_err(|_| stopping())?
    }

    /// Whether this node is in sync with the log. Then a name that the facts lack doesn't exist.
    pub fn has_read_log(&self) -> bool {
        self.kernel.borrow().in_sync
    }

    /// The pool from which an endpoint gets its address.
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

    /// Waits until the reconciler has applied the generation, and checks that the kernel has the endpoint.
    async fn wait_for_generation(
        &self,
        id: &EndpointId,
        generation: u64,
        deadline: Instant,
    ) -> Result<(), AttachError> {
        let mut kernel = self.kernel.clone();
        let done = kernel.wait_for(|kernel| kernel.generation >= generation);
        let reason = match timeout_at(deadline, done).await {
            Ok(Ok(kernel)) => match kernel.failed.get(id) {
                None => return Ok(()),
                Some(reason) => reason.clone(),
            },
            Ok(Err(_)) => "netplugin is stopping".to_owned(),
            Err(_) => format!(
                "it took longer than {} s; try again",
                REQUEST_TIMEOUT.as_secs()
            ),
        };
        Err(AttachError::Datapath(reason))
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
            mtu: endpoint.mtu.unwrap_or(self.mtu),
            endpoint,
        }
    }
}
