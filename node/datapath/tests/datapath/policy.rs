//! Groups, policies and rules against real packets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use bus_schema::policy::Protocol;
use node_core::reconcile;

use crate::traffic::{
    Accepting, Echo, Hammer, bind, echoes, echoes_all, is_dropped, listen, opens, send_on_all_cpus,
};
use crate::world::{World, is_silent, pings, tenant};

/// The quick start's second act: `web` on the first host takes 80 and 443, and nothing else by TCP.
const PROD_WEB: [&str; 3] = [
    "1 in deny tcp",
    "2 in allow tcp 80 priority 10",
    "3 in allow tcp 443 priority 10",
];

pub(crate) async fn one_tenant() -> World {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    world
}

pub(crate) fn in_group(group: &str) -> (&'static str, &'static str, Option<&str>) {
    ("red", "net", Some(group))
}

/// Whether a connection still carries bytes both ways.
pub(crate) fn carries(listener: &TcpListener, mut stream: &TcpStream) -> bool {
    let (mut accepted, _) = listener.accept().expect("a connection");
    still_carries(&mut accepted, &mut stream)
}

fn still_carries(one: &mut impl ReadWrite, other: &mut impl ReadWrite) -> bool {
    let mut bytes = [0; 4];
    one.write_all(b"ping").expect("sent");
    other.read_exact(&mut bytes).expect("got");
    other.write_all(b"pong").expect("sent");
    one.read_exact(&mut bytes).expect("got");
    bytes == *b"pong"
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[tokio::test(flavor = "multi_thread")]
async fn quick_start_policy_holds_on_one_host_and_across() {
    let mut world = one_tenant().await;
    world.policy("red", "prod", &PROD_WEB);
    world.group("red", "web", 2, &["prod"]);
    world.sync_all().await;
    let near = world.attach(0, "red", "net", "near", "20.1.1.2").await;
    let far = world.attach(1, "red", "net", "far", "20.1.1.129").await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let listeners: Vec<_> = [80, 443, 8080].map(|it| listen(&server, it)).into();
    for client in [&near, &far] {
        assert!(opens(client, "20.1.1.1", 80).is_some());
        assert!(opens(client, "20.1.1.1", 443).is_some());
        assert!(is_dropped(client, "20.1.1.1", 8080));
        assert!(pings(client, "20.1.1.1"), "only TCP is denied");
    }
    for (client, at) in [(&near, "20.1.1.2"), (&far, "20.1.1.129")] {
        let back = listen(client, 9);
        let stream = opens(&server, at, 9).expect("its own connections");
        assert!(carries(&back, &stream), "replies come back");
    }
    assert_eq!(world.pending(0).await, []);
    assert_eq!(world.pending(1).await, []);
    drop(listeners);
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_among_many_is_found() {
    let mut world = one_tenant().await;
    let many = |of: &str, first: usize| -> Vec<String> {
        let about = |number: usize| {
            let group = format!("{} {of} deny tcp 90 group g{number}", first + 2 * number);
            let net = format!("from 10.{}.{}.0/25", number % 7, number);
            let addresses = format!("{} {of} deny tcp 90 {net}", first + 2 * number + 1);
            [group, addresses]
        };
        (0..200).flat_map(about).collect()
    };
    let mut incoming = many("in", 100);
    incoming.push("1 in deny tcp 80 group app".to_owned());
    incoming.push("2 in deny tcp 81 from 20.1.1.129/32".to_owned());
    let mut outgoing = many("out", 1_000);
    outgoing.push("3 out deny tcp 82 group web".to_owned());
    outgoing.push("4 out deny tcp 83 from 20.1.1.1/32".to_owned());
    for (name, rules) in [("incoming", incoming), ("outgoing", outgoing)] {
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        world.policy("red", name, &rules);
    }
    for number in 0..200 {
        world.group("red", &format!("g{number}"), 100 + number, &[]);
    }
    world.group("red", "web", 2, &["incoming"]);
    world.group("red", "app", 63, &["outgoing"]);
    world.group("red", "any", 64, &[]);
    world.sync_all().await;
    let app = world
        .attach_in(1, in_group("app"), "app", "20.1.1.129")
        .await;
    let any = world
        .attach_in(1, in_group("any"), "any", "20.1.1.130")
        .await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let _listeners: Vec<_> = [80, 81, 82, 83, 84, 90]
        .map(|it| listen(&server, it))
        .into();
    for port in [80, 81, 82, 83] {
        assert!(is_dropped(&app, "20.1.1.1", port), "{port}");
        assert!(opens(&any, "20.1.1.1", port).is_some(), "{port}");
    }
    for port in [84, 90] {
        assert!(opens(&app, "20.1.1.1", port).is_some(), "{port}");
    }
    assert_eq!(world.pending(0).await, []);
}

/// Rules with every kind of peer and protocol, in four groups.
fn all_kinds_of_rules(world: &mut World) {
    world.policy(
        "red",
        "all",
        &[
            "1 in deny",
            "2 in allow tcp 80 priority 5 group app",
            "3 in allow tcp 81 priority 5 from 20.1.1.128/25",
            "4 in allow tcp 82 priority 5 network net",
            "5 in allow tcp 83,85,87-90,100-200 priority 5",
            "6 in deny tcp 88 priority 6",
            "7 in allow udp 53 priority 7 group app",
            "8 in deny tcp 82 priority 9 from 20.1.1.129/32",
            "9 in allow icmp priority 3 group app",
        ],
    );
    world.policy("red", "outgoing", &["20 out deny tcp 84 group web"]);
    world.policy("red", "open", &["21 in allow priority 100"]);
    world.group("red", "web", 2, &["all"]);
    world.group("red", "app", 3, &[]);
    world.group("red", "sad", 4, &["outgoing"]);
    world.group("red", "any", 5, &["open"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_peer_and_protocol_is_decided() {
    let mut world = one_tenant().await;
    all_kinds_of_rules(&mut world);
    world.sync_all().await;
    let app = world
        .attach_in(1, in_group("app"), "app", "20.1.1.129")
        .await;
    let sad = world
        .attach_in(1, in_group("sad"), "sad", "20.1.1.130")
        .await;
    let near = world.attach(0, "red", "net", "near", "20.1.1.2").await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let any = world.attach_in(0, in_group("any"), "any", "20.1.1.3").await;
    let ports = [80, 81, 82, 83, 84, 87, 88, 89, 150, 201];
    let _listeners: Vec<_> = ports.map(|it| listen(&server, it)).into();
    let _any = listen(&any, 84);
    let cases: [(&String, &[u16], &[u16]); 3] = [
        (&app, &[80, 81, 83, 87, 89, 150], &[82, 84, 88, 201]),
        (&sad, &[81, 82, 83, 87, 89, 150], &[80, 84, 88, 201]),
        (&near, &[82, 83, 87, 89, 150], &[80, 81, 84, 88, 201]),
    ];
    for (client, open, closed) in cases {
        for port in open {
            assert!(
                opens(client, "20.1.1.1", *port).is_some(),
                "{client} {port}"
            );
        }
        for port in closed {
            assert!(is_dropped(client, "20.1.1.1", *port), "{client} {port}");
        }
    }
    assert!(opens(&sad, "20.1.1.3", 84).is_some(), "only towards web");
    let _echo = [Echo::start(&server, 53), Echo::start(&server, 54)];
    assert!(echoes(&app, "20.1.1.1", 53));
    assert!(!echoes(&app, "20.1.1.1", 54));
    assert!(!echoes(&sad, "20.1.1.1", 53));
    assert!(pings(&app, "20.1.1.1"));
    assert!(is_silent(&sad, "20.1.1.1") && is_silent(&near, "20.1.1.1"));
    assert!(pings(&server, "20.1.1.2"), "its own pings are answered");
    assert_eq!(world.pending(0).await, []);
    world.reopen(0).await;
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connection_survives_a_new_deny_until_it_is_ended() {
    let mut world = one_tenant().await;
    world.group("red", "web", 2, &["some"]);
    world.policy("red", "some", &[]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let client = world.attach(1, "red", "net", "client", "20.1.1.129").await;
    let listener = listen(&server, 80);
    let mut stream = opens(&client, "20.1.1.1", 80).expect("allowed as yet");
    let (mut accepted, _) = listener.accept().expect("it is there");
    assert!(still_carries(&mut stream, &mut accepted));
    world.policy("red", "some", &["1 in deny tcp"]);
    world.sync(0).await;
    assert!(is_dropped(&client, "20.1.1.1", 80), "new ones are denied");
    assert!(
        still_carries(&mut stream, &mut accepted),
        "the old one isn't"
    );

    let place = world.place_of(0, "red");
    let datapath = world.hosts[0].datapath.clone();
    let all = datapath
        .connections(&place, world.zone(0, "red"))
        .await
        .expect("listed");
    let mut these = all;
    these.retain(|it| it.port == 80);
    assert_eq!(these.len(), 1, "{these:?}");
    assert_eq!(datapath.end(&place, these).await.expect("ended"), 1);
    stream.write_all(b"lost").expect("sent");
    accepted
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("set");
    assert!(
        accepted.read(&mut [0; 4]).is_err(),
        "nothing arrives any more"
    );
}

/// Two rule sets that differ at both ends: what one denies, the other allows.
#[tokio::test(flavor = "multi_thread")]
async fn each_connection_is_decided_by_one_rule_set_alone() {
    const FLIPS: u64 = 500;
    let mut world = one_tenant().await;
    world.group("red", "web", 2, &["inwards"]);
    world.group("red", "app", 3, &["outwards"]);
    world.policy("red", "inwards", &["1 in deny tcp 80"]);
    world.policy("red", "outwards", &["2 out allow tcp"]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let near = world
        .attach_in(0, in_group("app"), "near", "20.1.1.2")
        .await;
    let far = world
        .attach_in(1, in_group("app"), "far", "20.1.1.129")
        .await;
    let _listeners = [80, 81].map(|it| Accepting::start(&server, it));
    let hammers = [&near, &far].map(|it| Hammer::start(it, &["20.1.1.1".to_owned()], &[80, 81]));
    let revision = |world: &World| world.facts.tenants[&tenant("red")].ruled.0;
    let first = revision(&world);
    for flip in 0..FLIPS {
        let before = world.domain(0, "red");
        // Both policies are swung by one transaction; revisions go up by two.
        let (inwards, outwards) = match flip % 2 {
            0 => ("3 in allow tcp 80", "4 out deny tcp 81"),
            _ => ("1 in deny tcp 80", "2 out allow tcp"),
        };
        world.policy("red", "inwards", &[inwards]);
        world.policy("red", "outwards", &[outwards]);
        let ops = reconcile::diff(&before, &world.domain(0, "red"));
        let datapath = &world.hosts[0].datapath;
        datapath.execute(&ops).await.expect("flipped");
    }
    drop(hammers);
    let place = world.place_of(0, "red");
    let datapath = &world.hosts[0].datapath;
    let all = datapath.connections(&place, world.zone(0, "red")).await;
    let mut seen = [0; 2];
    for it in all.expect("listed") {
        if it.protocol != Protocol::TCP {
            continue;
        }
        let allows_80 = (u64::from(it.revision) - first) / 2 % 2 == 1;
        match it.port {
            80 => assert!(allows_80, "{it:?}"),
            81 => assert!(!allows_80, "{it:?}"),
            _ => continue,
        }
        seen[usize::from(allows_80)] += 1;
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    assert_eq!(world.pending(0).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_count_their_decisions() {
    let mut world = one_tenant().await;
    world.policy(
        "red",
        "some",
        &["1 in deny udp 9", "2 in allow udp 10", "3 in deny tcp"],
    );
    world.group("red", "web", 2, &["some"]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.2").await;
    let _echo = Echo::start(&server, 10);
    for _ in 0..3 {
        assert!(!echoes(&client, "20.1.1.1", 9));
        assert!(echoes(&client, "20.1.1.1", 10));
    }
    let place = world.place_of(0, "red");
    let datapath = &world.hosts[0].datapath;
    let counters = datapath
        .counters(&place, world.zone(0, "red"))
        .await
        .expect("read");
    let packets: Vec<_> = counters
        .iter()
        .map(|(rule, it)| (*rule, it.packets))
        .collect();
    assert_eq!(packets, [(1, 3), (2, 3), (3, 0)]);
    assert_eq!(counters[&1].bytes, 3 * 33);
}

/// For conntrack each packet of it is a new connection's.
#[tokio::test(flavor = "multi_thread")]
async fn flow_without_answers_is_decided_once_and_on_every_cpu() {
    const PACKETS: usize = 20_000;
    let mut world = one_tenant().await;
    world.policy("red", "some", &["1 in deny", "2 in allow udp 7 priority 2"]);
    world.group("red", "web", 2, &["some"]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let client = world.attach(0, "red", "net", "client", "20.1.1.2").await;
    let _silent = bind(&server, 7);
    let socket = bind(&client, 0);
    socket.connect(("20.1.1.1", 7)).expect("connected");
    let dropped = |world: &World| {
        let said = ["opening", "passing"].map(|chain| {
            let list = format!("nft list chain inet contiv {chain}");
            String::from_utf8(world.in_domain(0, "red", &list).stdout).expect("text")
        });
        let counts = said.iter().flat_map(|it| it.split("packets ").skip(1));
        let counts = counts.map(|it| it.split(' ').next().expect("a number"));
        counts
            .map(|it| it.parse::<u64>().expect("a number"))
            .sum::<u64>()
    };
    send_on_all_cpus(&socket, PACKETS);
    assert_eq!(dropped(&world), 0);
    world.policy("red", "some", &["1 in deny"]);
    world.sync(0).await;
    send_on_all_cpus(&socket, PACKETS);
    assert_eq!(dropped(&world), 0, "it stands");
    let other = bind(&client, 0);
    other.connect(("20.1.1.1", 7)).expect("connected");
    send_on_all_cpus(&other, PACKETS);
    assert_ne!(dropped(&world), 0, "another is denied");
}

/// A packet that doesn't open a connection begins none, and fragments are reassembled before they are decided.
#[tokio::test(flavor = "multi_thread")]
async fn fragments_and_stray_segments_bypass_no_rule() {
    let mut world = one_tenant().await;
    world.policy("red", "some", &["1 in deny udp 9", "2 in deny tcp 81"]);
    world.group("red", "web", 2, &["some"]);
    world.sync_all().await;
    let server = world.attach_in(0, in_group("web"), "web", "20.1.1.1").await;
    let client = world.attach(1, "red", "net", "client", "20.1.1.129").await;
    let _echo = [Echo::start(&server, 9), Echo::start(&server, 10)];
    let big = vec![7; 4_000];
    assert!(
        echoes_all(&client, 0, "20.1.1.1", 10, &big),
        "fragments pass"
    );
    assert!(
        !echoes_all(&client, 0, "20.1.1.1", 9, &big),
        "but no denied ones"
    );

    // A connection that conntrack has forgotten isn't picked up in its middle.
    let listener = listen(&server, 80);
    let mut stream = opens(&client, "20.1.1.1", 80).expect("allowed");
    let (mut accepted, _) = listener.accept().expect("it is there");
    accepted
        .set_read_timeout(Some(std::time::Duration::from_millis(500)))
        .expect("set");
    for host in 0..2 {
        let place = world.place_of(host, "red");
        let (datapath, zone) = (&world.hosts[host].datapath, world.zone(host, "red"));
        let all = datapath.connections(&place, zone).await.expect("listed");
        datapath.end(&place, all).await.expect("ended");
    }
    stream.write_all(b"more").expect("sent");
    assert!(accepted.read(&mut [0; 4]).is_err(), "a stray segment");
    assert!(opens(&client, "20.1.1.1", 80).is_some(), "a new one is one");
}
