//! Forged VXLAN packets in a whole cluster, from every sender that isn't root on a node. None reaches a
//! container; each is counted, and doctor reports it.

use std::net::{Ipv4Addr, UdpSocket};

use bus_schema::MacAddr;
use chaos_tests::metrics::{NETPLUGIN_PORT, metric};
use chaos_tests::{Outcome, WAIT_TIMEOUT, sh};
use lab::{CTL, Error, IMAGE, Lab, Spec, wait_until};

const VXLAN_PORT: u16 = 14_789;
const UDP_PROTOCOL: u8 = 17;
/// The network's VNI.
const VNI: u32 = 7;

/// One container on each of two nodes, and the forged packets to it in the other node's name.
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
            socket.set_read_timeout(Some(WAIT_TIMEOUT)).expect("set");
        }
        Ok(Self {
            nodes: [lab.address("node-1")?, lab.address("node-2")?],
            containers: [web.address, db.address],
            sockets,
            lab,
        })
    }

    /// Sends a forged packet for the container of a node to this address.
    fn forge(&self, from: &UdpSocket, node: usize, to: Ipv4Addr) {
        let [receiver, sender] = [node, 1 - node].map(|it| self.containers[it]);
        let port = self.sockets[node].local_addr().expect("bound").port();
        let payload = b"forged";
        let length = u16::try_from(8 + payload.len()).expect("short");
        let udp = [5_000, port, length, 0].map(u16::to_be_bytes).concat();
        let inner = ipv4(sender, receiver, &[&udp[..], payload].concat());
        // The group id 0: no group.
        let header = [0x88, 0, 0, 1];
        let to_node = MacAddr::of_vtep(self.nodes[node].into()).0;
        let ethernet = [&to_node[..], &[2, 3, 0, 0, 0, 1], &[8, 0]].concat();
        let vni = (VNI << 8).to_be_bytes();
        let packet = [&header[..], &vni, &ethernet, &inner].concat();
        // For a process of the node this fails with EPERM.
        let _ = from.send_to(&packet, (to, VXLAN_PORT));
    }

    /// Whether the next packet of each container is the other container's.
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
        &[0, 1, 0, 0, 64, UDP_PROTOCOL],
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

/// A socket in a host's network namespace, like one of a process without privileges.
fn on_host(lab: &Lab, host: &str) -> Result<UdpSocket, Error> {
    lab.run(host, &["sh", "-c", "ip netns attach itself $$"])?;
    lab.udp_at(host, "/run/netns/itself")
}

/// Starts a container on the engine's own bridge, and returns the path of its namespace.
fn bridged(lab: &Lab, options: &str, name: &str) -> Result<String, Error> {
    let run = format!("docker run -d --name {name} {options} {IMAGE} sleep 600");
    lab.run("node-1", &["sh", "-c", &run])?;
    let pid = ["docker", "inspect", "-f", "{{.State.Pid}}", name];
    let pid = lab.run("node-1", &pid)?.stdout;
    Ok(format!("/proc/{}/ns/net", pid.trim()))
}

/// Forges packets from a machine on the underlay that is no node.
fn forge_on_the_underlay(scene: &Scene) -> Outcome {
    let lab = &scene.lab;
    let [n1, n2] = scene.nodes;
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
    Ok(())
}

/// Forges packets from containers on the engine's bridge.
fn forge_in_containers(scene: &Scene) -> Outcome {
    let lab = &scene.lab;
    let [n1, n2] = scene.nodes;
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
    Ok(())
}

/// Forges packets from a machine behind a second network card of node-2.
fn forge_behind_a_second_card(scene: &Scene) -> Outcome {
    let lab = &scene.lab;
    let [n1, n2] = scene.nodes;
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
    Ok(())
}

#[test]
fn forged_packets_reach_no_container_and_are_reported() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    forge_on_the_underlay(&scene)?;
    // A process of a node.
    scene.forge(&on_host(lab, "node-1")?, 1, scene.nodes[1]);
    forge_in_containers(&scene)?;
    forge_behind_a_second_card(&scene)?;

    let expected = [
        // From the underlay: unicast once, broadcast and multicast once for each container. From a
        // container: one.
        ("node-1", "sender", 8.0, "their source address is no node's"),
        ("node-2", "sender", 7.0, "their source address is no node's"),
        ("node-1", "process", 1.0, "a process of this host sent them"),
        ("node-1", "forwarded", 1.0, "this host was to forward them"),
        ("node-1", "interface", 1.0, "came by another interface"),
        ("node-2", "interface", 1.0, "came by another interface"),
    ];
    let said = || lab.netctl(&["doctor", "-q"]).map(|it| it.stdout);
    wait_until("doctor reports all of them", WAIT_TIMEOUT, || {
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
        assert_eq!(metric(lab, node, NETPLUGIN_PORT, name, &labels)?, packets);
    }
    assert!(scene.got_nothing());
    Ok(())
}
