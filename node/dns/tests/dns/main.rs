//! Tests the DNS servers with `dig` in their namespaces; a real dnsmasq is their resolver.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod client;
mod messages;
mod refused;
mod relayed;
mod shares;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_schema::TenantName;
use node_dns::{self as dns, SocketPlace};

use crate::world::{Resolver, World, endpoint, run, until, unused_loopback, write_resolvers};

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_clients_network_are_answered() {
    let resolver = Resolver::start().await;
    let world = World::new(&[resolver.address]).await;
    let web = |words: &[&str]| world.default.short("20.1.1.1", words);
    assert_eq!(web(&["prod_db"]), "20.1.1.2");
    assert_eq!(web(&["PROD_db"]), "20.1.1.2");
    assert_eq!(web(&["prod_db", "+tcp"]), "20.1.1.2");

    let v6 = world.default.dig("20.1.1.1", &["prod_db", "AAAA"]);
    assert!(v6.contains("status: NOERROR"), "{v6}");
    assert!(v6.contains("ANSWER: 0"), "{v6}");

    // Names of another network, of another tenant, and of clients without an endpoint are forwarded,
    // and the resolver doesn't know them.
    for (asker, name) in [
        ("20.1.1.1", "cache"),
        ("20.1.1.1", "secret"),
        ("20.2.1.1", "web"),
        ("9.9.9.9", "web"),
    ] {
        let reply = world.default.dig(asker, &[name]);
        assert!(reply.contains("ANSWER: 0"), "{reply}");
        assert!(!reply.contains("status: NOERROR"), "{reply}");
    }
    assert_eq!(world.blue.short("20.1.1.1", &["secret"]), "20.1.1.3");

    world.view.send_modify(|view| {
        let id = "default-front-prod_db".parse().unwrap();
        view.remove(&id, &"n1".parse().unwrap());
        view.show(endpoint("default", "front", "new", "20.1.1.9"));
    });
    assert_eq!(web(&["new"]), "20.1.1.9");
    assert_eq!(web(&["prod_db"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn group_answers_with_each_member_first_equally_often() {
    let world = World::new(&[]).await;
    world.view.send_modify(|view| {
        for (name, address) in [
            ("one", "20.2.1.1"),
            ("two", "20.2.1.2"),
            ("three", "20.2.1.3"),
        ] {
            let mut member = Arc::unwrap_or_clone(endpoint("default", "back", name, address));
            member.group = Some("pool".parse().unwrap());
            view.show(Arc::new(member));
        }
        for (name, address) in [("four", "20.2.1.14"), ("five", "20.2.1.15")] {
            let mut member = Arc::unwrap_or_clone(endpoint("default", "back", name, address));
            member.group = Some("other".parse().unwrap());
            view.show(Arc::new(member));
        }
    });
    let ask = |asker, name| world.default.short(asker, &[name]);
    // Queries for another group alternate with them, as of a client of both.
    let mut words = Vec::new();
    for _ in 0..1_000 {
        words.extend(["pool", "other"]);
    }
    let answers = world.default.short("20.2.1.1", &words);
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), 5_000);
    let mut first = BTreeMap::new();
    for (pool, other) in answers.chunks(5).map(|it| it.split_at(3)) {
        assert_eq!(BTreeSet::from_iter(pool).len(), 3, "{pool:?}");
        *first.entry(pool[0]).or_insert(0) += 1;
        *first.entry(other[0]).or_insert(0) += 1;
    }
    for (address, times) in first {
        let due = if address.ends_with(['4', '5']) {
            500
        } else {
            333
        };
        // Five standard deviations.
        assert!((due - 80..due + 80).contains(&times), "{address}: {times}");
    }

    assert_eq!(ask("20.1.1.1", "two.back"), "20.2.1.2");
    assert_eq!(ask("20.1.1.1", "two.back.contiv.local"), "20.2.1.2");
    assert_eq!(ask("20.1.1.1", "pool.back").lines().count(), 3);
    assert_eq!(
        world.default.short("20.1.1.1", &["-x", "20.2.1.2"]),
        "two.back.contiv.local."
    );
    let nobody = world.default.dig("20.1.1.1", &["nobody.back.contiv.local"]);
    assert!(nobody.contains("status: NXDOMAIN"), "{nobody}");
    assert_eq!(world.blue.short("20.1.1.1", &["two.back"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_forwarded() {
    let resolver = Resolver::start().await;
    let world = World::new(&[resolver.address]).await;
    for more in ["+notcp", "+tcp", "+noedns"] {
        assert_eq!(
            world.default.short("20.1.1.1", &["www.example.test", more]),
            "192.0.2.7"
        );
    }
    let missing = world.default.dig("20.1.1.1", &["nobody.test"]);
    assert!(missing.contains("status: NXDOMAIN"), "{missing}");

    // The answer is too long for UDP: it is truncated there and complete by TCP.
    let cut = world
        .default
        .dig("20.1.1.1", &["big.test", "TXT", "+ignore"]);
    assert!(cut.contains(" tc"), "{cut}");
    let whole = world.default.dig("20.1.1.1", &["big.test", "TXT"]);
    assert!(whole.contains("ANSWER: 12"), "{whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_resolvers_give_servfail_soon_and_a_new_file_counts_at_once() {
    let resolver = Resolver::start().await;
    // Nobody listens on the first; the second listens and never answers.
    let silent_at = unused_loopback();
    let _silent = std::net::UdpSocket::bind((silent_at, 53)).unwrap();
    let world = World::new(&[unused_loopback(), silent_at]).await;

    let asked = Instant::now();
    let reply = world.default.dig("20.1.1.1", &["www.example.test"]);
    let took = asked.elapsed();
    assert!(reply.contains("status: SERVFAIL"), "{reply}");
    assert!(took < Duration::from_millis(2_300), "{took:?}");

    write_resolvers(&world.resolv_conf, &[silent_at, resolver.address]);
    assert_eq!(
        world.default.short("20.1.1.1", &["www.example.test"]),
        "192.0.2.7"
    );

    write_resolvers(&world.resolv_conf, &[]);
    let none = world.default.dig("20.1.1.1", &["www.example.test"]);
    assert!(none.contains("status: SERVFAIL"), "{none}");
    // Our own names need no resolver.
    assert_eq!(world.default.short("20.1.1.1", &["prod_db"]), "20.1.1.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_resolver_slows_no_name_of_ours() {
    let silent_at = unused_loopback();
    let _silent = std::net::UdpSocket::bind((silent_at, 53)).unwrap();
    let world = World::new(&[silent_at]).await;
    // More queries than may wait, all from the tenant that also asks for its own names.
    let script = r"
        exec 3<>/dev/udp/169.254.53.53/53
        for n in $(seq 1000); do
            printf '\0\0\1\0\0\1\0\0\0\0\0\0\7example\3org\0\0\1\0\1' >&3
        done
        exec sleep 30
    ";
    let mut flood = Command::new("ip")
        .args(["netns", "exec", &world.default.0, "bash", "-c", script])
        .spawn()
        .unwrap();
    until("queries fail", || world.dns.counters().failed > 0).await;
    for tenant in [&world.default, &world.blue] {
        let reply = tenant.dig("20.1.1.1", &["web"]);
        assert!(reply.contains("ANSWER: 1"), "{reply}");
        let time = reply.split("Query time: ").nth(1).unwrap_or_default();
        let time: u32 = time.split(' ').next().unwrap_or_default().parse().unwrap();
        assert!(time < 100, "{time} ms");
    }
    flood.kill().unwrap();
    flood.wait().unwrap();
    // The resolver counts as silent after one wait: the next query fails sooner.
    world.blue.dig("20.1.1.1", &["www.example.test"]);
    let asked = Instant::now();
    let reply = world.blue.dig("20.1.1.1", &["www.example.test"]);
    assert!(reply.contains("status: SERVFAIL"), "{reply}");
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_denials_have_the_configured_ttl() {
    let resolver = Resolver::start().await;
    let config = dns::Config {
        suffix: "svc.example".to_owned(),
        ttl: 3,
        ..dns::Config::default()
    };
    let world = World::with(&[resolver.address], config).await;
    let asked = |words: &[&str]| {
        let words: Vec<&str> = [words, &["+noall", "+answer", "+authority"]].concat();
        world.default.dig("20.1.1.1", &words).replace('\t', " ")
    };
    let fields = |text: String| -> Vec<String> {
        let line = text
            .lines()
            .rfind(|line| !line.starts_with(';') && !line.is_empty());
        line.unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect()
    };
    for (words, owner, kind) in [
        (&["prod_db"][..], "prod_db.", "A"),
        (
            &["prod_db.front.svc.example"],
            "prod_db.front.svc.example.",
            "A",
        ),
        (&["prod_db", "AAAA"], "prod_db.", "SOA"),
        (&["nobody.front.svc.example"], "svc.example.", "SOA"),
        (&["svc.example"], "svc.example.", "SOA"),
    ] {
        let fields = fields(asked(words));
        assert_eq!(fields[..4], [owner, "3", "IN", kind], "{words:?}");
        if kind == "SOA" {
            assert_eq!(fields.last().map(String::as_str), Some("3"), "{words:?}");
        }
    }
    assert_eq!(
        world.default.short("20.1.1.1", &["-x", "20.1.1.2"]),
        "prod_db.front.svc.example."
    );
    // Names with the default suffix don't exist then.
    let former = world
        .default
        .dig("20.1.1.1", &["prod_db.front.contiv.local"]);
    assert!(former.contains("ANSWER: 0"), "{former}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_counted_and_breaks_no_server() {
    let world = World::new(&[]).await;
    // So few datagrams that a socket's buffer (212,992 bytes) holds all of them.
    let script = r"
        exec 3<>/dev/udp/169.254.53.53/53 4<>/dev/tcp/169.254.53.53/53
        for n in $(seq 100); do head -c $((n * 7)) /dev/urandom >&3; done
        printf '\0\0\1\0\0\7\0\0\0\0\0\0' >&3
        printf '\0\14\0\0\1\0\0\1\0\0\0\0\0\0\300\14' >&3
        head -c 70000 /dev/urandom >&4
        printf '\377\377' >&4
    ";
    let _ = Command::new("ip")
        .args(["netns", "exec", &world.default.0, "bash", "-c", script])
        .stderr(Stdio::null())
        .status();
    // 102 by UDP, and the first by TCP, which ends its connection.
    until("each is counted", || world.dns.counters().malformed == 103).await;
    for more in ["+notcp", "+tcp"] {
        assert_eq!(
            world.default.short("20.1.1.1", &["prod_db", more]),
            "20.1.1.2"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_no_descriptors_and_block_no_others() {
    let world = World::new(&[]).await;
    // A hundred idle connections of one asker.
    let script =
        "for n in $(seq 100); do exec {fd}<>/dev/tcp/169.254.53.53/53; done; echo; sleep 30";
    let mut idler = Command::new("ip")
        .args(["netns", "exec", &world.default.0, "bash", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut all_opened = [0];
    let mut shown = idler.stdout.take().unwrap();
    shown.read_exact(&mut all_opened).unwrap();
    let connections = || {
        let output = Command::new("ip")
            .args(["netns", "exec", &world.default.0, "ss", "-Htnp"])
            .args(["state", "established", "sport", "=", ":53"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let ours = format!("pid={},", std::process::id());
    until("all but its share are ended", || {
        connections().matches(&ours).count() <= 16
    })
    .await;
    assert_eq!(world.default.short("20.1.1.1", &["prod_db"]), "20.1.1.2");
    for (namespace, name, told) in [
        (&world.blue, "secret", "20.1.1.3"),
        (&world.default, "prod_db", "20.1.1.2"),
    ] {
        assert_eq!(namespace.short("20.1.1.1", &[name, "+tcp"]), told);
    }
    idler.kill().unwrap();
    idler.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn server_follows_its_domain() {
    let world = World::new(&[]).await;
    let tenant = TenantName::default_tenant();
    let asked = || world.default.short("20.1.1.1", &["prod_db", "+time=1"]);

    // Create the namespace again with its old name: the old sockets are of no use.
    run(&["ip", "netns", "del", &world.default.0]);
    world.default.make(&["20.1.1.1"]);
    assert_ne!(asked(), "20.1.1.2");
    world.dns.serve_domain(&tenant, world.default.place());
    until("the server listens in the new namespace", || {
        asked() == "20.1.1.2"
    })
    .await;

    world.dns.drop_domain(&tenant);
    until("the server is gone", || asked() != "20.1.1.2").await;
    assert_eq!(world.blue.short("20.1.1.1", &["secret"]), "20.1.1.3");
    assert!(world.dns.troubles().is_empty());

    let none = SocketPlace::Namespace("/run/netns/none-such".into());
    world.dns.serve_domain(&tenant, none);
    until("it reports the trouble", || {
        world.dns.troubles().contains_key("default")
    })
    .await;
}
