//! A model of addresses: thousands of random attaches, detaches, leaves, drains, restarts and
//! partitions. No address ever has two owners, and no attach is refused while a node within reach has
//! a free address.
//!
//! The nodes' journals, address managers and returns are the daemon's own, and netmaster's aggregates
//! and search decide; the test simulates the bus and the kernels. The owners are checked by the
//! addresses in the kernels and by the test's own fold of the log.

mod log;
mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use bus_schema::{AddressRange, EndpointId, NodeName, Pool};
use futures::future::join_all;
use node::endpoint::AttachError;
use runtime::pause;

use crate::world::{Place, World};

/// The idle time of blocks that are never returned for being idle within a test.
const IDLE_NEVER: Duration = Duration::from_secs(3_600);
/// The idle time of blocks that are returned at once, so that returns meet all other changes.
const IDLE_AT_ONCE: Duration = Duration::from_millis(3);
/// How long an idle cluster may take to return its blocks.
const RETURN_TIMEOUT: Duration = Duration::from_secs(20);

fn pool(subnet: &str, range: Option<(&str, &str)>) -> Pool {
    let subnet: ipnet::IpNet = subnet.parse().expect("a subnet");
    Pool {
        subnet,
        gateway: subnet.hosts().next().expect("a gateway"),
        range: range.map(range_of),
    }
}

fn range_of((first, last): (&str, &str)) -> AddressRange {
    AddressRange {
        first: first.parse().expect("an address"),
        last: last.parse().expect("an address"),
    }
}

/// A world and the random source that drives it. The seed repeats the requests, not the interleaving of
/// tasks.
struct Run {
    world: World,
    random: fastrand::Rng,
    places: Vec<Place>,
    attached: BTreeMap<EndpointId, NodeName>,
    count: u32,
}

impl Run {
    async fn new(seed: u64, nodes: usize, pool: Pool, group: Option<AddressRange>) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let idle = if random.bool() {
            IDLE_NEVER
        } else {
            IDLE_AT_ONCE
        };
        let mut places = vec![Place::Network];
        places.extend(group.map(|_| Place::Group));
        Self {
            world: World::new(nodes, pool, group, idle, 0).await,
            random,
            places,
            attached: BTreeMap::new(),
            count: 0,
        }
    }

    fn any_node(&mut self) -> NodeName {
        let names = self.world.names();
        names[self.random.usize(..names.len())].clone()
    }

    fn next_id(&mut self) -> EndpointId {
        self.count += 1;
        EndpointId::new(format!("e{}", self.count)).expect("an id")
    }

    /// Attaches concurrently, without other changes: an address that is free afterwards was free all the
    /// time.
    async fn attach(&mut self, count: usize) {
        let mut asks = Vec::new();
        for _ in 0..count {
            let place = self.places[self.random.usize(..self.places.len())];
            asks.push((self.any_node(), place, self.next_id()));
        }
        let done = asks
            .iter()
            .map(|(name, place, id)| self.world.attach(name, *place, id.clone()));
        let done = join_all(done).await;
        self.world.check();
        for ((name, place, id), done) in asks.into_iter().zip(done) {
            match done {
                Ok(()) => {
                    self.attached.insert(id, name);
                }
                Err(error) => self.check_refusal(&name, place, &error),
            }
        }
    }

    fn check_refusal(&self, name: &NodeName, place: Place, error: &AttachError) {
        if self.world.takes_no_endpoints(name) {
            let refused = matches!(error, AttachError::Drained(_) | AttachError::Left(_));
            assert!(refused, "{name} takes no endpoints, but says {error}");
            return;
        }
        let free = self.world.within_reach(name, place);
        assert!(
            free.is_empty(),
            "{name} was refused ({error}), but free are {free:?}"
        );
    }

    /// Makes one random change: detaches, a fault, or an order of the operator.
    async fn change(&mut self) {
        let name = self.any_node();
        match self.random.u8(..10) {
            0..4 => self.detach_any().await,
            4 => self.world.cut(&name),
            5 => self.world.heal(&name),
            6 => self.world.drain(name).await,
            7 => self.world.uncordon(name).await,
            8 => {
                self.world.leave(name.clone()).await;
                if self.random.bool() && !self.world.is_cut(&name) {
                    self.world.restart(&name).await;
                }
            }
            _ if !self.world.is_cut(&name) => self.world.restart(&name).await,
            _ => {}
        }
    }

    async fn detach_any(&mut self) {
        for _ in 0..self.random.usize(1..8) {
            if self.attached.is_empty() {
                return;
            }
            let ids: Vec<_> = self.attached.keys().cloned().collect();
            let id = ids[self.random.usize(..ids.len())].clone();
            self.detach(&id).await;
        }
    }

    async fn detach(&mut self, id: &EndpointId) {
        let name = self.attached.remove(id).expect("it is attached");
        let endpoints = self.world.endpoints(&name);
        // CNI and the local socket wait for the kernel, Docker doesn't.
        let done = match self.random.bool() {
            true => endpoints.detach(id).await,
            false => endpoints.start_detach(id).await.map(drop),
        };
        done.expect("an endpoint that exists is detached");
    }

    /// Attaches while nodes are cut off, healed and drained. Some attaches may be refused; no address may
    /// have two owners.
    async fn storm(&mut self, count: usize) {
        let names = self.world.names();
        let mut asks = Vec::new();
        for _ in 0..count {
            asks.push((self.any_node(), self.next_id()));
        }
        let attached = asks
            .iter()
            .map(|(name, id)| self.world.attach(name, Place::Network, id.clone()));
        let mut random = self.random.fork();
        let world = &self.world;
        let faults = async {
            for _ in 0..count {
                let name = &names[random.usize(..names.len())];
                match random.u8(..4) {
                    0 => world.cut(name),
                    1 => world.drain(name.clone()).await,
                    2 => world.uncordon(name.clone()).await,
                    _ => world.heal(name),
                }
                tokio::task::yield_now().await;
            }
        };
        let (done, ()) = futures::join!(join_all(attached), faults);
        for ((name, id), done) in asks.into_iter().zip(done) {
            if done.is_ok() {
                self.attached.insert(id, name);
            }
        }
        self.world.check();
    }

    async fn go(&mut self, rounds: usize, width: usize) {
        for _ in 0..rounds {
            for _ in 0..self.random.usize(1..6) {
                self.change().await;
                self.world.check();
            }
            if self.random.u8(..8) == 0 {
                self.storm(width).await;
            }
            let count = self.random.usize(1..=width);
            self.attach(count).await;
        }
    }

    /// Heals all nodes and detaches all endpoints; then one node can attach to every address.
    async fn end(mut self) {
        for name in self.world.names() {
            self.world.heal(&name);
            self.world.uncordon(name.clone()).await;
            self.world.restart(&name).await;
        }
        let ids: Vec<_> = self.attached.keys().cloned().collect();
        for id in &ids {
            self.detach(id).await;
        }
        self.world.check();
        for place in self.places.clone() {
            let name = self.any_node();
            let all = self.world.addresses(place).len();
            let ids: Vec<EndpointId> = (0..all).map(|_| self.next_id()).collect();
            for id in ids {
                let done = self.world.attach(&name, place, id).await;
                done.unwrap_or_else(|error| panic!("{name} has not all {all}: {error}"));
            }
            self.world.check();
        }
    }
}

async fn run(seed: u64, nodes: usize, pool: Pool, group: Option<AddressRange>, rounds: usize) {
    let mut run = Run::new(seed, nodes, pool, group).await;
    run.go(rounds, (nodes * 2).min(24)).await;
    run.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_five_addresses() {
    for seed in 0..6 {
        run(seed, 3, pool("10.0.0.0/29", None), None, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_nodes_share_a_range_of_eleven_addresses() {
    for seed in 10..14 {
        let range = Some(("10.0.0.10", "10.0.0.20"));
        run(seed, 8, pool("10.0.0.0/24", range), None, 30).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_nodes_share_a_network_and_a_groups_pool() {
    for seed in 20..24 {
        let group = range_of(("10.0.0.33", "10.0.0.40"));
        run(seed, 10, pool("10.0.0.0/26", None), Some(group), 30).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_nodes_share_a_network_of_fewer_blocks() {
    for seed in 30..32 {
        run(seed, 40, pool("10.0.0.0/26", None), None, 30).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subnet_24_serves_250_nodes_with_one_endpoint_each() {
    let mut run = Run::new(40, 250, pool("10.0.0.0/24", None), None).await;
    for name in run.world.names() {
        let id = run.next_id();
        let done = run.world.attach(&name, Place::Network, id.clone()).await;
        done.unwrap_or_else(|error| panic!("{name}: {error}"));
        run.attached.insert(id, name);
    }
    run.world.check();
    run.go(3, 24).await;
}

/// A command may arrive after its sender gave up or was rejected, sent another one, and leased the same block
/// again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_commands_take_no_address_from_its_owner() {
    for seed in 60..66 {
        let pool = pool("10.0.0.0/29", None);
        let mut run = Run::new(seed, 4, pool.clone(), None).await;
        run.world = World::new(4, pool, None, IDLE_AT_ONCE, 10).await;
        for _ in 0..60 {
            run.detach_any().await;
            run.storm(4).await;
            pause(IDLE_AT_ONCE).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_cluster_returns_all_blocks_but_one_at_most() {
    let mut run = Run::new(51, 6, pool("10.0.0.0/26", None), None).await;
    run.world = World::new(6, pool("10.0.0.0/26", None), None, IDLE_AT_ONCE, 0).await;
    run.attach(24).await;
    let ids: Vec<_> = run.attached.keys().cloned().collect();
    for id in &ids {
        run.detach(id).await;
    }
    let name = run.any_node();
    let returned = async {
        while run.world.log.blocks(&name, Place::Network).len() > 1 {
            pause(IDLE_AT_ONCE).await;
        }
    };
    let left = tokio::time::timeout(RETURN_TIMEOUT, returned).await;
    left.unwrap_or_else(|_| panic!("held are {:?}", run.world.log.blocks(&name, Place::Network)));
}
