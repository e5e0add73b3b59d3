//! The host and the domains on it: neither reaches the other by accident.

use std::net::UdpSocket;

use bus_schema::node::DomainKind;
use node_core::desired::domain_name;

use crate::traffic::{Echo, SILENCE_TIMEOUT, bind, echoes, echoes_from, is_closed, listen, within};
use crate::world::{World, exec, is_silent, pings, run, tenant, vtep};

async fn one_endpoint() -> (World, String) {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    (world, web)
}

#[tokio::test(flavor = "multi_thread")]
async fn host_addresses_and_sockets_are_out_of_reach() {
    let (world, web) = one_endpoint().await;
    let host = world.hosts[0].netns.clone();
    run(&format!("ip -n {host} link add other type bridge"));
    run(&format!("ip -n {host} addr add 192.0.2.1/24 dev other"));
    run(&format!("ip -n {host} link set other up"));
    // The host lets its sockets answer whatever VRF it is, if there are any.
    let all = "net.ipv4.tcp_l3mdev_accept=1 net.ipv4.udp_l3mdev_accept=1";
    exec(&host, &format!("sysctl -e {all}"));
    let _server = listen(&host, 8080);
    let _echo = Echo::start(&host, 8081);
    assert!(!is_closed(&host, "192.0.2.1", 8080) && echoes(&host, "192.0.2.1", 8081));
    for address in [
        "198.18.7.1",
        "192.0.2.1",
        "127.0.0.1",
        "20.1.1.254",
        "169.254.53.53",
    ] {
        assert!(
            is_closed(&web, address, 8080) || address == "127.0.0.1",
            "{address}"
        );
        assert!(!echoes(&web, address, 8081), "{address}");
    }
    assert!(is_silent(&web, "198.18.7.1") && is_silent(&web, "192.0.2.1"));
    assert!(pings(&web, "20.1.1.254"), "the gateway alone");
    // The DNS server's own port isn't open either: questions go to 53.
    let server = crate::dns::server(&world, 0, "red");
    let own = server.local_addr().expect("bound").port();
    server.set_read_timeout(Some(SILENCE_TIMEOUT)).expect("set");
    let gets = |port| {
        let _ = bind(&web, 0).send_to(b"who?", ("169.254.53.53", port));
        server.recv_from(&mut [0; 16]).is_ok()
    };
    assert!(gets(53) && (own == 53 || !gets(own)));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_reaches_an_endpoint_from_within_its_domain_only() {
    let (world, web) = one_endpoint().await;
    let host = world.hosts[0].netns.clone();
    let _echo = Echo::start(&web, 7);
    assert!(is_silent(&host, "20.1.1.1"));
    assert!(!echoes(&host, "20.1.1.1", 7));
    let output = match world.hosts[0].params.kind {
        DomainKind::Vrf => {
            let vrf = domain_name(DomainKind::Vrf, &tenant("red"));
            exec(
                &host,
                &format!("ip vrf exec {vrf} ping -c 1 -w 10 20.1.1.1"),
            )
        }
        DomainKind::Netns => world.in_domain(0, "red", "ping -c 1 -w 10 20.1.1.1"),
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
}

/// The host's settings, strict on each of its devices, stay: only our devices have others.
#[tokio::test(flavor = "multi_thread")]
async fn host_settings_stay_as_they_are() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    let host = world.hosts[0].netns.clone();
    let settings = "net.ipv4.conf.all.rp_filter net.ipv4.conf.default.rp_filter \
                    net.ipv4.conf.eth0.rp_filter net.ipv4.conf.lo.rp_filter \
                    net.ipv4.conf.default.accept_local net.ipv4.conf.eth0.accept_local \
                    net.ipv4.conf.eth0.forwarding net.ipv4.conf.all.send_redirects \
                    net.ipv6.conf.all.disable_ipv6 net.ipv4.tcp_l3mdev_accept \
                    net.ipv4.udp_l3mdev_accept";
    run(&format!(
        "ip netns exec {host} sysctl -qw net.ipv4.conf.default.rp_filter=1 net.ipv4.conf.eth0.rp_filter=1"
    ));
    // A kernel without VRFs lacks two of them.
    let read = || run(&format!("ip netns exec {host} sysctl -e {settings}"));
    let rules = || run(&format!("ip -n {host} rule list"));
    let before = (read(), rules());
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    assert!(pings(&web, "20.1.1.129"));
    // The other node's gateway has the address of the one here.
    let said = exec(&web, "ping -c 1 -W 5 -t 2 20.1.1.129").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("From 20.1.1.254"), "{said}");
    let strict = |all: u8| {
        let setting = format!("sysctl -qw net.ipv4.conf.all.rp_filter={all}");
        run(&format!("ip netns exec {host} {setting}"))
    };
    // This overrides what a device has.
    strict(1);
    assert!(pings(&web, "20.1.1.129"));
    strict(0);
    assert_eq!(read(), before.0);
    world.facts.tenants.clear();
    world.hosts[0].locals.clear();
    world.sync(0).await;
    assert_eq!(read(), before.0);
    let left = rules();
    let lines = |text: &str| text.lines().filter(|it| !it.contains("l3mdev")).count();
    assert_eq!(lines(&left), lines(&before.1), "{left}");
    within(&host, || {
        UdpSocket::bind("0.0.0.0:53").expect("nobody of ours is left there")
    });
}

/// The kernel's own `nft_zones_many.sh`, with whole domains.
#[tokio::test(flavor = "multi_thread")]
async fn many_tenants_have_the_same_addresses_and_connections() {
    const TENANTS: u32 = 12;
    let mut world = World::new().await;
    let names: Vec<String> = (0..TENANTS).map(|number| format!("t{number}")).collect();
    for (name, vni) in names.iter().zip(2_000..) {
        world.network(name, "net", vni);
    }
    world.sync(0).await;
    let mut echoes = Vec::new();
    for name in &names {
        let web = world.attach(0, name, "net", "web", "20.1.1.1").await;
        let app = world.attach(0, name, "net", "app", "20.1.1.2").await;
        echoes.push((web, Echo::start(&app, 7)));
    }
    // The same source port in all of them, one after the other and once more.
    for _ in 0..2 {
        for (web, _echo) in &echoes {
            assert!(echoes_from(web, 4_000, "20.1.1.2", 7), "{web}");
        }
    }
    if world.hosts[0].params.kind == DomainKind::Vrf {
        let host = &world.hosts[0].netns;
        let listed = run(&format!(
            "ip netns exec {host} conntrack -L -p udp --sport 4000"
        ));
        let zones = listed.lines().filter(|line| line.contains("zone="));
        assert_eq!(zones.count(), TENANTS as usize, "{listed}");
    }
}

/// The kernel's own `test_vxlan_under_vrf.sh` has VXLAN there; ours would be sent elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn underlay_in_a_vrf_is_refused() {
    let world = World::new().await;
    let host = &world.hosts[0];
    let mtu = host.datapath.link_mtu(vtep(0)).await;
    assert_eq!(mtu.expect("there"), Some(1500));
    if host.params.kind == DomainKind::Netns {
        return;
    }
    run(&format!(
        "ip -n {} link add others type vrf table 99",
        host.netns
    ));
    run(&format!("ip -n {} link set eth0 master others", host.netns));
    let error = host.datapath.link_mtu(vtep(0)).await.expect_err("refused");
    assert!(
        error.to_string().contains("in VRF others by eth0"),
        "{error}"
    );
}
