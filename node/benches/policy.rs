//! What rules cost: to compile, to program, and for each new connection. `cargo bench -p node`.
//!
//! Two hosts in namespaces, real packets; needs root. One line for each number of rules.

#![expect(clippy::print_stdout, reason = "the figures")]

#[expect(
    dead_code,
    reason = "the tests' world, of which a benchmark needs less"
)]
#[path = "../tests/datapath/traffic.rs"]
mod traffic;
#[expect(
    dead_code,
    reason = "the tests' world, of which a benchmark needs less"
)]
#[path = "../tests/datapath/world.rs"]
mod world;

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use node::desired::{Programs, desired_domain};
use node::reconcile::diff;
use node::resource::State;
use world::{World, tenant};

/// Rules of one policy; the last lets the measured connections through.
const SIZES: [usize; 4] = [0, 10, 1_000, 10_000];
/// So long connections are counted.
const FOR: Duration = Duration::from_secs(3);
/// Times that one rule is added and taken away again.
const TIMES: usize = 20;

/// Mixed ports, overlapping ranges, CIDRs and groups, in twenty priorities; none is about the
/// port that is measured.
fn rules(count: usize) -> Vec<String> {
    let rule = |number: usize| {
        let (priority, port) = (number % 20 + 1, number * 7 % 4_000 + 1);
        let action = if number.is_multiple_of(3) {
            "allow"
        } else {
            "deny"
        };
        let peer = match number % 4 {
            0 => format!("from 10.{}.{}.0/24", number / 256 % 256, number % 256),
            1 => format!("group g{}", number % 50),
            2 => format!("from 10.{}.0.0/{}", number % 256, 9 + number % 12),
            _ => String::new(),
        };
        let ports = format!("{port}-{}", port + number % 900);
        format!(
            "{} in {action} tcp {ports} priority {priority} {peer}",
            number + 1
        )
    };
    (0..count).map(rule).collect()
}

struct Bench {
    world: World,
    programs: Programs,
}

impl Bench {
    fn domain(&mut self) -> State {
        let it = &self.world.hosts[0];
        let red = tenant("red");
        desired_domain(
            &self.world.facts,
            &red,
            &it.locals,
            &it.params,
            &mut self.programs,
        )
    }

    fn policy(&mut self, rules: &[String]) {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        self.world.policy("red", "many", &rules);
    }

    /// Makes the kernel follow; time to think and time to do.
    async fn follow(&mut self, before: &State) -> (State, Duration, Duration) {
        let start = Instant::now();
        let after = self.domain();
        let ops = diff(before, &after);
        let thought = start.elapsed();
        let datapath = &self.world.hosts[0].datapath;
        datapath.execute(&ops).await.expect("programmed");
        (after, thought, start.elapsed() - thought)
    }
}

fn connections_per_second(client: &str) -> u64 {
    let to: SocketAddr = "20.1.1.1:5000".parse().expect("an address");
    let count = traffic::within(client, || {
        let until = Instant::now() + FOR;
        let mut count = 0;
        while Instant::now() < until {
            let stream = TcpStream::connect(to).expect("allowed");
            // Reset rather than closed, so that ports don't run out.
            let socket = socket2::SockRef::from(&stream);
            socket.set_linger(Some(Duration::ZERO)).expect("set");
            count += 1;
        }
        count
    });
    count / FOR.as_secs()
}

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let last = times.len().saturating_sub(1);
    (times[last / 2], times[last])
}

#[tokio::main]
async fn main() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    for group in 0..50 {
        world.group("red", &format!("g{group}"), group + 10, &[]);
    }
    world.group("red", "web", 2, &["many"]);
    world.policy("red", "many", &[]);
    world.sync_all().await;
    let in_web = ("red", "net", Some("web"));
    let server = world.attach_in(0, in_web, "web", "20.1.1.1").await;
    let client = world
        .attach_in(1, ("red", "net", Some("g1")), "client", "20.1.1.129")
        .await;
    let _accepting = traffic::Accepting::start(&server, 5_000);
    let programs = Programs::default();
    let mut bench = Bench { world, programs };
    let mut state = bench.domain();
    for size in SIZES {
        let mut all = rules(size);
        bench.policy(&all);
        let (now, thought, done) = bench.follow(&state).await;
        state = now;
        println!(
            "{size:>6} rules: compiled in {thought:.1?}, programmed in {done:.1?}, {} resources",
            state.len()
        );
        let (mut thoughts, mut changes) = (Vec::new(), Vec::new());
        for _ in 0..TIMES {
            for add in [true, false] {
                if add {
                    all.push(format!("{} in deny tcp 7000 priority 30", size + 1));
                } else {
                    all.pop();
                }
                bench.policy(&all);
                let (now, thought, done) = bench.follow(&state).await;
                state = now;
                thoughts.push(thought);
                changes.push(done);
            }
        }
        let ((thought, worst_thought), (done, worst)) = (median(thoughts), median(changes));
        println!(
            "       one rule more or less: compiled in {thought:.1?} (max {worst_thought:.1?}), programmed in {done:.1?} (max {worst:.1?})"
        );
        println!(
            "       {} new connections/s",
            connections_per_second(&client)
        );
    }
}
