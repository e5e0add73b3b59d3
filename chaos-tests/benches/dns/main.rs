//! The costs of names: `make bench`. `dnsperf` queries from inside a container's namespace, compared with
//! dnsmasq and Docker's embedded resolver with the same names. They take turns within each round, and
//! medians are compared, so a drift of the machine's speed has no influence.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod lag;
mod perf;
mod probe;

use std::collections::BTreeMap;
use std::path::Path;

use chaos_tests::figures::{arguments, machine, quantile};
use chaos_tests::zone;
use lab::{IMAGE, Lab, Spec, resolver};

use crate::perf::{Figures, Target};

/// The number of names in the zone.
const NAME_COUNT: usize = 10_000;
/// The number of forwarded names that are queried once: more than a second's queries and a node's cache, so
/// that none is cached when its turn comes again.
const NEW_NAME_COUNT: usize = 300_000;

/// The address of our server.
const OUR_SERVER: &str = "169.254.53.53";
const ENTER_CLIENT: [&str; 4] = ["ip", "netns", "exec", "w-client"];

/// The number of measurements; 0: none.
struct Effort {
    /// Rounds of each target with our names.
    rounds: usize,
    /// Rounds of each target with forwarded names.
    others: usize,
    /// Changes of one name, measured one after another.
    changes: usize,
    /// Started containers.
    starts: usize,
}

const FULL_EFFORT: Effort = Effort {
    rounds: 5,
    others: 5,
    changes: 40,
    starts: 100,
};
/// One part: `cargo bench --package chaos-tests --bench dns -- names`.
const NAMES_EFFORT: Effort = Effort {
    others: 0,
    changes: 0,
    starts: 0,
    ..FULL_EFFORT
};
const OTHERS_EFFORT: Effort = Effort {
    rounds: 0,
    others: FULL_EFFORT.others,
    ..NAMES_EFFORT
};
/// A short run that only shows that the benchmark works: `cargo test --package chaos-tests --bench dns -- brief`.
const BRIEF_EFFORT: Effort = Effort {
    rounds: 1,
    others: 1,
    changes: 3,
    starts: 3,
};

fn main() -> anyhow::Result<()> {
    let arguments = arguments();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["probe", name, said] => probe::until_answered(name, Path::new(said)),
        ["brief"] => measure(&BRIEF_EFFORT),
        ["names"] => measure(&NAMES_EFFORT),
        ["others"] => measure(&OTHERS_EFFORT),
        _ => measure(&FULL_EFFORT),
    }
}

fn measure(effort: &Effort) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lab = Lab::up(&Spec::test(2).docker(true))?;
    let folder = tempfile::tempdir()?;
    lab.netctl_ok(&["net", "create", "net", "--subnet=20.0.0.0/12"])?;
    let client = lab.run_workload("node-1", "net", "client")?;
    lab.import_image("node-1")?;
    println!("{}", machine());
    if effort.starts > 0 {
        lag::measure(&mut lab, effort.starts)?;
    }
    let upstream = upstream(&mut lab)?;
    // The benchmark publishes the node's endpoints instead.
    lab.kill("netplugin@node-2")?;
    let bus = runtime.block_on(zone::Publisher::connect(
        &lab.nats_url(),
        lab.address("node-2")?,
    ))?;
    let change = |names: usize| -> anyhow::Result<()> {
        let numbers = NAME_COUNT + names..NAME_COUNT + names + effort.changes;
        let took = changes(&lab, (&runtime, &bus), &client.name, folder.path(), numbers)?;
        if !took.is_empty() {
            println!(
                "one name more where {names} are, from its publication to its answer: median {:.1} ms, p99 {:.1} ms of {}",
                quantile(&took, 0.5),
                quantile(&took, 0.99),
                took.len()
            );
        }
        Ok(())
    };
    change(0)?;
    runtime.block_on(bus.publish_all(NAME_COUNT))?;
    if effort.rounds > 0 {
        ours(&lab, folder.path(), effort.rounds)?;
    }
    if effort.others > 0 {
        others(&lab, folder.path(), &upstream, effort.others)?;
    }
    change(NAME_COUNT)
}

/// Measures our names, compared with other servers with as many names.
fn ours(lab: &Lab, folder: &Path, rounds: usize) -> anyhow::Result<()> {
    dnsmasq(lab, &folder.join("hosts"))?;
    let docker = embedded(lab)?;
    let names: Vec<String> = (0..NAME_COUNT).map(zone::name).collect();
    let ask = folder.join("names");
    perf::write_questions(&ask, &names)?;
    let last = &names[NAME_COUNT - 1];
    let local = [
        Target::new("contiv", &ENTER_CLIENT, OUR_SERVER, &ask),
        Target::new(
            "dnsmasq",
            &["ip", "netns", "exec", "asker"],
            "10.9.9.2",
            &ask,
        ),
        Target::new(
            "Docker's",
            &["nsenter", "-t", &docker, "-n"],
            "127.0.0.11",
            &ask,
        ),
    ];
    for target in &local {
        target.await_answer(lab, last)?;
    }
    println!("{NAME_COUNT} names; medians of {rounds} rounds");
    compare(lab, &local, rounds)
}

/// Measures other names, forwarded by us and queried directly.
fn others(lab: &Lab, folder: &Path, upstream: &str, rounds: usize) -> anyhow::Result<()> {
    let known = ["machine.lab".to_owned()];
    let new = |what: &str, names| (0..names).map(|n| format!("{what}{n}.new.lab")).collect();
    let (fast, slow): (Vec<String>, Vec<String>) = (new("f", NEW_NAME_COUNT), new("s", NAME_COUNT));
    for (what, names, paced) in [("again", &known[..], &known[..]), ("new", &fast, &slow)] {
        let [ask, pace] = ["", "-paced"].map(|it| folder.join(format!("{what}{it}")));
        perf::write_questions(&ask, names)?;
        perf::write_questions(&pace, paced)?;
        let forwarded = [
            Target::new("forwarded", &ENTER_CLIENT, OUR_SERVER, &ask).paced_by(&pace),
            Target::new("direct", &[], upstream, &ask).paced_by(&pace),
        ];
        println!("names of others, {what}");
        compare(lab, &forwarded, rounds)?;
    }
    Ok(())
}

/// Prints the figures of targets that take turns, with their ratios to the last target.
fn compare(lab: &Lab, targets: &[Target], rounds: usize) -> anyhow::Result<()> {
    let mut figures: Vec<Figures> = targets.iter().map(|_| Figures::default()).collect();
    for _ in 0..rounds {
        for (target, figures) in targets.iter().zip(&mut figures) {
            figures.add(target.flood(lab)?, target.pace(lab)?);
        }
    }
    println!(
        "{:>12}{:>12}{:>14}{:>14}{:>24}",
        "", "queries/s", "median, µs", "p99, µs", "lost"
    );
    for (target, of) in targets.iter().zip(&figures) {
        println!("{:>12}{of}", target.label);
    }
    let first = &figures[0];
    for (target, of) in targets.iter().zip(&figures).skip(1) {
        println!(
            "{} to {}: {:.2} of its queries/s, {:.2} of its p99",
            targets[0].label,
            target.label,
            first.rate() / of.rate(),
            first.p99() / of.p99()
        );
    }
    Ok(())
}

/// Restarts the lab's resolver like one of the Internet: its answers have a TTL of one minute, and every name
/// below `new.lab` exists. Returns its address.
fn upstream(lab: &mut Lab) -> anyhow::Result<String> {
    let address = lab.address("ctl")?;
    lab.kill("resolver@ctl")?;
    let names = format!("--address=/machine.lab/new.lab/{address}");
    let argv = resolver(address, &["--local=/#/", "--local-ttl=60", &names]);
    lab.launch("upstream", "ctl", argv, BTreeMap::new())?;
    Ok(address.to_string())
}

/// Starts dnsmasq in a namespace of its own, one veth away from the client.
fn dnsmasq(lab: &Lab, hosts: &Path) -> anyhow::Result<()> {
    let lines: String = (0..NAME_COUNT)
        .map(|n| format!("{} {}\n", zone::address(n), zone::name(n)))
        .collect();
    std::fs::write(hosts, lines)?;
    let hosts = hosts.display();
    let script = format!(
        "set -e
for n in asker server; do ip netns add $n; ip -n $n link set lo up; done
ip -n asker link add eth0 type veth peer name eth0 netns server
ip -n asker addr add 10.9.9.1/24 dev eth0; ip -n server addr add 10.9.9.2/24 dev eth0
ip -n asker link set eth0 up; ip -n server link set eth0 up
ip netns exec server dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --user=root --pid-file= --log-facility=/dev/null --addn-hosts={hosts} --cache-size={NAME_COUNT} --local-ttl=5 </dev/null >/dev/null 2>&1"
    );
    lab.run("node-1", &["sh", "-c", &script])?;
    Ok(())
}

/// Starts a container on a bridge of Docker, with the names as its aliases. Returns its process.
fn embedded(lab: &Lab) -> anyhow::Result<String> {
    lab.run("node-1", &["docker", "network", "create", "plain"])?;
    let aliases: Vec<String> = (0..NAME_COUNT)
        .map(|n| format!("--network-alias={}", zone::name(n)))
        .collect();
    let mut argv = vec!["docker", "run", "-d", "--name=plain", "--net=plain"];
    argv.extend(aliases.iter().map(String::as_str));
    argv.extend([IMAGE, "sleep", "1000000"]);
    lab.run("node-1", &argv)?;
    let inspect = ["docker", "inspect", "-f", "{{.State.Pid}}", "plain"];
    Ok(lab.run("node-1", &inspect)?.stdout.trim().to_owned())
}

/// The milliseconds from the publication of a further name to the first answer.
fn changes(
    lab: &Lab,
    (runtime, bus): (&tokio::runtime::Runtime, &zone::Publisher),
    client: &str,
    folder: &Path,
    numbers: std::ops::Range<usize>,
) -> anyhow::Result<Vec<f64>> {
    let me = std::env::current_exe()?.display().to_string();
    let mut took = Vec::new();
    for number in numbers {
        let name = zone::name(number);
        let said = folder.join(&name);
        let _probe = lab.start_in(client, &[&me, "probe", &name, &said.display().to_string()])?;
        probe::wait_for(&said.with_extension("ready"))?;
        let since = probe::now();
        runtime.block_on(bus.publish(number))?;
        probe::wait_for(&said)?;
        let at: f64 = std::fs::read_to_string(&said)?.parse()?;
        took.push((at - since) * 1e3);
    }
    Ok(took)
}
