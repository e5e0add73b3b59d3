//! Allocates addresses, one request after another, on a thread of its own.
//!
//! The thread alone holds the ledger and the journal: a decision is on disk before it is answered
//! or published. The thread never waits for the bus or the kernel: it answers
//! [`Attempt::NeedsBlock`], and the handle sends the request again. The queue is bounded; the thread
//! ends with the last handle.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bus_schema::{EndpointId, GroupName, MacAddr, NodeName, Rejection, limits};
use ipnet::IpNet;
use tokio::sync::{mpsc, watch};

use super::allocate::{NamedAddress, check_pool};
use super::decisions::SharedDecisions;
use super::give_up::returning;
use super::in_progress::InProgress;
use super::journal::{Journal, limit_names};
use super::ledger::{Ledger, Locals, NetworkKey, Record, Usage};
use super::message::{Attached, Attempt, ManagerMessage, RestPeriod};
use super::{Attach, AttachError, Claim, Description, LocalEndpoint, Reserve, must_take_endpoints};
use node_core::desired::interface_names;
use node_core::projection::{NetworkFact, Projection};
use runtime::now;

/// The length of the thread's queue; the thread handles a message in about one flush of the disk.
pub(super) const MAX_QUEUED_MESSAGES: usize = 256;

/// The node's endpoints and the ledger, as journaled.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Increases with every change.
    pub generation: u64,
    pub endpoints: Locals,
    pub ledger: Arc<Ledger>,
}

pub(super) struct Manager {
    /// The operator has ordered this node to leave; the log may not have the event yet.
    pub leaving: Arc<AtomicBool>,
    pub me: NodeName,
    /// The MTU of new endpoints, in bytes.
    pub mtu: u32,
    pub journal: Journal,
    pub ledger: Ledger,
    pub facts: watch::Receiver<Projection>,
    pub snapshot: watch::Sender<Snapshot>,
    /// Addresses that are requested by name right now.
    pub requested: InProgress<(NetworkKey, IpAddr)>,
    /// Blocks whose command to netmaster is in progress.
    pub giving_up: InProgress<(NetworkKey, IpNet)>,
    pub decisions: SharedDecisions,
}

impl Manager {
    pub(super) fn run(mut self, mut messages: mpsc::Receiver<ManagerMessage>) {
        self.publish();
        while let Some(message) = messages.blocking_recv() {
            self.handle(message);
        }
    }

    /// Handles one message. If the handle's deadline has passed, nobody receives the result.
    fn handle(&mut self, message: ManagerMessage) {
        match message {
            ManagerMessage::Reserve(ask, rest, result) => {
                result.send(self.reserve(&ask, rest)).ok();
            }
            ManagerMessage::Release(key, address, claim, result) => {
                result.send(self.release(key, address, claim)).ok();
            }
            ManagerMessage::Attach(ask, rest, result) => {
                result.send(self.attach(&ask, rest)).ok();
            }
            ManagerMessage::Detach(id, result) => {
                result.send(self.detach(id)).ok();
            }
            ManagerMessage::Describe(id, description, result) => {
                result.send(self.describe(&id, description)).ok();
            }
            ManagerMessage::Return(key, block, result) => {
                result.send(self.start_return(key, block)).ok();
            }
            ManagerMessage::ReturnAny(pool, v6, result) => {
                result.send(self.return_any(&pool, v6)).ok();
            }
            ManagerMessage::Cede(request, result) => {
                result.send(self.start_cede(request)).ok();
            }
            ManagerMessage::CedeAny(pool, v6, to, count, result) => {
                result.send(self.cede_any(&pool, v6, &to, count)).ok();
            }
            ManagerMessage::Write(mut records, result) => {
                // The end of a task's operation and new facts wake `settle`, which ends it again.
                records.retain(|record| !self.ends_too_early(record));
                result.send(self.write(&records)).ok();
            }
            ManagerMessage::Restore(records, result) => {
                self.restore(&records);
                result.send(Ok(())).ok();
            }
        }
    }

    fn reserve(&mut self, ask: &Reserve, rest: RestPeriod) -> Result<Attempt<IpAddr>, AttachError> {
        let key = (ask.tenant.clone(), ask.network.clone());
        match self.must_take_endpoints() {
            // A swarm's manager promises addresses to tasks of other nodes, too.
            Err(AttachError::Drained(_)) if ask.claim == Claim::Promise => {}
            taken => taken?,
        }
        let network = self.open_network(&key)?;
        self.must_be_open(&key, ask.group.as_ref())?;
        let usage = self.usage(&key);
        let address = match ask.address {
            // The next leader of a swarm reserves again the addresses that the last leader promised
            // its tasks. If this node doesn't allocate the address, its holder keeps the promise, or
            // the task has the address by now.
            Some(address) if ask.claim == Claim::Promise => {
                if !self.allocates(&network, &usage, address) {
                    return Ok(Attempt::Done(address));
                }
                address
            }
            Some(address) => {
                check_pool(&network, address, ask.group.as_ref())?;
                let named = NamedAddress {
                    address,
                    endpoint: None,
                    promised: ask.claim == Claim::Task,
                };
                if !self.check_address(&network, &usage, named)? {
                    return Ok(Attempt::NeedsBlock(Some(address)));
                }
                address
            }
            None => match self.choose_address(&network, &usage, ask.group.as_ref(), rest) {
                Attempt::Done(address) => address,
                waits => return Ok(waits),
            },
        };
        let (known, record) = match ask.claim {
            Claim::Promise => (&usage.promised, Record::Promised { key, address }),
            Claim::Container | Claim::Task => (&usage.reserved, Record::Reserved { key, address }),
        };
        if !known.contains(&address) {
            self.write(&[record])?;
        }
        Ok(Attempt::Done(address))
    }

    fn release(
        &mut self,
        key: NetworkKey,
        address: IpAddr,
        claim: Claim,
    ) -> Result<(), AttachError> {
        let usage = self.usage(&key);
        let (at, of) = (now(), key.clone());
        let mut records = match claim {
            Claim::Promise if usage.promised.contains(&address) => {
                vec![Record::PromiseEnded { key, address, at }]
            }
            Claim::Container | Claim::Task if usage.reserved.contains(&address) => {
                vec![Record::Released { key, address, at }]
            }
            Claim::Promise | Claim::Container | Claim::Task => return Ok(()),
        };
        // In a tiny pool a block is one address, so an address that was ceded for a task looks like
        // a block of this node. It is returned: the swarm's manager needs it for the next task.
        let block = IpNet::from(address);
        let kept = usage.promised.contains(&address) || usage.in_use.contains_key(&address);
        if claim == Claim::Task && !kept && self.holds(&of, block) {
            records.push(returning(of, block));
        }
        self.write(&records)
    }

    fn holds(&self, (tenant, network): &NetworkKey, block: IpNet) -> bool {
        let facts = self.facts.borrow();
        let network = facts.network(tenant, network);
        network.is_some_and(|it| it.blocks.get(&block) == Some(&self.me))
    }

    fn attach(&mut self, ask: &Attach, rest: RestPeriod) -> Result<Attempt<Attached>, AttachError> {
        if let Some(known) = self.ledger.endpoint(&ask.id) {
            return self.attach_again(known.clone(), ask);
        }
        limits::check_names(ask.name.as_deref(), &ask.aliases)?;
        self.must_take_endpoints()?;
        let key = (ask.tenant.clone(), ask.network.clone());
        let network = self.open_network(&key)?;
        self.must_be_open(&key, ask.group.as_ref())?;
        let usage = self.usage(&key);
        let mut addresses = ask.addresses.clone();
        for address in &addresses {
            check_pool(&network, *address, ask.group.as_ref())?;
            let named = NamedAddress {
                address: *address,
                endpoint: Some(&ask.id),
                // The task to which the address was promised has reserved it.
                promised: usage.reserved.contains(address),
            };
            if !self.check_address(&network, &usage, named)? {
                return Ok(Attempt::NeedsBlock(Some(*address)));
            }
        }
        if addresses.is_empty() {
            match self.choose_address(&network, &usage, ask.group.as_ref(), rest) {
                Attempt::Done(address) => addresses.push(address),
                Attempt::NeedsBlock(address) => return Ok(Attempt::NeedsBlock(address)),
                Attempt::OnlyRecent => return Ok(Attempt::OnlyRecent),
            }
        }
        let endpoint = endpoint_of(ask, addresses, self.mtu);
        let record = Record::Attached {
            endpoint: Box::new(endpoint.clone()),
        };
        self.write(&[record])?;
        Ok(Attempt::Done(Attached {
            endpoint,
            generation: self.snapshot.borrow().generation,
            fresh: true,
        }))
    }

    /// Returns the endpoint of an earlier attach with the same arguments.
    fn attach_again(
        &mut self,
        known: LocalEndpoint,
        ask: &Attach,
    ) -> Result<Attempt<Attached>, AttachError> {
        let same = known.tenant == ask.tenant
            && known.network == ask.network
            && known.group == ask.group
            && known.owner == ask.owner
            && ask.addresses.iter().all(|it| known.addresses.contains(it));
        if !same {
            return Err(AttachError::EndpointDiffers(ask.id.clone()));
        }
        Ok(Attempt::Done(Attached {
            endpoint: known,
            generation: self.snapshot.borrow().generation,
            fresh: false,
        }))
    }

    fn detach(&mut self, id: EndpointId) -> Result<u64, AttachError> {
        if self.ledger.endpoint(&id).is_none() {
            return Err(AttachError::EndpointUnknown(id));
        }
        self.write(&[Record::Detached { id, at: now() }])?;
        Ok(self.snapshot.borrow().generation)
    }

    fn describe(&mut self, id: &EndpointId, description: Description) -> Result<(), AttachError> {
        let known = self.ledger.endpoint(id);
        let known = known.ok_or_else(|| AttachError::EndpointUnknown(id.clone()))?;
        let mut endpoint = Box::new(known.clone());
        endpoint.name = Some(description.name);
        endpoint.container = Some(description.container);
        if let Some(aliases) = description.aliases {
            endpoint.aliases = aliases;
        }
        // The engine has started the container: names can't be refused any more.
        limit_names(&mut endpoint);
        if *endpoint == *known {
            return Ok(());
        }
        self.write(&[Record::Attached { endpoint }])
    }

    fn must_take_endpoints(&self) -> Result<(), AttachError> {
        must_take_endpoints(&self.facts.borrow(), &self.me, &self.leaving)
    }

    /// Returns the network if it exists and accepts endpoints.
    pub(super) fn open_network(
        &self,
        (tenant, name): &NetworkKey,
    ) -> Result<NetworkFact, AttachError> {
        if self.ledger.is_incomplete() {
            return Err(AttachError::Incomplete);
        }
        let facts = self.facts.borrow();
        let Some(network) = facts.network(tenant, name) else {
            return Err(AttachError::Rejected(Rejection::NetworkUnknown {
                tenant: tenant.clone(),
                network: name.clone(),
            }));
        };
        if network.closing {
            return Err(AttachError::Rejected(Rejection::NetworkClosing {
                tenant: tenant.clone(),
                network: name.clone(),
            }));
        }
        Ok(network.clone())
    }

    /// Checks that the group is one of this network and accepts endpoints.
    fn must_be_open(
        &self,
        (tenant, network): &NetworkKey,
        group: Option<&GroupName>,
    ) -> Result<(), AttachError> {
        let Some(group) = group else {
            return Ok(());
        };
        let facts = self.facts.borrow();
        let fact = facts.group_fact(tenant, group);
        let fact = fact.filter(|fact| fact.spec.network == *network);
        let (tenant, group) = (tenant.clone(), group.clone());
        match fact {
            None => Err(Rejection::GroupUnknown { tenant, group }.into()),
            Some(fact) if fact.closing => Err(Rejection::GroupClosing { tenant, group }.into()),
            Some(_) => Ok(()),
        }
    }

    pub(super) fn usage(&self, key: &NetworkKey) -> Usage {
        self.ledger.usage(key).cloned().unwrap_or_default()
    }

    /// Applies the records even if the disk refuses them: the kernel holds the endpoints anyway, and
    /// the next start restores them again.
    fn restore(&mut self, records: &[Record]) {
        if let Err(error) = self.write(records) {
            tracing::error!(%error, "the disk refuses the restored endpoints, so the next start has to restore them again");
            records.iter().for_each(|record| self.ledger.apply(record));
            self.publish();
        }
    }

    /// Writes the records to disk, applies them to the ledger and publishes the snapshot, in this order.
    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), AttachError> {
        let appended = self.journal.append(&self.ledger, records);
        appended.map_err(|error| AttachError::Journal {
            path: self.journal.path().display().to_string(),
            reason: error.to_string(),
        })?;
        for record in records {
            self.ledger.apply(record);
        }
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        self.snapshot.send_modify(|snapshot| {
            snapshot.generation += 1;
            snapshot.endpoints = self.ledger.endpoints().clone();
            snapshot.ledger = Arc::new(self.ledger.clone());
        });
    }
}

fn endpoint_of(ask: &Attach, addresses: Vec<IpAddr>, mtu: u32) -> LocalEndpoint {
    let (host_interface, peer_interface) = interface_names(&ask.id);
    LocalEndpoint {
        id: ask.id.clone(),
        tenant: ask.tenant.clone(),
        network: ask.network.clone(),
        group: ask.group.clone(),
        mac: MacAddr::of_endpoint(addresses[0]),
        addresses,
        host_interface,
        peer_interface,
        owner: ask.owner.clone(),
        name: ask.name.clone(),
        aliases: ask.aliases.clone(),
        container: ask.container.clone(),
        mtu: Some(mtu),
    }
}
