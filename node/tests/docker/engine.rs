//! Tests the driver with a real engine. Endpoints are in memory, with real interfaces and routes. It
//! needs root and Debian's `docker.io` and `busybox-static`.

use std::time::{Duration, Instant};

use crate::support::engine::{End, IMAGE_NAME};
use crate::support::host::{Host, host, without_engine};
use crate::support::memory::{add, add_group, network};
use node::endpoint::Description;

fn refuses_used_addresses_and_published_ports(host: &Host) {
    let error = host.engine.docker_fails(&[
        "run",
        "--rm",
        "--net=contiv-net",
        "--ip=20.1.1.99",
        IMAGE_NAME,
        "true",
    ]);
    assert!(error.contains("20.1.1.99 is in use"), "{error}");
    for publish in [&["-p", "8080:80"][..], &["-P", "--expose", "80"]] {
        let mut line = vec!["run", "--rm", "--net=contiv-net"];
        line.extend(publish);
        line.extend([IMAGE_NAME, "true"]);
        let error = host.engine.docker_fails(&line);
        assert!(
            error.contains("contiv doesn't publish ports yet: leave out -p and -P"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_run_and_have_names() {
    let host = host(&[]);
    let id = host.run("web", &["--net=contiv-net"]);
    host.wait_for_name("20.1.1.1", "web");
    let web = host.plugin.endpoints.find("20.1.1.1").expect("web");
    assert_eq!(web.container.as_deref(), Some(id.as_str()));
    host.run(
        "db",
        &[
            "--net=contiv-net",
            "--ip=20.1.1.99",
            "--network-alias=store",
        ],
    );
    host.exec("web", "ping -c 1 -W 5 20.1.1.99");
    host.exec("web", "ping -c 1 -W 5 20.1.1.254");
    assert_eq!(
        host.exec("web", "ip route"),
        "default via 20.1.1.254 dev eth0 \n20.1.1.0/24 via 20.1.1.254 dev eth0 \n20.1.1.254 dev eth0 scope link"
    );
    assert!(
        host.exec("web", "ip addr show eth0")
            .contains("20.1.1.1/32")
    );
    assert!(
        host.exec("web", "ip link show eth0")
            .contains("02:02:14:01:01:01")
    );
    host.engine.until("the alias is known", || {
        let db = host.plugin.endpoints.find("20.1.1.99");
        db.is_some_and(|db| db.aliases.iter().any(|alias| alias == "store"))
    });
    host.engine.docker(&["rename", "web", "shop"]);
    host.wait_for_name("20.1.1.1", "shop");

    refuses_used_addresses_and_published_ports(&host);
    host.engine.docker(&[
        "run",
        "--rm",
        "--net=contiv-net",
        "--expose=80",
        IMAGE_NAME,
        "true",
    ]);
    host.engine.docker(&["rm", "-f", "shop"]);
    host.engine.docker(&["rm", "-f", "db"]);
    host.wait_until_empty();
    host.run("db", &["--net=contiv-net", "--ip=20.1.1.99"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn container_on_two_networks_answers_on_both() {
    let host = host(&[]);
    host.run("two", &["--net=contiv-net", "--ip=20.1.1.10"]);
    host.run("aa", &["--net=contiv-net"]);
    host.run("bb", &["--net=other"]);
    host.engine
        .docker(&["network", "connect", "--ip=20.1.2.10", "other", "two"]);
    host.wait_for_name("20.1.2.10", "two");
    for from in ["aa", "bb"] {
        host.exec(from, "ping -c 1 -W 5 20.1.1.10");
        host.exec(from, "ping -c 1 -W 5 20.1.2.10");
    }
    let routes = host.exec("two", "ip route");
    assert!(
        routes.contains("20.1.2.0/24 via 20.1.2.254 dev eth1"),
        "{routes}"
    );
    assert!(
        routes.contains("20.1.1.0/24 via 20.1.1.254 dev eth0"),
        "{routes}"
    );
    host.engine
        .docker(&["network", "disconnect", "contiv-net", "two"]);
    assert!(host.plugin.endpoints.find("20.1.1.10").is_none());
    host.exec("bb", "ping -c 1 -W 5 20.1.2.10");
    host.exec("two", "ping -c 1 -W 5 20.1.1.254");
    for name in ["two", "aa", "bb"] {
        host.engine.docker(&["rm", "-f", name]);
    }
    host.wait_until_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_networks_follow_the_log() {
    let host = host(&[]);
    host.wait_for_network("web/blue");
    let status = || {
        let status = host.plugin.handle().status.borrow().clone();
        status.expect("an engine")
    };
    // The status follows the creation of networks.
    host.engine
        .until("its status says that it answers", || status().answers);
    let status = status();
    assert!(status.answers && status.version.is_some_and(|v| v.starts_with("20.10")));

    host.plugin
        .projection
        .send_modify(|it| add(it, network("default", "late", "20.3.0.0/16")));
    let applied = host.plugin.projection.borrow().applied;
    host.engine.until("the new network is applied", || {
        let status = host.plugin.handle().status.borrow().clone();
        status.is_some_and(|it| it.applied == applied)
    });
    assert!(host.networks().iter().any(|it| it == "late"));

    for prune in [&["network", "prune", "-f"][..], &["network", "rm", "late"]] {
        host.engine.docker(prune);
        let pruned = Instant::now();
        host.wait_for_network("late");
        host.wait_for_network("contiv-net");
        assert!(
            pruned.elapsed() < Duration::from_secs(1),
            "{:?}",
            pruned.elapsed()
        );
    }

    host.run("held", &["--net=late"]);
    host.plugin.projection.send_modify(|it| {
        let tenant = it
            .tenants
            .get_mut(&bus_schema::TenantName::default_tenant())
            .expect("it is there");
        tenant
            .networks
            .remove(&bus_schema::NetworkName::new("late").expect("a name"));
    });
    host.engine
        .until("an alarm says which containers use the network", || {
            let alarms = host.plugin.handle().alarms.borrow().clone();
            alarms
                .iter()
                .any(|it| it.code == "docker-network-held" && it.text.contains("late"))
        });
    host.engine.docker(&["rm", "-f", "held"]);
    host.engine.until("the removed network is gone", || {
        !host.networks().iter().any(|it| it == "late")
            && host.plugin.handle().alarms.borrow().is_empty()
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn group_has_a_docker_network_beside_its_networks_own() {
    let host = host(&[]);
    host.plugin.projection.send_modify(|it| {
        add_group(it, "default", "contiv-net", "front");
        add_group(it, "blue", "web", "front");
    });
    host.wait_for_network("front.contiv-net");
    host.wait_for_network("front.web/blue");
    host.run("inside", &["--net=front.contiv-net"]);
    host.run("outside", &["--net=contiv-net"]);
    let groups = || {
        let state = host.plugin.endpoints.state();
        let all = state.endpoints.values();
        let group = |it: &node::endpoint::LocalEndpoint| it.group.as_ref().map(ToString::to_string);
        all.map(group).collect::<std::collections::BTreeSet<_>>()
    };
    let expected = [None, Some("front".to_owned())];
    assert_eq!(groups(), expected.into());
    // The engine allows a container one Docker network of a subnet at a time: leave the old group
    // first.
    let network = |verb, name, container| host.engine.docker(&["network", verb, name, container]);
    network("disconnect", "front.contiv-net", "inside");
    assert_eq!(groups(), [None].into());
    network("disconnect", "contiv-net", "outside");
    network("connect", "front.contiv-net", "outside");
    assert_eq!(groups(), [Some("front".to_owned())].into());
    host.exec("outside", "ping -c 1 -W 5 20.1.1.254");
    host.plugin.projection.send_modify(|it| {
        let tenant = it
            .tenants
            .get_mut(&bus_schema::TenantName::new("blue").expect("a name"));
        tenant.expect("the tenant").groups.clear();
    });
    host.engine
        .until("the removed group's network is gone", || {
            !host.networks().iter().any(|it| it == "front.web/blue")
        });
}

#[tokio::test(flavor = "multi_thread")]
async fn container_has_one_group_in_a_network() {
    let mut host = host(&[]);
    host.plugin
        .projection
        .send_modify(|it| add_group(it, "default", "contiv-net", "front"));
    host.wait_for_network("front.contiv-net");
    host.wait_for_network("web/blue");
    host.run("one", &["--net=contiv-net", "--ip=20.1.1.9"]);
    let refused = |host: &Host| {
        // The second has the same subnet in another tenant.
        for second in ["front.contiv-net", "web/blue"] {
            let connect = ["network", "connect", second, "one"];
            let error = host.engine.docker_fails(&connect);
            let reason = "has 20.1.1.9 in network contiv-net of tenant default already";
            assert!(error.contains(reason), "{error}");
            assert_eq!(host.addresses(), ["20.1.1.9"]);
        }
    };
    refused(&host);
    host.plugin.endpoints.state().described.clear();
    host.plugin.restart().await;
    host.engine.until("the container is inspected", || {
        let state = host.plugin.endpoints.state();
        let whole = |it: &Description| it.aliases.is_some();
        state.described.iter().any(|(_, it)| whole(it))
    });
    refused(&host);
    let docker = |line: &[&str]| host.engine.docker(line);
    docker(&["network", "connect", "other", "one"]);
    docker(&["network", "disconnect", "contiv-net", "one"]);
    docker(&["network", "connect", "front.contiv-net", "one"]);
    host.exec("one", "ping -c 1 -W 5 20.1.1.254");
}

const CREATE_BY_HAND: [&str; 6] = [
    "network",
    "create",
    "-d",
    "contiv",
    "--ipam-driver",
    "contiv",
];

#[tokio::test(flavor = "multi_thread")]
async fn foreign_networks_are_left_alone() {
    let host = host(&[]);
    let mut line = CREATE_BY_HAND.to_vec();
    line.extend([
        "-o",
        "contiv.network=other",
        "--ipam-opt",
        "contiv.network=other",
        "mine",
    ]);
    host.engine.docker(&line);
    host.run("made", &["--net=mine"]);
    let attached_to = |name: &str| {
        let state = host.plugin.endpoints.state();
        let mut all = state.endpoints.values();
        all.any(|it| it.network.as_str() == name)
    };
    assert!(attached_to("other"));
    let mut line = CREATE_BY_HAND.to_vec();
    line.push("nothing");
    let error = host.engine.docker_fails(&line);
    assert!(error.contains("contiv network must be named"), "{error}");
    let error = host
        .engine
        .docker_fails(&["network", "create", "-d", "contiv", "nothing"]);
    assert!(error.contains("--ipam-driver contiv"), "{error}");

    host.engine
        .docker(&["network", "create", "-d", "bridge", "taken"]);
    host.plugin
        .projection
        .send_modify(|it| add(it, network("default", "taken", "20.4.0.0/16")));
    host.engine
        .until("an alarm says that the name is taken", || {
            let alarms = host.plugin.handle().alarms.borrow().clone();
            alarms.iter().any(|it| it.code == "docker-network-taken")
        });
    let driver = host
        .engine
        .docker(&["network", "inspect", "taken", "-f", "{{.Driver}}"]);
    assert_eq!(driver, "bridge");
    host.engine.docker(&["network", "rm", "taken"]);
    host.engine.until("ours takes its place", || {
        let driver = host
            .engine
            .try_docker(&["network", "inspect", "taken", "-f", "{{.Driver}}"]);
        driver.stdout == b"contiv\n" && host.plugin.handle().alarms.borrow().is_empty()
    });
    host.plugin
        .projection
        .send_modify(|it| it.tenants = Default::default());
    host.engine.until("ours are gone", || {
        !host.networks().iter().any(|it| it == "contiv-net")
    });
    assert!(host.networks().iter().any(|it| it == "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_survive_an_engine_with_live_restore() {
    let host = host(&["--live-restore"]);
    for how in [End::Stop, End::Kill] {
        host.run("live", &["--net=contiv-net", "--ip=20.1.1.20"]);
        host.run("peer", &["--net=contiv-net", "--ip=20.1.1.21"]);
        host.engine.end(how);
        host.engine.until("the engine's end is seen", || {
            let status = host.plugin.handle().status.borrow().clone();
            status.is_some_and(|it| !it.answers)
        });
        assert_eq!(host.addresses(), ["20.1.1.20", "20.1.1.21"]);
        host.engine.start();
        host.exec("live", "ping -c 1 -W 5 20.1.1.21");
        host.engine.docker(&["restart", "-t", "0", "live"]);
        host.exec("peer", "ping -c 1 -W 5 20.1.1.20");
        host.engine.docker(&["rm", "-f", "live"]);
        host.engine.docker(&["rm", "-f", "peer"]);
        host.wait_until_empty();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_start_again_with_the_engine() {
    let host = host(&[]);
    host.run(
        "always",
        &["--net=contiv-net", "--restart=always", "--ip=20.1.1.30"],
    );
    host.run("any", &["--net=contiv-net", "--restart=always"]);
    host.run("once", &["--net=contiv-net"]);
    for how in [End::Stop, End::Kill] {
        host.engine.end(how);
        host.engine.start();
        host.engine.until("the containers run again", || {
            let running = host.engine.docker(&["ps", "--format", "{{.Names}}"]);
            running.contains("always") && running.contains("any")
        });
        host.wait_for_name("20.1.1.30", "always");
        host.exec("any", "ping -c 1 -W 5 20.1.1.30");
        host.engine
            .until("only they have endpoints", || host.addresses().len() == 2);
    }
    for name in ["always", "any", "once"] {
        host.engine.docker(&["rm", "-f", name]);
    }
    host.wait_until_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn leftover_endpoints_and_addresses_are_released() {
    let mut host = host(&[]);
    host.run("web", &["--net=contiv-net", "--ip=20.1.1.40"]);
    host.run("stays", &["--net=contiv-net", "--ip=20.1.1.41"]);
    host.plugin.stop().await;
    let mut forgotten = host
        .plugin
        .endpoints
        .find("20.1.1.40")
        .expect("it is there");
    forgotten.id = bus_schema::EndpointId::new("ffffffffffffffffffffffffffffffff").expect("an id");
    forgotten.host_interface = "cvforgotten".to_owned();
    forgotten.addresses = vec!["20.1.1.42".parse().expect("an address")];
    let mut lost = forgotten.clone();
    lost.id = bus_schema::EndpointId::new("eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee").expect("an id");
    lost.owner = node::endpoint::Owner::Docker {
        network_id: "0123".to_owned(),
    };
    {
        let mut state = host.plugin.endpoints.state();
        state.endpoints.insert(forgotten.id.clone(), forgotten);
        state.endpoints.insert(lost.id.clone(), lost.clone());
        // An address of an engine that crashed between requesting and using it.
        let address = "20.1.1.77".parse().expect("an address");
        state.reserved.insert((lost.tenant, lost.network, address));
    }
    host.plugin.restart().await;
    host.engine.until("the leftovers are released", || {
        host.addresses() == ["20.1.1.40", "20.1.1.41"]
            && host.plugin.endpoints.state().reserved.is_empty()
    });
    host.exec("web", "ping -c 1 -W 5 20.1.1.41");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_run_fails_in_time_when_the_bus_does_not_answer() {
    let host = host(&[]);
    host.plugin.endpoints.state().hang = true;
    let started = Instant::now();
    let error = host
        .engine
        .docker_fails(&["run", "--rm", "--net=contiv-net", IMAGE_NAME, "true"]);
    assert!(error.contains("`netplugin status`"), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    host.plugin.endpoints.state().hang = false;
    host.engine
        .docker(&["run", "--rm", "--net=contiv-net", IMAGE_NAME, "true"]);
    host.wait_until_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_resolver_raises_an_alarm_until_daemon_json_is_changed() {
    let host = without_engine(&[]);
    let folder = host.engine.path("run");
    std::fs::write(folder.join("resolv.conf"), "nameserver 127.0.0.1\n").expect("written");
    host.engine.start();
    let raised = || {
        let alarms = host.plugin.handle().alarms.borrow().clone();
        alarms.iter().any(|it| it.code == "loopback-resolver")
    };
    host.engine.until("the alarm is raised", raised);
    std::fs::write(folder.join("daemon.json"), r#"{"dns": ["169.254.53.53"]}"#).expect("written");
    host.engine.until("the alarm is gone", || !raised());
}
