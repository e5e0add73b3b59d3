//! Docker's own firewall on the host, from a recording: ours pass it, and nothing else does.

use std::sync::atomic::{AtomicBool, Ordering};

use bus_schema::node::DomainKind;

use crate::dns;
use crate::traffic::{Echo, SILENCE_TIMEOUT, echoes};
use crate::world::{World, exec, is_silent, net, pings, run, tenant};

const DOCKER: &str = include_str!("../../../../lab/recordings/docker-20.10.iptables");

/// Its rules in the tables of nft, or in the older ones.
fn start_docker(netns: &str, iptables: &str) {
    // The engine has its bridge before its rules.
    run(&format!("ip -n {netns} link add docker0 type bridge"));
    load(netns, &format!("{iptables}-restore"), DOCKER);
}

fn load(netns: &str, program: &str, rules: &str) {
    run(&format!("ip netns exec {netns} {program} <<'X'\n{rules}X"));
}

/// Two namespaces that the host would forward for: is it done?
fn forwards_for_others(world: &mut World, host: usize) -> bool {
    let netns = world.hosts[host].netns.clone();
    run(&format!(
        "ip netns exec {netns} sysctl -qw net.ipv4.ip_forward=1"
    ));
    let ends = ["others-a", "others-b"].map(|name| world.namespace(name));
    for (number, end) in ends.iter().enumerate() {
        let subnet = format!("10.77.{number}");
        for command in [
            format!("-n {netns} link add o{number} type veth peer name eth0 netns {end}"),
            format!("-n {netns} addr add {subnet}.1/24 dev o{number}"),
            format!("-n {netns} link set o{number} up"),
            format!("-n {end} addr add {subnet}.2/24 dev eth0"),
            format!("-n {end} link set eth0 up"),
            format!("-n {end} route add default via {subnet}.1"),
        ] {
            run(&format!("ip {command}"));
        }
    }
    assert!(pings(&ends[0], "10.77.0.1"), "the host itself");
    !is_silent(&ends[0], "10.77.1.2")
}

async fn pending(world: &World) -> Vec<String> {
    let pending = world.pending(0).await;
    pending.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_firewall_passes_our_packets_only() {
    ours_pass("iptables-nft").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_docker_tables_pass_our_packets_only() {
    ours_pass("iptables-legacy").await;
}

async fn ours_pass(iptables: &str) {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    for host in 0..2 {
        start_docker(&world.hosts[host].netns, iptables);
    }
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(0, "red", "net", "app", "20.1.1.2").await;
    world.attach(1, "red", "net", "db", "20.1.1.129").await;
    assert!(pings(&web, "20.1.1.129"), "across hosts");
    assert!(pings(&web, "20.1.1.2"), "on one host");
    assert!(!forwards_for_others(&mut world, 0));
    assert_eq!(pending(&world).await, Vec::<String>::new());

    let netns = world.hosts[0].netns.clone();
    let listed = || run(&format!("ip netns exec {netns} {iptables} -S DOCKER-USER"));
    if world.hosts[0].params.kind == DomainKind::Netns {
        assert!(!listed().contains("contiv"), "{}", listed());
        return;
    }
    let change = |words: &str| exec(&netns, &format!("{iptables} {words}"));
    change("-I DOCKER-USER -i eth0 -s 192.0.2.1 -j DROP");
    let rule = "-i cd+ -o cv+ -m comment --comment contiv -j ACCEPT";
    change(&format!("-D DOCKER-USER {rule}"));
    let put = format!("+ iptables DOCKER-USER {rule} in host");
    assert_eq!(pending(&world).await, [put], "the one that is gone");
    world.sync(0).await;
    change("-F DOCKER-USER");
    assert_eq!(pending(&world).await.len(), 2);
    assert!(
        is_silent(&web, "20.1.1.2"),
        "Docker drops what we don't let through"
    );
    world.sync(0).await;
    assert!(pings(&web, "20.1.1.2"));
    // Without its chain there is nothing to do.
    change("-F FORWARD");
    change("-F DOCKER-USER");
    change("-X DOCKER-USER");
    assert_eq!(pending(&world).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_may_have_the_subnet_of_dockers_bridge() {
    no_nat_of_the_hosts("iptables-nft").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn legacy_docker_nat_leaves_tenants_alone() {
    no_nat_of_the_hosts("iptables-legacy").await;
}

async fn no_nat_of_the_hosts(iptables: &str) {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    let networks = &mut world.facts.tenants[&tenant("red")].networks;
    let name = bus_schema::NetworkName::new("net").expect("valid");
    let network = networks.get_mut(&name).expect("its network");
    network.spec.v4.subnet = net("172.17.0.0/16");
    network.blocks = [("172.17.0.0/25", "n1"), ("172.17.0.128/25", "n2")]
        .map(|(block, node)| (net(block), node.parse().expect("valid")))
        .into_iter()
        .collect();
    for host in 0..2 {
        let netns = &world.hosts[host].netns;
        start_docker(netns, iptables);
        // Somebody forwards a port, whoever is asked.
        let forward = "-t nat -A PREROUTING -p udp --dport 7 -j DNAT --to-destination 192.0.2.9";
        run(&format!("ip netns exec {netns} {iptables} {forward}"));
    }
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "172.17.0.1").await;
    let db = world.attach(1, "red", "net", "db", "172.17.0.129").await;
    assert!(pings(&web, "172.17.0.129") && pings(&db, "172.17.0.1"));
    let echo = Echo::start(&db, 7);
    assert!(echoes(&web, "172.17.0.129", 7));
    drop(echo);
    // By whom it was sent is seen there.
    let seen = world.in_domain(1, "red", "conntrack -L -p udp --dport 7");
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("src=172.17.0.1 dst=172.17.0.129"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_drop_is_reported_with_the_command_that_helps() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    world.attach(0, "red", "net", "app", "20.1.1.2").await;
    let netns = world.hosts[0].netns.clone();
    let foreign_drops = async || {
        let seen = world.hosts[0].datapath.foreign_drops().await;
        let seen = seen.expect("listed");
        seen.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(foreign_drops().await, Vec::<String>::new());
    run(&format!(
        "ip netns exec {netns} nft -f - <<'X'\ntable inet fw {{\nchain guard {{\n\
         type filter hook forward priority 10; policy drop;\nct state established accept\n}}\n}}\nX"
    ));
    let found = foreign_drops().await;
    if world.hosts[0].params.kind == DomainKind::Netns {
        assert_eq!(found, Vec::<String>::new());
        assert!(pings(&web, "20.1.1.2"));
        return;
    }
    assert!(is_silent(&web, "20.1.1.2"));
    let [said] = &found[..] else {
        panic!("{found:?}");
    };
    let (_, line) = said.split_once("configuration: ").expect("a line to type");
    run(&format!(
        "ip netns exec {netns} {}",
        line.replacen("nft ", "nft '", 1) + "'"
    ));
    assert!(pings(&web, "20.1.1.2"));
    assert_eq!(foreign_drops().await, Vec::<String>::new());
}

/// As the kernel's `nft_trans_stress.sh`: transactions of others at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn transactions_pass_while_others_write_rules_all_the_time() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let netns = world.hosts[0].netns.clone();
    let done = AtomicBool::new(false);
    let write = || {
        let mut times = 0;
        while !done.load(Ordering::Relaxed) {
            let rules = "table inet theirs {\nchain c {\ntype filter hook forward priority 5\n\
                         counter accept\n}\n}\n";
            load(
                &netns,
                "nft -f -",
                &format!("{rules}delete table inet theirs\n{rules}"),
            );
            load(&netns, "nft -f -", "delete table inet theirs\n");
            times += 1;
        }
        times
    };
    let change = async {
        for number in 2..8 {
            let at = format!("20.1.1.{number}");
            world
                .attach(0, "red", "net", &format!("app{number}"), &at)
                .await;
            world.group("red", "g", 2, &[]);
            world.sync(0).await;
            assert!(pings(&web, &at));
        }
    };
    let times = std::thread::scope(|scope| {
        let others = scope.spawn(write);
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(change));
        done.store(true, Ordering::Relaxed);
        others.join().expect("their transactions succeed")
    });
    assert!(times > 2, "{times}");
    assert_eq!(pending(&world).await, Vec::<String>::new());
}

const UFW: &str = include_str!("../../../../lab/recordings/ufw-0.36.iptables");
const FIREWALLD: &str = include_str!("../../../../lab/recordings/firewalld-1.3.nft");

/// The rules that ufw and firewalld add for the line that the alarm names.
const OF_UFW: &str = "*filter\n-A ufw-user-forward -i cd+ -o cv+ -j ACCEPT\n\
                      -A ufw-user-forward -i cd+ -o cx+ -j ACCEPT\n\
                      -A ufw-user-input -i cd+ -j ACCEPT\nCOMMIT\n";
const OF_FIREWALLD: &str = include_str!("../../../../lab/recordings/firewalld-1.3-trusted.nft");

#[tokio::test(flavor = "multi_thread")]
async fn ufw_passes_our_packets_after_the_reported_command() {
    let lines = &["ufw route allow in on cd+", "ufw allow in on cd+"];
    let load = ("iptables-nft-restore", UFW);
    let told = ("iptables-nft-restore --noflush", OF_UFW);
    let_through(load, lines, told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firewalld_passes_our_packets_after_the_reported_command() {
    // It lets in what was asked elsewhere and is answered here (`ct status dnat`).
    let lines = &["firewall-cmd --permanent --zone=trusted --add-interface=cd+"];
    let told = format!("table inet firewalld\ndelete table inet firewalld\n{OF_FIREWALLD}");
    let_through(("nft -f -", FIREWALLD), lines, ("nft -f -", &told)).await;
}

/// A firewall between the hosts' containers, with VXLAN's port open, before and after it is told.
async fn let_through(fw: (&str, &str), lines: &[&str], told: (&str, &str)) {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let db = world.attach(1, "red", "net", "db", "20.1.1.129").await;
    let ends = [(&web, "20.1.1.129"), (&db, "20.1.1.1")];
    let _echoes = [&web, &db].map(|end| Echo::start(end, 7));
    let talk = || ends.map(|(from, to)| echoes(from, to, 7));
    assert_eq!(talk(), [true; 2]);
    let load = |(program, rules): (&str, &str)| {
        for host in &world.hosts {
            load(&host.netns, program, rules);
        }
    };
    let foreign_drops = async || {
        let seen = world.hosts[0].datapath.foreign_drops().await;
        let seen = seen.expect("listed");
        seen.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let server = dns::server(&world, 0, "red");
    server.set_read_timeout(Some(SILENCE_TIMEOUT)).expect("set");
    let asks = || {
        let client = dns::udp(&dns::named(&web), "20.1.1.1:0", None);
        client.set_read_timeout(Some(SILENCE_TIMEOUT)).expect("set");
        dns::ask(&client, "8.8.8.8:53", &server).is_ok()
    };
    load(fw);
    if world.hosts[0].params.kind == DomainKind::Vrf {
        assert_eq!(talk(), [false; 2]);
        let found = foreign_drops().await;
        assert_eq!(found.len(), lines.len(), "{found:#?}");
        assert_eq!(asks(), lines.len() == 1);
        for (said, line) in found.iter().zip(lines) {
            assert!(said.contains(line), "{said}");
        }
        load(told);
    }
    assert_eq!(talk(), [true; 2]);
    assert!(asks());
    assert_eq!(foreign_drops().await, Vec::<String>::new());
}
