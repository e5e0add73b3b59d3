//! What a VRF costs against a namespace, in the same machine and minute. Not a test of anything:
//!
//!     scripts/vrf/run.sh node/datapath:--ignored,--nocapture,figures

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use bus_schema::node::DomainKind;
use socket2::SockRef;

use crate::policy::in_group;
use crate::traffic::{listen, within};
use crate::world::World;

const ROUNDS: usize = 5;
const EACH: Duration = Duration::from_secs(2);

struct Side {
    world: World,
    web: String,
    db: String,
    connections: [Vec<f64>; 2],
    streams: [Vec<f64>; 2],
}

impl Side {
    async fn open(kind: DomainKind) -> Self {
        let mut world = World::of(Some(kind)).await;
        world.network("red", "net", 1001);
        world.group("red", "db", 2, &["none"]);
        world.policy("red", "none", &[]);
        let rules = [
            "1 in deny tcp",
            "2 in allow priority 10 tcp 80",
            "3 in allow priority 10 tcp 443",
        ];
        world.policy("red", "rules", &rules);
        world.sync_all().await;
        let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
        let db = world.attach_in(1, in_group("db"), "db", "20.1.1.129").await;
        let (connections, streams) = Default::default();
        Self {
            world,
            web,
            db,
            connections,
            streams,
        }
    }

    /// With rules or without, which are the same group's.
    async fn measure(&mut self, number: usize, policy: &str) {
        self.world.group("red", "db", 2, &[policy]);
        self.world.sync_all().await;
        let listener = listen(&self.db, 80);
        thread::scope(|scope| {
            scope.spawn(|| serve(&listener));
            let to: SocketAddr = "20.1.1.129:80".parse().expect("an address");
            let connections = within(&self.web, || connections(to));
            let stream = within(&self.web, || stream(to));
            self.connections[number].push(connections);
            self.streams[number].push(stream);
            within(&self.web, || {
                TcpStream::connect(to).expect("the last").write_all(b"end")
            })
            .expect("sent");
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
    while start.elapsed() < EACH {
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
    while start.elapsed() < EACH {
        client.write_all(&buffer).expect("sent");
        sent += buffer.len();
    }
    sent as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "figures, for a machine that has both kinds and nothing else to do"]
async fn figures() {
    let mut sides = [
        Side::open(DomainKind::Netns).await,
        Side::open(DomainKind::Vrf).await,
    ];
    for _ in 0..ROUNDS {
        for side in &mut sides {
            for (number, policy) in ["none", "rules"].into_iter().enumerate() {
                side.measure(number, policy).await;
            }
        }
    }
    println!("across two hosts, medians of {ROUNDS} rounds; ratio to a namespace without rules");
    println!(
        "{:24}{:>16}{:>8}{:>12}{:>8}",
        "", "connections/s", "", "Mbit/s", ""
    );
    let base = (
        median(&sides[0].connections[0]),
        median(&sides[0].streams[0]),
    );
    for side in &sides {
        for (number, rules) in ["no rules", "three rules"].into_iter().enumerate() {
            let (c, s) = (
                median(&side.connections[number]),
                median(&side.streams[number]),
            );
            let name = format!("{}, {rules}", side.world.hosts[0].params.kind);
            println!(
                "{name:24}{c:>16.0}{:>8.2}{s:>12.1}{:>8.2}",
                c / base.0,
                s / base.1
            );
        }
    }
}
