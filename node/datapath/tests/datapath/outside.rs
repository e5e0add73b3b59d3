//! Ways out of the cluster: containers reach a machine beside the nodes through their own node.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use bus_schema::Egress;

use crate::traffic::{
    Echo, SILENCE_TIMEOUT, bind, echoes, echoes_all, echoes_from, is_closed, listen, opens, within,
};
use crate::world::{World, exec, ip, is_silent, pings, run, tenant, vtep};

/// The machine's address beside the nodes, and one that is reached through it.
pub(crate) const LAN: &str = "198.18.7.3";
pub(crate) const INTERNET: &str = "203.0.113.5";

/// Sets the way out of a network.
pub(crate) fn set_egress(world: &mut World, of: &str, network: &str, egress: Egress) {
    change(world, of, network, |spec| spec.egress = Some(egress));
}

fn change(
    world: &mut World,
    of: &str,
    network: &str,
    change: impl FnOnce(&mut bus_schema::NetworkSpec),
) {
    let fact = world.facts.open(&tenant(of));
    let name = bus_schema::NetworkName::new(network).expect("valid");
    change(&mut fact.networks.get_mut(&name).expect("its network").spec);
}

/// Tenants `red` and `blue` with ways out and one subnet, and the machine outside.
pub(crate) async fn two_tenants() -> (World, String) {
    let mut world = World::new().await;
    for (of, vni) in [("red", 1001), ("blue", 1002)] {
        world.network(of, "net", vni);
        set_egress(&mut world, of, "net", Egress::Nat);
    }
    let outside = world.stranger();
    run(&format!("ip -n {outside} addr add {INTERNET}/32 dev lo"));
    for host in &world.hosts {
        run(&format!("ip -n {} route add default via {LAN}", host.netns));
    }
    world.sync_all().await;
    (world, outside)
}

/// The address by which a server sees a client that connects from `netns`.
fn seen_as(server: &TcpListener, netns: &str, port: u16) -> IpAddr {
    let _stream = opens(netns, LAN, port).expect("a way out");
    server.accept().expect("a client").1.ip()
}

/// The error of a connection that doesn't open, and how long it took.
fn refusal(netns: &str, to: &str, port: u16) -> (ErrorKind, Duration) {
    let to = SocketAddr::new(ip(to), port);
    within(netns, || {
        let start = Instant::now();
        let error = TcpStream::connect_timeout(&to, Duration::from_secs(20));
        (error.expect_err("no way out").kind(), start.elapsed())
    })
}

/// Whether a connected UDP socket learns that there is no way.
fn udp_refusal(netns: &str, to: &str) -> Option<ErrorKind> {
    within(netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.connect((ip(to), 9)).expect("a route");
        socket.set_read_timeout(Some(SILENCE_TIMEOUT)).expect("set");
        socket.send(b"hello").expect("sent");
        socket.recv(&mut [0; 16]).err().map(|it| it.kind())
    })
}

fn is_unreachable(error: ErrorKind) -> bool {
    matches!(
        error,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_equal_subnets_reach_what_their_node_reaches() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let blue = world.attach(0, "blue", "net", "web", "20.1.1.1").await;
    let far = world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let server = listen(&outside, 80);
    let _echo = Echo::start(&outside, 7);
    for (client, node) in [(&red, 0), (&blue, 0), (&far, 1)] {
        assert_eq!(seen_as(&server, client, 80), vtep(node), "{client}");
        assert!(pings(client, LAN) && pings(client, INTERNET), "{client}");
        assert!(echoes(client, LAN, 7), "{client}");
        // Fragments, both ways.
        assert!(echoes_all(client, 0, LAN, 7, &[1; 4_000]), "{client}");
    }
    // The same source port at once.
    assert!(echoes_from(&red, 4_000, LAN, 7) && echoes_from(&blue, 4_000, LAN, 7));
    assert!(pings(&red, "20.1.1.129") && is_silent(&blue, "20.1.1.129"));
    for host in 0..2 {
        assert_eq!(world.pending(host).await, []);
    }
    world.reopen(0).await;
    assert_eq!(world.pending(0).await, [], "after a restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn network_without_a_way_out_refuses_at_once() {
    let (mut world, outside) = two_tenants().await;
    let _server = listen(&outside, 80);
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    assert!(opens(&red, LAN, 80).is_some());
    // A second network of the tenant has a way out, and this one none.
    world.network("red", "open", 1003);
    change(&mut world, "red", "open", |spec| {
        spec.v4.subnet = "20.1.3.0/24".parse().expect("a subnet");
        spec.v4.gateway = ip("20.1.3.254");
    });
    let open = bus_schema::NetworkName::new("open").expect("valid");
    let fact = world.facts.open(&tenant("red"));
    let blocks = [(
        crate::world::net("20.1.3.0/25"),
        "n1".parse().expect("valid"),
    )];
    fact.networks.get_mut(&open).expect("there").blocks = blocks.into_iter().collect();
    set_egress(&mut world, "red", "open", Egress::Nat);
    for (network, of_open) in [(Egress::None, Egress::Nat), (Egress::None, Egress::None)] {
        set_egress(&mut world, "red", "net", network);
        set_egress(&mut world, "red", "open", of_open);
        world.sync(0).await;
        assert_eq!(world.pending(0).await, []);
        let (error, took) = refusal(&red, LAN, 80);
        assert!(is_unreachable(error), "{error}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        // Ours is the one that ends a connection of UDP, the route's isn't.
        let udp = udp_refusal(&red, LAN).expect("no answer");
        assert!(is_unreachable(udp) || of_open == Egress::None, "{udp}");
    }
    let links = run(&format!("ip -n {} -br link", world.hosts[0].netns));
    assert_eq!(
        links.lines().filter(|it| it.starts_with("cu")).count(),
        1,
        "blue's alone: {links}"
    );
    set_egress(&mut world, "red", "net", Egress::Nat);
    world.sync(0).await;
    assert!(opens(&red, LAN, 80).is_some(), "and again");
}

/// The address of the host's or of the domain's end of a tenant's uplink.
fn end_of(world: &World, of: &str, host_end: bool) -> String {
    let fact = &world.facts.tenants[&tenant(of)];
    let uplink = node_core::desired::uplink(fact, &world.hosts[0].params).expect("a way out");
    match host_end {
        true => uplink.host_address.to_string(),
        false => uplink.domain_address.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_the_host_nor_other_tenants_are_reached_through_an_uplink() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let blue = world.attach(0, "blue", "net", "app", "20.1.1.2").await;
    let host = world.hosts[0].netns.clone();
    let _servers = [listen(&host, 22), listen(&blue, 22)];
    let _echoes = [Echo::start(&host, 7), Echo::start(&blue, 7)];
    let _outside = listen(&outside, 22);
    assert!(opens(&red, LAN, 22).is_some() && opens(&outside, "198.18.7.1", 22).is_some());
    let ends = [
        ("red", true),
        ("blue", true),
        ("blue", false),
        ("red", false),
    ];
    let mut closed: Vec<String> = ends.map(|(of, host)| end_of(&world, of, host)).into();
    closed.push("198.18.7.1".to_owned());
    closed.push("20.1.1.2".to_owned());
    closed.push("20.1.1.77".to_owned());
    for to in &closed {
        assert!(is_closed(&red, to, 22), "{to}");
        assert!(!echoes(&red, to, 7), "{to}");
        assert!(is_silent(&red, to), "{to}");
    }
    // From outside, by a route to the node.
    for to in ["251.146.0.0/15", "20.1.1.0/24"] {
        run(&format!("ip -n {outside} route add {to} via 198.18.7.1"));
    }
    for to in closed.iter().filter(|it| *it != "198.18.7.1") {
        assert!(
            is_closed(&outside, to, 22) && is_silent(&outside, to),
            "{to}"
        );
    }
    assert!(opens(&red, LAN, 22).is_some());
}

/// Counts what arrives outside with this condition.
fn count_outside(outside: &str, condition: &str) {
    run(&format!(
        "ip netns exec {outside} nft -f - <<'X'\ntable inet probe {{\nchain p {{\n\
         type filter hook prerouting priority -400\n{condition} counter\n}}\n}}\nX"
    ));
}

fn counted_outside(outside: &str) -> u64 {
    let text = run(&format!(
        "ip netns exec {outside} nft list table inet probe"
    ));
    let mut words = text.split_whitespace().skip_while(|it| *it != "packets");
    words
        .nth(1)
        .and_then(|it| it.parse().ok())
        .expect("a counter")
}

#[tokio::test(flavor = "multi_thread")]
async fn address_that_no_endpoint_has_never_leaves_the_node() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    count_outside(&outside, "ip daddr { 20.1.1.0/24, 203.0.113.5 }");
    // The kernel answers two at once, then one in two seconds (`ip_error`, `icmpv4_xrlim_allow`).
    for to in ["20.1.1.2", "20.1.1.127"] {
        let (error, took) = refusal(&red, to, 80);
        assert!(
            is_unreachable(error) && took < Duration::from_secs(1),
            "{to}"
        );
    }
    assert_eq!(counted_outside(&outside), 0);
    assert!(pings(&red, INTERNET) && counted_outside(&outside) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn container_sends_to_no_nodes_outer_port() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let _echo = Echo::start(&outside, 14_790);
    assert!(echoes(&red, LAN, 14_790), "another port");
    count_outside(&outside, "udp dport 14789");
    let socket = bind(&red, 0);
    for to in [LAN, "198.18.7.1", "198.18.7.2"] {
        let _ = socket.send_to(b"hello", (to, 14_789));
    }
    assert!(echoes(&red, LAN, 14_790));
    assert_eq!(counted_outside(&outside), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_of_clouds_needs_the_networks_leave() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let addresses = ["169.254.169.254", "100.100.100.200", "168.63.129.16"];
    let _server = listen(&outside, 80);
    for address in addresses {
        run(&format!("ip -n {outside} addr add {address}/32 dev lo"));
    }
    for address in addresses {
        let (error, took) = refusal(&red, address, 80);
        assert!(
            is_unreachable(error) && took < Duration::from_secs(1),
            "{address}"
        );
    }
    change(&mut world, "red", "net", |spec| spec.allow_metadata = true);
    world.sync(0).await;
    for address in addresses {
        assert!(opens(&red, address, 80).is_some(), "{address}");
    }
    change(&mut world, "red", "net", |spec| spec.allow_metadata = false);
    world.sync(0).await;
    assert!(is_closed(&red, addresses[0], 80));
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_routers_and_hops_reach_the_container() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    // A narrow link behind the machine outside.
    let narrow = world.namespace("narrow");
    for command in [
        format!("-n {outside} link add n0 mtu 1280 type veth peer name n1 mtu 1280 netns {narrow}"),
        format!("-n {outside} addr add 192.0.2.1/24 dev n0"),
        format!("-n {outside} link set n0 up"),
        format!("-n {narrow} addr add 192.0.2.2/24 dev n1"),
        format!("-n {narrow} link set n1 up"),
        format!("-n {narrow} route add default via 192.0.2.1"),
    ] {
        run(&format!("ip {command}"));
    }
    run(&format!(
        "ip netns exec {outside} sysctl -qw net.ipv4.ip_forward=1"
    ));
    assert!(pings(&red, "192.0.2.2"));
    let said = |options: &str| {
        let output = exec(&red, &format!("ping -c 1 -W 5 {options} 192.0.2.2")).stdout;
        String::from_utf8_lossy(&output).into_owned()
    };
    let too_big = said("-M do -s 1300");
    assert!(too_big.contains("mtu = 1280"), "{too_big}");
    let host_end = end_of(&world, "red", true);
    for (ttl, hop) in [(1, "20.1.1.254"), (2, host_end.as_str()), (3, LAN)] {
        let hop = format!("From {hop} icmp_seq=1 Time to live exceeded");
        let said = said(&format!("-t {ttl}"));
        assert!(said.contains(&hop), "hop {ttl}: {said}");
    }
    // A sender outside learns the container's MTU, too.
    let server = listen(&outside, 80);
    let mut stream = opens(&red, LAN, 80).expect("a way out");
    let (mut answering, _) = server.accept().expect("a client");
    let sent = vec![7; 300_000];
    let sending = std::thread::spawn(move || std::io::Write::write_all(&mut answering, &sent));
    let mut got = vec![0; 300_000];
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    std::io::Read::read_exact(&mut stream, &mut got).expect("all of it");
    sending.join().expect("no panic").expect("sent");
    assert!(echoes_from_outside_mtu(&outside, &red));
}

/// Whether an answer of 1,472 bytes, which doesn't fit the container's MTU in one packet, arrives.
fn echoes_from_outside_mtu(outside: &str, client: &str) -> bool {
    let _echo = Echo::start(outside, 9);
    echoes_all(client, 0, LAN, 9, &[1; 1_472]) || echoes_all(client, 0, LAN, 9, &[1; 1_472])
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_follow_the_hosts_default_route() {
    let (mut world, outside) = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let host = world.hosts[0].netns.clone();
    let vpn = world.namespace("vpn");
    for command in [
        format!("-n {host} link add tun0 type veth peer name eth0 netns {vpn}"),
        format!("-n {host} addr add 10.66.0.1/24 dev tun0"),
        format!("-n {host} link set tun0 up"),
        format!("-n {vpn} addr add 10.66.0.2/24 dev eth0"),
        format!("-n {vpn} addr add {INTERNET}/32 dev eth0"),
        format!("-n {vpn} link set eth0 up"),
    ] {
        run(&format!("ip {command}"));
    }
    // Docker's engine sets it on every host that it manages.
    run(&format!(
        "ip netns exec {host} sysctl -qw net.ipv4.ip_forward=1"
    ));
    let servers = [&outside, &vpn].map(|netns| bind(netns, 5_000));
    let flow = bind(&red, 4_000);
    let goes_to = |server: &UdpSocket| {
        server
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("set");
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            flow.send_to(b"hello", (INTERNET, 5_000)).expect("sent");
            let mut bytes = [0; 16];
            server
                .set_read_timeout(Some(Duration::from_millis(50)))
                .expect("set");
            if let Ok((_, from)) = server.recv_from(&mut bytes) {
                return Some(from.ip());
            }
        }
        None
    };
    assert_eq!(goes_to(&servers[0]), Some(vtep(0)));
    run(&format!("ip -n {host} route replace default via 10.66.0.2"));
    assert_eq!(goes_to(&servers[1]), Some(ip("10.66.0.1")), "the VPN is up");
    run(&format!("ip -n {host} route replace default via {LAN}"));
    assert_eq!(goes_to(&servers[0]), Some(vtep(0)), "and down");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_way_out_are_restored() {
    let (mut world, outside) = two_tenants().await;
    let _server = listen(&outside, 80);
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let fact = &world.facts.tenants[&tenant("red")];
    let uplink = node_core::desired::uplink(fact, &world.hosts[0].params).expect("a way out");
    let (cu, cw) = (&uplink.host_device, &uplink.domain_device);
    let (near, far) = (uplink.host_address, uplink.domain_address);
    let kind = world.hosts[0].params.kind;
    let table = match kind {
        bus_schema::node::DomainKind::Vrf => format!(
            "vrf {}",
            node_core::desired::domain_name(kind, &tenant("red"))
        ),
        bus_schema::node::DomainKind::Netns => String::new(),
    };
    let host = [
        format!("ip link del {cu}"),
        format!("ip link set {cu} down"),
        format!("ip link set {cu} mtu 1400"),
        format!("ip addr del {near}/32 dev {cu}"),
        format!("ip route del {far} dev {cu}"),
        format!("ip neigh del {far} dev {cu}"),
        format!("sysctl -qw net.ipv4.conf.{cu}.forwarding=0"),
        "sysctl -qw net.ipv4.conf.eth0.forwarding=0".to_owned(),
        "nft flush set inet contiv uplinks".to_owned(),
        "nft flush chain inet contiv from_domain".to_owned(),
        "nft flush chain inet contiv to_host".to_owned(),
        "nft flush chain inet contiv uplink_nat".to_owned(),
        "nft delete chain inet contiv uplink_local".to_owned(),
        "nft flush ruleset".to_owned(),
    ];
    let domain = [
        format!("ip link del {cw}"),
        format!("ip link set {cw} down"),
        format!("ip addr del {far}/32 dev {cw}"),
        format!("ip route del default via {near} {table}"),
        format!("ip neigh del {near} dev {cw}"),
        format!("ip route del unreachable 20.1.1.0/24 metric 4278198272 {table}"),
        "nft flush map inet contiv uplink_addresses".to_owned(),
        "nft flush set inet contiv nat_sources".to_owned(),
        "nft flush chain inet contiv going_out".to_owned(),
        "nft flush chain inet contiv nat_out".to_owned(),
    ];
    let netns = world.hosts[0].netns.clone();
    let of_host = host.map(|harm| (format!("ip netns exec {netns} {harm}"), harm));
    let enter = format!("nsenter --net={}", world.netfilter(0, "red").display());
    let of_domain = domain.map(|harm| (format!("{enter} {harm}"), harm));
    for (command, harm) in of_host.into_iter().chain(of_domain) {
        run(&command);
        assert_ne!(world.pending(0).await, [], "{harm}");
        world.sync(0).await;
        if harm.contains("link del") {
            // The kernel took the other end's objects away after they were read.
            world.sync(0).await;
        }
        assert_eq!(world.pending(0).await, [], "{harm}");
        assert!(opens(&red, LAN, 80).is_some(), "{harm}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uplink_goes_with_the_last_network_that_needs_it() {
    let (mut world, _outside) = two_tenants().await;
    world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.facts.tenants.clear();
    world.hosts[0].locals.clear();
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
    let host = world.hosts[0].netns.clone();
    let links = run(&format!("ip -n {host} -br link"));
    assert!(!links.contains("cu") && !links.contains("cw"), "{links}");
    let rules = run(&format!("ip netns exec {host} nft list table inet contiv"));
    assert!(!rules.contains("masquerade"), "{rules}");
}
