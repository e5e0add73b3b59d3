//! Forged packets on an IPv6 underlay.

use std::net::{SocketAddr, UdpSocket};

use bus_schema::MachineId;
use node_core::projection::NodeFact;
use node_core::resource::OuterDrop;

use crate::forged::OUTER;
use crate::strangers::{RECEIVE_TIMEOUT, counted, dropped, second_card};
use crate::traffic::within;
use crate::world::{World, exec, ip, run};

/// The addresses of both nodes and of the stranger.
const ADDRESSES: [&str; 3] = ["fd00:18:7::1", "fd00:18:7::2", "fd00:18:7::3"];

/// Gives nodes and stranger IPv6 addresses, and the stranger behind the second card that of node 0.
fn ipv6_underlay(world: &mut World, beside: &str) -> [String; 3] {
    let [node, host] = [0, 1].map(|host: usize| world.hosts[host].netns.clone());
    let stranger = world.stranger();
    for (netns, address) in [&node, &host, &stranger].into_iter().zip(ADDRESSES) {
        run(&format!(
            "ip -n {netns} addr add {address}/64 dev eth0 nodad"
        ));
    }
    for command in [
        format!("-n {host} addr add fd00:113::1/64 dev eth1 nodad"),
        format!("-n {beside} addr add fd00:113::2/64 dev eth0 nodad"),
        format!("-n {beside} link set lo up"),
        format!("-n {beside} addr add {}/128 dev lo nodad", ADDRESSES[0]),
        format!("-n {beside} route add default via fd00:113::1"),
    ] {
        run(&format!("ip {command}"));
    }
    for (number, address) in ADDRESSES[..2].iter().enumerate() {
        world.hosts[number].params.vtep = ip(address);
        let fact = NodeFact::new(MachineId(format!("machine-{number}")), ip(address));
        let name = world.hosts[number].params.node.clone();
        world.facts.nodes.insert(name, fact);
    }
    [node, host, stranger]
}

/// The rules alone, and a socket in place of VXLAN's: no tenant is on an IPv6 underlay yet.
#[tokio::test(flavor = "multi_thread")]
async fn forged_packets_are_dropped_on_an_ipv6_underlay() {
    let mut world = World::new().await;
    let beside = second_card(&mut world);
    let [node, host, stranger] = ipv6_underlay(&mut world, &beside);
    world.sync(1).await;
    let socket = within(&host, || UdpSocket::bind(("::", OUTER)).expect("free"));
    socket.set_read_timeout(Some(RECEIVE_TIMEOUT)).expect("set");
    let gets = || {
        let mut bytes = [0; 16];
        let (length, _) = socket.recv_from(&mut bytes).expect("something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let from = |netns: &str, from: &str, to: &str, bytes: &[u8]| {
        within(netns, || {
            let socket = UdpSocket::bind((from, 0)).expect("its own");
            let socket = socket2::SockRef::from(&socket);
            socket.bind_device(Some(b"eth0")).expect("it has one");
            let to = SocketAddr::new(ip(to), OUTER);
            socket.send_to(bytes, &to.into()).expect("sent");
        });
    };
    let [n1, n2, none] = ADDRESSES;
    let cases = [
        (&stranger, none, n2, OuterDrop::Sender),
        (&stranger, none, "ff02::1", OuterDrop::Sender),
        (&beside, n1, n2, OuterDrop::Interface),
        (&beside, n1, "ff02::1", OuterDrop::Interface),
        // This host has no rules yet.
        (&node, n1, "ff02::1", OuterDrop::Address),
    ];
    let flush = "nft flush chain inet contiv outer";
    assert!(exec(&host, flush).status.success());
    for (netns, source, to, reason) in cases {
        from(netns, source, to, b"forged");
        assert_eq!(gets(), "forged", "{reason:?} to {to}");
    }
    world.sync(1).await;
    for (netns, source, to, reason) in cases {
        let before = dropped(&world, 1, reason).await;
        from(netns, source, to, b"forged");
        counted(&world, 1, reason, before).await;
        from(&node, n1, n2, b"of a node");
        assert_eq!(gets(), "of a node", "{reason:?} to {to}");
    }
}
