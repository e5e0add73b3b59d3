//! Real containers in real engines on two nodes.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create};
use lab::{Error, IMAGE, Lab, Output, Signal, Spec, wait_until};

/// Two nodes with engines; node-2's resolver is a loopback address.
fn engines() -> Result<Lab, Error> {
    let lab = Lab::up(&Spec::test(2).docker(true).loopback_resolver_on(2))?;
    for node in lab.nodes() {
        lab.import_image(&node)?;
    }
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    Ok(lab)
}

fn docker(lab: &Lab, node: &str, line: &str) -> Result<Output, Error> {
    lab.docker(node, &line.split(' ').collect::<Vec<_>>())
}

/// Runs `docker LINE`, which must succeed, and returns its trimmed output.
fn done(lab: &Lab, node: &str, line: &str) -> Result<String, Error> {
    let line: Vec<&str> = std::iter::once("docker").chain(line.split(' ')).collect();
    Ok(lab.run(node, &line)?.stdout.trim().to_owned())
}

fn start(lab: &Lab, node: &str, name: &str, more: &str) -> Outcome {
    let line = format!("run -itd --name={name} --net=contiv-net{more} {IMAGE} /bin/sh");
    done(lab, node, &line).map(drop)
}

fn reaches(lab: &Lab, node: &str, from: &str, to: &str) -> Result<bool, Error> {
    docker(lab, node, &format!("exec {from} ping -c 1 -W 2 {to}")).map(|o| o.success())
}

fn address(lab: &Lab, node: &str, name: &str, network: &str) -> Result<String, Error> {
    let form = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    lab.run(node, &["docker", "inspect", "-f", &form, name])
        .map(|o| o.stdout.trim().to_owned())
}

#[test]
fn containers_find_each_other_by_name_from_both_kinds_of_resolver() -> Outcome {
    let lab = engines()?;
    start(&lab, "node-1", "web", "")?;
    start(&lab, "node-2", "db", "")?;
    assert!(reaches(&lab, "node-1", "web", "db")?);
    assert!(reaches(&lab, "node-2", "db", "web")?);
    // A machine beside the nodes, by its name and through each container's own node.
    for (node, name) in [("node-1", "web"), ("node-2", "db")] {
        assert!(reaches(&lab, node, name, "machine.lab")?, "{name}");
    }
    Ok(())
}

#[test]
fn address_in_the_other_nodes_block_can_be_requested() -> Outcome {
    let lab = engines()?;
    start(&lab, "node-1", "web", "")?;
    start(&lab, "node-2", "db", " --ip=20.1.1.9")?;
    assert_eq!(address(&lab, "node-2", "db", "contiv-net")?, "20.1.1.9");
    assert!(reaches(&lab, "node-1", "web", "20.1.1.9")?);
    assert!(reaches(
        &lab,
        "node-2",
        "db",
        &address(&lab, "node-1", "web", "contiv-net")?
    )?);
    Ok(())
}

#[test]
fn container_on_two_networks_answers_on_both_addresses() -> Outcome {
    let lab = engines()?;
    create(&lab, "second", "20.1.2.0/24")?;
    create(&lab, "third", "20.1.3.0/24")?;
    start(&lab, "node-1", "both", "")?;
    done(&lab, "node-1", "network connect second both")?;
    start(&lab, "node-2", "peer", "")?;
    done(
        &lab,
        "node-2",
        &format!("run -itd --name=peer2 --net=second {IMAGE} /bin/sh"),
    )?;
    done(
        &lab,
        "node-2",
        &format!("run -itd --name=peer3 --net=third {IMAGE} /bin/sh"),
    )?;
    let first = address(&lab, "node-1", "both", "contiv-net")?;
    let second = address(&lab, "node-1", "both", "second")?;
    for peer in ["peer", "peer2", "peer3"] {
        for target in [&first, &second] {
            assert!(reaches(&lab, "node-2", peer, target)?, "{peer} to {target}");
        }
    }
    done(&lab, "node-1", "network disconnect second both")?;
    assert!(!reaches(&lab, "node-2", "peer", &second)?);
    assert!(reaches(&lab, "node-2", "peer", &first)?);
    Ok(())
}

/// The network that is created later is reached by the fallback route, which the running container has
/// since its start. The connection out is refused at once.
#[test]
fn container_without_a_way_out_reaches_networks_that_are_created_later() -> Outcome {
    let lab = engines()?;
    let net = ["net", "create", "closed", "-s", "20.1.2.0/24"];
    let created = lab.netctl(&[&net[..], &["--egress=none"]].concat())?;
    assert!(created.success(), "{created:?}");
    done(
        &lab,
        "node-1",
        &format!("run -itd --name=one --net=closed {IMAGE} /bin/sh"),
    )?;
    wait_until("the container has the fallback route", WAIT_TIMEOUT, || {
        let routes = docker(&lab, "node-1", "exec one ip route");
        routes.is_ok_and(|it| it.stdout.contains("default via 20.1.2.1 dev eth0  metric "))
    })?;
    create(&lab, "later", "20.1.3.0/24")?;
    let line = format!("run -itd --name=two --net=later {IMAGE} /bin/sh");
    done(&lab, "node-2", &line)?;
    assert!(reaches(&lab, "node-1", "one", "two.later")?);
    let out = docker(&lab, "node-1", "exec one ping -c 1 -W 3 203.0.113.1")?;
    assert!(!out.success(), "{out:?}");
    assert!(reaches(&lab, "node-2", "two", "one.closed")?);
    Ok(())
}

#[test]
fn restarted_engine_keeps_its_containers() -> Outcome {
    let mut lab = engines()?;
    start(&lab, "node-1", "web", " --restart=always")?;
    start(&lab, "node-2", "db", "")?;
    lab.restart("dockerd@node-1", Signal::Term)?;
    lab.await_engine("node-1")?;
    wait_until(
        "the container that always restarts is reachable",
        WAIT_TIMEOUT,
        || reaches(&lab, "node-2", "db", "web").is_ok_and(|answered| answered),
    )?;
    start(&lab, "node-1", "more", "")?;
    assert!(reaches(&lab, "node-1", "more", "db")?);
    Ok(())
}

#[test]
fn killed_engine_keeps_its_containers() -> Outcome {
    let mut lab = engines()?;
    start(&lab, "node-1", "web", " --restart=always")?;
    start(&lab, "node-2", "db", "")?;
    lab.restart("dockerd@node-1", Signal::Kill)?;
    lab.await_engine("node-1")?;
    wait_until(
        "the container that always restarts is reachable",
        WAIT_TIMEOUT,
        || reaches(&lab, "node-2", "db", "web").is_ok_and(|answered| answered),
    )
}

#[test]
fn netplugin_restarts_under_containers_without_a_lost_packet() -> Outcome {
    let mut lab = engines()?;
    start(&lab, "node-1", "web", "")?;
    start(&lab, "node-2", "db", "")?;
    let db = address(&lab, "node-2", "db", "contiv-net")?;
    let ping = format!("ping -i 0.2 {db} >/tmp/log");
    lab.run(
        "node-1",
        &["docker", "exec", "-d", "web", "sh", "-c", &ping],
    )?;
    wait_until("the ping runs", WAIT_TIMEOUT, || packets(&lab) > 0)?;
    for node in ["node-1", "node-2"] {
        lab.restart(&format!("netplugin@{node}"), Signal::Term)?;
        lab.await_node(node)?;
    }
    let now = packets(&lab);
    wait_until("the ping continues", WAIT_TIMEOUT, || {
        packets(&lab) > now + 1
    })?;
    done(&lab, "node-1", "exec web killall -INT ping")?;
    let log = done(&lab, "node-1", "exec web cat /tmp/log")?;
    assert!(log.contains(" 0% packet loss"), "{log}");
    Ok(())
}

fn packets(lab: &Lab) -> usize {
    let log = done(lab, "node-1", "exec web cat /tmp/log");
    log.map_or(0, |log| log.matches("seq=").count())
}

#[test]
fn published_ports_are_refused_and_leave_nothing() -> Outcome {
    let lab = engines()?;
    let refused = docker(
        &lab,
        "node-1",
        &format!("run -d -p 8080:80 --name=published --net=contiv-net {IMAGE} sh"),
    )?;
    assert!(!refused.success());
    assert!(refused.stderr.contains("published"), "{refused:?}");
    done(&lab, "node-1", "rm -f published")?;
    start(&lab, "node-1", "web", "")?;
    wait_until("only the endpoint of `web` is left", WAIT_TIMEOUT, || {
        lab.status("node-1")
            .is_ok_and(|status| status["endpoints"] == 1)
    })
}

#[test]
fn removed_containers_return_their_addresses_and_the_network_is_removed() -> Outcome {
    let lab = engines()?;
    start(&lab, "node-1", "web", "")?;
    let refused = lab.netctl(&["net", "rm", "contiv-net"])?;
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("web"), "{refused:?}");
    done(&lab, "node-1", "rm -f web")?;
    lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    for node in ["node-1", "node-2"] {
        wait_until("Docker's network is gone too", WAIT_TIMEOUT, || {
            let networks = done(&lab, node, "network ls --format {{.Name}}");
            networks.is_ok_and(|networks| !networks.contains("contiv-net"))
        })?;
    }
    Ok(())
}

/// A move between groups is a `docker network disconnect` and `connect`. The container's rules change at
/// once, with the old address or with another.
#[test]
fn container_moves_between_groups() -> Outcome {
    let lab = engines()?;
    lab.netctl_ok(&["policy", "create", "closed"])?;
    lab.netctl_ok(&[
        "policy",
        "rule-add",
        "closed",
        "1",
        "-protocol=icmp",
        "-action=deny",
    ])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "shut", "-policy=closed"])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "open"])?;
    start(&lab, "node-1", "asker", "")?;
    done(
        &lab,
        "node-2",
        &format!("run -itd --name=box --net=open.contiv-net {IMAGE} /bin/sh"),
    )?;
    let open = address(&lab, "node-2", "box", "open.contiv-net")?;
    assert!(reaches(&lab, "node-1", "asker", &open)?);

    done(&lab, "node-2", "network disconnect open.contiv-net box")?;
    done(
        &lab,
        "node-2",
        &format!("network connect --ip={open} shut.contiv-net box"),
    )?;
    assert!(
        !reaches(&lab, "node-1", "asker", &open)?,
        "the same address, another group"
    );
    let asker = address(&lab, "node-1", "asker", "contiv-net")?;
    assert!(
        reaches(&lab, "node-2", "box", &asker)?,
        "its own pings are answered"
    );

    done(&lab, "node-2", "network disconnect shut.contiv-net box")?;
    done(&lab, "node-2", "network connect open.contiv-net box")?;
    let back = address(&lab, "node-2", "box", "open.contiv-net")?;
    assert!(reaches(&lab, "node-1", "asker", &back)?, "back again");
    Ok(())
}

/// Runs a container in the group `db`.
fn run_db(lab: &Lab, node: &str, name: &str, more: &str) -> Result<Output, Error> {
    let line = format!("run -itd --name={name} --net=db.contiv-net{more} {IMAGE} /bin/sh");
    docker(lab, node, &line)
}

fn is_in_pool(address: &str) -> bool {
    ("20.1.1.64".."20.1.1.70").contains(&address)
}

/// Only containers of a group get addresses of its pool, on both nodes.
#[test]
fn group_with_a_pool_assigns_addresses_of_it() -> Outcome {
    let lab = engines()?;
    let pool = "--ip-pool=20.1.1.64-20.1.1.69";
    lab.netctl_ok(&["group", "create", "contiv-net", "db", pool])?;
    let mut given = std::collections::BTreeSet::new();
    for (node, name) in [
        ("node-1", "db1"),
        ("node-2", "db2"),
        ("node-1", "db3"),
        ("node-2", "db4"),
    ] {
        let started = run_db(&lab, node, name, "")?;
        assert!(started.success(), "{started:?}");
        given.insert(address(&lab, node, name, "db.contiv-net")?);
    }
    let all_in_pool = given.iter().all(|it| is_in_pool(it));
    assert!(given.len() == 4 && all_in_pool, "{given:?}");
    let far = address(&lab, "node-2", "db2", "db.contiv-net")?;
    assert!(reaches(&lab, "node-1", "db1", &far)?, "across hosts");
    pool_is_for_the_group_only(&lab, &far)?;

    // Every address is assigned, including those that the other node must cede.
    let mut refused = None;
    for n in 0..4 {
        let more = run_db(&lab, "node-2", &format!("more{n}"), "")?;
        if !more.success() {
            refused = Some(more);
            break;
        }
    }
    let refused = refused.map(|it| it.stderr).unwrap_or_default();
    assert!(refused.contains("no free address left"), "{refused}");

    let shown = lab.netctl_ok(&["group", "inspect", "db"])?;
    assert!(shown.contains("20.1.1.64-20.1.1.69"), "{shown}");
    for node in ["node-1", "node-2"] {
        let all = done(&lab, node, "ps -aq --filter network=db.contiv-net")?;
        let all = all.split_whitespace().collect::<Vec<_>>().join(" ");
        done(&lab, node, &format!("rm -f {all}"))?;
    }
    lab.netctl_ok(&["group", "rm", "db"])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "new", pool])?;
    Ok(())
}

/// A container without the group gets no address of the pool, and one of the group no other. `member`:
/// the address of a container of the group on node-2.
fn pool_is_for_the_group_only(lab: &Lab, member: &str) -> Outcome {
    start(lab, "node-1", "plain", "")?;
    let plain = address(lab, "node-1", "plain", "contiv-net")?;
    assert!(!is_in_pool(&plain), "{plain}");
    assert!(reaches(lab, "node-1", "plain", member)?);
    let line = format!("run -d --name=thief --net=contiv-net --ip=20.1.1.69 {IMAGE} sh");
    let thief = docker(lab, "node-2", &line)?.stderr;
    let why = "pool 20.1.1.64-20.1.1.69 of group db";
    assert!(thief.contains(why), "{thief}");
    let outside = run_db(lab, "node-1", "outside", " --ip=20.1.1.9")?.stderr;
    assert!(outside.contains("doesn't lie in the pool"), "{outside}");
    Ok(())
}

/// An engine with a bridge of its own drops forwarded packets, unless a rule accepts them.
#[test]
fn bridge_and_firewall_of_the_engine_drop_nothing_of_ours() -> Outcome {
    let mut lab = Lab::up(&Spec::test(2).docker(true).docker_bridge(true))?;
    for node in lab.nodes() {
        lab.import_image(&node)?;
    }
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    start(&lab, "node-1", "web", "")?;
    start(&lab, "node-2", "db", "")?;
    assert!(reaches(&lab, "node-1", "web", "db")?);
    lab.restart("dockerd@node-1", Signal::Term)?;
    lab.await_engine("node-1")?;
    start(&lab, "node-1", "again", "")?;
    assert!(reaches(&lab, "node-1", "again", "db")?);
    let policy = lab.run("node-1", &["iptables", "-S", "FORWARD"])?;
    assert!(
        policy.stdout.contains("-P FORWARD DROP"),
        "{}",
        policy.stdout
    );
    Ok(())
}
