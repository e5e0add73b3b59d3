//! Names while nodes join, leave, are silent or are cut off.

use std::time::{Duration, Instant};

use chaos_tests::{DnsAnswer, DnsClient, Outcome, Scene, WAIT_TIMEOUT, create, invariant};
use lab::{Lab, Signal, Workload, wait_until};

/// The longest time until a stopped or leaving node's names change, and the longest gap without answers.
const MAX_GAP: Duration = Duration::from_secs(1);

fn address(workload: &Workload) -> String {
    workload.address.to_string()
}

/// The time until `holds`, which is polled continuously.
fn until(what: &str, holds: impl FnMut() -> bool) -> Result<Duration, lab::Error> {
    let since = Instant::now();
    wait_until(what, WAIT_TIMEOUT, holds)?;
    Ok(since.elapsed())
}

#[test]
fn node_that_leaves_withdraws_its_own_names_only() -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?;
    assert_eq!(web.addresses("db"), [address(&scene.db)]);
    scene.lab.run("node-2", &["netplugin", "leave"])?;
    let took = until("the name is gone", || web.ask("db") == DnsAnswer::NxDomain)?;
    assert!(took < MAX_GAP, "{took:?}");
    assert!(
        scene.pings_both_ways()?,
        "containers that still run are reached"
    );

    scene.lab.restart("netplugin@node-2", Signal::Term)?;
    wait_until("a start ends the state", WAIT_TIMEOUT, || {
        web.addresses("db") == [address(&scene.db)]
    })
}

#[test]
fn restart_of_another_node_withdraws_no_name() -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?;
    for how in [Signal::Term, Signal::Kill] {
        scene.lab.stop("netplugin@node-2", how)?;
        // Longer than the time after which the node counts as silent.
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(5) {
            assert_eq!(web.addresses("db"), [address(&scene.db)]);
        }
        scene.lab.start("netplugin@node-2")?;
        scene.lab.await_node("node-2")?;
        assert_eq!(web.addresses("db"), [address(&scene.db)]);
    }
    Ok(())
}

#[test]
fn members_on_a_silent_node_are_listed_last_until_it_is_removed() -> Outcome {
    let mut scene = Scene::open()?;
    let lab = &mut scene.lab;
    lab.netctl_ok(&["group", "create", "contiv-net", "pool"])?;
    let one = lab.run_workload_with("node-1", "contiv-net", "one", &["--group", "pool"])?;
    let two = lab.run_workload_with("node-2", "contiv-net", "two", &["--group", "pool"])?;
    let web = DnsClient::new(lab, "web")?;
    let first = || web.addresses("pool").first().cloned();
    // Twenty answers in a row with the same first member can't be by chance.
    let always_first = |of: &Workload| (0..20).all(|_| first() == Some(address(of)));
    wait_until("both are members", WAIT_TIMEOUT, || {
        web.addresses("pool").len() == 2
    })?;
    assert!(!always_first(&one) && !always_first(&two));

    lab.kill("netplugin@node-2")?;
    let took = until("the silent one's stand behind", || always_first(&one))?;
    let due = Duration::from_millis(2_000)..Duration::from_secs(5);
    assert!(due.contains(&took), "{took:?}");
    assert_eq!(web.addresses("pool"), [address(&one), address(&two)]);
    assert_eq!(web.addresses("db"), [address(&scene.db)]);

    let removed = || lab.netctl(&["node", "rm", "node-2", "--lost"]);
    wait_until("the node is removed", WAIT_TIMEOUT, || {
        removed().is_ok_and(|it| it.success())
    })?;
    wait_until("its names are gone", WAIT_TIMEOUT, || {
        web.addresses("pool") == [address(&one)] && web.ask("db") == DnsAnswer::NxDomain
    })
}

#[test]
fn members_of_a_node_that_is_back_are_listed_with_the_others() -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?;
    scene
        .lab
        .netctl_ok(&["group", "create", "contiv-net", "pool"])?;
    for (node, name) in [("node-1", "one"), ("node-2", "two")] {
        scene
            .lab
            .run_workload_with(node, "contiv-net", name, &["--group", "pool"])?;
    }
    wait_until("both are members", WAIT_TIMEOUT, || {
        web.addresses("pool").len() == 2
    })?;
    let firsts = || {
        let firsts = (0..40).filter_map(|_| web.addresses("pool").first().cloned());
        firsts.collect::<std::collections::BTreeSet<_>>().len()
    };
    scene.lab.partition(&["node-2"], &["ctl"])?;
    wait_until("node-2 is silent", WAIT_TIMEOUT, || firsts() == 1)?;
    scene.lab.repair()?;
    wait_until("node-2 is alive again", WAIT_TIMEOUT, || firsts() == 2)
}

/// Queries without a pause while `meanwhile` runs, and returns the longest time without an answer. Every
/// answer must be right.
fn asked_while(
    asker: &DnsClient,
    names: &[(&str, String)],
    meanwhile: impl FnOnce() -> Outcome + Send,
) -> Result<Duration, lab::Error> {
    std::thread::scope(|scope| {
        let work = scope.spawn(meanwhile);
        let (mut told, mut gap) = (Instant::now(), Duration::ZERO);
        // One more round after the end closes the last gap.
        let mut more = 2;
        while more > 0 {
            more -= usize::from(work.is_finished());
            for (name, right) in names {
                match asker.ask(name) {
                    DnsAnswer::Addresses(found) => {
                        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                        assert_eq!(&found, std::slice::from_ref(right), "{name}");
                        gap = gap.max(told.elapsed());
                        told = Instant::now();
                    }
                    DnsAnswer::NxDomain => panic!(
                        "{name} was denied {:?} after it was told last",
                        told.elapsed()
                    ),
                    DnsAnswer::NoAnswer => {}
                }
            }
        }
        gap = gap.max(told.elapsed());
        let done = work
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.map(|()| gap)
    })
}

fn restarted(how: Signal, bus: bool) -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?.with_timeout(Duration::from_millis(100));
    let names = [("db", address(&scene.db)), ("web", address(&scene.web))];
    wait_until("both names resolve", WAIT_TIMEOUT, || {
        names
            .iter()
            .all(|(name, right)| web.addresses(name) == [right.clone()])
    })?;
    if !bus {
        wait_until("endpoints of others are saved", WAIT_TIMEOUT, || {
            let saved = ["grep", "-q", "db", "/var/lib/contiv/neighbors"];
            scene
                .lab
                .exec("node-1", &saved)
                .is_ok_and(|it| it.success())
        })?;
        scene.lab.kill("nats")?;
    }
    let gap = asked_while(&web, &names, || {
        scene.lab.restart("netplugin@node-1", how)?;
        if bus {
            return scene.lab.await_node("node-1");
        }
        wait_until("it is up", WAIT_TIMEOUT, || {
            scene.lab.log_state("node-1").is_ok()
        })
    })?;
    assert!(gap < MAX_GAP, "{gap:?} without an answer");
    Ok(())
}

#[test]
fn restart_of_netplugin_leaves_at_most_a_second_without_answers() -> Outcome {
    restarted(Signal::Term, true)?;
    restarted(Signal::Kill, true)
}

#[test]
fn restart_without_the_bus_leaves_at_most_a_second_without_answers() -> Outcome {
    restarted(Signal::Term, false)?;
    restarted(Signal::Kill, false)
}

/// Names that a node had no time to save are unknown after its restart, not denied.
#[test]
fn name_server_denies_nothing_while_the_bus_is_slow() -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?.with_timeout(Duration::from_millis(100));
    wait_until("db resolves", WAIT_TIMEOUT, || {
        web.addresses("db") == [address(&scene.db)]
    })?;
    scene.lab.pause("nats")?;
    scene.lab.kill("netplugin@node-1")?;
    scene
        .lab
        .run("node-1", &["rm", "-f", "/var/lib/contiv/neighbors"])?;
    let told = || {
        let told = web.ask("db");
        assert_ne!(told, DnsAnswer::NxDomain, "it runs");
        told != DnsAnswer::NoAnswer
    };
    scene.lab.start("netplugin@node-1")?;
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(1_200) {
        assert!(!told(), "nobody could tell node-1");
    }
    scene.lab.resume("nats")?;
    wait_until("node-1 resolves it again", WAIT_TIMEOUT, told)?;
    assert_eq!(web.addresses("db"), [address(&scene.db)]);
    Ok(())
}

#[test]
fn partition_leaves_no_stale_name() -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?;
    assert_eq!(web.addresses("db"), [address(&scene.db)]);
    scene.lab.partition(&["node-1"], &["ctl"])?;
    let cut = Instant::now();
    wait_until("node-1 notices", WAIT_TIMEOUT, || {
        scene
            .lab
            .log_state("node-1")
            .is_ok_and(|state| state == "disconnected")
    })?;
    assert_eq!(web.addresses("db"), [address(&scene.db)], "names go on");
    scene.lab.remove_workload("db")?;
    let more = scene.lab.run_workload("node-2", "contiv-net", "more")?;
    let mine = scene.lab.run_workload("node-1", "contiv-net", "mine")?;
    while cut.elapsed() < Duration::from_secs(12) {
        assert_eq!(web.addresses("mine"), [address(&mine)]);
    }
    scene.lab.repair()?;
    wait_until(
        "what came is known, what went is gone",
        WAIT_TIMEOUT,
        || web.addresses("more") == [address(&more)] && web.ask("db") == DnsAnswer::NxDomain,
    )?;
    invariant::converged(&scene.lab)?;
    assert_eq!(web.ask("db"), DnsAnswer::NxDomain);
    Ok(())
}

#[test]
fn name_server_continues_without_netmaster_and_bus() -> Outcome {
    let mut scene = Scene::open()?;
    let web = DnsClient::new(&scene.lab, "web")?;
    for process in ["netmaster-1", "nats"] {
        scene.lab.kill(process)?;
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(5) {
            assert_eq!(web.addresses("db"), [address(&scene.db)]);
        }
    }
    Ok(())
}

/// Both tenants have the same network, group, names and addresses.
#[test]
fn tenants_with_the_same_names_are_isolated() -> Outcome {
    let mut lab: Lab = chaos_tests::two_nodes()?;
    lab.netctl_ok(&["tenant", "create", "blue"])?;
    create(&lab, "net", "20.1.1.0/24")?;
    lab.netctl_ok(&["net", "create", "net", "-t", "blue", "--subnet=20.1.1.0/24"])?;
    for tenant in ["default", "blue"] {
        lab.netctl_ok(&["group", "create", "net", "web", "-t", tenant])?;
        // A further endpoint in blue distinguishes the answers.
        let members: &[&str] = if tenant == "blue" {
            &["20.1.1.11", "20.1.1.12"]
        } else {
            &["20.1.1.11"]
        };
        for (number, ip) in members.iter().enumerate() {
            let name = format!("{tenant}-{number}");
            let more = ["--group", "web", "--ip", ip, "--tenant", tenant];
            lab.run_workload_with("node-1", "net", &name, &more)?;
        }
        let asker = format!("{tenant}-asker");
        lab.run_workload_with(
            "node-2",
            "net",
            &asker,
            &["--ip", "20.1.1.99", "--tenant", tenant],
        )?;
    }
    let (red, blue) = (
        DnsClient::new(&lab, "default-asker")?,
        DnsClient::new(&lab, "blue-asker")?,
    );
    wait_until("blue resolves both of its members", WAIT_TIMEOUT, || {
        blue.addresses("web").len() == 2
    })?;
    for name in ["web", "web.net", "web.net.contiv.local"] {
        wait_until("default resolves its own names", WAIT_TIMEOUT, || {
            red.addresses(name) == ["20.1.1.11"]
        })?;
        assert_eq!(blue.addresses(name).len(), 2, "{name}");
    }
    for name in ["blue-0", "blue-1.net", "blue-asker.net.contiv.local"] {
        assert_eq!(red.ask(name), DnsAnswer::NxDomain, "{name}");
    }
    assert_eq!(red.addresses("default-asker"), ["20.1.1.99"]);
    assert_eq!(blue.addresses("blue-asker"), ["20.1.1.99"]);
    Ok(())
}

/// The hosts' network may be a tenant's as well: their resolver is in it.
#[test]
fn network_over_the_hosts_resolver_takes_no_name_away() -> Outcome {
    let mut scene = Scene::open()?;
    let resolver = scene.lab.address("ctl")?;
    let [a, b, c, _] = resolver.octets();
    let subnet = format!("--subnet={a}.{b}.{c}.0/24");
    let gateway = format!("--gateway={a}.{b}.{c}.250");
    let created = scene
        .lab
        .netctl(&["net", "create", "lan", &subnet, &gateway])?;
    assert_eq!(created.status, 0, "{created:?}");
    let underlay = format!("{}/24 on eth0 of node-1", scene.lab.address("node-1")?);
    let of_nodes = format!("resolvers of nodes: {resolver} of node-1, node-2;");
    for text in ["covers the underlay: ", &underlay, &of_nodes] {
        assert!(created.stderr.contains(text), "no {text}: {created:?}");
    }
    // A connection keeps its translation, so that each question needs a port of its own.
    let ask = |lab: &Lab, name: &str| -> DnsAnswer {
        let web = DnsClient::new(lab, "web").expect("a socket");
        web.with_resolver(resolver.into()).ask(name)
    };
    let db = DnsAnswer::Addresses(vec![scene.db.address.into()]);
    wait_until("the domain's server answers", WAIT_TIMEOUT, || {
        ask(&scene.lab, "db") == db
    })?;
    let forwarded = ask(&scene.lab, "machine.lab");
    assert!(matches!(forwarded, DnsAnswer::Addresses(it) if !it.is_empty()));

    // An endpoint that has the address is asked itself.
    let taken = format!("{resolver}");
    let server = scene
        .lab
        .run_workload_with("node-2", "lan", "server", &["--ip", &taken])?;
    assert_eq!(server.address, resolver);
    wait_until("nobody answers in its place", WAIT_TIMEOUT, || {
        ask(&scene.lab, "db") == DnsAnswer::NoAnswer
    })?;
    scene.lab.remove_workload("server")?;
    wait_until("the domain's server answers again", WAIT_TIMEOUT, || {
        ask(&scene.lab, "db") == db
    })
}

/// A container of a group's name gets none of the group's clients.
#[test]
fn group_takes_its_name_from_other_containers() -> Outcome {
    let mut scene = Scene::open()?;
    let created = scene.lab.netctl(&["group", "create", "contiv-net", "db"])?;
    assert_eq!(created.status, 0, "{created:?}");
    let warning = "container db on node-2 can't be any more";
    assert!(created.stderr.contains(warning), "{created:?}");
    let web = DnsClient::new(&scene.lab, "web")?;
    let none = DnsAnswer::Addresses(Vec::new());
    wait_until("the group has no member", WAIT_TIMEOUT, || {
        web.ask("db") == none
    })?;
    wait_until("an alarm names the container", WAIT_TIMEOUT, || {
        let shown = scene.lab.netctl_ok(&["node", "inspect", "node-2"]);
        shown.is_ok_and(|it| it.contains("group-name") && it.contains("by `db`"))
    })?;
    let lab = &mut scene.lab;
    let member = lab.run_workload_with("node-2", "contiv-net", "one", &["--group", "db"])?;
    wait_until("its member answers to its name", WAIT_TIMEOUT, || {
        web.addresses("db") == [address(&member)]
    })?;
    let pings = scene.lab.ping("web", &scene.db.address.to_string())?;
    assert!(pings, "the other container runs on");
    Ok(())
}
