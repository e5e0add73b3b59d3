//! The cost of a VRF against a namespace, on the same machine in the same minute. Not a test of anything:
//!
//!     scripts/vrf/run.sh node-datapath/datapath:--ignored,--nocapture,figures
//!
//! A machine's pace changes from second to second, an emulated one's most of all: so each is
//! measured shortly, one after the other, again and again, and compared within its round.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bus_schema::GroupId;
use bus_schema::node::DomainKind;
use node_core::reconcile::Op;
use node_core::resource::Element;
use node_datapath::Scope;
use socket2::SockRef;

use crate::policy::{in_group, one_tenant};
use crate::traffic::{listen, within};
use crate::world::World;

/// The first ones warm up.
const ROUNDS: usize = 43;
const WARM: usize = 3;
const ROUND_TIME: Duration = Duration::from_millis(400);

/// Web on one host and one of two groups on the other.
struct Path {
    name: String,
    web: String,
    to: SocketAddr,
    connections: Vec<f64>,
    streams: Vec<f64>,
}

/// Without rules and with some; the listeners' threads end with what is said to them last.
async fn paths(world: &mut World) -> Vec<(Path, TcpListener)> {
    world.network("red", "net", 1001);
    world.group("red", "plain", 2, &["none"]);
    world.group("red", "ruled", 3, &["rules"]);
    world.policy("red", "none", &[]);
    let rules = [
        "1 in deny tcp",
        "2 in allow priority 10 tcp 80",
        "3 in allow priority 10 tcp 443",
    ];
    world.policy("red", "rules", &rules);
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let kind = world.hosts[0].params.kind;
    let mut paths = Vec::new();
    for (group, rules, at) in [
        ("plain", "no rules", "20.1.1.129"),
        ("ruled", "three rules", "20.1.1.130"),
    ] {
        let netns = world.attach_in(1, in_group(group), group, at).await;
        let path = Path {
            name: format!("{kind}, {rules}"),
            web: web.clone(),
            to: format!("{at}:80").parse().expect("an address"),
            connections: Vec::new(),
            streams: Vec::new(),
        };
        paths.push((path, listen(&netns, 80)));
    }
    paths
}

impl Path {
    fn measure(&mut self) {
        let to = self.to;
        let (connections, stream) = within(&self.web, || (connections(to), stream(to)));
        self.connections.push(connections);
        self.streams.push(stream);
    }

    fn end(&self) {
        within(&self.web, || {
            let mut last = TcpStream::connect(self.to).expect("accepted");
            last.write_all(b"end").expect("sent");
        });
    }
}

/// Reads each connection to its end, until one begins with `end`.
fn serve(listener: &TcpListener) {
    let mut buffer = vec![0; 1 << 18];
    for mut client in listener.incoming().flatten() {
        while let Ok(read @ 1..) = client.read(&mut buffer) {
            if buffer[..read] == *b"end" {
                return;
            }
        }
    }
}

fn connections(to: SocketAddr) -> f64 {
    let (start, mut done) = (Instant::now(), 0_u32);
    while start.elapsed() < ROUND_TIME {
        let client = TcpStream::connect(to).expect("accepted");
        // No port is kept for a connection that is over.
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .expect("set");
        done += 1;
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}

fn stream(to: SocketAddr) -> f64 {
    let mut client = TcpStream::connect(to).expect("accepted");
    let buffer = vec![0; 1 << 17];
    let (start, mut sent) = (Instant::now(), 0);
    while start.elapsed() < ROUND_TIME {
        client.write_all(&buffer).expect("sent");
        sent += buffer.len();
    }
    sent as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
}

/// The median, and what half of them lie between.
fn middle(mut figures: Vec<f64>) -> [f64; 3] {
    figures.sort_by(f64::total_cmp);
    let at = |quarter: usize| figures[(figures.len() - 1) * quarter / 4];
    [at(2), at(1), at(3)]
}

/// Of one to the other, round by round.
fn ratio(of: &[f64], to: &[f64]) -> String {
    let all = of.iter().zip(to).map(|(of, to)| of / to);
    let [median, from, until] = middle(all.collect());
    format!("{median:.2} ({from:.2} to {until:.2})")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures, for a machine that has both kinds and nothing else to do"]
async fn figures() {
    let mut netns = World::of(Some(DomainKind::Netns)).await;
    let mut vrf = World::of(Some(DomainKind::Vrf)).await;
    let all = [paths(&mut netns).await, paths(&mut vrf).await];
    let (mut paths, listeners): (Vec<_>, Vec<_>) = all.into_iter().flatten().unzip();
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(|| serve(listener));
        }
        for round in 0..ROUNDS {
            // Each comes first as often as the others.
            let count = paths.len();
            for number in 0..count {
                paths[(round + number) % count].measure();
            }
        }
        paths.iter().for_each(Path::end);
    });
    let rounds = ROUNDS - WARM;
    println!("across two hosts, medians of {rounds} rounds (half of them between)");
    for path in &mut paths {
        path.connections.drain(..WARM);
        path.streams.drain(..WARM);
        let [c, ..] = middle(path.connections.clone());
        let [s, ..] = middle(path.streams.clone());
        println!("{:20} {c:8.0} connections/s {s:8.1} Mbit/s", path.name);
    }
    for (of, to) in [(2, 0), (3, 1), (1, 0), (3, 2)] {
        let (of, to) = (&paths[of], &paths[to]);
        let connections = ratio(&of.connections, &to.connections);
        let streams = ratio(&of.streams, &to.streams);
        let what = format!("{} to {}", of.name, to.name);
        println!("{what:40} connections {connections}, stream {streams}");
    }
}

/// How long a full resync reads the kernel when a domain has 100,000 elements.
///
///     cargo nextest run --release -p node-datapath --run-ignored only --no-capture -E 'test(resync_figures)'
#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures, for a machine that has nothing else to do"]
async fn resync_figures() {
    const ELEMENTS: u32 = 100_000;
    let mut world = one_tenant().await;
    world.policy("red", "all", &["1 in deny", "2 in allow tcp 80 priority 5"]);
    world.group("red", "web", 2, &["all"]);
    world.sync_all().await;
    world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let (place, zone) = (world.place_of(0, "red"), world.zone(0, "red"));
    let members = (0..ELEMENTS).map(|number| {
        let member = Element::Member {
            zone,
            address: Ipv4Addr::from_bits(0x1402_0000 + number).into(),
            group: GroupId(2),
        };
        Op::Put(member.at(&place))
    });
    let datapath = &world.hosts[0].datapath;
    let ops: Vec<Op> = members.collect();
    datapath.execute(&ops).await.expect("programmed");
    let mut times = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        let state = datapath.observe(&Scope::All).await.expect("observed");
        times.push(start.elapsed().as_secs_f64() * 1e3);
        assert!(state.len() > ELEMENTS as usize);
    }
    let [median, from, until] = middle(times);
    println!("resync of {ELEMENTS} elements: {median:.0} ms ({from:.0} to {until:.0})");
    let listings = (0..9).map(|_| {
        let start = Instant::now();
        let listed = world.in_domain(0, "red", "nft -j list table inet contiv");
        assert!(listed.status.success());
        start.elapsed().as_secs_f64() * 1e3
    });
    let [median, from, until] = middle(listings.collect());
    println!("`nft -j` lists the table: {median:.0} ms ({from:.0} to {until:.0})");
}
