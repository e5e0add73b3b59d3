//! Forged VXLAN packets in a whole cluster, from everybody who can send one without being root on
//! a node: none arrives in a container; each is counted, and doctor reports it.

use std::net::{Ipv4Addr, UdpSocket};

use bus_schema::MacAddr;
use chaos_tests::metrics::{NETPLUGIN, metric};
use chaos_tests::{Outcome, SOON, sh};
use lab::{CTL, Error, IMAGE, Lab, Spec, wait_until};

const OUTER: u16 = 14_789;
const UDP: u8 = 17;
/// The network's.
const VNI: u32 = 7;

/// One container on each of two nodes, and what is sent there to pass for the other node's.
struct Scene {
    lab: Lab,
    nodes: [Ipv4Addr; 2],
    containers: [Ipv4Addr; 2],
    sockets: [UdpSocket; 2],
}

impl Scene {
    fn open() -> Result<Self, Error> {
        let mut lab = Lab::up(&Spec::test(2).docker(true).docker_bridge(true))?;
        lab.import_image("node-1")?;
        let tag = format!("--pkt-tag={VNI}");
        lab.netctl_ok(&["net", "create", "contiv-net", "--subnet=20.1.1.0/24", &tag])?;
        let web = lab.run_workload("node-1", "contiv-net", "web")?;
        let db = lab.run_workload("node-2", "contiv-net", "db")?;
        let sockets = [lab.udp_in("web")?, lab.udp_in("db")?];
        for socket in &sockets {
            socket.set_read_timeout(Some(SOON)).expect("set");
        }
        Ok(Self {
            nodes: [lab.address("node-1")?, lab.address("node-2")?],
            containers: [web.address, db.address],
            sockets,
            lab,
        })
    }

    /// Sends a packet for the container on a node to this address.
    fn forge(&self, from: &UdpSocket, node: usize, to: Ipv4Addr) {
        let [receiver, sender] = [node, 1 - node].map(|it| self.containers[it]);
        let port = self.sockets[node].local_addr().expect("bound").port();
        let payload = b"forged";
        let length = u16::try_from(8 + payload.len()).expect("short");
        let udp = [5_000, port, length, 0].map(u16::to_be_bytes).concat();
        let inner = ipv4(sender, receiver, &[&udp[..], payload].concat());
        // The group id of no group.
        let header = [0x88, 0, 0, 1];
        let to_node = MacAddr::of_vtep(self.nodes[node].into()).0;
        let ethernet = [&to_node[..], &[2, 3, 0, 0, 0, 1], &[8, 0]].concat();
        let vni = (VNI << 8).to_be_bytes();
        let packet = [&header[..], &vni, &ethernet, &inner].concat();
        // A process of the node is told that it may not (EPERM).
        let _ = from.send_to(&packet, (to, OUTER));
    }

    /// Whether the next packet that each container gets is the other's.
    fn got_nothing(&self) -> bool {
        (0..2).all(|node| {
            let to = self.sockets[1 - node].local_addr().expect("bound").port();
            let to = (self.containers[1 - node], to);
            self.sockets[node].send_to(b"end", to).expect("sent");
            let mut bytes = [0; 16];
            let (length, _) = self.sockets[1 - node].recv_from(&mut bytes).expect("it");
            bytes[..length] == *b"end"
        })
    }
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).expect("short");
    let mut header = [
        &[0x45, 0][..],
        &length.to_be_bytes(),
        &[0, 1, 0, 0, 64, UDP],
    ]
    .concat();
    header.extend([0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let words = header
        .chunks(2)
        .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    header.extend(payload);
    header
}

/// A socket of a host's own, of a process without privileges as far as the kernel can tell.
fn on_host(lab: &Lab, host: &str) -> Result<UdpSocket, Error> {
    lab.run(host, &["sh", "-c", "ip netns attach itself $$"])?;
    lab.udp_at(host, "/run/netns/itself")
}

/// A container of the engine's own bridge, by the path of its namespace.
fn bridged(lab: &Lab, options: &str, name: &str) -> Result<String, Error> {
    let run = format!("docker run -d --name {name} {options} {IMAGE} sleep 600");
    lab.run("node-1", &["sh", "-c", &run])?;
    let pid = ["docker", "inspect", "-f", "{{.State.Pid}}", name];
    let pid = lab.run("node-1", &pid)?.stdout;
    Ok(format!("/proc/{}/ns/net", pid.trim()))
}

#[test]
fn forged_packets_reach_no_container_and_are_reported() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let [n1, n2] = scene.nodes;

    // A stranger on the underlay.
    let routes = "ip route add 224.0.0.0/4 dev eth0; ip route add 255.255.255.255 dev eth0";
    assert!(sh(lab, CTL, routes));
    let stranger = on_host(lab, CTL)?;
    stranger.set_broadcast(true).expect("set");
    let [a, b, c, _] = n1.octets();
    let everybody = [Ipv4Addr::new(a, b, c, 255), Ipv4Addr::BROADCAST];
    let group = Ipv4Addr::new(224, 0, 0, 1);
    for (node, address) in [n1, n2].into_iter().enumerate() {
        for to in [address, everybody[0], everybody[1], group] {
            scene.forge(&stranger, node, to);
        }
    }
    // A process of a node.
    scene.forge(&on_host(lab, "node-1")?, 1, n2);
    // A container without capabilities on the engine's bridge.
    let plain = bridged(lab, "--cap-drop=ALL", "plain")?;
    let plain = lab.udp_at("node-1", &plain)?;
    scene.forge(&plain, 0, n1);
    scene.forge(&plain, 1, n2);
    // One that forges addresses, as CAP_NET_RAW lets it: here by an address and a route.
    let forger = bridged(lab, "--cap-add=NET_RAW", "forger")?;
    let enter = format!("nsenter --net={forger}");
    let forge = format!(
        "{enter} ip addr add {n2}/32 dev lo && \
         {enter} ip route change default via $({enter} ip -o route get 1.1.1.1 | cut -d' ' -f3) src {n2}"
    );
    assert!(sh(lab, "node-1", &forge), "{forge}");
    let forger = lab.udp_at("node-1", &forger)?;
    scene.forge(&forger, 0, n1);
    // Somebody behind a second network card.
    let card = format!(
        "ip netns add beside; ip link add eth1 type veth peer name eth0 netns beside; \
         ip addr add 203.0.113.1/24 dev eth1; ip link set eth1 up; \
         sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0; \
         ip -n beside addr add 203.0.113.2/24 dev eth0; ip -n beside addr add {n1}/32 dev lo; \
         ip -n beside link set lo up; ip -n beside link set eth0 up; \
         ip -n beside route add default via 203.0.113.1 src {n1}"
    );
    assert!(sh(lab, "node-2", &card), "{card}");
    let beside = lab.udp_at("node-2", "/run/netns/beside")?;
    scene.forge(&beside, 1, n2);

    let expected = [
        // Of the stranger those to all twice, once for each container; one of a container.
        ("node-1", "sender", 8.0, "their source address is no node's"),
        ("node-2", "sender", 7.0, "their source address is no node's"),
        ("node-1", "process", 1.0, "a process of this host sent them"),
        ("node-1", "forwarded", 1.0, "this host was to forward them"),
        ("node-1", "interface", 1.0, "came by another interface"),
        ("node-2", "interface", 1.0, "came by another interface"),
    ];
    let said = || lab.netctl(&["doctor", "-q"]).map(|it| it.stdout);
    wait_until("doctor reports all of them", SOON, || {
        said().is_ok_and(|text| {
            expected.iter().all(|(node, _, packets, what)| {
                let begin = format!("warning  node {node} outer-port: {packets} packets");
                let mut lines = text.lines().map(str::trim);
                lines.any(|line| line.starts_with(&begin) && line.contains(what))
            })
        })
    })?;
    for (node, reason, packets, _) in expected {
        let labels = format!(r#"reason="{reason}""#);
        let name = "contiv_node_outer_dropped_total";
        assert_eq!(metric(lab, node, NETPLUGIN, name, &labels)?, packets);
    }
    assert!(scene.got_nothing());
    Ok(())
}
