//! A cluster's log in memory: netmaster's aggregates decide, and each node that isn't cut off gets the
//! events.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors::aggregate::{
    Aggregate, Cluster, ClusterFacts, Leases, LeasesCommand, LeasesFacts, Next, Routed, Search,
    route,
};
use bus_schema::command::{BlockLease, NodeJoin};
use bus_schema::event::{
    ClusterCreated, GroupCreated, LeasesOpened, NetworkCreated, PoolReserved, Settings,
    TenantCreated,
};
use bus_schema::rejection::Holders;
use bus_schema::{
    AggregateId, ClusterId, Command, CommandId, Event, EventId, GroupId, GroupSpec, MachineId,
    NetworkSpec, NodeName, Pool, PoolKey, Rejection, Revision, Vni,
};
use ipnet::IpNet;
use node::endpoint::EndpointsHandle;
use node::requests::BusError;
use runtime::pause;
use uuid::Uuid;

use crate::world::{Place, group, key, network, tenant};

/// The result of a command.
type Outcome = Result<Revision, BusError>;

/// The log and what is folded from it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Log {
    state: Arc<Mutex<State>>,
    /// One search for addresses of a pool at a time, as at netmaster.
    searching: Arc<tokio::sync::Mutex<()>>,
    nodes: Arc<Mutex<BTreeMap<NodeName, Arc<Reader>>>>,
}

#[derive(Default)]
struct State {
    cluster: Cluster,
    leases: BTreeMap<PoolKey, Leases>,
    events: Vec<(EventId, Event)>,
    done: BTreeMap<CommandId, Revision>,
}

/// Delivers an event to a node.
type Deliver = Box<dyn Fn(Revision, EventId, &Event) + Send + Sync>;

/// The connection of a node to the log and to netmaster.
pub(crate) struct Reader {
    cut: AtomicBool,
    pub(crate) endpoints: Mutex<Option<EndpointsHandle>>,
    pub(crate) deliver: Deliver,
    read: Mutex<usize>,
}

impl Reader {
    pub(crate) fn new(deliver: Deliver) -> Self {
        Self {
            cut: false.into(),
            endpoints: Mutex::new(None),
            deliver,
            read: Mutex::new(0),
        }
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        let _read = lock(&self.read);
        self.cut.store(is_cut, Ordering::SeqCst);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }

    fn endpoints(&self) -> Option<EndpointsHandle> {
        lock(&self.endpoints).clone().filter(|_| !self.is_cut())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// A cluster with one network, and with a group that has the pool `reserved`, if there is one.
    pub(crate) fn new(pool: &Pool, reserved: Option<bus_schema::AddressRange>) -> Self {
        let log = Self {
            state: Arc::default(),
            searching: Arc::default(),
            nodes: Arc::default(),
        };
        let mut events = vec![
            Event::ClusterCreated(ClusterCreated {
                cluster: ClusterId(Uuid::nil()),
                settings: Settings::default(),
            }),
            Event::TenantCreated(TenantCreated { tenant: tenant() }),
            Event::NetworkCreated(NetworkCreated {
                network: NetworkSpec::new(tenant(), network(), Vni(1), pool.clone()),
            }),
            opened(&key(Place::Network), pool.clone()),
        ];
        if let Some(range) = reserved {
            events.push(Event::PoolReserved(PoolReserved {
                tenant: tenant(),
                network: network(),
                group: group(),
                range,
            }));
            events.push(Event::GroupCreated(GroupCreated {
                group: GroupSpec {
                    tenant: tenant(),
                    network: network(),
                    name: group(),
                    id: GroupId::FIRST,
                    policies: vec![],
                    docker_name: None,
                    pool: Some(range),
                },
            }));
            let pool = Pool {
                range: Some(range),
                ..pool.clone()
            };
            events.push(opened(&key(Place::Group), pool));
        }
        lock(&log.state).append(events);
        log
    }

    pub(crate) fn add(&self, name: &NodeName, reader: Arc<Reader>) {
        lock(&self.nodes).insert(name.clone(), reader);
        self.catch_up(name);
    }

    pub(crate) fn join(&self, name: &NodeName) {
        let number = lock(&self.nodes).len();
        let join = Command::NodeJoin(NodeJoin {
            node: name.clone(),
            machine: MachineId(name.to_string()),
            vtep: std::net::Ipv4Addr::from(0xc612_0000 + vtep_of(name, number)).into(),
        });
        let id = CommandId(Uuid::new_v4());
        self.decide(id, &join).expect("a node joins");
    }

    /// The holders of blocks by the part of the log that `reader` has read: all of it, if the reader
    /// isn't cut off.
    pub(crate) fn blocks(&self, reader: &NodeName, place: Place) -> BTreeMap<IpNet, NodeName> {
        let of_place = Some(AggregateId::Leases(key(place)));
        let read = *lock(&lock(&self.nodes)[reader].read);
        let state = lock(&self.state);
        let mut blocks = BTreeMap::new();
        let events = state.events[..read].iter().map(|(_, event)| event);
        for event in events.filter(|it| it.aggregate() == of_place) {
            match event {
                Event::BlockLeased(e) => drop(blocks.insert(e.block, e.node.clone())),
                Event::BlockCeded(e) => drop(blocks.insert(e.address.into(), e.to.clone())),
                Event::BlockReturned(e) => drop(blocks.remove(&e.block)),
                _ => {}
            }
        }
        blocks
    }

    /// Delivers the events that a node hasn't read.
    pub(crate) fn catch_up(&self, name: &NodeName) {
        let Some(reader) = lock(&self.nodes).get(name).cloned() else {
            return;
        };
        // `Reader::cut` waits for this lock, so no event is delivered afterwards.
        let mut read = lock(&reader.read);
        if reader.is_cut() {
            return;
        }
        let unread: Vec<_> = lock(&self.state).events[*read..].to_vec();
        for (id, event) in unread {
            *read += 1;
            let revision = Revision(u64::try_from(*read).expect("a small number"));
            (reader.deliver)(revision, id, &event);
        }
    }

    /// Handles a command that `from` sends to netmaster.
    pub(crate) async fn command(&self, from: &Reader, id: CommandId, command: Command) -> Outcome {
        if from.is_cut() {
            return Err(BusError::Unreachable("cut off".to_owned()));
        }
        tokio::task::yield_now().await;
        match command {
            Command::BlockLease(lease) if lease.address.is_none() && !lease.ahead => {
                self.lease(id, lease).await
            }
            command => self
                .decide(id, &command)
                .map_err(|it| self.rejected(it, true)),
        }
    }

    /// A rejection by the whole log. `is_final`: no sending of the command can be accepted any more.
    pub(crate) fn rejected(&self, rejection: Rejection, is_final: bool) -> BusError {
        BusError::Rejected {
            rejection: Box::new(rejection),
            is_final,
            revision: lock(&self.state).end(),
        }
    }

    /// Handles a lease like netmaster's gateway: asks the holders when no block is free.
    async fn lease(&self, id: CommandId, lease: BlockLease) -> Outcome {
        let _one = self.searching.lock().await;
        let pool = lease.pool();
        let command = Command::BlockLease(lease.clone());
        loop {
            let before = self.last_changed(&pool);
            match self.decide(id, &command) {
                Ok(revision) => return Ok(revision),
                Err(Rejection::PoolExhausted { .. } | Rejection::GroupPoolExhausted { .. }) => {}
                Err(other) => return Err(self.rejected(other, true)),
            }
            match self.search(&lease, &pool).await {
                Found::Address(revision) => return Ok(revision),
                Found::Block => {}
                // A node that had already answered may have got a block or an address since.
                Found::Nothing(_) if self.last_changed(&pool) != before => {}
                Found::Nothing(holders) => {
                    return Err(self.rejected(exhausted(&pool, holders), true));
                }
            }
        }
    }

    /// The last revision that changed who holds what of a pool.
    fn last_changed(&self, pool: &PoolKey) -> Option<usize> {
        let of_pool = |(_, event): &(EventId, Event)| {
            event.aggregate() == Some(AggregateId::Leases(pool.clone()))
        };
        lock(&self.state).events.iter().rposition(of_pool)
    }

    fn leases(&self, pool: &PoolKey) -> Leases {
        lock(&self.state).leases[pool].clone()
    }

    async fn search(&self, lease: &BlockLease, pool: &PoolKey) -> Found {
        let holders = self.leases(pool).holders();
        let end = lock(&self.state).end();
        let mut search = Search::new(lease.node.clone(), holders.clone());
        for holder in &holders {
            let spare = match self.endpoints(holder) {
                Some(endpoints) => {
                    let spare = endpoints.spare(pool, false, end).await;
                    spare.map_err(|it| it.to_string())
                }
                None => Err("no answer".to_owned()),
            };
            search.answered(holder, spare);
        }
        loop {
            let (node, gave) = match search.next() {
                Next::Wait => panic!("all have answered"),
                Next::AskAgain => {
                    pause(Duration::from_millis(1)).await;
                    return Found::Block;
                }
                Next::Exhausted(holders) => return Found::Nothing(holders),
                Next::ReturnBlock(node) => match self.endpoints(&node) {
                    Some(endpoints) => {
                        let gave = endpoints.return_block(pool.clone(), false).await;
                        (
                            node,
                            gave.map(|_| Found::Block).map_err(|it| it.to_string()),
                        )
                    }
                    None => (node, Err("no answer".to_owned())),
                },
                Next::CedeAny(node) => match self.endpoints(&node) {
                    Some(endpoints) => {
                        let to = lease.node.clone();
                        let gave = endpoints
                            .cede_any(pool.clone(), false, to, lease.waiting)
                            .await;
                        (node, gave.map(Found::Address).map_err(|it| it.to_string()))
                    }
                    None => (node, Err("no answer".to_owned())),
                },
            };
            match gave {
                Ok(found) => return found,
                Err(reason) => search.gave_nothing(&node, reason),
            }
        }
    }

    fn endpoints(&self, node: &NodeName) -> Option<EndpointsHandle> {
        lock(&self.nodes).get(node)?.endpoints()
    }

    /// A decision and its events are one step, as a fenced append is.
    /// The same id again is answered from the log.
    fn decide(&self, id: CommandId, command: &Command) -> Result<Revision, Rejection> {
        let mut state = lock(&self.state);
        if let Some(revision) = state.done.get(&id) {
            return Ok(*revision);
        }
        let events = match route(command.clone()) {
            Routed::Cluster(command) => state.cluster.decide(&command, &ClusterFacts::default())?,
            Routed::Leases(pool, command) => state.lease(&pool, &command)?,
            Routed::Tenant(..) => panic!("a node doesn't ask for {command:?}"),
        };
        let is_done = !events.is_empty();
        let revision = state.append(events);
        state.done.extend(is_done.then_some((id, revision)));
        drop(state);
        self.deliver();
        Ok(revision)
    }

    fn deliver(&self) {
        let names: Vec<NodeName> = lock(&self.nodes).keys().cloned().collect();
        for name in &names {
            self.catch_up(name);
        }
    }
}

impl State {
    fn append(&mut self, events: Vec<Event>) -> Revision {
        for event in events {
            self.cluster.evolve(&event);
            if let Some(AggregateId::Leases(pool)) = event.aggregate() {
                self.leases.entry(pool).or_default().evolve(&event);
            }
            let id = EventId(Uuid::from_u128(1 + self.events.len() as u128));
            self.events.push((id, event));
        }
        self.end()
    }

    fn end(&self) -> Revision {
        Revision(u64::try_from(self.events.len()).expect("a small number"))
    }

    fn lease(&self, pool: &PoolKey, command: &LeasesCommand) -> Result<Vec<Event>, Rejection> {
        let facts = LeasesFacts {
            cluster: Arc::new(self.cluster.clone()),
        };
        self.leases[pool].decide(command, &facts)
    }
}

enum Found {
    /// One was returned, or the holders have to be asked again: decide again.
    Block,
    Address(Revision),
    Nothing(Holders),
}

fn exhausted(pool: &PoolKey, holders: Holders) -> Rejection {
    Rejection::PoolExhausted {
        tenant: pool.tenant.clone(),
        network: pool.network.clone(),
        subnet: IpNet::default(),
        holders: Box::new(holders),
    }
}

fn opened(key: &PoolKey, pool: Pool) -> Event {
    Event::LeasesOpened(LeasesOpened {
        tenant: key.tenant.clone(),
        network: key.network.clone(),
        group: key.group.clone(),
        v4: pool,
        v6: None,
    })
}

/// A VTEP address of its own for each name `n<number>`.
fn vtep_of(name: &NodeName, otherwise: usize) -> u32 {
    let number = name.as_str().trim_start_matches('n').parse();
    number.unwrap_or_else(|_| u32::try_from(otherwise).expect("a small number"))
}
