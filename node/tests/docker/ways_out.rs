//! Networks with and without a way out beside a Docker bridge, under a real engine. Its bridges work
//! without iptables here, which only routes are asked about.

use crate::support::engine::IMAGE_NAME;
use crate::support::host::{Host, host};
use crate::support::memory::{add, network};
use bus_schema::Egress;

/// A host with Docker bridges before and behind our networks in the order of names, and with network
/// `closed`, which has no way out.
fn with_bridges() -> Host {
    let host = host(&["--iptables=false", "--ip6tables=false", "--ip-masq=false"]);
    host.plugin.projection.send_modify(|projection| {
        let mut closed = network("default", "closed", "20.1.3.0/24");
        closed.egress = Some(Egress::None);
        add(projection, closed);
        let mut older = network("default", "older", "20.1.4.0/24");
        older.egress = None;
        add(projection, older);
    });
    for bridge in ["aa", "zz"] {
        host.engine.docker(&["network", "create", bridge]);
    }
    host.wait_for_network("closed");
    host.wait_for_network("older");
    host
}

/// The interface to which packets to the Internet go.
fn out(host: &Host, container: &str) -> String {
    let routes = host.exec(container, "ip route");
    let mut defaults = routes.lines().filter(|it| it.starts_with("default"));
    let best = defaults.next().unwrap_or_default().to_owned();
    assert_eq!(defaults.next(), None, "{routes}");
    best
}

#[tokio::test(flavor = "multi_thread")]
async fn network_without_a_way_out_leaves_the_default_route_to_dockers_bridge() {
    let host = with_bridges();
    let resolver = host.engine.path("run/resolv.conf");
    std::fs::write(&resolver, "nameserver 203.0.113.53\n").unwrap();
    for bridge in ["aa", "zz"] {
        for (first, second) in [("closed", bridge), (bridge, "closed"), ("older", bridge)] {
            host.run("both", &["--net", first]);
            host.engine.docker(&["network", "connect", second, "both"]);
            let routes = host.exec("both", "ip route");
            let of_bridge = host.engine.docker(&[
                "network",
                "inspect",
                "-f",
                "{{(index .IPAM.Config 0).Gateway}}",
                bridge,
            ]);
            let default = out(&host, "both");
            assert!(
                default.starts_with(&format!("default via {} ", of_bridge.trim())),
                "{first}, {second}: {routes}"
            );
            // Names are asked of the domain's server nevertheless.
            assert!(routes.contains("203.0.113.53 via 20.1."), "{routes}");
            host.engine.docker(&["rm", "-f", "both"]);
        }
    }
    assert!(!host.networks().contains(&"docker_gwbridge".to_owned()));
    host.run("two", &["--net=closed"]);
    host.engine.docker(&["network", "connect", "older", "two"]);
    let routes = host.exec("two", "ip route");
    assert_eq!(routes.matches("203.0.113.53").count(), 1, "{routes}");
    host.engine.docker(&["rm", "-f", "two"]);
    host.wait_until_empty();
}

#[tokio::test(flavor = "multi_thread")]
async fn network_with_a_way_out_takes_part_in_dockers_choice_of_the_default_route() {
    let host = with_bridges();
    for (bridge, ours) in [("aa", false), ("zz", true)] {
        host.run("both", &["--net=contiv-net"]);
        host.engine.docker(&["network", "connect", bridge, "both"]);
        let default = out(&host, "both");
        assert_eq!(
            default.starts_with("default via 20.1.1.254 "),
            ours,
            "{bridge}: {default}"
        );
        host.engine.docker(&["rm", "-f", "both"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn internal_docker_network_belongs_to_a_network_without_a_way_out() {
    let host = with_bridges();
    let create = |name: &'static str, of: &'static str| {
        [
            "network",
            "create",
            "-d",
            "contiv",
            "--ipam-driver=contiv",
            "--internal",
            "-o",
            of,
            "--ipam-opt",
            of,
            name,
        ]
    };
    let refused = host
        .engine
        .docker_fails(&create("mine", "contiv.network=contiv-net"));
    let remedy = "`netctl net update contiv-net -t default --egress=none`";
    assert!(refused.contains(remedy), "{refused}");
    host.engine.docker(&create("mine", "contiv.network=closed"));
    host.engine.docker(&[
        "run",
        "--rm",
        "--net=mine",
        IMAGE_NAME,
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "20.1.3.254",
    ]);
}
