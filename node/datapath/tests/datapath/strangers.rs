//! Forged VXLAN packets: from strangers on the underlay, from containers on another bridge of the
//! host, from the host's own processes and from a second network card. Each is shown to arrive in
//! a container while the rules that should stop it are missing; with them it is dropped and counted.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use bus_schema::node::DomainKind;
use bus_schema::{MacAddr, MachineId, NodeName};
use node_core::desired::domain_name;
use node_core::projection::NodeFact;
use node_core::resource::OuterDrop;

use crate::forged::{OUTER, as_nobody, in_fragments, outer, plain, raw};
use crate::frames::{UDP, ipv4, udp};
use crate::traffic::{Echo, bind, echoes};
use crate::world::{World, exec, ip, pings, run, tenant};

/// Where the containers listen.
const PORT: u16 = 8_000;
const WEB: Ipv4Addr = Ipv4Addr::new(20, 1, 1, 1);
const DB: Ipv4Addr = Ipv4Addr::new(20, 1, 1, 129);
/// A node that is known and not there.
const ABSENT: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 9);
const N1: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 1);
const N2: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 3);
const BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 18, 7, 255);
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// Of the host on its bridge for other containers, and on its second network.
const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// Longer than any packet takes on a busy machine.
pub(crate) const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Two nodes with a container on each; host 0 has a bridge with another container, host 1 a second
/// network card with a stranger behind it.
struct Scene {
    world: World,
    /// Of `web` on host 0 and `db` on host 1.
    containers: [String; 2],
    sockets: [UdpSocket; 2],
    /// Namespaces: on host 0's bridge, and behind host 1's second card.
    bridged: String,
    beside: String,
    stranger: String,
}

impl Scene {
    async fn open() -> Self {
        let mut world = World::new().await;
        world.network("red", "net", 1001);
        let fact = NodeFact::new(MachineId("absent".to_owned()), ABSENT.into());
        let name = NodeName::new("absent").expect("valid");
        world.facts.nodes.insert(name, fact);
        world.sync_all().await;
        let bridged = bridge(&mut world);
        let beside = second_card(&mut world);
        Self::with(world, bridged, beside).await
    }

    async fn with(mut world: World, bridged: String, beside: String) -> Self {
        let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
        let db = world.attach(1, "red", "net", "db", "20.1.1.129").await;
        assert!(pings(&web, "20.1.1.129"));
        let sockets = [&web, &db].map(|netns| {
            let socket = bind(netns, PORT);
            socket.set_read_timeout(Some(RECEIVE_TIMEOUT)).expect("set");
            socket
        });
        let stranger = world.stranger();
        Self {
            containers: [web, db],
            sockets,
            bridged,
            beside,
            stranger,
            world,
        }
    }

    /// VXLAN's header with VNI 1001 and the group id of no group, and a packet from the other
    /// host's container to this one's.
    fn forged(&self, target: usize) -> Vec<u8> {
        let ends = if target == 0 { (DB, WEB) } else { (WEB, DB) };
        let inner = ipv4(ends, UDP, 1, 0, &udp(PORT));
        let to = MacAddr::of_vtep(self.world.hosts[target].params.vtep).0;
        let header = [0x88, 0, 0, 1, 0, 0x03, 0xe9, 0];
        let ethernet = [&to[..], &[2, 3, 0, 0, 0, 1], &[8, 0]].concat();
        [&header[..], &ethernet, &inner].concat()
    }

    /// The next packet that the container on a host receives.
    fn gets(&self, host: usize) -> String {
        let mut bytes = [0; 64];
        let (length, _) = self.sockets[host].recv_from(&mut bytes).expect("something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// Whether nothing is on its way to the container on a host.
    fn gets_nothing(&self, host: usize) -> bool {
        let to = [WEB, DB][host];
        let sender = bind(&self.containers[1 - host], 0);
        sender.send_to(b"end", (to, PORT)).expect("sent");
        self.gets(host) == "end"
    }

    /// Sends each case while `chain` is empty, when it must arrive, and then with its rules.
    async fn only_without(&self, chain: &str, cases: &[Case<'_>]) {
        for host in &self.world.hosts {
            let flush = format!("nft flush chain inet contiv {chain}");
            assert!(exec(&host.netns, &flush).status.success(), "{flush}");
        }
        for case in cases {
            (case.send)(&self.forged(case.target));
            assert_eq!(self.gets(case.target), "datagram", "{}", case.what);
        }
        self.world.sync_all().await;
        for case in cases {
            let (host, reason) = case.dropped;
            let before = dropped(&self.world, host, reason).await;
            (case.send)(&self.forged(case.target));
            counted(&self.world, host, reason, before).await;
            assert!(self.gets_nothing(case.target), "{} arrived", case.what);
        }
    }
}

pub(crate) async fn dropped(world: &World, host: usize, reason: OuterDrop) -> u64 {
    let drops = world.hosts[host].datapath.outer_drops().await;
    drops.expect("counted").get(&reason).copied().unwrap_or(0)
}

/// Waits until more are counted.
pub(crate) async fn counted(world: &World, host: usize, reason: OuterDrop, before: u64) {
    let until = Instant::now() + RECEIVE_TIMEOUT;
    while dropped(world, host, reason).await == before {
        assert!(Instant::now() < until, "{reason:?} isn't counted");
        tokio::task::yield_now().await;
    }
}

/// Sends this payload to the outer port.
type Sending<'a> = Box<dyn Fn(&[u8]) + 'a>;

struct Case<'a> {
    what: &'a str,
    /// The host whose container it is for.
    target: usize,
    /// Where and why it is dropped.
    dropped: (usize, OuterDrop),
    send: Sending<'a>,
}

fn case<'a>(
    what: &'a str,
    target: usize,
    dropped: (usize, OuterDrop),
    send: impl Fn(&[u8]) + 'a,
) -> Case<'a> {
    let send = Box::new(send);
    Case {
        what,
        target,
        dropped,
        send,
    }
}

/// As Docker's: a bridge whose containers are masqueraded.
fn bridge(world: &mut World) -> String {
    let host = world.hosts[0].netns.clone();
    let inside = world.namespace("bridged");
    for command in [
        format!("-n {host} link add docker0 type bridge"),
        format!("-n {host} addr add {BRIDGE}/24 dev docker0"),
        format!("-n {host} link set docker0 up"),
        format!("-n {host} link add vb type veth peer name eth0 netns {inside}"),
        format!("-n {host} link set vb master docker0 up"),
        format!("-n {inside} addr add 10.77.0.2/24 dev eth0"),
        format!("-n {inside} link set eth0 up"),
        format!("-n {inside} route add default via {BRIDGE}"),
    ] {
        run(&format!("ip {command}"));
    }
    run(&format!(
        "ip netns exec {host} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 \
         net.ipv4.conf.docker0.rp_filter=0"
    ));
    run(&format!(
        "ip netns exec {host} nft -f - <<'X'\ntable ip docker {{\nchain post {{\n\
         type nat hook postrouting priority 100;\n\
         ip saddr 10.77.0.0/24 oifname != \"docker0\" masquerade\n}}\n}}\nX"
    ));
    inside
}

pub(crate) fn second_card(world: &mut World) -> String {
    let host = world.hosts[1].netns.clone();
    let outside = world.namespace("beside");
    for command in [
        format!("-n {host} link add eth1 type veth peer name eth0 netns {outside}"),
        format!("-n {host} addr add 203.0.113.1/24 dev eth1"),
        format!("-n {host} link set eth1 up"),
        format!("-n {outside} addr add 203.0.113.2/24 dev eth0"),
        format!("-n {outside} link set eth0 up"),
        format!("-n {outside} route add default via 203.0.113.1"),
    ] {
        run(&format!("ip {command}"));
    }
    run(&format!(
        "ip netns exec {host} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth1.rp_filter=0"
    ));
    outside
}

/// Packets that host 0 or 1 gets, and the reason why it drops each.
fn forged_cases(scene: &Scene) -> Vec<Case<'_>> {
    use OuterDrop::{Address, Interface, Sender};
    let Scene {
        stranger,
        bridged,
        beside,
        ..
    } = scene;
    let mut cases = vec![
        case("a stranger's in fragments", 1, (1, Sender), |bytes| {
            raw(stranger, &in_fragments(STRANGER, N2, bytes));
        }),
        case(
            "a stranger's by a forwarded port",
            1,
            (1, Sender),
            |bytes| {
                plain(stranger, N2, 5_000, bytes);
            },
        ),
        case(
            "a bridged container's to its bridge",
            0,
            (0, Sender),
            |bytes| {
                plain(bridged, BRIDGE, OUTER, bytes);
            },
        ),
        case(
            "a bridged container's to its node",
            0,
            (0, Sender),
            |bytes| {
                plain(bridged, N1, OUTER, bytes);
            },
        ),
        case("one forged on the bridge", 0, (0, Interface), |bytes| {
            raw(bridged, &[outer(N2, N1, bytes)]);
        }),
        case(
            "one forged by the second card",
            1,
            (1, Interface),
            |bytes| {
                raw(beside, &[outer(N1, N2, bytes)]);
            },
        ),
    ];
    for to in [N2, BROADCAST, Ipv4Addr::BROADCAST, ALL_HOSTS] {
        cases.push(case("a stranger's", 1, (1, Sender), move |bytes| {
            plain(stranger, to, OUTER, bytes);
        }));
    }
    for to in [BROADCAST, Ipv4Addr::BROADCAST, ALL_HOSTS] {
        let send = move |bytes: &[u8]| raw(stranger, &[outer(N1, to, bytes)]);
        cases.push(case("one forged to all", 1, (1, Address), send));
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_packets_are_dropped() {
    let scene = Scene::open().await;
    let host = &scene.world.hosts[1].netns;
    // Somebody forwards a port of the host to the outer one.
    run(&format!(
        "ip netns exec {host} nft -f - <<'X'\ntable ip forward {{\nchain pre {{\n\
         type nat hook prerouting priority -100;\nudp dport 5000 redirect to :{OUTER}\n}}\n}}\nX"
    ));
    let cases = forged_cases(&scene);
    scene.only_without("outer", &cases).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_on_other_bridges_reach_no_node_by_the_outer_port() {
    let scene = Scene::open().await;
    let bridged = &scene.bridged;
    let dropped = (0, OuterDrop::Forwarded);
    let cases = [
        case("a bridged container's", 1, dropped, |bytes| {
            plain(bridged, N2, OUTER, bytes);
        }),
        case("one with a node's address", 1, dropped, |bytes| {
            raw(bridged, &[outer(ABSENT, N2, bytes)]);
        }),
    ];
    scene.only_without("outer_through", &cases).await;
    // Another overlay's port isn't ours.
    let _echo = Echo::start(&scene.world.hosts[1].netns, 4_789);
    assert!(echoes(bridged, "198.18.7.2", 4_789));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_of_a_node_reach_no_other_node_by_the_outer_port() {
    let scene = Scene::open().await;
    let host = &scene.world.hosts[0].netns;
    let dropped = (0, OuterDrop::Process);
    let cases = [
        case("root's", 1, dropped, |bytes| plain(host, N2, OUTER, bytes)),
        case("a user's", 1, dropped, |bytes| as_nobody(host, N2, bytes)),
        case("one with a node's address", 1, dropped, |bytes| {
            raw(host, &[outer(ABSENT, N2, bytes)]);
        }),
    ];
    scene.only_without("outer_sent", &cases).await;
    let _echo = Echo::start(&scene.world.hosts[1].netns, 4_789);
    assert!(echoes(host, "198.18.7.2", 4_789));
    // The host's packets from within a domain leave by the tunnel, not by a process's socket.
    let send = format!("bash -c 'printf hello >/dev/udp/{DB}/{PORT}'");
    let output = match scene.world.hosts[0].params.kind {
        DomainKind::Netns => scene.world.in_domain(0, "red", &send),
        DomainKind::Vrf => {
            let domain = domain_name(DomainKind::Vrf, &tenant("red"));
            exec(host, &format!("ip vrf exec {domain} {send}"))
        }
    };
    assert!(output.status.success(), "{output:?}");
    assert_eq!(scene.gets(1), "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_may_be_the_router_of_another_node() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    let far = world.namespace("far");
    let [router, other] = [0, 1].map(|host: usize| world.hosts[host].netns.clone());
    for command in [
        format!("-n {router} link add eth1 type veth peer name eth0 netns {far}"),
        format!("-n {router} addr add 198.18.8.254/24 dev eth1"),
        format!("-n {router} link set eth1 up"),
        format!("-n {far} addr add 198.18.8.1/24 dev eth0"),
        format!("-n {far} addr add 198.18.8.2/24 dev eth0"),
        format!("-n {far} link set eth0 up"),
        format!("-n {far} route add default via 198.18.8.254"),
        format!("-n {other} route add 198.18.8.0/24 via {N1}"),
    ] {
        run(&format!("ip {command}"));
    }
    run(&format!(
        "ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"
    ));
    let fact = NodeFact::new(MachineId("far".to_owned()), ip("198.18.8.1"));
    let name = NodeName::new("far").expect("valid");
    world.facts.nodes.insert(name, fact);
    world.sync_all().await;
    let scene = Scene::with(world, String::new(), String::new()).await;
    let from = |last| {
        move |far: &str, bytes: &[u8]| {
            let from = Ipv4Addr::new(198, 18, 8, last);
            raw(far, &[outer(from, N2, bytes)]);
        }
    };
    from(1)(&far, &scene.forged(1));
    assert_eq!(scene.gets(1), "datagram", "a node's packet is forwarded");
    from(2)(&far, &scene.forged(1));
    assert!(scene.gets_nothing(1), "no node's is");
    assert_eq!(dropped(&scene.world, 0, OuterDrop::Forwarded).await, 1);
}

/// The rules of the version before, whose sets are the same.
const BEFORE: &str = "flush chain inet contiv outer_in
    flush chain inet contiv outer_local
    flush chain inet contiv outer_forward
    flush chain inet contiv outer_through
    flush chain inet contiv outer_sent
    flush chain inet contiv outer_out
    flush chain inet contiv outer
    delete chain inet contiv outer_local
    delete chain inet contiv outer_forward
    delete chain inet contiv outer_through
    delete chain inet contiv outer_sent
    delete counter inet contiv outer_sender
    delete counter inet contiv outer_interface
    delete counter inet contiv outer_address
    delete counter inet contiv outer_forwarded
    delete counter inet contiv outer_process
    table inet contiv {
        chain outer_in {
            udp dport 14789 ip daddr 198.18.7.1 goto outer
            udp dport 14789 fib daddr type local goto outer
        }
        chain outer {
            ip saddr @peers notrack accept
            ip6 saddr @peers6 notrack accept
            counter drop
        }
        chain outer_out { udp dport 14789 notrack; }
    }";

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_changes_the_rules_and_keeps_the_elements() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let host = world.hosts[0].netns.clone();
    run(&format!("ip netns exec {host} nft -f - <<'X'\n{BEFORE}\nX"));
    assert!(pings(&web, "20.1.1.129"), "by the rules of before");
    world.reopen(0).await;
    let pending = world.pending(0).await;
    let lines: Vec<String> = pending.iter().map(ToString::to_string).collect();
    assert!(
        lines.len() == 1 && lines[0].starts_with("~ table inet contiv"),
        "{lines:#?}"
    );
    let handle = |set: &str| {
        run(&format!(
            "ip netns exec {host} nft -a list set inet contiv {set}"
        ))
    };
    let before = handle("peers");
    world.sync(0).await;
    assert_eq!(handle("peers"), before, "the same set with its elements");
    assert!(before.contains("198.18.7.2"), "{before}");
    assert_eq!(world.pending(0).await, []);
    assert!(pings(&web, "20.1.1.129"));
}
