//! Services of a swarm in our networks: real engines on two nodes; the first is the swarm's manager.

use std::collections::BTreeSet;

use chaos_tests::{Outcome, WAIT_TIMEOUT, create, sh};
use lab::{Error, IMAGE, Lab, Signal, Spec, wait_until};
use serde_json::Value;

/// Two engines in one swarm, with our plugin.
fn swarm(subnet: &str) -> Result<Lab, Error> {
    let spec = Spec::test(2).docker(true);
    let lab = Lab::up(&spec.node_flags(&["--block-idle", "3"]))?;
    for node in lab.nodes() {
        lab.import_image(&node)?;
        for _ in 0..2 {
            lab.run(&node, &["netplugin", "swarm-plugin"])?;
        }
    }
    create(&lab, "contiv-net", subnet)?;
    lab.start_swarm()?;
    Ok(lab)
}

/// Runs `docker LINE`, which must succeed, and returns its trimmed output.
fn done(lab: &Lab, node: &str, line: &str) -> Result<String, Error> {
    let line: Vec<&str> = std::iter::once("docker").chain(line.split(' ')).collect();
    Ok(lab.run(node, &line)?.stdout.trim().to_owned())
}

fn network(lab: &Lab, name: &str, more: &str) -> Outcome {
    let drivers = "-d contiv-swarm:latest --ipam-driver contiv-swarm:latest";
    done(
        lab,
        "node-1",
        &format!("network create {drivers} {more} {name}"),
    )
    .map(drop)
}

/// Creates a service whose tasks end at once on SIGTERM.
fn serve(lab: &Lab, name: &str, network: &str, replicas: usize) -> Outcome {
    let what = format!("--name {name} --network {network} --replicas {replicas}");
    let line = format!("service create -d --stop-grace-period 0s {what} {IMAGE} sleep 1000000");
    done(lab, "node-1", &line)?;
    runs(lab, "node-1", name, replicas)
}

/// The node and the container's name of each wanted task; empty unless exactly these run.
fn tasks(lab: &Lab, manager: &str, service: &str) -> Vec<(String, String)> {
    let form = "{{.Node}} {{.Name}}.{{.ID}} {{.CurrentState}}";
    let ps = format!("service ps {service} --no-trunc --filter desired-state=running --format");
    let mut line: Vec<&str> = ps.split(' ').collect();
    line.push(form);
    let listed = lab.docker(manager, &line).map(|it| it.stdout);
    let listed = listed.unwrap_or_default();
    let running = listed.lines().filter(|line| line.contains(" Running "));
    running
        .filter_map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, words.next()?))
        })
        .collect()
}

fn runs(lab: &Lab, manager: &str, service: &str, replicas: usize) -> Outcome {
    wait_until(
        &format!("{replicas} of {service} run"),
        3 * WAIT_TIMEOUT,
        || tasks(lab, manager, service).len() == replicas && endpoints(lab, service) == replicas,
    )
}

fn inspect(lab: &Lab) -> Value {
    let told = lab.netctl_ok(&["net", "inspect", "contiv-net"]);
    let told = told.map_err(|error| error.to_string());
    let told = told.and_then(|it| serde_json::from_str(&it).map_err(|error| error.to_string()));
    told.map_or(Value::Null, |mut it: Value| it["Oper"].take())
}

/// The number of endpoints of a service's containers.
fn endpoints(lab: &Lab, service: &str) -> usize {
    let prefix = format!("{service}.");
    let all = inspect(lab)["endpoints"].take();
    let names = all.as_array().into_iter().flatten();
    let names = names.filter_map(|it| it["containerName"].as_str());
    names.filter(|name| name.starts_with(&prefix)).count()
}

/// The number of ceded addresses that a node holds.
fn ceded(lab: &Lab, node: &str) -> usize {
    let all = inspect(lab)["blocks"].take();
    let blocks = all.as_array().into_iter().flatten();
    let blocks = blocks.filter(|it| it["node"] == node);
    let blocks = blocks.filter_map(|it| it["block"].as_str());
    blocks.filter(|block| block.ends_with("/32")).count()
}

fn plain(lab: &Lab, node: &str, name: &str) -> Outcome {
    let line = format!("run -d --name={name} --net=contiv-net {IMAGE} sleep 1000000");
    done(lab, node, &line).map(drop)
}

fn reaches(lab: &Lab, node: &str, from: &str, to: &str) -> bool {
    let ping = format!("docker exec {from} ping -c 1 -W 2 {to}");
    sh(lab, node, &ping)
}

/// The addresses that a container gets for a name.
fn told(lab: &Lab, node: &str, container: &str, name: &str) -> BTreeSet<String> {
    let line = format!("exec {container} nslookup {name}.contiv-net.contiv.local");
    let answer = done(lab, node, &line).unwrap_or_default();
    let answer = answer.split("Name:").skip(1).collect::<String>();
    let addresses = answer.lines().filter_map(|it| it.strip_prefix("Address: "));
    addresses.map(str::to_owned).collect()
}

#[test]
fn tasks_and_plain_containers_find_each_other_across_hosts() -> Outcome {
    let lab = swarm("20.1.1.0/24")?;
    network(&lab, "web-net", "--subnet=20.1.1.0/24")?;
    plain(&lab, "node-1", "here")?;
    plain(&lab, "node-2", "there")?;
    serve(&lab, "app", "web-net", 4)?;
    let tasks = tasks(&lab, "node-1", "app");
    let nodes: BTreeSet<&str> = tasks.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(nodes.len(), 2, "{tasks:?}");
    for (node, task) in &tasks {
        for peer in ["here", "there", "app", "tasks.app"] {
            assert!(
                reaches(&lab, node, task, peer),
                "{task} on {node} to {peer}"
            );
        }
        for (_, other) in &tasks {
            assert!(
                reaches(&lab, node, task, other),
                "{task} on {node} to {other}"
            );
            assert!(reaches(&lab, "node-2", "there", other), "plain to {other}");
        }
        let interfaces = done(&lab, node, &format!("exec {task} ls /sys/class/net"))?;
        let interfaces: Vec<&str> = interfaces.split_whitespace().collect();
        assert_eq!(interfaces, ["eth0", "lo"], "no way past our rules");
        assert_eq!(told(&lab, node, task, "app").len(), 4);
    }
    assert_eq!(told(&lab, "node-1", "here", "app").len(), 4);
    Ok(())
}

/// A stack of one service of two tasks, which are healthy once /tmp/ok exists and ignore SIGTERM.
const STACK: &str = r#"
version: "3.8"
services:
  web:
    image: contiv/busybox
    command: sleep 1000000
    stop_grace_period: 5m
    healthcheck: {test: ["CMD", "test", "-e", "/tmp/ok"], interval: 1s, retries: 1000}
    deploy: {replicas: 2, placement: {max_replicas_per_node: 1}}
    networks: {net: {aliases: [frontend]}}
networks:
  net:
    driver: contiv-swarm:latest
    driver_opts: {contiv.network: contiv-net, contiv.group: jobs}
    ipam: {driver: "contiv-swarm:latest", config: [{subnet: 20.1.1.0/24}]}
"#;

#[test]
fn stacks_service_has_its_names_while_its_tasks_are_healthy() -> Outcome {
    let lab = swarm("20.1.1.0/24")?;
    lab.netctl_ok(&["group", "create", "contiv-net", "jobs"])?;
    plain(&lab, "node-1", "here")?;
    plain(&lab, "node-2", "there")?;
    let deploy = format!("docker stack deploy --resolve-image never -c - st <<'EOF'{STACK}EOF");
    lab.run("node-1", &["sh", "-c", &deploy])?;
    wait_until("both tasks have endpoints", 3 * WAIT_TIMEOUT, || {
        endpoints(&lab, "st_web") == 2
    })?;
    let names = |name: &str| told(&lab, "node-2", "there", name);
    // One task after the other gets healthy.
    for (healthy, node) in (1..).zip(["node-1", "node-2"]) {
        let touch =
            "docker exec $(docker ps -q -f label=com.docker.stack.namespace=st) touch /tmp/ok";
        wait_until("the task runs", WAIT_TIMEOUT, || sh(&lab, node, touch))?;
        wait_until(&format!("{healthy} are named"), WAIT_TIMEOUT, || {
            let web = names("web");
            assert!(web.len() <= healthy, "{web:?} before they are healthy");
            web.len() == healthy
        })?;
    }
    let web = names("web");
    for name in ["st_web", "frontend"] {
        assert_eq!(names(name), web, "{name}");
        assert_eq!(told(&lab, "node-1", "here", name), web, "{name}");
    }
    assert_eq!(told(&lab, "node-1", "here", "jobs"), web, "their group");
    for name in ["tasks.web", "tasks.st_web"] {
        assert!(reaches(&lab, "node-2", "there", name), "{name}");
    }
    done(&lab, "node-1", "service scale -d st_web=0")?;
    wait_until("they are named no more", WAIT_TIMEOUT, || {
        names("web").is_empty()
    })?;
    assert_eq!(endpoints(&lab, "st_web"), 2, "they still run");
    Ok(())
}

/// Starts more tasks than the network has addresses, one after another. In such a small network a block is
/// one address.
#[test]
fn address_returns_when_its_task_is_gone() -> Outcome {
    let lab = swarm("20.1.1.0/28")?;
    network(&lab, "web-net", "--subnet=20.1.1.0/28")?;
    serve(&lab, "app", "web-net", 0)?;
    for _ in 0..4 {
        for replicas in [4, 0] {
            done(&lab, "node-1", &format!("service scale -d app={replicas}"))?;
            runs(&lab, "node-1", "app", replicas)?;
        }
    }
    wait_until("ceded addresses are returned", WAIT_TIMEOUT, || {
        ceded(&lab, "node-2") == 0
    })?;
    done(&lab, "node-1", "service rm app")?;
    // The engine refuses while it is still removing tasks.
    wait_until("the swarm's network is removed", WAIT_TIMEOUT, || {
        sh(&lab, "node-1", "docker network rm web-net")
    })?;
    for node in lab.nodes() {
        let left = lab.netctl_ok(&["node", "cleanup", &node])?;
        assert!(!left.contains("20.1.1."), "{node}: {left}");
    }
    lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    Ok(())
}

#[test]
fn policy_of_a_group_applies_to_the_tasks_of_a_service() -> Outcome {
    let lab = swarm("20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "closed"])?;
    let rule = "policy rule-add closed 1 -direction=in -protocol=icmp -action=deny";
    lab.netctl_ok(&rule.split(' ').collect::<Vec<_>>())?;
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=closed"])?;
    let group = "-o contiv.network=contiv-net -o contiv.group=web";
    let ipam = "--ipam-opt contiv.network=contiv-net --ipam-opt contiv.group=web";
    network(&lab, "web-net", &format!("{group} {ipam}"))?;
    network(&lab, "open-net", "--subnet=20.1.1.0/24")?;
    plain(&lab, "node-1", "plain")?;
    serve(&lab, "app", "web-net", 2)?;
    serve(&lab, "open", "open-net", 2)?;
    for (node, task) in tasks(&lab, "node-1", "app") {
        assert!(!reaches(&lab, "node-1", "plain", &task), "{task} on {node}");
        assert!(reaches(&lab, &node, &task, "plain"), "its own pings pass");
    }
    for (_, task) in tasks(&lab, "node-1", "open") {
        assert!(reaches(&lab, "node-1", "plain", &task), "{task} is open");
    }
    let group = lab.netctl_ok(&["group", "inspect", "web"])?;
    assert!(group.contains("app.1."), "{group}");
    assert!(!group.contains("open.1."), "{group}");
    Ok(())
}

#[test]
fn service_survives_restarts_and_a_new_leader() -> Outcome {
    let mut lab = swarm("20.1.1.0/24")?;
    network(&lab, "web-net", "--subnet=20.1.1.0/24")?;
    plain(&lab, "node-2", "plain")?;
    serve(&lab, "app", "web-net", 4)?;
    let before = tasks(&lab, "node-1", "app");
    for node in ["node-1", "node-2"] {
        lab.restart(&format!("netplugin@{node}"), Signal::Kill)?;
        lab.await_node(node)?;
    }
    assert_eq!(
        tasks(&lab, "node-1", "app"),
        before,
        "nothing was restarted"
    );
    for (_, task) in &before {
        assert!(reaches(&lab, "node-2", "plain", task), "{task}");
    }
    done(&lab, "node-1", "service scale -d app=6")?;
    runs(&lab, "node-1", "app", 6)?;

    // The leader's engine is restarted, and requests all addresses again.
    lab.restart("dockerd@node-1", Signal::Kill)?;
    lab.await_engine("node-1")?;
    runs(&lab, "node-1", "app", 6)?;

    // Another leader, which reserved none of them.
    done(&lab, "node-1", "node promote node-2")?;
    wait_until("the other engine leads", 3 * WAIT_TIMEOUT, || {
        sh(&lab, "node-1", "docker node demote node-1");
        let leads = done(
            &lab,
            "node-2",
            "node inspect self -f {{.ManagerStatus.Leader}}",
        );
        leads.is_ok_and(|it| it == "true")
    })?;
    for replicas in [2, 5] {
        done(&lab, "node-2", &format!("service scale -d app={replicas}"))?;
        runs(&lab, "node-2", "app", replicas)?;
    }
    for (_, task) in tasks(&lab, "node-2", "app") {
        assert!(reaches(&lab, "node-2", "plain", &task), "{task}");
    }
    done(&lab, "node-2", "service rm app")?;
    wait_until("ceded addresses are returned", WAIT_TIMEOUT, || {
        lab.nodes().iter().all(|node| ceded(&lab, node) == 0)
    })
}

/// An engine that starts while netplugin is down disables the plugin.
#[test]
fn plugin_disabled_by_the_engine_is_enabled_again() -> Outcome {
    let mut lab = swarm("20.1.1.0/24")?;
    network(&lab, "web-net", "--subnet=20.1.1.0/24")?;
    lab.stop("netplugin@node-2", Signal::Term)?;
    // While it holds the plugin's socket, the engine enables the plugin at its start.
    lab.stop("docker-sockets@node-2", Signal::Term)?;
    lab.restart("dockerd@node-2", Signal::Term)?;
    lab.await_engine("node-2")?;
    let enabled = "docker plugin inspect -f {{.Enabled}} contiv-swarm:latest | grep -q true";
    assert!(!sh(&lab, "node-2", enabled));
    lab.start("netplugin@node-2")?;
    wait_until("the plugin is enabled", WAIT_TIMEOUT, || {
        sh(&lab, "node-2", enabled)
    })?;
    let global =
        format!("service create -d --mode global --name app --network web-net {IMAGE} sleep 9");
    done(&lab, "node-1", &global)?;
    wait_until("a second task runs", 3 * WAIT_TIMEOUT, || {
        let all = tasks(&lab, "node-1", "app");
        all.iter().any(|(node, _)| node == "node-2")
    })
}
