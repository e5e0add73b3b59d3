//! Hand-made frames: fragments, cut headers, other ethertypes and tags are no way around the rules.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::policy::{in_group, one_tenant};
use crate::traffic::{listen, opens, within};
use crate::world::{World, exec, run, sh};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const VLAN: u16 = 0x8100;

const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// More fragments follow.
pub(crate) const MORE: u16 = 0x2000;

/// Allowed and denied ports of `web`, for TCP and UDP.
const ALLOWED: u16 = 80;
const DENIED: u16 = 81;

/// Sends whole frames on the container's interface, past its own stack.
pub(crate) fn send(netns: &str, frames: &[Vec<u8>]) {
    send_on(Path::new(netns), "eth0", frames);
}

/// Sends whole frames on an interface of the namespace at `netns`.
pub(crate) fn send_on(netns: &Path, interface: &str, frames: &[Vec<u8>]) {
    within(netns, || {
        let mut all = getifaddrs().expect("a list");
        let link: LinkAddr = all
            .find_map(|it| {
                let link = *it.address?.as_link_addr()?;
                (it.interface_name == interface).then_some(link)
            })
            .expect("the interface");
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None);
        let socket = socket.expect("root");
        for frame in frames {
            let sent = sendto(socket.as_raw_fd(), frame, &link, MsgFlags::empty());
            assert_eq!(sent, Ok(frame.len()));
        }
    });
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let to = node_core::resource::Veth::HOST_MAC.0;
    let from = [2, 2, 9, 9, 9, 9];
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// A frame of ARP (RFC 826) to `mac`: operation 1 asks for `to`, 2 answers it.
pub(crate) fn arp(mac: [u8; 6], operation: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let sender = [2, 2, 9, 9, 9, 9];
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    let kind = ARP.to_be_bytes();
    let parts: [&[u8]; 8] = [
        &mac,
        &sender,
        &kind,
        &head,
        &sender,
        &from.octets(),
        &[0; 6],
        &to.octets(),
    ];
    parts.concat()
}

fn tagged(vlan: u16, payload: &[u8]) -> Vec<u8> {
    let inner = [&vlan.to_be_bytes()[..], &IPV4.to_be_bytes(), payload].concat();
    ethernet(VLAN, &inner)
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let words = bytes.chunks(2).map(|it| {
        let low = it.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([it[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// One packet, or one fragment of it; `offset` in units of eight bytes.
pub(crate) fn ipv4(
    ends: (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    id: u16,
    offset: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("short");
    let mut header = [&[0x45, 0][..], &length.to_be_bytes(), &id.to_be_bytes()].concat();
    header.extend(offset.to_be_bytes());
    header.extend([64, protocol, 0, 0]);
    header.extend(ends.0.octets());
    header.extend(ends.1.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    header.extend(payload);
    header
}

pub(crate) fn udp(port: u16) -> Vec<u8> {
    // No checksum: IPv4 allows it.
    [
        &4000u16.to_be_bytes()[..],
        &port.to_be_bytes(),
        &[0, 16, 0, 0],
        b"datagram",
    ]
    .concat()
}

fn syn((from, to): (Ipv4Addr, Ipv4Addr), source: u16, port: u16) -> Vec<u8> {
    let mut segment = [&source.to_be_bytes()[..], &port.to_be_bytes()].concat();
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0, 0, 0, 0, 0]);
    let length = u16::try_from(segment.len()).expect("short").to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &[0, TCP], &length].concat();
    let sum = checksum(&[&pseudo, &segment]);
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// Counts what reaches the container, before its own stack.
fn count(netns: &str) {
    let rules = [
        // The host's own end may look for neighbours.
        ("six", "ip6 daddr != { fe80::/10, ff00::/8 }"),
        ("denied", "ip protocol { tcp, udp } th dport 81"),
        ("allowed", "ip protocol { tcp, udp } th dport 80"),
        ("allowed", "ip id { 20, 21 }"),
        ("strange", "meta protocol ip"),
    ];
    let rules = rules.map(|(name, what)| format!("{what} counter name {name} accept"));
    let names = ["six", "denied", "allowed", "strange"];
    let names = names.map(|name| format!("counter {name} {{ }}"));
    let table = format!(
        "table netdev probe {{\n{}\nchain c {{ type filter hook ingress device eth0 priority 0;\n{}\n}}\n}}",
        names.join("\n"),
        rules.join("\n")
    );
    let output = exec(netns, &format!("nft -f - <<'X'\n{table}\nX"));
    assert!(output.status.success(), "{output:?}");
}

fn counted(netns: &str, name: &str) -> u64 {
    let output = exec(netns, &format!("nft list counter netdev probe {name}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|it| *it != "packets");
    let number = words.nth(1).and_then(|it| it.parse().ok());
    number.unwrap_or_else(|| panic!("{text} {output:?}"))
}

/// `web` on the first host takes all but port 81; a client beside it, and one on the other host.
async fn web() -> (World, String, [(String, Ipv4Addr); 2]) {
    let mut world = one_tenant().await;
    let rules = ["1 in deny tcp 81", "2 in deny udp 81"];
    world.policy("red", "only", &rules);
    world.group("red", "web", 2, &["only"]);
    world.sync_all().await;
    let web = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let near = world.attach(0, "red", "net", "near", "20.1.1.2").await;
    let far = world.attach(1, "red", "net", "far", "20.1.1.129").await;
    let near = (near, Ipv4Addr::new(20, 1, 1, 2));
    let far = (far, Ipv4Addr::new(20, 1, 1, 129));
    (world, web, [near, far])
}

/// Waits until what was sent before has arrived: a connection behind it opens.
fn settled(client: &str) {
    assert!(opens(client, "20.1.1.1", ALLOWED).is_some());
}

/// Frames that a filter of ports may take for something else.
fn denied_frames(ends: (Ipv4Addr, Ipv4Addr)) -> Vec<Vec<u8>> {
    let packet = |protocol, id, offset, payload: &[u8]| {
        ethernet(IPV4, &ipv4(ends, protocol, id, offset, payload))
    };
    let denied = syn(ends, 5001, DENIED);
    let mut frames = vec![
        // As they are sent, for comparison.
        packet(UDP, 1, 0, &udp(DENIED)),
        packet(TCP, 2, 0, &denied),
        // A header that ends before the ports, in their midst, and before the flags.
        packet(TCP, 3, 0, &[]),
        packet(TCP, 4, 0, &denied[..2]),
        packet(TCP, 5, 0, &denied[..4]),
        packet(TCP, 6, 0, &denied[..12]),
        packet(UDP, 7, 0, &udp(DENIED)[..4]),
        packet(UDP, 8, 0, &[]),
        // The flags in a second fragment.
        packet(TCP, 9, MORE, &denied[..8]),
        packet(TCP, 9, 1, &denied[8..]),
        // No first fragment at all.
        packet(TCP, 10, 1, &denied[8..]),
        packet(UDP, 11, 1, &udp(DENIED)),
        // The first fragment last.
        packet(UDP, 12, 1, &udp(DENIED)[8..]),
        packet(UDP, 12, MORE, &udp(DENIED)[..8]),
    ];
    // An allowed port first, then a fragment that writes another one over it.
    let allowed = syn(ends, 5002, ALLOWED);
    let longer = [&allowed[..], &[0; 12]].concat();
    frames.extend([
        packet(TCP, 13, MORE, &longer[..24]),
        packet(TCP, 13, MORE, &syn(ends, 5002, DENIED)[..8]),
        packet(TCP, 13, 3, &longer[24..]),
    ]);
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_headers_and_fragments_bypass_no_rule() {
    let (_world, web, clients) = web().await;
    let _listeners = [listen(&web, ALLOWED), listen(&web, DENIED)];
    let to = Ipv4Addr::new(20, 1, 1, 1);
    for (client, from) in &clients {
        settled(client);
        count(&web);
        let ends = (*from, to);
        send(client, &denied_frames(ends));
        // Behind all of them, the same with a port that is allowed.
        let packet = |protocol, id, offset, payload: &[u8]| {
            ethernet(IPV4, &ipv4(ends, protocol, id, offset, payload))
        };
        let fine = syn(ends, 5003, ALLOWED);
        send(
            client,
            &[
                packet(UDP, 20, MORE, &udp(ALLOWED)[..8]),
                packet(UDP, 20, 1, &udp(ALLOWED)[8..]),
                packet(TCP, 21, MORE, &fine[..8]),
                packet(TCP, 21, 1, &fine[8..]),
            ],
        );
        settled(client);
        assert_eq!(counted(&web, "denied"), 0, "from {from}");
        assert_eq!(counted(&web, "strange"), 0, "parts of them from {from}");
        // Two fragments each, the reset of what nobody asked for, the connection behind.
        let passed = counted(&web, "allowed");
        assert!(
            passed >= 6,
            "what is allowed passes in fragments, too: {passed}"
        );
        sh(&format!(
            "ip netns exec {web} nft delete table netdev probe"
        ));
    }
}

/// Does for IPv6 all that a container and a careless administrator of the host can do.
fn open_ipv6(world: &World, web: &str, clients: &[(String, Ipv4Addr); 2]) {
    let route = "sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv6.conf.all.disable_ipv6=0";
    for host in 0..2 {
        world.in_domain(host, "red", route);
    }
    for (netns, address) in [
        (web, "fd00::1"),
        (clients[0].0.as_str(), "fd00::2"),
        (clients[1].0.as_str(), "fd00::3"),
    ] {
        let ip = format!("ip -n {netns}");
        run(&format!(
            "ip netns exec {netns} sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0"
        ));
        run(&format!("{ip} addr add {address}/128 dev eth0 nodad"));
        let mac = node_core::resource::Veth::HOST_MAC;
        run(&format!(
            "{ip} neigh replace fe80::1 lladdr {mac} dev eth0 nud permanent"
        ));
        run(&format!(
            "{ip} route replace fd00::/64 via fe80::1 dev eth0 onlink"
        ));
    }
    let device = run(&format!(
        "ip netns exec {web} cat /sys/class/net/eth0/iflink"
    ));
    let device = device.trim();
    let find = format!("ip -o link | sed -n 's/^{device}: \\([^@:]*\\).*/\\1/p'");
    let veth = world.in_domain(0, "red", &format!("sh -c \"{find}\""));
    let veth = String::from_utf8_lossy(&veth.stdout).trim().to_owned();
    let mac = run(&format!(
        "ip netns exec {web} cat /sys/class/net/eth0/address"
    ));
    for command in [
        format!("ip -6 route replace fd00::1 dev {veth}"),
        format!(
            "ip -6 neigh replace fd00::1 lladdr {} dev {veth} nud permanent",
            mac.trim()
        ),
    ] {
        let done = world.in_domain(0, "red", &command);
        assert!(done.status.success(), "{command}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_ethertypes_and_tags_bypass_no_rule() {
    let (world, web, clients) = web().await;
    let _listeners = [listen(&web, ALLOWED), listen(&web, DENIED)];
    open_ipv6(&world, &web, &clients);
    let to = Ipv4Addr::new(20, 1, 1, 1);
    for (client, from) in &clients {
        settled(client);
        count(&web);
        let _ = exec(client, "ping -6 -c 2 -i 0.1 -W 1 fd00::1");
        let datagram = ipv4((*from, to), UDP, 1, 0, &udp(DENIED));
        let allowed = ipv4((*from, to), UDP, 2, 0, &udp(ALLOWED));
        let claim = [
            &[0, 1, 8, 0, 6, 4, 0, 2][..],
            &[2, 2, 9, 9, 9, 9],
            &to.octets(),
            &[2, 1, 0, 0, 0, 1],
            &Ipv4Addr::new(20, 1, 1, 254).octets(),
        ]
        .concat();
        send(
            client,
            &[
                ethernet(IPV6, &datagram),
                tagged(0, &datagram),
                tagged(5, &datagram),
                // The address of `web` is claimed by somebody else, twice.
                ethernet(ARP, &claim),
                ethernet(ARP, &claim),
                ethernet(IPV4, &allowed),
            ],
        );
        settled(client);
        assert_eq!(counted(&web, "six"), 0, "IPv6 from {from}");
        assert_eq!(counted(&web, "denied"), 0, "tags from {from}");
        assert!(
            counted(&web, "allowed") >= 2,
            "a frame as it should be, from {from}"
        );
        sh(&format!(
            "ip netns exec {web} nft delete table netdev probe"
        ));
    }
}
