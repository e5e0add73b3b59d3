//! The limit of the connections that an endpoint opens, against real packets.

use std::net::UdpSocket;

use bus_schema::NetworkName;
use bus_schema::node::DomainKind;
use node_core::desired::zone;
use node_core::resource::Place;

use crate::policy::{carries, one_tenant};
use crate::traffic::{is_dropped, listen, opens, within};
use crate::world::{World, ip, pings, tenant};

/// Lets each endpoint of the network open `max` connections.
async fn limit(world: &mut World, max: u32) {
    let network: NetworkName = "net".parse().expect("a name");
    let fact = world.facts.open(&tenant("red"));
    let network = fact.networks.get_mut(&network).expect("the network");
    network.spec.max_connections = Some(max);
    world.sync_all().await;
}

/// Sends one datagram to each of `ports`, from ports of its own.
fn send_to_ports(netns: &str, to: &str, ports: std::ops::Range<u16>) {
    let to = to.to_owned();
    within(netns, move || {
        for port in ports {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            // The receiver answers that nobody listens.
            let _ = socket.send_to(b"x", (to.as_str(), port));
        }
    });
}

/// The number of connections of red's domain that `from` opened.
async fn count(world: &World, host: usize, from: &str) -> usize {
    let zone = world.zone(host, "red");
    let datapath = &world.hosts[host].datapath;
    let all = datapath
        .connections(&world.place_of(host, "red"), zone)
        .await;
    let all = all.expect("listed");
    all.iter().filter(|it| ip(from) == it.from).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_refused_on_both_hosts_and_harm_nobody_else() {
    const MAX: u32 = 20;
    let mut world = one_tenant().await;
    limit(&mut world, MAX).await;
    let greedy = world.attach(0, "red", "net", "greedy", "20.1.1.1").await;
    let other = world.attach(0, "red", "net", "other", "20.1.1.2").await;
    let near = world.attach(0, "red", "net", "near", "20.1.1.3").await;
    let far = world.attach(1, "red", "net", "far", "20.1.1.129").await;
    let (listeners, to) = (
        [listen(&near, 80), listen(&far, 80)],
        ["20.1.1.3", "20.1.1.129"],
    );
    let before = opens(&greedy, to[1], 80).expect("its first connection");
    for at in to {
        send_to_ports(&greedy, at, 5_000..5_100);
    }
    for host in [0, 1] {
        let most = usize::try_from(MAX).expect("few");
        let open = count(&world, host, "20.1.1.1").await;
        assert!((1..=most).contains(&open), "{open} on host {host}");
    }
    assert!(is_dropped(&greedy, to[0], 80), "one too many");
    assert!(
        carries(&listeners[1], &before),
        "an open connection goes on"
    );
    for at in to {
        assert!(
            opens(&other, at, 80).is_some(),
            "{at}: the limit of others is theirs"
        );
    }
    assert!(pings(&far, "20.1.1.1"), "others reach it");
    let place = world.place_of(0, "red");
    let refused = world.hosts[0].datapath.refused_connections(&place).await;
    let refused = refused.expect("read");
    assert!(refused.packets > 0);
    let zone = zone(&world.facts, &tenant("red"), world.hosts[0].params.kind);
    let named = |(of, address, packets): &(u16, _, u64)| {
        (*of, *address) == (zone, ip("20.1.1.1")) && *packets > 0
    };
    assert!(refused.lately.iter().all(named), "{refused:?}");
    assert_eq!(refused.lately.len(), 1, "{refused:?}");
    assert_eq!(world.pending(0).await, []);
    world.reopen(0).await;
    assert_eq!(world.pending(0).await, []);
    limit(&mut world, 1_000).await;
    assert!(opens(&greedy, to[0], 80).is_some(), "a higher limit");
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_of_several_buckets_lets_all_of_it_pass_and_at_most_three_eighths_more() {
    const MAX: usize = 256;
    let mut world = one_tenant().await;
    limit(&mut world, 256).await;
    let greedy = world.attach(0, "red", "net", "greedy", "20.1.1.1").await;
    let _far = world.attach(1, "red", "net", "far", "20.1.1.129").await;
    send_to_ports(&greedy, "20.1.1.129", 5_000..7_000);
    for host in [0, 1] {
        let open = count(&world, host, "20.1.1.1").await;
        assert!(
            (MAX..=MAX * 11 / 8).contains(&open),
            "{open} on host {host}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_tcp_connections_leave_the_table_within_a_second() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.1").await;
    let server = world.attach(1, "red", "net", "server", "20.1.1.129").await;
    let listener = listen(&server, 80);
    for _ in 0..5 {
        let stream = opens(&client, "20.1.1.129", 80).expect("a connection");
        assert!(carries(&listener, &stream));
    }
    for host in [0, 1] {
        for state in ["TIME_WAIT", "CLOSE"] {
            let list = format!("conntrack -L -p tcp --state {state}");
            let listed = world.in_domain(host, "red", &list);
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let ours = listed.lines().filter(|it| it.contains("src=20.1.1.1"));
            let seconds = ours.filter_map(|it| it.split_whitespace().nth(2));
            for second in seconds {
                assert!(["0", "1"].contains(&second), "{listed}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_to_the_domain_itself_count_as_connections() {
    let mut world = one_tenant().await;
    limit(&mut world, 20).await;
    let greedy = world.attach(0, "red", "net", "greedy", "20.1.1.1").await;
    within(&greedy, || {
        for _ in 0..100 {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
            let _ = socket.send_to(b"x", ("20.1.1.254", 53));
        }
    });
    let open = count(&world, 0, "20.1.1.1").await;
    assert!((1..=20).contains(&open), "{open}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_established_connections_end_after_a_day() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.1").await;
    let server = world.attach(1, "red", "net", "server", "20.1.1.129").await;
    let _listener = listen(&server, 80);
    let _stream = opens(&client, "20.1.1.129", 80).expect("a connection");
    for host in [0, 1] {
        let listed = world.in_domain(host, "red", "conntrack -L -p tcp --state ESTABLISHED");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let seconds: Vec<u64> = listed
            .lines()
            .filter(|it| it.contains("src=20.1.1.1"))
            .filter_map(|it| it.split_whitespace().nth(2)?.parse().ok())
            .collect();
        // RFC 5382 §5: at least 2 h 4 min.
        let is_right = |it: &u64| (2 * 3600 + 4 * 60..=86_400).contains(it);
        assert!(
            !seconds.is_empty() && seconds.iter().all(is_right),
            "{listed}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conntrack_tables_are_measured() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.1").await;
    let server = world.attach(0, "red", "net", "server", "20.1.1.2").await;
    let _listener = listen(&server, 80);
    let _stream = opens(&client, "20.1.1.2", 80).expect("a connection");
    let host = &world.hosts[0];
    let place = world.place_of(0, "red");
    let usage = host.datapath.conntrack_usage(&place).await.expect("read");
    assert!(usage.entries > 0 && usage.max >= usage.entries, "{usage:?}");
    let zones = host.datapath.conntrack_zones(&place).await.expect("read");
    assert!(zones[&world.zone(0, "red")] > 0, "{zones:?}");
    if host.params.kind == DomainKind::Netns {
        let zones = host.datapath.conntrack_zones(&Place::Host).await;
        assert!(
            zones.expect("read").is_empty(),
            "tenants' entries are theirs"
        );
    }
}
