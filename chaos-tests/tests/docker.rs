//! Real containers in real engines on two nodes.

use chaos_tests::{Outcome, SOON, create};
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

/// `docker LINE` that must succeed; its output, trimmed.
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
    Ok(())
}

#[test]
fn an_address_inside_the_other_nodes_block_can_be_asked_for() -> Outcome {
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
fn a_container_on_two_networks_answers_on_both_addresses() -> Outcome {
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

#[test]
fn a_restarted_engine_comes_back_with_its_containers() -> Outcome {
    let mut lab = engines()?;
    start(&lab, "node-1", "web", " --restart=always")?;
    start(&lab, "node-2", "db", "")?;
    lab.restart("dockerd@node-1", Signal::Term)?;
    lab.await_engine("node-1")?;
    wait_until(
        "the container that always restarts is reachable",
        SOON,
        || reaches(&lab, "node-2", "db", "web").is_ok_and(|answered| answered),
    )?;
    start(&lab, "node-1", "more", "")?;
    assert!(reaches(&lab, "node-1", "more", "db")?);
    Ok(())
}

#[test]
fn a_killed_engine_comes_back_with_its_containers() -> Outcome {
    let mut lab = engines()?;
    start(&lab, "node-1", "web", " --restart=always")?;
    start(&lab, "node-2", "db", "")?;
    lab.restart("dockerd@node-1", Signal::Kill)?;
    lab.await_engine("node-1")?;
    wait_until(
        "the container that always restarts is reachable",
        SOON,
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
    wait_until("the ping runs", SOON, || packets(&lab) > 0)?;
    for node in ["node-1", "node-2"] {
        lab.restart(&format!("netplugin@{node}"), Signal::Term)?;
        lab.await_node(node)?;
    }
    let now = packets(&lab);
    wait_until("the ping goes on", SOON, || packets(&lab) > now + 1)?;
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
    wait_until("only the endpoint of `web` is there", SOON, || {
        lab.status("node-1")
            .is_ok_and(|status| status["endpoints"] == 1)
    })
}

#[test]
fn removed_containers_give_their_addresses_back_and_the_network_goes() -> Outcome {
    let lab = engines()?;
    start(&lab, "node-1", "web", "")?;
    let refused = lab.netctl(&["net", "rm", "contiv-net"])?;
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("web"), "{refused:?}");
    done(&lab, "node-1", "rm -f web")?;
    lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    for node in ["node-1", "node-2"] {
        wait_until("Docker's network is gone too", SOON, || {
            let networks = done(&lab, node, "network ls --format {{.Name}}");
            networks.is_ok_and(|networks| !networks.contains("contiv-net"))
        })?;
    }
    Ok(())
}

/// A move between groups is a `docker network disconnect` and `connect`: the rules that hold for
/// the container follow at once, with the address that it had or with another.
#[test]
fn a_container_moves_between_groups() -> Outcome {
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

/// A group with addresses of its own: its containers on both nodes get them, and nobody else does.
#[test]
fn a_group_with_a_pool_gives_its_containers_addresses_of_it() -> Outcome {
    let lab = engines()?;
    let pool = "--ip-pool=20.1.1.64-20.1.1.69";
    lab.netctl_ok(&["group", "create", "contiv-net", "db", pool])?;
    let run = |node: &str, name: &str, more: &str| {
        let line = format!("run -itd --name={name} --net=db.contiv-net{more} {IMAGE} /bin/sh");
        docker(&lab, node, &line)
    };
    let mut given = Vec::new();
    for (node, name) in [
        ("node-1", "db1"),
        ("node-2", "db2"),
        ("node-1", "db3"),
        ("node-2", "db4"),
    ] {
        let started = run(node, name, "")?;
        assert!(started.success(), "{started:?}");
        given.push(address(&lab, node, name, "db.contiv-net")?);
    }
    given.sort();
    given.dedup();
    let of_pool = |it: &String| ("20.1.1.64".."20.1.1.70").contains(&it.as_str());
    assert!(given.len() == 4 && given.iter().all(of_pool), "{given:?}");
    let far = address(&lab, "node-2", "db2", "db.contiv-net")?;
    assert!(reaches(&lab, "node-1", "db1", &far)?, "across hosts");

    start(&lab, "node-1", "plain", "")?;
    let plain = address(&lab, "node-1", "plain", "contiv-net")?;
    assert!(!of_pool(&plain), "{plain}");
    assert!(reaches(&lab, "node-1", "plain", &far)?);
    let line = format!("run -d --name=thief --net=contiv-net --ip=20.1.1.69 {IMAGE} sh");
    let thief = docker(&lab, "node-2", &line)?;
    assert!(
        thief
            .stderr
            .contains("pool 20.1.1.64-20.1.1.69 of group db"),
        "{thief:?}"
    );
    let outside = run("node-1", "outside", " --ip=20.1.1.9")?;
    assert!(
        outside.stderr.contains("doesn't lie in the pool"),
        "{outside:?}"
    );

    // Every address is given out, also those that the other node has to give up.
    let mut refused = None;
    for n in 0..4 {
        let more = run("node-2", &format!("more{n}"), "")?;
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

/// An engine with a bridge of its own drops what the host forwards, unless it is let through.
#[test]
fn the_engines_own_bridge_and_firewall_are_no_hindrance() -> Outcome {
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
