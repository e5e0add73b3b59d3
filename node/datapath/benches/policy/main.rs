//! The cost of rules on one node: compiling them, and programming them into the kernel. `make bench`.
//!
//! A tenant of 10,000 rules, 1,000 groups and 100,000 endpoints on 1,000 nodes, 100 of them here;
//! the others are told by the events that their nodes would publish. Needs root for the kernel's
//! part. What traffic and a whole cluster make of it is in `chaos-tests/benches/policy`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod cluster;
#[path = "../../tests/datapath/rule_text.rs"]
mod rule_text;
#[path = "../../tests/datapath/shell.rs"]
mod shell;
#[expect(
    dead_code,
    unused_imports,
    reason = "the tests' world, of which a benchmark needs less"
)]
#[path = "../../tests/datapath/world.rs"]
mod world;

use std::time::{Duration, Instant};

use bus_schema::node::DomainKind;
use node_core::desired::{Params, Programs, desired_domain};
use node_core::reconcile::diff;
use node_core::resource::{State, Uplink};

use cluster::{Cluster, LOCAL, MEMBERS, NODES, RULES, tenant};
use world::World;

/// Times that one rule is added and taken away again.
const TIMES: usize = 100;

struct Node {
    cluster: Cluster,
    params: Params,
    programs: Programs,
}

impl Node {
    fn new(cluster: Cluster) -> Self {
        Self {
            cluster,
            params: Params {
                node: cluster::node(0),
                kind: DomainKind::Netns,
                vtep: cluster::vtep(0),
                underlay_mtu: 1_500,
                underlay_interface: "eth0".to_owned(),
                uplink_pool: Uplink::DEFAULT_POOL,
                resolvers: Default::default(),
                max_connections: 65_536,
                outer_mark: None,
            },
            programs: Programs::default(),
        }
    }

    fn domain(&mut self) -> State {
        let Cluster { facts, locals, .. } = &self.cluster;
        desired_domain(facts, &tenant(), locals, &self.params, &mut self.programs)
    }
}

/// An event; the number tells it from the others.
type Change = fn(&mut Cluster, usize);

/// Median, 99th percentile and their number.
fn said(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: usize| times[(times.len() * part).div_ceil(100) - 1];
    format!(
        "median {:.2?}, p99 {:.2?} of {}",
        at(50),
        at(99),
        times.len()
    )
}

/// The resident memory of the process, in MB.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|it| it.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kb.unwrap_or_default() / 1_024
}

fn think() {
    let before = memory();
    let mut node = Node::new(Cluster::default());
    let start = Instant::now();
    node.cluster.events();
    println!(
        "{RULES} rules, {} groups, {MEMBERS} endpoints on {NODES} nodes, {LOCAL} of them here",
        cluster::GROUPS
    );
    println!(
        "  told by events in {:.1?}, {} MB",
        start.elapsed(),
        memory() - before
    );
    let held = memory();
    let start = Instant::now();
    let mut state = node.domain();
    println!(
        "  thought from nothing in {:.1?}, {} resources, {} MB more",
        start.elapsed(),
        state.len(),
        memory() - held
    );
    let kinds: [(&str, Change); 3] = [
        ("a rule more or less", Cluster::change_a_rule),
        ("a member more elsewhere", Cluster::change_a_member),
        ("a block leased elsewhere", Cluster::change_a_block),
    ];
    for (what, change) in kinds {
        let mut times = Vec::new();
        let mut changes = 0;
        for time in 0..TIMES {
            let start = Instant::now();
            change(&mut node.cluster, time);
            let after = node.domain();
            changes += diff(&state, &after).len();
            state = after;
            times.push(start.elapsed());
        }
        let each = changes as f64 / TIMES as f64;
        println!("  {what}: {}; {each:.1} changes each", said(times));
    }
}

async fn program() {
    let world = World::new().await;
    let datapath = world.hosts[0].datapath.clone();
    let mut cluster = Cluster::default();
    cluster.events_without_endpoints();
    let mut node = Node::new(cluster);
    node.params.kind = datapath.kind();
    let start = Instant::now();
    let mut state = node.domain();
    let ops = diff(&State::default(), &state);
    let thought = start.elapsed();
    let start = Instant::now();
    datapath.execute(&ops).await.expect("programmed");
    println!(
        "{RULES} rules into the kernel from nothing: thought {thought:.1?}, {} changes made in {:.1?}",
        ops.len(),
        start.elapsed()
    );
    let (mut thoughts, mut deeds) = (Vec::new(), Vec::new());
    for time in 0..TIMES {
        let start = Instant::now();
        node.cluster.change_a_rule(time);
        let after = node.domain();
        let ops = diff(&state, &after);
        state = after;
        thoughts.push(start.elapsed());
        let start = Instant::now();
        datapath.execute(&ops).await.expect("programmed");
        deeds.push(start.elapsed());
    }
    println!(
        "  a rule more or less: thought {}; done {}",
        said(thoughts),
        said(deeds)
    );
}

#[tokio::main]
async fn main() {
    think();
    program().await;
}
