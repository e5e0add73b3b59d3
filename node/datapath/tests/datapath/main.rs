//! The datapath in real namespaces, by its own API: two hosts, real packets. Needs root.

mod agreement;
mod closed;
mod connections;
mod dns;
mod figures;
mod forged;
mod frames;
mod host_firewall;
mod marks;
mod neighbors;
mod netlink;
mod outside;
mod outside_rules;
mod policy;
mod reach;
mod replaced;
mod rule_text;
mod senders;
mod shell;
mod strangers;
mod strangers_ipv6;
mod traffic;
mod world;

use bus_schema::node::DomainKind;
use bus_schema::{EndpointId, NodeName};
use node_core::desired::domain_name;
use node_datapath::{KernelChange, Scope};
use std::sync::Arc;
use std::time::Duration;
use world::{World, exec, is_silent, pings, run};

/// Counts what reaches a local endpoint with this mark, in the domain's forward hook.
fn count_mark(world: &World, host: usize, tenant: &str, mark: u32) {
    let probe = format!(
        "nft -f - <<'X'\ntable inet probe {{\nchain f {{\ntype filter hook forward priority -10\n\
         oifname \"cv*\" meta mark {mark} counter\n}}\n}}\nX"
    );
    let output = world.in_domain(host, tenant, &probe);
    assert!(output.status.success(), "{output:?}");
}

fn counted(world: &World, host: usize, tenant: &str) -> u64 {
    let output = world.in_domain(host, tenant, "nft list table inet probe");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("{text}"))
}

/// Tenants `red` and `blue`, each with a network of the same subnet.
async fn two_tenants() -> World {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world.network("blue", "net", 1002);
    world.sync_all().await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_reach_each_other_across_hosts_and_never_another_tenant() {
    let mut world = two_tenants().await;
    let red = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let red_too = world.attach(0, "red", "net", "app", "20.1.1.2").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let blue = world.attach(0, "blue", "net", "web", "20.1.1.1").await;

    assert!(pings(&red, "20.1.1.129"), "across hosts");
    assert!(pings(&red, "20.1.1.2"), "on one host");
    assert!(pings(&red_too, "20.1.1.129"), "across hosts, the other one");
    assert!(pings(&red, "20.1.1.254"), "the gateway");
    for hop in 1..=2 {
        let output = exec(&red, &format!("ping -c 1 -W 5 -t {hop} 20.1.1.129"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let expected = "From 20.1.1.254 icmp_seq=1 Time to live exceeded";
        assert!(said.contains(expected), "hop {hop}: {said}");
    }
    assert!(
        is_silent(&blue, "20.1.1.129"),
        "blue has no such endpoint, red has"
    );
    assert!(is_silent(&blue, "20.1.1.2"), "not on the same host either");

    world.attach(1, "blue", "net", "db", "20.1.1.130").await;
    assert!(pings(&blue, "20.1.1.130"), "blue across hosts");
    assert!(
        is_silent(&red, "20.1.1.130"),
        "red has no such endpoint, blue has"
    );
    assert!(
        is_silent(&red, "198.18.7.1"),
        "a host's own address isn't a tenant's"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_stamp_arrives_and_a_spoofed_source_does_not() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    count_mark(&world, 1, "red", 1);
    let once = "ping -c 1 -W 5 20.1.1.129";
    assert!(exec(&web, once).status.success());
    assert_eq!(counted(&world, 1, "red"), 1, "the request, stamped");

    run(&format!("ip -n {web} addr add 20.1.1.77/32 dev eth0"));
    exec(&web, "ping -c 1 -W 1 -I 20.1.1.77 20.1.1.129");
    assert_eq!(counted(&world, 1, "red"), 1, "the spoofed one isn't there");
}

#[tokio::test(flavor = "multi_thread")]
async fn outer_port_is_closed_to_strangers() {
    let mut world = two_tenants().await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    count_mark(&world, 1, "red", 1);
    let stranger = world.stranger();
    let mac = bus_schema::MacAddr::of_vtep(world::vtep(1));
    for command in [
        "link add vx type vxlan id 1001 dstport 14789 remote 198.18.7.2 gbp".to_owned(),
        "addr add 20.1.1.9/32 dev vx".to_owned(),
        "link set vx up".to_owned(),
        "route add 20.1.1.129 dev vx".to_owned(),
        format!("neigh add 20.1.1.129 lladdr {mac} dev vx nud permanent"),
    ] {
        run(&format!("ip -n {stranger} {command}"));
    }
    for rule in [
        "add table inet t",
        "add chain inet t o { type route hook output priority 0 ; }",
        "add rule inet t o oifname vx meta mark set 1",
    ] {
        run(&format!("ip netns exec {stranger} nft '{rule}'"));
    }

    exec(&stranger, "ping -c 1 -W 1 20.1.1.129");
    assert_eq!(counted(&world, 1, "red"), 0);
    world.join(2);
    world.sync(1).await;
    exec(&stranger, "ping -c 1 -W 1 20.1.1.129");
    assert_eq!(counted(&world, 1, "red"), 1, "as a node it is let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_packets_pass_and_bigger_ones_get_the_limit() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let full = "ping -c 1 -W 5 -M do -s 1422 20.1.1.129";
    assert!(exec(&web, full).status.success(), "1450 bytes pass");
    run(&format!("ip -n {web} link set eth0 mtu 1500"));
    let output = exec(&web, "ping -c 1 -W 1 -M do -s 1423 20.1.1.129");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        !output.status.success() && said.contains("mtu = 1450"),
        "{said}"
    );
}

/// Containers keep their MTU, and learn that of the path.
#[tokio::test(flavor = "multi_thread")]
async fn smaller_underlay_loses_no_full_packet() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    for host in &mut world.hosts {
        host.params.underlay_mtu = 1_400;
        for id in host.locals.clone().keys() {
            Arc::make_mut(&mut host.locals[id]).mtu = Some(1_450);
        }
    }
    world.sync_all().await;
    assert_eq!(world.pending(0).await, []);
    let shown = run(&format!("ip -n {web} link show eth0"));
    assert!(shown.contains("mtu 1450 "), "{shown}");
    let output = exec(&web, "ping -c 1 -W 5 -M do -s 1422 20.1.1.129");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("mtu = 1350"), "{said}");
    // Fragmented for the path.
    let ping = exec(&web, "ping -c 1 -W 5 -M dont -s 1422 20.1.1.129");
    assert!(ping.status.success(), "{ping:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn observed_state_is_the_desired_one_also_after_a_restart() {
    let mut world = two_tenants().await;
    world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(0, "blue", "net", "web", "20.1.1.1").await;
    assert_eq!(world.pending(0).await, []);
    assert_eq!(world.pending(1).await, []);
    world.reopen(0).await;
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_is_reported_exactly_and_reverted() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let kind = world.hosts[0].params.kind;
    let table = match kind {
        DomainKind::Vrf => format!("vrf {}", domain_name(kind, &world::tenant("red"))),
        DomainKind::Netns => String::new(),
    };
    for (harm, expected) in [
        (
            format!("ip route del 20.1.1.128/25 {table}"),
            "+ route 20.1.1.128/25 via 198.18.7.2",
        ),
        (
            "nft flush chain inet contiv from_endpoint".to_owned(),
            "~ table inet contiv",
        ),
        (
            "nft flush set inet contiv endpoints".to_owned(),
            "+ element endpoints",
        ),
        (
            "nft flush map arp contiv arp_senders".to_owned(),
            "+ element arp_senders",
        ),
        (
            "nft flush chain arp contiv arriving".to_owned(),
            "~ table arp contiv",
        ),
        (
            "ip neigh flush dev cx1001 nud permanent".to_owned(),
            "+ neigh 198.18.7.2",
        ),
        (
            "ip link set cx1001 mtu 1400".to_owned(),
            "~ link cx1001 type vxlan",
        ),
    ] {
        let output = world.in_domain(0, "red", &format!("sh -c \"{harm}\""));
        assert!(output.status.success(), "{harm}: {output:?}");
        let ops = world.pending(0).await;
        let lines: Vec<String> = ops.iter().map(ToString::to_string).collect();
        assert!(
            lines.len() == 1 && lines[0].starts_with(expected),
            "{harm}: {lines:#?}"
        );
        world.sync(0).await;
        assert_eq!(world.pending(0).await, [], "{harm}");
        assert!(pings(&web, "20.1.1.129"), "{harm}");
    }
}

/// Only in VRFs: the container keeps its interface.
#[tokio::test(flavor = "multi_thread")]
async fn device_out_of_its_vrf_is_put_back() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    if world.hosts[0].params.kind == DomainKind::Netns {
        return;
    }
    let (host, port) = {
        let host = &world.hosts[0];
        let local = host.locals.values().next().expect("attached");
        (host.netns.clone(), local.host_interface.clone())
    };
    let index = run(&format!("ip -n {web} -o link show eth0"));
    let blue = domain_name(DomainKind::Vrf, &world::tenant("blue"));
    for master in ["nomaster".to_owned(), format!("master {blue}")] {
        for device in [port.as_str(), "cx1001"] {
            run(&format!("ip -n {host} link set {device} {master}"));
            assert!(is_silent(&web, "20.1.1.129"), "{device} {master}");
            world.sync(0).await;
            assert_eq!(world.pending(0).await, [], "{device} {master}");
            assert!(pings(&web, "20.1.1.129"), "{device} {master}");
        }
    }
    assert_eq!(run(&format!("ip -n {web} -o link show eth0")), index);
}

/// Only in VRFs; systemd-networkd 255 deletes the rule when it restarts.
#[tokio::test(flavor = "multi_thread")]
async fn rule_of_vrfs_is_restored() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let host = world.hosts[0].netns.clone();
    let rules = || run(&format!("ip -n {host} rule show pref 1000"));
    let before = rules();
    if world.hosts[0].params.kind == DomainKind::Netns {
        assert_eq!(before, "", "a namespace needs none");
        return;
    }
    let datapath = &world.hosts[0].datapath;
    let mut changes = datapath.kernel_changes().await.expect("its receiver");
    run(&format!("ip -n {host} rule del pref 1000"));
    let heard = async { while changes.next().await != KernelChange::Changed {} };
    let heard = tokio::time::timeout(Duration::from_secs(10), heard).await;
    heard.expect("the kernel notifies of it");
    assert!(is_silent(&web, "20.1.1.129"));
    let lines = world.pending(0).await;
    let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["+ rule pref 1000 l3mdev in host"]);
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
    assert_eq!(rules(), before, "as the kernel's own");
    assert!(pings(&web, "20.1.1.129"));
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoint_of_a_revoked_block_is_closed() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let app = world.attach(0, "red", "net", "app", "20.1.1.2").await;
    let red = world::tenant("red");
    let network = &mut world.facts.tenants[&red].networks;
    let name = bus_schema::NetworkName::new("net").expect("valid");
    let fact = network.get_mut(&name).expect("its network");
    let other = NodeName::new("n2").expect("valid");
    fact.blocks.insert(world::net("20.1.1.0/25"), other);
    world.sync(0).await;
    assert!(is_silent(&web, "20.1.1.2") && is_silent(&app, "20.1.1.254"));
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_with_the_address() {
    let mut world = two_tenants().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(0, "red", "net", "app", "20.1.1.2").await;
    assert!(pings(&web, "20.1.1.2"));
    let entries = |world: &World| {
        let output = world.in_domain(0, "red", "cat /proc/net/nf_conntrack");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    if !entries(&world).contains("dst=20.1.1.2 ") {
        // A kernel without CONFIG_NF_CONNTRACK_PROCFS doesn't show its entries.
        assert!(!std::path::Path::new("/proc/net/nf_conntrack").exists());
        return;
    }
    let gone = EndpointId::new("red-app").expect("valid");
    world.hosts[0].locals.remove(&gone);
    world.sync(0).await;
    assert!(!entries(&world).contains("dst=20.1.1.2 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_desired_state_leaves_nothing() {
    let mut world = two_tenants().await;
    world.attach(0, "red", "net", "web", "20.1.1.1").await;
    run(&format!(
        "ip -n {} link add mine type bridge",
        world.hosts[0].netns
    ));
    world.facts.tenants.clear();
    world.hosts[0].locals.clear();
    world.sync(0).await;
    let left = world.hosts[0]
        .datapath
        .observe(&Scope::All)
        .await
        .expect("observed");
    assert_eq!(left.domains().count(), 0);
    assert_eq!(left, world.desired(0));
    let links = run(&format!("ip -n {} -br link", world.hosts[0].netns));
    assert!(!links.contains("cx") && !links.contains("cv"), "{links}");
    assert!(links.contains("mine"), "what isn't ours stays: {links}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_op_is_reported_and_the_rest_is_done() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    let host = world.hosts[0].netns.clone();
    run(&format!(
        "ip -n {host} link add other type vxlan id 1001 dstport 14789 gbp"
    ));
    let ops = world.pending(0).await;
    let error = world.hosts[0].datapath.execute(&ops).await;
    let said = error.expect_err("the VNI is taken").to_string();
    assert!(
        said.contains("another device of this host has VNI 1001"),
        "{said}"
    );

    run(&format!("ip -n {host} link del other"));
    let left: Vec<_> = world
        .pending(0)
        .await
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        left.iter().all(|op| op.contains("cx1001")),
        "the rest was done: {left:#?}"
    );
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn stray_device_of_ours_is_removed() {
    let world = World::new().await;
    let host = world.hosts[0].netns.clone();
    run(&format!(
        "ip -n {host} link add cx7 type vxlan id 7 dstport 14789 gbp"
    ));
    world.sync(0).await;
    let links = run(&format!("ip -n {host} -br link"));
    assert!(!links.contains("cx7"), "{links}");
}
