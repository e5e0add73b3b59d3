//! Names of real containers in real engines on two nodes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chaos_tests::{DnsAnswer, DnsClient, Outcome, WAIT_TIMEOUT, create};
use lab::{Error, IMAGE, Lab, Spec, wait_until};

const MAX_DELAY: Duration = Duration::from_secs(1);

fn engines() -> Result<Lab, Error> {
    let lab = Lab::up(&Spec::test(2).docker(true))?;
    for node in lab.nodes() {
        lab.import_image(&node)?;
    }
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    Ok(lab)
}

/// Runs `docker LINE`, which must succeed, and returns its trimmed output.
fn done(lab: &Lab, node: &str, line: &str) -> Result<String, Error> {
    let line: Vec<&str> = std::iter::once("docker").chain(line.split(' ')).collect();
    Ok(lab.run(node, &line)?.stdout.trim().to_owned())
}

fn run(lab: &Lab, node: &str, name: &str, more: &str) -> Outcome {
    let line = format!("run -d --name={name} {more} {IMAGE} sleep 1000000");
    done(lab, node, &line).map(drop)
}

fn pid(lab: &Lab, node: &str, name: &str) -> Result<String, Error> {
    done(lab, node, &format!("inspect -f {{{{.State.Pid}}}} {name}"))
}

/// A DNS client inside a container, which bypasses Docker's resolver.
fn asker(lab: &Lab, node: &str, name: &str) -> Result<DnsClient, Error> {
    DnsClient::in_process(lab, node, &pid(lab, node, name)?)
}

fn knows(asker: &DnsClient, name: &str) -> Outcome {
    wait_until(&format!("{name} is known"), WAIT_TIMEOUT, || {
        !asker.addresses(name).is_empty()
    })
}

/// The time until a name doesn't resolve any more.
fn until_gone(asker: &DnsClient, name: &str) -> Result<Duration, Error> {
    let since = Instant::now();
    wait_until(&format!("{name} is gone"), WAIT_TIMEOUT, || {
        asker.ask(name) == DnsAnswer::NxDomain
    })?;
    Ok(since.elapsed())
}

#[test]
fn names_follow_a_container_through_its_life() -> Outcome {
    let lab = engines()?;
    run(&lab, "node-1", "web", "--net=contiv-net")?;
    run(
        &lab,
        "node-2",
        "db",
        "--net=contiv-net --network-alias=mysql",
    )?;
    let web = asker(&lab, "node-1", "web")?;
    knows(&web, "mysql")?;
    let db = web.addresses("db");
    assert_eq!(web.addresses("mysql"), db);

    done(&lab, "node-2", "rename db database")?;
    let took = until_gone(&web, "db")?;
    assert!(took < MAX_DELAY, "renamed {took:?} ago");
    assert_eq!(web.addresses("database"), db);
    assert_eq!(web.addresses("mysql"), db, "an alias stays");

    let process = pid(&lab, "node-2", "database")?;
    lab.run("node-2", &["kill", "-9", &process])?;
    let took = until_gone(&web, "database")?;
    assert!(took < MAX_DELAY, "killed {took:?} ago");
    assert_eq!(web.ask("mysql"), DnsAnswer::NxDomain);

    done(&lab, "node-2", "start database")?;
    knows(&web, "mysql")?;
    done(&lab, "node-2", "stop -t 0 database")?;
    let took = until_gone(&web, "database")?;
    assert!(took < MAX_DELAY, "stopped {took:?} ago");
    Ok(())
}

#[test]
fn container_has_a_name_in_each_of_its_networks() -> Outcome {
    let lab = engines()?;
    create(&lab, "second", "20.1.2.0/24")?;
    lab.netctl_ok(&["group", "create", "contiv-net", "pool"])?;
    run(&lab, "node-1", "both", "--net=pool.contiv-net")?;
    done(&lab, "node-1", "network connect --alias=other second both")?;
    run(&lab, "node-2", "one", "--net=contiv-net")?;
    run(&lab, "node-2", "two", "--net=second")?;
    let (one, two) = (asker(&lab, "node-2", "one")?, asker(&lab, "node-2", "two")?);
    knows(&two, "other")?;
    let (first, second) = (one.addresses("both"), two.addresses("both"));
    assert!(first[0].starts_with("20.1.1.") && second[0].starts_with("20.1.2."));
    assert_eq!((first.len(), second.len()), (1, 1));
    assert_eq!(one.addresses("pool"), first);
    assert_eq!(
        two.ask("pool"),
        DnsAnswer::NxDomain,
        "a group of another network"
    );
    assert_eq!(two.addresses("pool.contiv-net"), first);
    assert_eq!(one.addresses("other.second"), second);
    assert_eq!(one.ask("other"), DnsAnswer::NxDomain);
    let both = asker(&lab, "node-1", "both")?;
    for name in ["one", "two"] {
        assert_eq!(both.addresses(name).len(), 1, "{name} from both networks");
    }
    done(&lab, "node-1", "network disconnect second both")?;
    until_gone(&two, "both")?;
    assert_eq!(one.addresses("both"), first);
    Ok(())
}

/// `--dns`, `--dns-search` and `--network-alias` work as usual, with Docker's resolver in front.
#[test]
fn dns_settings_of_the_engine_behave_as_expected() -> Outcome {
    let lab = engines()?;
    run(
        &lab,
        "node-2",
        "db",
        "--net=contiv-net --network-alias=mysql",
    )?;
    let elsewhere = lab.address("ctl")?;
    let settings =
        format!("--net=contiv-net --dns={elsewhere} --dns-search=contiv-net.contiv.local");
    run(&lab, "node-1", "web", &settings)?;
    let reaches = |name: &str| {
        let ping = lab.docker("node-1", &["exec", "web", "ping", "-c1", "-W2", name]);
        ping.is_ok_and(|it| it.success())
    };
    wait_until("an alias is reached", WAIT_TIMEOUT, || reaches("mysql"))?;
    assert!(reaches("db"), "peers' names go on resolving");
    assert!(reaches("db.contiv-net"));
    let search = lab.docker("node-1", &["exec", "web", "cat", "/etc/resolv.conf"])?;
    assert!(
        search.stdout.contains("search contiv-net.contiv.local"),
        "{search:?}"
    );
    // The resolver of `--dns` gets the queries for other names.
    let outside = lab.docker("node-1", &["exec", "web", "nslookup", "machine.lab"])?;
    assert!(outside.stdout.contains("198.18."), "{outside:?}");
    shared_name_is_shown_as_docker_answers_it(&lab)
}

/// Docker's resolver answers a name of its own engine before our server is asked, and `dns query` says so.
fn shared_name_is_shown_as_docker_answers_it(lab: &Lab) -> Outcome {
    let shared = "--net=contiv-net --network-alias=shared";
    run(lab, "node-1", "here", shared)?;
    run(lab, "node-2", "there", shared)?;
    // A container without a search domain.
    let asker = asker(lab, "node-1", "here")?;
    wait_until("both have the alias", WAIT_TIMEOUT, || {
        asker.addresses("shared").len() == 2
    })?;
    let (here, there) = (asker.addresses("here"), asker.addresses("there"));
    let nslookup = |name: &str| {
        let found = lab.docker("node-1", &["exec", "here", "nslookup", name])?;
        let has = |address: &[String]| found.stdout.contains(&address[0]);
        Ok::<_, Error>((has(&here), has(&there)))
    };
    assert_eq!(nslookup("shared")?, (true, false));
    assert_eq!(nslookup("shared.contiv-net.contiv.local")?, (true, true));

    let query = |name: &str| lab.netctl_ok(&["dns", "query", name, "--from", "here"]);
    let shown = query("shared")?;
    let told = format!("by Docker's resolver on node node-1: {}, TTL", here[0]);
    for text in [told.as_str(), "Docker answers this one first", &there[0]] {
        assert!(shown.contains(text), "no {text}: {shown}");
    }
    let whole = query("shared.contiv-net.contiv.local")?;
    let first = whole.lines().next().unwrap_or_default();
    assert!(
        first.contains(&here[0]) && first.contains(&there[0]),
        "{whole}"
    );
    assert!(!whole.contains("answers this one first"), "{whole}");
    let doctor = lab.netctl(&["doctor"])?;
    assert!(doctor.stdout.contains("shared.contiv-net"), "{doctor:?}");
    Ok(())
}

/// Measured from the return of `docker run`; `make bench` measures it more precisely.
#[test]
fn new_name_resolves_on_other_nodes_once_its_container_runs() -> Outcome {
    let lab = engines()?;
    run(&lab, "node-2", "peer", "--net=contiv-net")?;
    let peer = asker(&lab, "node-2", "peer")?;
    knows(&peer, "peer")?;
    for number in 0..5 {
        let name = format!("web{number}");
        let given_up = AtomicBool::new(false);
        let lag = std::thread::scope(|scope| {
            let (lab, name, given_up) = (&lab, &name, &given_up);
            let started = scope.spawn(move || {
                let ran = run(lab, "node-1", name, "--net=contiv-net");
                given_up.store(ran.is_err(), Ordering::Relaxed);
                ran.map(|()| Instant::now())
            });
            while peer.addresses(name).is_empty() && !given_up.load(Ordering::Relaxed) {}
            let known = Instant::now();
            let returned = started.join().expect("no panic")?;
            Ok::<_, Error>(known.saturating_duration_since(returned))
        })?;
        assert!(lag < MAX_DELAY, "{name}: {lag:?} after docker run");
    }
    Ok(())
}
