//! ARP of containers: a node learns nothing but its endpoints' own addresses.

use std::net::Ipv4Addr;

use crate::frames::{arp, send};
use crate::policy::one_tenant;
use crate::world::{World, exec, pings, sh};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(20, 1, 1, 254);

/// The neighbors of red's domain on a host that aren't permanent.
fn learned(world: &World, host: usize) -> Vec<String> {
    let all = world.in_domain(host, "red", "ip neigh show");
    let all = String::from_utf8_lossy(&all.stdout).into_owned();
    let learned = all.lines().filter(|it| !it.contains("PERMANENT"));
    let of_endpoints = learned.filter(|it| it.contains("dev cv"));
    of_endpoints.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn invented_senders_of_arp_are_not_learned() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let db = world.attach(0, "red", "net", "db", "20.1.1.2").await;
    let invented = || (1..=200).map(|last| Ipv4Addr::new(20, 9, 9, last));
    let others = [Ipv4Addr::new(20, 1, 1, 2), Ipv4Addr::new(20, 1, 1, 200)];
    for operation in [1, 2] {
        let senders = invented().chain(others);
        let frames =
            senders.flat_map(|from| [arp(operation, from, GATEWAY), arp(operation, from, from)]);
        send(&web, &frames.collect::<Vec<_>>());
    }
    assert_eq!(learned(&world, 0), Vec::<String>::new());
    // Its own questions are answered, also after it forgot the answers.
    for netns in [&web, &db] {
        exec(netns, "ip neigh flush all");
        assert!(pings(netns, "20.1.1.254") && pings(netns, "20.1.1.2"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_that_learns_arp_again_is_healed() {
    let mut world = one_tenant().await;
    world.sync_all().await;
    let endpoint = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    assert_eq!(world.pending(0).await, []);
    let path = world.netfilter(0, "red");
    let path = path.display();
    sh(&format!(
        "nsenter --net={path} sh -c 'for it in /proc/sys/net/ipv4/conf/*/arp_filter; do echo 0 > $it; done'"
    ));
    assert!(!world.pending(0).await.is_empty());
    world.sync(0).await;
    assert_eq!(world.pending(0).await, []);
    send(&endpoint, &[arp(1, Ipv4Addr::new(20, 9, 9, 1), GATEWAY)]);
    assert_eq!(learned(&world, 0), Vec::<String>::new());
}
