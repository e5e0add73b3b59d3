//! ARP of containers: a node learns nothing from it, and answers it for the gateway only.

use std::net::Ipv4Addr;

use bus_schema::MacAddr;
use node_core::resource::Veth;

use crate::frames::{arp, send, send_on};
use crate::policy::one_tenant;
use crate::world::{World, exec, pings, run, sh, vtep};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(20, 1, 1, 254);

/// The neighbors of red's domain on a host that are on our devices and aren't permanent.
fn learned(world: &World, host: usize) -> Vec<String> {
    let all = world.in_domain(host, "red", "ip neigh show");
    assert!(all.status.success(), "{all:?}");
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    let learned = all.lines().filter(|it| !it.contains("PERMANENT"));
    let of_ours = learned.filter(|it| it.contains("dev cv") || it.contains("dev cx"));
    of_ours.map(str::to_owned).collect()
}

/// The neighbor that a container has for an address after it asked.
fn answer(netns: &str, source: &str, address: &str) -> String {
    exec(netns, "ip neigh flush all");
    exec(netns, &format!("ping -c 1 -W 1 -I {source} {address}"));
    run(&format!("ip -n {netns} neigh show {address}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_senders_of_arp_are_not_learned() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let db = world.attach(0, "red", "net", "db", "20.1.1.2").await;
    let permanent = world.in_domain(0, "red", "ip neigh show nud permanent");
    let invented = (1..=200).map(|last| Ipv4Addr::new(20, 9, 9, last));
    // Of another endpoint, of nobody, of the gateway, and the endpoint's own with another MAC address.
    let others = [2, 200, 254, 1].map(|last| Ipv4Addr::new(20, 1, 1, last));
    let senders: Vec<_> = invented.chain(others).collect();
    for operation in [1, 2] {
        let frames = senders.iter().flat_map(|from| {
            [GATEWAY, *from].map(|to| arp(Veth::HOST_MAC.0, operation, *from, to))
        });
        send(&web, &frames.collect::<Vec<_>>());
    }
    assert_eq!(learned(&world, 0), Vec::<String>::new());
    let after = world.in_domain(0, "red", "ip neigh show nud permanent");
    assert_eq!(after.stdout, permanent.stdout);
    // Its own questions are answered, also after it forgot the answers.
    for netns in [&web, &db] {
        exec(netns, "ip neigh flush all");
        assert!(pings(netns, "20.1.1.254") && pings(netns, "20.1.1.2"));
    }
}

/// As from a node that somebody took over.
#[tokio::test(flavor = "multi_thread")]
async fn arp_of_other_nodes_is_not_learned() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let mac = MacAddr::of_vtep(vtep(0)).0;
    let senders = (1..=50).map(|last| Ipv4Addr::new(20, 9, 9, last));
    let frames: Vec<_> = senders.map(|from| arp(mac, 1, from, GATEWAY)).collect();
    send_on(&world.netfilter(1, "red"), "cx1001", &frames);
    // A packet that is sent after them is there.
    assert!(pings(&web, "20.1.1.129"));
    assert_eq!(learned(&world, 0), Vec::<String>::new());
}

/// A container asks in the name of any address that it has (`arp_announce` 0): of one in another
/// network of ours, or in a network that isn't ours.
#[tokio::test(flavor = "multi_thread")]
async fn gateway_answers_whoever_asks_for_it() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    run(&format!("ip -n {web} address add 172.17.0.2/32 dev lo"));
    for source in ["20.1.1.1", "172.17.0.2"] {
        let answer = answer(&web, source, "20.1.1.254");
        let mac = Veth::HOST_MAC.to_string();
        assert!(answer.contains(&mac), "{source}: {answer}");
    }
    assert_eq!(learned(&world, 0), Vec::<String>::new());
}

/// In a VRF the host has its other addresses beside the domain's.
#[tokio::test(flavor = "multi_thread")]
async fn host_answers_no_arp_for_its_other_addresses() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let host = vtep(0).to_string();
    run(&format!("ip -n {web} route add {host} dev eth0"));
    let answer = answer(&web, "20.1.1.1", &host);
    assert!(!answer.contains("lladdr"), "{answer}");
}

/// Also an upgrade from a build without this table: nothing else is touched.
#[tokio::test(flavor = "multi_thread")]
async fn lost_table_about_arp_is_made_again_alone() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let netns = world.netfilter(0, "red");
    let deleted = sh(&format!(
        "nsenter --net={} nft delete table arp contiv",
        netns.display()
    ));
    assert!(deleted.status.success(), "{deleted:?}");
    let place = world.place_of(0, "red");
    let port = world.hosts[0].locals.values().next().expect("attached");
    let port = port.host_interface.clone();
    let ops = world.pending(0).await;
    let ops: Vec<_> = ops.iter().map(ToString::to_string).collect();
    let netfilter = place.netfilter();
    assert_eq!(
        ops,
        [
            format!("+ table arp contiv (1 chains, 3 rules) in {netfilter}"),
            format!("+ element arp_senders {{ \"{port}\" : 20.1.1.1 }} in {place}"),
            format!("+ element arp_targets {{ \"{port}\" : 20.1.1.254 }} in {place}"),
        ]
    );
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
    let from = Ipv4Addr::new(20, 9, 9, 1);
    send(&web, &[arp(Veth::HOST_MAC.0, 1, from, GATEWAY)]);
    assert_eq!(learned(&world, 0), Vec::<String>::new());
}
