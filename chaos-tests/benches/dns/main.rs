//! What names cost: `make bench`. Asked by `dnsperf` from inside a container's namespace, against
//! dnsmasq and Docker's embedded resolver with the same names; they take turns within each round,
//! and medians are compared, so that a machine whose speed drifts doesn't decide.

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

/// Names in the zone.
const NAMES: usize = 10_000;
/// Names of others that are asked for once: more than a second asks for and a node remembers, so
/// that none is known when its turn comes again.
const NEW: usize = 300_000;

/// Our server, and whence it is asked.
const OUR_SERVER: &str = "169.254.53.53";
const CLIENT: [&str; 4] = ["ip", "netns", "exec", "w-client"];

/// How much is measured; 0: not this.
struct Effort {
    /// Of each target that knows our names.
    rounds: usize,
    /// The same with others' names.
    others: usize,
    /// Changes of one name, timed one after another.
    changes: usize,
    /// Containers started.
    starts: usize,
}

const WHOLE: Effort = Effort {
    rounds: 5,
    others: 5,
    changes: 40,
    starts: 100,
};
/// One part of it: `cargo bench --package chaos-tests --bench dns -- names`.
const NAMES_ALONE: Effort = Effort {
    others: 0,
    changes: 0,
    starts: 0,
    ..WHOLE
};
const OTHERS_ALONE: Effort = Effort {
    rounds: 0,
    others: WHOLE.others,
    ..NAMES_ALONE
};
/// To see that it works: `cargo test --package chaos-tests --bench dns -- brief`.
const BRIEF: Effort = Effort {
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
        ["brief"] => measure(&BRIEF),
        ["names"] => measure(&NAMES_ALONE),
        ["others"] => measure(&OTHERS_ALONE),
        _ => measure(&WHOLE),
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
    // Its endpoints are ours to publish now.
    lab.kill("netplugin@node-2")?;
    let bus = runtime.block_on(zone::Publisher::connect(
        &lab.nats_url(),
        lab.address("node-2")?,
    ))?;
    let change = |names: usize| -> anyhow::Result<()> {
        let numbers = NAMES + names..NAMES + names + effort.changes;
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
    runtime.block_on(bus.publish_all(NAMES))?;
    if effort.rounds > 0 {
        ours(&lab, folder.path(), effort.rounds)?;
    }
    if effort.others > 0 {
        others(&lab, folder.path(), &upstream, effort.others)?;
    }
    change(NAMES)
}

/// Our names, against others that know as many.
fn ours(lab: &Lab, folder: &Path, rounds: usize) -> anyhow::Result<()> {
    dnsmasq(lab, &folder.join("hosts"))?;
    let docker = embedded(lab)?;
    let names: Vec<String> = (0..NAMES).map(zone::name).collect();
    let ask = folder.join("names");
    perf::write_questions(&ask, &names)?;
    let last = &names[NAMES - 1];
    let local = [
        Target::new("contiv", &CLIENT, OUR_SERVER, &ask),
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
    println!("{NAMES} names; medians of {rounds} rounds");
    compare(lab, &local, rounds)
}

/// Names of others, passed on by us and asked for directly.
fn others(lab: &Lab, folder: &Path, upstream: &str, rounds: usize) -> anyhow::Result<()> {
    let known = ["machine.lab".to_owned()];
    let new = |what: &str, names| (0..names).map(|n| format!("{what}{n}.new.lab")).collect();
    let (fast, slow): (Vec<String>, Vec<String>) = (new("f", NEW), new("s", NAMES));
    for (what, names, paced) in [("again", &known[..], &known[..]), ("new", &fast, &slow)] {
        let [ask, pace] = ["", "-paced"].map(|it| folder.join(format!("{what}{it}")));
        perf::write_questions(&ask, names)?;
        perf::write_questions(&pace, paced)?;
        let forwarded = [
            Target::new("forwarded", &CLIENT, OUR_SERVER, &ask).paced_by(&pace),
            Target::new("direct", &[], upstream, &ask).paced_by(&pace),
        ];
        println!("names of others, {what}");
        compare(lab, &forwarded, rounds)?;
    }
    Ok(())
}

/// Figures of targets that take turns, with their ratios to the last of them.
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

/// The lab's resolver, started again as one of the Internet: what it says holds for a minute, and
/// every name below `new.lab` is there. Its address.
fn upstream(lab: &mut Lab) -> anyhow::Result<String> {
    let address = lab.address("ctl")?;
    lab.kill("resolver@ctl")?;
    let names = format!("--address=/machine.lab/new.lab/{address}");
    let argv = resolver(address, &["--local=/#/", "--local-ttl=60", &names]);
    lab.launch("upstream", "ctl", argv, BTreeMap::new())?;
    Ok(address.to_string())
}

/// dnsmasq in a namespace of its own, one veth away from who asks.
fn dnsmasq(lab: &Lab, hosts: &Path) -> anyhow::Result<()> {
    let lines: String = (0..NAMES)
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
ip netns exec server dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --user=root --pid-file= --log-facility=/dev/null --addn-hosts={hosts} --cache-size={NAMES} --local-ttl=5 </dev/null >/dev/null 2>&1"
    );
    lab.run("node-1", &["sh", "-c", &script])?;
    Ok(())
}

/// A container on a bridge of Docker's own, with the names as its aliases; its process.
fn embedded(lab: &Lab) -> anyhow::Result<String> {
    lab.run("node-1", &["docker", "network", "create", "plain"])?;
    let aliases: Vec<String> = (0..NAMES)
        .map(|n| format!("--network-alias={}", zone::name(n)))
        .collect();
    let mut argv = vec!["docker", "run", "-d", "--name=plain", "--net=plain"];
    argv.extend(aliases.iter().map(String::as_str));
    argv.extend([IMAGE, "sleep", "1000000"]);
    lab.run("node-1", &argv)?;
    let inspect = ["docker", "inspect", "-f", "{{.State.Pid}}", "plain"];
    Ok(lab.run("node-1", &inspect)?.stdout.trim().to_owned())
}

/// Milliseconds from the publication of one name more to the first answer.
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
