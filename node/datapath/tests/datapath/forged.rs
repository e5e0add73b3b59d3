//! Sends packets to the outer port that no node sends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::process::Command;

use socket2::{Domain, Protocol, Socket, Type};

use crate::frames::{MORE, UDP, ipv4};
use crate::traffic::within;

/// The outer port of VXLAN.
pub(crate) const OUTER: u16 = 14_789;

/// Sends a datagram by a socket that needs no capability.
pub(crate) fn plain(netns: &str, to: impl Into<IpAddr>, port: u16, bytes: &[u8]) {
    let to = SocketAddr::new(to.into(), port);
    within(netns, || {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).expect("a socket");
        socket.set_broadcast(true).expect("set");
        if !matches!(to.ip(), IpAddr::V4(to) if to.is_private()) {
            // Groups and broadcasts have no route.
            let eth0 = socket.bind_device(Some(b"eth0"));
            eth0.expect("each of these hosts has it");
        }
        // A process of the host gets EPERM when its packet is dropped.
        let _ = socket.send_to(bytes, &to.into());
    });
}

/// Sends IP packets as they are, with CAP_NET_RAW.
pub(crate) fn raw(netns: &str, packets: &[Vec<u8>]) {
    within(netns, || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)));
        let socket = socket.expect("root");
        socket.set_header_included_v4(true).expect("set");
        socket.set_broadcast(true).expect("set");
        socket.bind_device(Some(b"eth0")).expect("it has one");
        for packet in packets {
            let to: [u8; 4] = packet[16..20].try_into().expect("an address");
            // A process of the host gets EPERM when its packet is dropped.
            let _ = socket.send_to(packet, &SocketAddr::from((to, 0)).into());
        }
    });
}

/// An outer packet's UDP header and payload.
pub(crate) fn outer_datagram(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + bytes.len()).expect("short");
    let ports = [5_000_u16.to_be_bytes(), OUTER.to_be_bytes()].concat();
    [&ports[..], &length.to_be_bytes(), &[0, 0], bytes].concat()
}

/// An outer packet.
pub(crate) fn outer(from: Ipv4Addr, to: Ipv4Addr, bytes: &[u8]) -> Vec<u8> {
    ipv4((from, to), UDP, 1, 0, &outer_datagram(bytes))
}

/// An outer packet in two fragments.
pub(crate) fn in_fragments(from: Ipv4Addr, to: Ipv4Addr, bytes: &[u8]) -> [Vec<u8>; 2] {
    let datagram = outer_datagram(bytes);
    let (first, second) = datagram.split_at(16);
    [
        ipv4((from, to), UDP, 77, MORE, first),
        ipv4((from, to), UDP, 77, 2, second),
    ]
}

/// Sends a datagram from a process of a user without capabilities.
pub(crate) fn as_nobody(netns: &str, to: Ipv4Addr, bytes: &[u8]) {
    let words: String = bytes.iter().map(|it| format!("\\x{it:02x}")).collect();
    let script = format!("printf '{words}' >/dev/udp/{to}/{OUTER}");
    within(netns, || {
        let mut bash = Command::new("bash");
        // The write fails when the packet is dropped.
        let _ = bash.args(["-c", &script]).uid(65_534).gid(65_534).output();
    });
}
