//! Nodes, each with a journal and a kernel that follows it, and a log between them. The owners of
//! addresses are recorded apart from both, by the contents of the kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::command::{NodeDrain, NodeLeave, NodeUncordon};
use bus_schema::node::{LogState, NodeReply, NodeRequest};
use bus_schema::{
    AddressRange, Command, CommandId, EndpointId, GroupName, MachineId, NetworkName, NodeName,
    Pool, PoolKey, Rejection, TenantName,
};
use ipnet::IpNet;
use node::endpoint::{
    Attach, AttachError, EndpointsConfig, EndpointsHandle, Kernel, Owner, Settler,
};
use node::requests::{BusError, BusHandle, BusRequest};
use node::store::Saved;
use node_core::projection::Projection;
use runtime::pause;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::log::{Log, Reader, lock};

/// The longest time that a kernel takes to follow the journal.
const MAX_KERNEL_MS: u64 = 6;
/// Out of so many commands, [`World::late`] arrive late: their senders get no answer, or a rejection of an
/// earlier sending.
const LATE_OUT_OF: u8 = 16;
/// The longest delay of a late command: longer than a sender waits before it sends again.
const MAX_LATE_MS: u64 = 2_500;
/// The MTU of endpoints; no test depends on it.
const MTU_BYTES: u32 = 1_450;

pub(crate) fn tenant() -> TenantName {
    TenantName::default_tenant()
}

pub(crate) fn network() -> NetworkName {
    "web".parse().expect("a name")
}

pub(crate) fn group() -> GroupName {
    "db".parse().expect("a name")
}

/// The pool from which an endpoint gets its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Network,
    /// The group that has a pool of its own.
    Group,
}

pub(crate) fn key(place: Place) -> PoolKey {
    match place {
        Place::Network => PoolKey::of_network(&tenant(), &network()),
        Place::Group => PoolKey::of_group(&tenant(), &network(), &group()),
    }
}

/// The owners of the addresses in the kernels, and the conflicts found.
#[derive(Default)]
struct Kernels {
    owners: BTreeMap<IpAddr, (NodeName, EndpointId)>,
    wrong: Vec<String>,
}

pub(crate) struct World {
    pub(crate) log: Log,
    nodes: BTreeMap<NodeName, Node>,
    kernels: Arc<Mutex<Kernels>>,
    subnet: Pool,
    reserved: Option<AddressRange>,
    idle: Duration,
    /// The number of late commands out of [`LATE_OUT_OF`].
    late: u8,
    folder: tempfile::TempDir,
}

struct Node {
    reader: Arc<Reader>,
    facts: watch::Sender<Projection>,
    saved: watch::Sender<Saved>,
    state: watch::Sender<LogState>,
    running: Option<Running>,
}

struct Running {
    endpoints: EndpointsHandle,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) async fn new(
        nodes: usize,
        pool: Pool,
        reserved: Option<AddressRange>,
        idle: Duration,
        late: u8,
    ) -> Self {
        let mut world = Self {
            log: Log::new(&pool, reserved),
            nodes: BTreeMap::new(),
            kernels: Arc::default(),
            subnet: pool,
            reserved,
            idle,
            late,
            // In memory: other tests cover journals on a disk.
            folder: tempfile::tempdir_in("/dev/shm").expect("a folder"),
        };
        for number in 1..=nodes {
            world.add(&format!("n{number}").parse().expect("a name"));
        }
        world
    }

    pub(crate) fn names(&self) -> Vec<NodeName> {
        self.nodes.keys().cloned().collect()
    }

    fn add(&mut self, name: &NodeName) {
        let (facts, saved) = (watch::Sender::default(), watch::Sender::default());
        let (read, on_disk) = (facts.clone(), saved.clone());
        let reader = Arc::new(Reader::new(Box::new(move |revision, id, event| {
            read.send_modify(|facts: &mut Projection| {
                facts.apply(revision, id, event);
            });
            on_disk.send_modify(|saved: &mut Saved| saved.revision = revision);
        })));
        self.log.add(name, reader.clone());
        let node = Node {
            reader,
            facts,
            saved,
            state: watch::Sender::new(LogState::InSync),
            running: None,
        };
        self.nodes.insert(name.clone(), node);
        self.start(name);
    }

    fn start(&mut self, name: &NodeName) {
        self.log.join(name);
        let journal = self.journal(name);
        let node = self.nodes.get_mut(name).expect("a node");
        let (bus, requests) = BusHandle::new();
        // In sync once it has followed the journal for the first time.
        let kernel = watch::Sender::new(Kernel::default());
        let (endpoints, _) = EndpointsHandle::start(EndpointsConfig {
            me: name.clone(),
            journal: &journal,
            mtu: MTU_BYTES,
            facts: node.facts.subscribe(),
            kernel: kernel.subscribe(),
            bus: bus.clone(),
        })
        .expect("the journal opens");
        *lock(&node.reader.endpoints) = Some(endpoints.clone());
        let mut tasks = JoinSet::new();
        let (log, reader) = (self.log.clone(), node.reader.clone());
        tasks.spawn(serve(log, reader, self.late, requests));
        let (kernels, of) = (self.kernels.clone(), name.clone());
        tasks.spawn(follow(of, endpoints.clone(), kernel, kernels));
        let settler = Settler {
            endpoints: endpoints.clone(),
            bus,
            me: name.clone(),
            facts: node.facts.subscribe(),
            saved: node.saved.subscribe(),
            log: node.state.subscribe(),
            block_idle: self.idle,
        };
        tasks.spawn(settler.run());
        node.running = Some(Running { endpoints, tasks });
    }

    fn journal(&self, name: &NodeName) -> PathBuf {
        self.folder.path().join(name.as_str())
    }

    /// Ends netplugin at any point, and starts it again.
    pub(crate) async fn restart(&mut self, name: &NodeName) {
        let node = self.nodes.get_mut(name).expect("a node");
        *lock(&node.reader.endpoints) = None;
        if let Some(Running {
            endpoints,
            mut tasks,
        }) = node.running.take()
        {
            tasks.shutdown().await;
            // A journal has one process at a time: pending requests of other nodes keep the manager alive.
            let mut snapshots = endpoints.snapshots();
            drop(endpoints);
            while snapshots.changed().await.is_ok() {}
        }
        self.start(name);
    }

    pub(crate) fn cut(&self, name: &NodeName) {
        let node = &self.nodes[name];
        node.reader.cut(true);
        let reason = "cut off".to_owned();
        node.state.send_replace(LogState::Disconnected { reason });
    }

    pub(crate) fn heal(&self, name: &NodeName) {
        let node = &self.nodes[name];
        node.reader.cut(false);
        self.log.catch_up(name);
        node.state.send_replace(LogState::InSync);
    }

    pub(crate) fn is_cut(&self, name: &NodeName) -> bool {
        self.nodes[name].reader.is_cut()
    }

    /// Sends a command of an operator, who is never cut off.
    async fn operate(&self, command: Command) {
        let operator = Reader::new(Box::new(|_, _, _| {}));
        let done = self
            .log
            .command(&operator, CommandId(Uuid::new_v4()), command)
            .await;
        done.expect("an operator's command");
    }

    pub(crate) async fn drain(&self, node: NodeName) {
        self.operate(Command::NodeDrain(NodeDrain { node })).await;
    }

    pub(crate) async fn uncordon(&self, node: NodeName) {
        let command = Command::NodeUncordon(NodeUncordon { node });
        self.operate(command).await;
    }

    pub(crate) async fn leave(&self, node: NodeName) {
        let machine = MachineId(node.to_string());
        let command = Command::NodeLeave(NodeLeave { node, machine });
        self.operate(command).await;
    }

    pub(crate) fn endpoints(&self, name: &NodeName) -> EndpointsHandle {
        let running = self.nodes[name].running.as_ref();
        running.expect("it runs").endpoints.clone()
    }

    pub(crate) async fn attach(
        &self,
        name: &NodeName,
        place: Place,
        id: EndpointId,
    ) -> Result<(), AttachError> {
        let endpoints = self.endpoints(name);
        let attached = endpoints.attach(Attach {
            id,
            tenant: tenant(),
            network: network(),
            group: (place == Place::Group).then(group),
            addresses: vec![],
            owner: Owner::Docker {
                network_id: "n".to_owned(),
            },
            name: None,
            aliases: vec![],
            container: None,
        });
        attached.await.map(|_| ())
    }

    /// Whether the node takes no endpoints, by the part of the log that it has read.
    pub(crate) fn takes_no_endpoints(&self, name: &NodeName) -> bool {
        let facts = self.nodes[name].facts.borrow();
        facts
            .nodes
            .get(name)
            .is_some_and(|it| it.drained || it.left)
    }

    /// Checks that no address has, or ever had, two owners.
    pub(crate) fn check(&self) {
        let wrong = &lock(&self.kernels).wrong;
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let mut owners: BTreeMap<IpAddr, (&NodeName, EndpointId)> = BTreeMap::new();
        for name in self.nodes.keys() {
            for endpoint in self.endpoints(name).list() {
                for address in endpoint.addresses {
                    let id = endpoint.id.clone();
                    if let Some(other) = owners.insert(address, (name, id.clone())) {
                        panic!("{address} belongs to {id} on {name} and to {other:?}");
                    }
                }
            }
        }
    }

    pub(crate) fn used(&self) -> BTreeSet<IpAddr> {
        let all = self.nodes.keys();
        let all = all.flat_map(|name| self.endpoints(name).list());
        all.flat_map(|endpoint| endpoint.addresses).collect()
    }

    /// The free addresses that `asker` can get: of no block, or of a block of a node that isn't cut off;
    /// only those of its own blocks, if it is cut off itself.
    pub(crate) fn within_reach(&self, asker: &NodeName, place: Place) -> Vec<IpAddr> {
        let (used, blocks) = (self.used(), self.log.blocks(asker, place));
        let holder = |address: IpAddr| {
            let around = blocks.iter().filter(|(block, _)| block.contains(&address));
            around.max_by_key(|(block, _)| block.prefix_len())
        };
        let reachable = |address: &IpAddr| match holder(*address) {
            Some((_, node)) if node == asker => true,
            _ if self.is_cut(asker) => false,
            Some((_, node)) => !self.is_cut(node),
            None => true,
        };
        let given_up = self.given_up(asker);
        let is_given_up = |address: &IpAddr| given_up.iter().any(|block| block.contains(address));
        let addresses = self.addresses(place).into_iter();
        let free = addresses.filter(|address| !used.contains(address));
        free.filter(|it| reachable(it) && !is_given_up(it))
            .collect()
    }

    /// The blocks that a cut-off node was giving up: it can't use them, nor finish their return.
    fn given_up(&self, asker: &NodeName) -> Vec<IpNet> {
        if !self.is_cut(asker) {
            return vec![];
        }
        let snapshots = self.endpoints(asker).snapshots();
        let ledger = snapshots.borrow().ledger.clone();
        let usage = ledger.usage(&(tenant(), network())).cloned();
        let usage = usage.unwrap_or_default();
        let ceding = usage.ceding.keys().map(|address| IpNet::from(*address));
        usage.returning.iter().copied().chain(ceding).collect()
    }

    /// All addresses that endpoints of the network, or of the group, could have.
    pub(crate) fn addresses(&self, place: Place) -> Vec<IpAddr> {
        let hosts = self.subnet.subnet.hosts();
        let hosts = hosts.filter(|address| *address != self.subnet.gateway);
        let in_range = |address: &IpAddr| {
            let range = self.subnet.range;
            range.is_none_or(|it| it.first <= *address && *address <= it.last)
        };
        let of_group = |address: &IpAddr| {
            let range = self.reserved;
            range.is_some_and(|it| it.first <= *address && *address <= it.last)
        };
        let hosts = hosts.filter(in_range);
        hosts
            .filter(|address| of_group(address) == (place == Place::Group))
            .collect()
    }
}

/// Delivers the requests of a node to netmaster.
async fn serve(log: Log, reader: Arc<Reader>, late: u8, mut requests: mpsc::Receiver<BusRequest>) {
    while let Some(request) = requests.recv().await {
        let (log, reader) = (log.clone(), reader.clone());
        // Like a request on the bus it continues after its sender is gone.
        tokio::spawn(async move {
            match request {
                BusRequest::Command {
                    id,
                    command,
                    answer,
                } => {
                    if fastrand::u8(..LATE_OUT_OF) < late {
                        let rejection = passing_rejection(&command).filter(|_| fastrand::bool());
                        let outcome = match rejection {
                            Some(rejection) => log.rejected(rejection, false),
                            None => BusError::Unreachable("no answer in time".to_owned()),
                        };
                        answer.send(Err(outcome)).ok();
                        // Short delays are the most likely ones, as on a bus.
                        let delay = fastrand::u64(..MAX_LATE_MS) >> fastrand::u32(..10);
                        pause(Duration::from_millis(delay)).await;
                        log.command(&reader, id, command).await.ok();
                    } else {
                        answer.send(log.command(&reader, id, command).await).ok();
                    }
                }
                BusRequest::Node {
                    request, answer, ..
                } => {
                    answer.send(refuse(&request)).ok();
                }
            }
        });
    }
}

/// A rejection of a command that gives up a block. The same command is accepted when the node holds the
/// block, or when the other node has joined again.
fn passing_rejection(command: &Command) -> Option<Rejection> {
    match command {
        Command::BlockReturn(it) => Some(Rejection::BlockNotHeld {
            block: it.block,
            network: it.network.clone(),
            node: it.node.clone(),
        }),
        Command::BlockCede(it) => Some(Rejection::NodeUnknown {
            node: it.to.clone(),
        }),
        _ => None,
    }
}

fn refuse(request: &NodeRequest) -> Result<NodeReply, BusError> {
    panic!("no node asks another for {request:?} here")
}

/// Simulates the kernel of a node, which follows the journal a moment later.
async fn follow(
    name: NodeName,
    endpoints: EndpointsHandle,
    kernel: watch::Sender<Kernel>,
    kernels: Arc<Mutex<Kernels>>,
) {
    let mut snapshots = endpoints.snapshots();
    drop(endpoints);
    loop {
        pause(Duration::from_millis(fastrand::u64(..MAX_KERNEL_MS))).await;
        let snapshot = snapshots.borrow_and_update().clone();
        let wanted: BTreeMap<IpAddr, EndpointId> = snapshot
            .endpoints
            .values()
            .flat_map(|it| it.addresses.iter().map(|address| (*address, it.id.clone())))
            .collect();
        lock(&kernels).change(&name, &wanted);
        kernel.send_replace(Kernel {
            generation: snapshot.generation,
            was_in_sync: true,
            in_sync: true,
            ..Kernel::default()
        });
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

impl Kernels {
    fn change(&mut self, name: &NodeName, wanted: &BTreeMap<IpAddr, EndpointId>) {
        self.owners
            .retain(|address, (node, id)| node != name || wanted.get(address) == Some(id));
        for (address, id) in wanted {
            let owner = (name.clone(), id.clone());
            if let Some(before) = self.owners.insert(*address, owner.clone())
                && before != owner
            {
                self.wrong.push(format!(
                    "{address} of {before:?} is in the kernel of {owner:?}"
                ));
            }
        }
    }
}
