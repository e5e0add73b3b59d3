//! Containers of real engines on two nodes, while addresses move, networks are pruned, and the bus or
//! netplugin is down.

use std::time::{Duration, Instant};

use chaos_tests::{Outcome, WAIT_TIMEOUT, create};
use lab::{Error, IMAGE, Lab, Spec, wait_until};

struct Engines {
    lab: Lab,
}

/// Two nodes with an engine and the image; node-2's resolver is a loopback address.
fn engines() -> Result<Engines, Error> {
    let lab = Lab::up(&Spec::test(2).docker(true).loopback_resolver_on(2))?;
    for node in lab.nodes() {
        lab.import_image(&node)?;
    }
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    Ok(Engines { lab })
}

impl Engines {
    fn docker(&self, node: &str, line: &str) -> Result<String, Error> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let argv = [&["docker"][..], &words].concat();
        Ok(self.lab.run(node, &argv)?.stdout.trim().to_owned())
    }

    fn docker_fails(&self, node: &str, line: &str) -> Result<String, Error> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.lab.docker(node, &words)?;
        assert!(
            !output.success(),
            "docker {line} succeeded: {}",
            output.text()
        );
        Ok(output.text())
    }

    /// Runs a container, and returns its address in `network`.
    fn run(&self, node: &str, name: &str, network: &str, more: &str) -> Result<String, Error> {
        self.docker(
            node,
            &format!("run -itd --name={name} --net={network} {more} {IMAGE} /bin/sh"),
        )?;
        self.address(node, name, network)
    }

    fn address(&self, node: &str, name: &str, network: &str) -> Result<String, Error> {
        let format = format!("{{{{(index.NetworkSettings.Networks\"{network}\").IPAddress}}}}");
        let format = format
            .replace("index.", "index .")
            .replace("Networks\"", "Networks \"");
        let output = self
            .lab
            .run(node, &["docker", "inspect", "-f", &format, name])?;
        Ok(output.stdout.trim().to_owned())
    }

    fn ping(&self, node: &str, from: &str, target: &str) -> Outcome {
        self.docker(node, &format!("exec {from} ping -c 3 -i 0.1 -W 2 {target}"))
            .map(drop)
    }

    fn endpoints(&self) -> Result<String, Error> {
        self.lab.netctl_ok(&["endpoint", "ls"])
    }

    fn networks(&self, node: &str) -> Result<Vec<String>, Error> {
        let listed = self.docker(node, "network ls --format {{.Name}}")?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

#[test]
fn address_of_the_other_nodes_block_is_ceded_and_returned() -> Outcome {
    let on = engines()?;
    let here = on.run("node-1", "here", "contiv-net", "")?;
    let there = on.run("node-2", "there", "contiv-net", "")?;
    let mut in_block: std::net::Ipv4Addr = there.parse().expect("an address");
    in_block = u32::from(in_block).wrapping_add(3).into();
    let asked = in_block.to_string();
    assert_eq!(
        on.run("node-1", "ceded", "contiv-net", &format!("--ip={asked}"))?,
        asked
    );
    on.ping("node-2", "there", &asked)?;
    on.ping("node-1", "here", &asked)?;
    on.ping("node-1", "ceded", &there)?;
    for taken in [&here, &there, &asked] {
        let line = format!("run --rm --net=contiv-net --ip={taken} {IMAGE} true");
        let error = on.docker_fails("node-1", &line)?;
        assert!(error.contains(taken.as_str()), "{error}");
    }
    // The gateway, the broadcast address and one of another subnet.
    for never in ["20.1.1.1", "20.1.1.255", "20.1.2.7"] {
        let line = format!("run --rm --net=contiv-net --ip={never} {IMAGE} true");
        on.docker_fails("node-1", &line)?;
    }
    on.docker("node-1", "rm -f ceded")?;
    assert_eq!(
        on.run("node-1", "again", "contiv-net", &format!("--ip={asked}"))?,
        asked
    );
    on.docker("node-1", "rm -f again here")?;
    on.docker("node-2", "rm -f there")?;
    wait_until("no endpoint is left", WAIT_TIMEOUT, || {
        on.endpoints()
            .is_ok_and(|listed| !listed.contains("20.1.1."))
    })?;
    on.lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    for node in on.lab.nodes() {
        wait_until("its Docker network is gone", WAIT_TIMEOUT, || {
            on.networks(&node)
                .is_ok_and(|all| !all.iter().any(|it| it == "contiv-net"))
        })?;
    }
    Ok(())
}

#[test]
fn docker_networks_are_recreated_and_stay_without_netplugin() -> Outcome {
    let mut on = engines()?;
    on.run("node-1", "web", "contiv-net", "")?;
    let peer = on.run("node-2", "db", "contiv-net", "")?;
    create(&on.lab, "spare", "20.9.0.0/16")?;
    on.docker("node-1", "network prune -f")?;
    wait_until("the pruned network is back", Duration::from_secs(1), || {
        on.networks("node-1")
            .is_ok_and(|all| all.iter().any(|it| it == "spare"))
    })?;
    wait_until("it is counted", WAIT_TIMEOUT, || {
        let status = on.lab.status("node-1").unwrap_or_default();
        status["healing"]["kinds"]["docker-network"].as_u64() >= Some(1)
    })?;
    on.lab.kill("netplugin@node-1")?;
    on.ping("node-1", "web", &peer)?;
    on.lab.start("netplugin@node-1")?;
    // The call waits for netplugin's start.
    on.run("node-1", "early", "contiv-net", "")?;
    on.lab.await_node("node-1")?;
    on.ping("node-1", "web", "db")?;
    on.run("node-1", "more", "contiv-net", "")?;
    on.ping("node-1", "more", &peer)
}

#[test]
fn containers_start_from_the_local_block_without_the_bus_or_fail_in_time() -> Outcome {
    let mut on = engines()?;
    create(&on.lab, "fresh", "20.9.0.0/16")?;
    on.run("node-1", "web", "contiv-net", "")?;
    on.lab.pause("nats")?;
    let started = Instant::now();
    let more = on.run("node-1", "more", "contiv-net", "")?;
    on.ping("node-1", "web", &more)?;
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    for stopped in [false, true] {
        if stopped {
            on.lab.kill("nats")?;
        }
        let started = Instant::now();
        let error = on.docker_fails("node-1", &format!("run --rm --net=fresh {IMAGE} true"))?;
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
        assert!(error.contains("fresh"), "{error}");
        assert!(error.contains("netctl cluster info"), "{error}");
    }
    on.docker("node-1", "rm -f web more")?;
    on.run("node-1", "later", "contiv-net", "")?;
    on.lab.start("nats")?;
    on.lab.await_bus()?;
    wait_until(
        "a container starts on the fresh network",
        WAIT_TIMEOUT,
        || {
            on.docker("node-1", &format!("run --rm --net=fresh {IMAGE} true"))
                .is_ok()
        },
    )
}
