//! Decides who gets which address, one request after another, on a thread of its own.
//!
//! The thread alone holds the ledger and the journal: a decision is on disk before it is answered
//! or seen by anybody. It never waits on the bus or the kernel; what needs them is answered with
//! [`Step::Lease`], and the handle asks again. The inbox is bounded; the thread ends with the last
//! handle.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bus_schema::{EndpointId, GroupName, MacAddr, NodeName, PoolKey, Rejection};
use ipnet::IpNet;
use runtime::now;
use tokio::sync::{mpsc, oneshot, watch};

use super::give_up::returning;
use super::journal::Journal;
use super::ledger::{Ledger, Locals, NetworkKey, Record, Usage};
use super::marks::{Mark, Marks};
use super::pool::{Choice, NodeAddresses, PoolSelector};
use super::{Attach, AttachError, Claim, Description, LocalEndpoint, Reserve, must_take_endpoints};
use node_core::desired::interface_names;
use node_core::projection::{NetworkFact, Projection};

/// Requests that wait for the thread; each takes it about one flush of the disk.
pub(super) const INBOX: usize = 256;

pub(super) type Answer<T> = oneshot::Sender<Result<T, AttachError>>;

/// What wakes the thread.
#[derive(Debug)]
pub(super) enum Inbox {
    Reserve(Reserve, Haste, Answer<Step<IpAddr>>),
    Release(NetworkKey, IpAddr, Claim, Answer<()>),
    Attach(Attach, Haste, Answer<Step<Attached>>),
    Detach(EndpointId, Answer<u64>),
    Describe(EndpointId, Description, Answer<()>),
    /// Gives no address of the block any more, so that it can be returned. Answers with the
    /// generation in which no endpoint had any of them.
    Return(NetworkKey, IpNet, Answer<u64>),
    /// Picks a block of the pool (IPv6: true) in which no address is used, and starts its return.
    ReturnAny(PoolKey, bool, Answer<Returning>),
    Cede(Ceding, Answer<Giving>),
    /// Picks a free address of the pool (IPv6: true) for another node.
    CedeAny(PoolKey, bool, NodeName, u16, Answer<Vec<Giving>>),
    /// The log settled what was given back.
    Settled(Vec<Record>, Answer<()>),
    /// What the journal had lost.
    Restored(Vec<Record>, Answer<()>),
}

/// An address of a block of ours that another node asks for.
#[derive(Debug, Clone)]
pub(crate) struct Ceding {
    pub key: NetworkKey,
    pub address: IpAddr,
    pub to: NodeName,
    /// For the task that it was promised to.
    pub promised: bool,
}

/// What the journal says that this node gives up: its command to netmaster comes next.
#[derive(Debug)]
pub(super) struct Giving {
    pub key: NetworkKey,
    pub block: IpNet,
    /// Absent: the block is returned; else its one address is ceded.
    pub to: Option<NodeName>,
    /// The kernel has dropped the endpoint that had the address when the core has done this
    /// generation.
    pub generation: u64,
    /// Nobody else sends the command until this is dropped.
    pub mark: Mark<(NetworkKey, IpNet)>,
}

/// How far the return of a block got that netmaster asks for.
#[derive(Debug)]
pub(super) enum Returning {
    Started(Giving),
    /// Somebody waits for netmaster's answer already.
    UnderWay(NetworkKey, IpNet),
}

/// Whether an address freed a moment ago will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    Rested,
    Any,
}

/// How far one request got without waiting.
#[derive(Debug)]
pub(super) enum Step<T> {
    Done(T),
    /// The block that holds this address, or any, is needed first.
    Lease(Option<IpAddr>),
    /// Only addresses that were freed a moment ago are left here.
    Recent,
}

#[derive(Debug)]
pub(super) struct Attached {
    pub endpoint: LocalEndpoint,
    /// The kernel has it when the core has done this generation.
    pub generation: u64,
    /// False: it was there before.
    pub fresh: bool,
}

/// The node's endpoints as the journal has them, and what else was promised.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    pub endpoints: Locals,
    pub ledger: Arc<Ledger>,
}

pub(super) struct Manager {
    /// The operator has said that this node leaves, whether or not the log knows it yet.
    pub leaving: Arc<AtomicBool>,
    pub me: NodeName,
    pub journal: Journal,
    pub ledger: Ledger,
    pub facts: watch::Receiver<Projection>,
    pub snapshot: watch::Sender<Snapshot>,
    /// Addresses that somebody asks for by name right now.
    pub asking: Marks<(NetworkKey, IpAddr)>,
    /// Blocks whose command is on its way to netmaster.
    pub giving: Marks<(NetworkKey, IpNet)>,
}

impl Manager {
    pub(super) fn run(mut self, mut inbox: mpsc::Receiver<Inbox>) {
        self.publish();
        while let Some(message) = inbox.blocking_recv() {
            self.handle(message);
        }
    }

    /// An answer that nobody waits for any more is dropped: the handle's deadline has passed.
    fn handle(&mut self, message: Inbox) {
        match message {
            Inbox::Reserve(ask, haste, answer) => {
                answer.send(self.reserve(&ask, haste)).ok();
            }
            Inbox::Release(key, address, claim, answer) => {
                answer.send(self.release(key, address, claim)).ok();
            }
            Inbox::Attach(ask, haste, answer) => {
                answer.send(self.attach(&ask, haste)).ok();
            }
            Inbox::Detach(id, answer) => {
                answer.send(self.detach(id)).ok();
            }
            Inbox::Describe(id, description, answer) => {
                answer.send(self.describe(&id, description)).ok();
            }
            Inbox::Return(key, block, answer) => {
                answer.send(self.start_return(key, block)).ok();
            }
            Inbox::ReturnAny(pool, v6, answer) => {
                answer.send(self.return_any(&pool, v6)).ok();
            }
            Inbox::Cede(asked, answer) => {
                answer.send(self.start_cede(asked)).ok();
            }
            Inbox::CedeAny(pool, v6, to, count, answer) => {
                answer.send(self.cede_any(&pool, v6, &to, count)).ok();
            }
            Inbox::Settled(records, answer) => {
                answer.send(self.write(&records)).ok();
            }
            Inbox::Restored(records, answer) => {
                self.restore(&records);
                answer.send(Ok(())).ok();
            }
        }
    }

    fn reserve(&mut self, ask: &Reserve, haste: Haste) -> Result<Step<IpAddr>, AttachError> {
        let key = (ask.tenant.clone(), ask.network.clone());
        match self.must_take_endpoints() {
            // What a swarm's manager promises serves tasks of other nodes, too.
            Err(AttachError::Drained(_)) if ask.claim == Claim::Promise => {}
            taken => taken?,
        }
        let network = self.open_network(&key)?;
        self.must_be_open(&key, ask.group.as_ref())?;
        let usage = self.usage(&key);
        let address = match ask.address {
            // The next leader of a swarm asks for what the last one promised its tasks: where it
            // isn't ours, its holder keeps the promise, or the task itself has the address by now.
            Some(address) if ask.claim == Claim::Promise => {
                if !self.gives_out(&network, &usage, address) {
                    return Ok(Step::Done(address));
                }
                address
            }
            Some(address) => {
                must_be_for(&network, address, ask.group.as_ref())?;
                let promised = ask.claim == Claim::Task;
                if !self.claim(&network, &usage, address, None, promised)? {
                    return Ok(Step::Lease(Some(address)));
                }
                address
            }
            None => match self.next(&key, &network, &usage, ask.group.as_ref(), haste) {
                Step::Done(address) => address,
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
        Ok(Step::Done(address))
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
        // In a tiny pool a block is one address, so that what was ceded for a task looks like a
        // block of our own. The swarm's manager needs it for the next task.
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

    fn attach(&mut self, ask: &Attach, haste: Haste) -> Result<Step<Attached>, AttachError> {
        if let Some(known) = self.ledger.endpoint(&ask.id) {
            return self.attach_again(known.clone(), ask);
        }
        self.must_take_endpoints()?;
        let key = (ask.tenant.clone(), ask.network.clone());
        let network = self.open_network(&key)?;
        self.must_be_open(&key, ask.group.as_ref())?;
        let usage = self.usage(&key);
        let mut addresses = ask.addresses.clone();
        for address in &addresses {
            must_be_for(&network, *address, ask.group.as_ref())?;
            // Whom it was promised to has reserved it.
            let promised = usage.reserved.contains(address);
            let claimed = self.claim(&network, &usage, *address, Some(&ask.id), promised)?;
            if !claimed {
                return Ok(Step::Lease(Some(*address)));
            }
        }
        if addresses.is_empty() {
            match self.next(&key, &network, &usage, ask.group.as_ref(), haste) {
                Step::Done(address) => addresses.push(address),
                Step::Lease(address) => return Ok(Step::Lease(address)),
                Step::Recent => return Ok(Step::Recent),
            }
        }
        let endpoint = endpoint_of(ask, addresses);
        let record = Record::Attached {
            endpoint: Box::new(endpoint.clone()),
        };
        self.write(&[record])?;
        Ok(Step::Done(Attached {
            endpoint,
            generation: self.snapshot.borrow().generation,
            fresh: true,
        }))
    }

    /// The same attach again gives the same endpoint.
    fn attach_again(
        &mut self,
        known: LocalEndpoint,
        ask: &Attach,
    ) -> Result<Step<Attached>, AttachError> {
        let same = known.tenant == ask.tenant
            && known.network == ask.network
            && known.group == ask.group
            && known.owner == ask.owner
            && ask.addresses.iter().all(|it| known.addresses.contains(it));
        if !same {
            return Err(AttachError::EndpointDiffers(ask.id.clone()));
        }
        Ok(Step::Done(Attached {
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

    fn describe(&mut self, id: &EndpointId, told: Description) -> Result<(), AttachError> {
        let known = self.ledger.endpoint(id);
        let known = known.ok_or_else(|| AttachError::EndpointUnknown(id.clone()))?;
        let mut endpoint = Box::new(known.clone());
        endpoint.name = Some(told.name);
        endpoint.container = Some(told.container);
        if let Some(aliases) = told.aliases {
            endpoint.aliases = aliases;
        }
        if *endpoint == *known {
            return Ok(());
        }
        self.write(&[Record::Attached { endpoint }])
    }

    /// Whether an endpoint may take this very address now; false: the block that holds it is needed
    /// first. Engines don't reserve again what live
    /// containers bear, since our IPAM driver doesn't ask for it (`RequiresRequestReplay`).
    pub(super) fn claim(
        &self,
        network: &NetworkFact,
        usage: &Usage,
        address: IpAddr,
        endpoint: Option<&EndpointId>,
        promised: bool,
    ) -> Result<bool, AttachError> {
        let mut pools = network.spec.pools();
        if !pools.any(|pool| pool.is_assignable(address)) {
            return Err(AttachError::Rejected(Rejection::AddressNotAssignable {
                address,
                network: network.spec.name.clone(),
                subnet: network.spec.v4.subnet,
            }));
        }
        if let Some(user) = usage.in_use.get(&address)
            && Some(user) != endpoint
        {
            return Err(AttachError::AddressInUse(address, user.to_string()));
        }
        if usage.promised.contains(&address) && !promised {
            return Err(AttachError::AddressPromised(address));
        }
        Ok(self.gives_out(network, usage, address))
    }

    /// Whether the address is this node's to give, taken or not.
    fn gives_out(&self, network: &NetworkFact, usage: &Usage, address: IpAddr) -> bool {
        let block = network.block_of(address);
        let ours = block
            .is_some_and(|(block, holder)| *holder == self.me && !usage.returning.contains(&block));
        ours && !usage.ceding.contains_key(&address)
    }

    fn next(
        &self,
        key: &NetworkKey,
        network: &NetworkFact,
        usage: &Usage,
        group: Option<&GroupName>,
        haste: Haste,
    ) -> Step<IpAddr> {
        let whom = PoolSelector { group, v6: false };
        let asked = asked_in(&self.asking, key);
        let holding = NodeAddresses {
            network,
            me: &self.me,
            usage,
            asked: &asked,
        };
        match holding.choose(whom, now()) {
            Choice::Rested(address) => Step::Done(address),
            Choice::Recent(address) if haste == Haste::Any => Step::Done(address),
            Choice::Recent(_) => Step::Recent,
            Choice::None => Step::Lease(None),
        }
    }

    fn must_take_endpoints(&self) -> Result<(), AttachError> {
        must_take_endpoints(&self.facts.borrow(), &self.me, &self.leaving)
    }

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

    /// A group of this network that takes endpoints.
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

    /// The kernel holds it, whether or not the disk takes it: the next start looks again then.
    fn restore(&mut self, records: &[Record]) {
        if let Err(error) = self.write(records) {
            tracing::error!(%error, "what the journal had lost is known until the next start only");
            records.iter().for_each(|record| self.ledger.apply(record));
            self.publish();
        }
    }

    /// To disk first, then to the ledger, then to everybody.
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

/// The addresses of a network that somebody asks for by name right now.
pub(super) fn asked_in(
    asking: &Marks<(NetworkKey, IpAddr)>,
    network: &NetworkKey,
) -> BTreeSet<IpAddr> {
    let all = asking.all().into_iter();
    let here = all.filter(|(key, _)| key == network);
    here.map(|(_, address)| address).collect()
}

/// A pool's addresses are for the members of its group alone, and they get no others.
fn must_be_for(
    network: &NetworkFact,
    address: IpAddr,
    group: Option<&GroupName>,
) -> Result<(), Rejection> {
    let own = group.and_then(|it| Some((it, *network.pools.get(it)?)));
    match (network.pool_of(address), own) {
        (Some((owner, _)), Some((group, _))) if owner == group => Ok(()),
        (_, Some((group, pool))) => Err(Rejection::AddressOutsidePool {
            address,
            group: group.clone(),
            pool,
        }),
        (Some((owner, pool)), None) => Err(Rejection::AddressInPool {
            address,
            group: owner.clone(),
            pool,
        }),
        (None, None) => Ok(()),
    }
}

fn endpoint_of(ask: &Attach, addresses: Vec<IpAddr>) -> LocalEndpoint {
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
    }
}
