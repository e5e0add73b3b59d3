//! Tests the server's own replies as they are on the wire.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use crate::client::{CLIENT_ADDRESS, Client, REPLY_TIMEOUT, SILENCE_TIMEOUT, question, world};
use crate::world::endpoint;

#[tokio::test(flavor = "multi_thread")]
async fn answer_on_the_wire_is_readable_and_complete() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    let bytes = question("pRod_db.Front.", RecordType::A, Some(4_096));
    let by_tcp = Message::from_vec(&client.by_tcp(&bytes)).unwrap();
    for reply in [client.ask(&bytes), by_tcp] {
        assert_eq!(reply.metadata.id, 0xABCD);
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert!(reply.metadata.recursion_desired && !reply.metadata.truncation);
        // The name has the query's case (draft-vixie-dnsext-dns0x20).
        assert_eq!(reply.queries[0].name().to_ascii(), "pRod_db.Front.");
        let [answer] = &reply.answers[..] else {
            panic!("{reply}");
        };
        assert_eq!(answer.ttl, 7);
        assert_eq!(answer.name.to_ascii(), "pRod_db.Front.");
        assert_eq!(answer.data, RData::A("20.1.1.2".parse().unwrap()));
        assert!(reply.authorities.is_empty());
        let edns = reply.edns.as_ref().unwrap();
        assert!(edns.flags().dnssec_ok && edns.max_payload() == 1_232);
    }

    let bytes = question("2.1.1.20.in-addr.arpa.", RecordType::PTR, None);
    let reply = client.ask(&bytes);
    let told = reply.answers[0].data.to_string();
    assert_eq!(told, "prod_db.front.contiv.local.");
    assert!(reply.edns.is_none());
    // No query can hold the name: the endpoint is named by the short form of its id.
    let long = endpoint("default", "front", "prod_db", "20.1.1.2");
    let mut long = Arc::unwrap_or_clone(long);
    long.name = Some("x".repeat(64));
    world.view.send_modify(|view| view.show(Arc::new(long)));
    let reply = client.ask(&bytes);
    let told = reply.answers[0].data.to_string();
    assert_eq!(told, "default-fron.front.contiv.local.");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families_have_addresses_and_names() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    let both = endpoint("default", "front", "both", "20.1.1.7");
    let mut both = Arc::unwrap_or_clone(both);
    both.v6 = Some("fd00::7".parse().unwrap());
    world.view.send_modify(|view| view.show(Arc::new(both)));
    let nibbles = "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
    for (name, kind, told) in [
        ("both.", RecordType::A, &["20.1.1.7"][..]),
        ("both.", RecordType::AAAA, &["fd00::7"]),
        ("both.", RecordType::ANY, &["20.1.1.7", "fd00::7"]),
        ("both.", RecordType::MX, &[]),
        (nibbles, RecordType::PTR, &["both.front.contiv.local."]),
        (nibbles, RecordType::A, &[]),
    ] {
        let reply = client.ask(&question(name, kind, None));
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        let answers = reply.answers.iter().map(|it| it.data.to_string());
        let mut answers: Vec<String> = answers.collect();
        answers.sort();
        assert_eq!(answers, told, "{name} {kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn negative_answers_have_the_same_ttl() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    for (name, code, owner) in [
        ("Web.", ResponseCode::NoError, "Web."),
        ("web.front.", ResponseCode::NoError, "web.front."),
        ("web.Contiv.local.", ResponseCode::NoError, "Contiv.local."),
        ("Back.contiv.local.", ResponseCode::NoError, "contiv.local."),
        ("db.contiv.local.", ResponseCode::NXDomain, "contiv.local."),
    ] {
        let reply = client.ask(&question(name, RecordType::AAAA, None));
        assert_eq!(reply.metadata.response_code, code, "{name}");
        assert!(reply.metadata.authoritative && reply.answers.is_empty());
        let [soa] = &reply.authorities[..] else {
            panic!("{reply}");
        };
        let RData::SOA(data) = &soa.data else {
            panic!("{soa}");
        };
        assert_eq!((soa.ttl, data.minimum), (7, 7));
        assert_eq!(soa.name.to_ascii(), owner);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn long_answers_are_truncated_and_complete_by_tcp() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    world.view.send_modify(|view| {
        for n in 0..200 {
            let member = endpoint("default", "front", &format!("m{n}"), &format!("20.1.2.{n}"));
            let mut member = Arc::unwrap_or_clone(member);
            member.group = Some("pool".parse().unwrap());
            view.show(Arc::new(member));
        }
    });
    for (payload, room) in [
        (None, 512),
        (Some(800), 800),
        (Some(4_096), 1_232),
        (Some(1), 512),
    ] {
        let bytes = question("pool.", RecordType::A, payload);
        let reply = client.by_udp(&bytes);
        let length = reply.len();
        assert!(length <= room && length + 16 > room, "{length} of {room}");
        let reply = Message::from_vec(&reply).unwrap();
        assert!(reply.metadata.truncation && reply.edns.is_some() == payload.is_some());
        let whole = Message::from_vec(&client.by_tcp(&bytes)).unwrap();
        assert_eq!(whole.answers.len(), 200);
        assert!(!whole.metadata.truncation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_get_an_error_code_and_malformed_ones_nothing() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    let good = question("web.", RecordType::A, Some(1_232));
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let mut twice = Message::from_vec(&good).unwrap();
    twice.add_query(twice.queries[0].clone());
    let mut none = Message::from_vec(&good).unwrap();
    none.queries.clear();
    for (query, code) in [
        (good.clone(), ResponseCode::NoError),
        (changed(2, 0x28), ResponseCode::NotImp),
        (twice.to_vec().unwrap(), ResponseCode::FormErr),
        (none.to_vec().unwrap(), ResponseCode::FormErr),
    ] {
        assert_eq!(client.ask(&query).metadata.response_code, code);
    }
    let version = good.len() - 5;
    let told = client.ask(&changed(version, 1)).metadata.response_code;
    // 16 has two names (RFC 6891 §9).
    assert_eq!(u16::from(told), u16::from(ResponseCode::BADVERS));
    assert_eq!(world.dns.counters().malformed, 0);

    client.udp.set_read_timeout(Some(SILENCE_TIMEOUT)).unwrap();
    let mut garbage: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
    garbage.push(changed(2, 0x80)); // An answer.
    garbage.push(changed(5, 2)); // One question more than there is.
    garbage.push(changed(12, 0xC0)); // A pointer.
    garbage.push(changed(12, 60)); // A label that exceeds the message.
    for bytes in &garbage {
        client.udp.send(bytes).unwrap();
    }
    assert_eq!(client.receive(), None);
    let expected = u64::try_from(garbage.len()).unwrap();
    assert_eq!(world.dns.counters().malformed, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_answered_or_counted() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    client.udp.set_nonblocking(true).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let good = question("web.front.contiv.local.", RecordType::A, Some(1_232));
    for _ in 0..100 {
        let before = world.dns.counters().malformed;
        let mut left = 50;
        for _ in 0..left {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            bytes.truncate(random.usize(bytes.len() / 2..=bytes.len()));
            client.udp.send(&bytes).unwrap();
        }
        let since = Instant::now();
        while world.dns.counters().malformed - before < left {
            left -= u64::from(client.receive().is_some());
            assert!(
                since.elapsed() < REPLY_TIMEOUT,
                "{left} neither answered nor counted"
            );
        }
    }
    assert_eq!(
        world.default.short(CLIENT_ADDRESS, &["prod_db"]),
        "20.1.1.2"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_view_delays_answers_and_denies_no_name() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    world.view.send_modify(|view| view.await_stream(true));
    // Known names are answered at once.
    let told = client.ask(&question("web.", RecordType::A, None));
    assert_eq!(told.answers.len(), 1);

    let new = question("new.contiv.local.", RecordType::A, None);
    for ask in [Client::by_udp, Client::by_tcp] {
        let since = Instant::now();
        let told = Message::from_vec(&ask(&client, &new)).unwrap();
        let took = since.elapsed();
        assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
        let due = Duration::from_millis(900)..Duration::from_millis(1_900);
        assert!(due.contains(&took), "{took:?}");
    }

    client.udp.send(&new).unwrap();
    client.udp.set_read_timeout(Some(SILENCE_TIMEOUT)).unwrap();
    assert_eq!(client.receive(), None, "it waits");
    client.udp.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
    world.view.send_modify(|view| {
        view.show(endpoint("default", "front", "new", "20.1.1.9"));
        view.await_stream(false);
    });
    let told = Message::from_vec(&client.receive().unwrap()).unwrap();
    assert_eq!(told.answers[0].data.to_string(), "20.1.1.9");
    let nobody = question("nobody.contiv.local.", RecordType::A, None);
    let told = client.ask(&nobody).metadata.response_code;
    assert_eq!(told, ResponseCode::NXDomain);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_clients_get_their_own_answers() {
    let world = world(&[]).await;
    let names = [("web.", "20.1.1.1"), ("prod_db.", "20.1.1.2")];
    let ask = &|number: usize| {
        let client = Client::new(&world.default);
        let (name, address) = names[number % 2];
        let mut query = question(name, RecordType::A, None);
        for id in 0..200_u16 {
            query[..2].copy_from_slice(&id.to_be_bytes());
            let reply = match id % 2 {
                0 => client.by_udp(&query),
                _ => client.by_tcp(&query),
            };
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(reply.metadata.id, id);
            assert_eq!(reply.answers[0].data.to_string(), address);
        }
    };
    std::thread::scope(|scope| {
        for number in 0..16 {
            scope.spawn(move || ask(number));
        }
    });
}

fn told(client: &Client, name: &str) -> Vec<String> {
    let reply = client.ask(&question(name, RecordType::A, None));
    let data = reply.answers.iter().map(|it| it.data.to_string());
    data.collect()
}

/// Recent replies are cached, and a change ends them.
#[tokio::test(flavor = "multi_thread")]
async fn change_shows_in_the_next_answer() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    let name = "prod_db.front.contiv.local.";
    for last in 2..100 {
        let address = format!("20.1.1.{last}");
        let mut now = endpoint("default", "front", "prod_db", &address);
        world.view.send_modify(|view| view.show(now.clone()));
        for _ in 0..3 {
            assert_eq!(told(&client, name), [address.as_str()]);
        }
        Arc::make_mut(&mut now).closed = Some("its network was removed".to_owned());
        world.view.send_modify(|view| view.show(now.clone()));
        for _ in 0..3 {
            assert!(told(&client, name).is_empty());
        }
        world
            .view
            .send_modify(|view| view.remove(&now.id, &now.node));
        for _ in 0..3 {
            let reply = client.ask(&question(name, RecordType::A, None));
            assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_replies_are_not_given_to_other_clients() {
    let world = world(&[]).await;
    world.view.send_modify(|view| {
        view.show(endpoint("default", "front", "both", "20.1.1.8"));
        view.show(endpoint("default", "back", "both", "20.2.1.8"));
        view.show(endpoint("blue", "front", "both", "20.1.1.9"));
    });
    // The same message, three times from the same address.
    let front = Client::new(&world.default);
    let back = Client::at("20.2.1.1", &world.default);
    let blue = Client::new(&world.blue);
    for _ in 0..3 {
        assert_eq!(told(&front, "both."), ["20.1.1.8"]);
        assert_eq!(told(&back, "both."), ["20.2.1.8"]);
        assert_eq!(told(&blue, "both."), ["20.1.1.9"]);
    }
    // With a smaller payload size, with EDNS, by TCP.
    for payload in [None, Some(512), None, Some(4_096)] {
        let bytes = question("Both.", RecordType::A, payload);
        let by_tcp = Message::from_vec(&front.by_tcp(&bytes)).unwrap();
        for reply in [front.ask(&bytes), by_tcp] {
            assert_eq!(reply.edns.is_some(), payload.is_some());
            assert_eq!(reply.queries[0].name().to_ascii(), "Both.");
            assert_eq!(reply.answers[0].data.to_string(), "20.1.1.8");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_two_members_is_first_half_of_the_time() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    world.view.send_modify(|view| {
        for (name, address) in [("one", "20.1.1.3"), ("two", "20.1.1.4")] {
            let mut member = endpoint("default", "front", name, address);
            Arc::make_mut(&mut member).group = Some("pair".parse().unwrap());
            view.show(member);
        }
    });
    let first = (0..1_000).filter(|_| told(&client, "pair.")[0] == "20.1.1.3");
    // Five standard deviations.
    let times = first.count();
    assert!((420..580).contains(&times), "{times}");
}
