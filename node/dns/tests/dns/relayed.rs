//! Tests how other resolvers' replies are relayed.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use bus_schema::TenantName;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::client::{Client, REPLY_TIMEOUT, question, world};
use crate::world::{until, unused_loopback, write_resolvers};

/// Answers each query on this address with what `of` returns, until that is empty.
fn resolver(address: Ipv4Addr, mut of: impl FnMut(Message) -> Vec<u8> + Send + 'static) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 4_096];
        while let Ok((length, asker)) = socket.recv_from(&mut query) {
            let query = Message::from_vec(&query[..length]).unwrap();
            let said = of(query);
            if said.is_empty() {
                return;
            }
            socket.send_to(&said, asker).unwrap();
        }
    });
}

fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.add_query(query.queries[0].clone());
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_denials_have_the_configured_ttl() {
    let address = unused_loopback();
    resolver(address, |query| {
        let mut reply = reply_to(&query);
        reply.metadata.response_code = ResponseCode::NXDomain;
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 86_400);
        reply.add_authority(Record::from_rdata(root, 86_400, RData::SOA(soa)));
        reply.to_vec().unwrap()
    });
    let world = world(&[address]).await;
    let client = Client::new(&world.default);
    let told = client.ask(&question("nobody.", RecordType::A, None));
    assert_eq!(told.metadata.id, 0xABCD);
    assert_eq!(told.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(told.authorities[0].ttl, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_relayed_byte_for_byte() {
    let address = unused_loopback();
    let (sender, sent) = std::sync::mpsc::channel();
    resolver(address, move |query| {
        let mut reply = reply_to(&query);
        let name = query.queries[0].name().clone();
        // A record of an unknown type.
        let kind = RecordType::Unknown(65_280);
        let data = NULL::with(vec![1, 2, 3]);
        let rdata = RData::Unknown {
            code: kind,
            rdata: data,
        };
        let count = if name.to_ascii() == "big.example." {
            60
        } else {
            1
        };
        for _ in 0..count {
            reply.add_answer(Record::from_rdata(name.clone(), 9, rdata.clone()));
        }
        let mut bytes = reply.to_vec().unwrap();
        bytes.extend(b"extra bytes");
        sender.send(bytes.clone()).unwrap();
        bytes
    });
    let world = world(&[address]).await;
    let client = Client::new(&world.default);
    let query = question("wWw.example.", RecordType::Unknown(65_280), None);
    let told = client.by_udp(&query);
    let said = sent.recv().unwrap();
    assert_eq!(told[..2], query[..2]);
    assert_eq!(told[2..], said[2..]);

    // A reply that doesn't fit is truncated and has TC set.
    let query = question("big.example.", RecordType::Unknown(65_280), None);
    let told = client.ask(&query);
    assert!(told.metadata.truncation && told.answers.is_empty());
    assert!(sent.recv().unwrap().len() > 512);
}

/// A reply with the right id and another question is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn reply_to_another_question_is_ignored() {
    let address = unused_loopback();
    resolver(address, |query| {
        let mut reply = reply_to(&query);
        let name = Name::from_ascii("other.example.").unwrap();
        reply.queries[0].set_name(name.clone());
        let told = RData::A("192.0.2.66".parse().unwrap());
        reply.add_answer(Record::from_rdata(name, 9, told));
        reply.to_vec().unwrap()
    });
    let world = world(&[address]).await;
    let client = Client::new(&world.default);
    let told = client.ask(&question("www.example.", RecordType::A, None));
    assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    assert!(told.answers.is_empty());
}

/// Containers of all domains share the cached replies.
#[tokio::test(flavor = "multi_thread")]
async fn resolver_is_asked_once_within_the_ttl() {
    let address = unused_loopback();
    let (sender, asked) = std::sync::mpsc::channel();
    resolver(address, move |query| {
        let name = query.queries[0].name().to_ascii();
        sender.send(name.clone()).unwrap();
        let ttl = match &*name {
            "end.example." => return Vec::new(),
            "brief.example." => 1,
            "zero.example." => 0,
            _ => 20,
        };
        let mut reply = reply_to(&query);
        let told = RData::A("192.0.2.7".parse().unwrap());
        let owner = query.queries[0].name().clone();
        reply.add_answer(Record::from_rdata(owner, ttl, told));
        reply.to_vec().unwrap()
    });
    let world = world(&[address]).await;
    let (client, other) = (Client::new(&world.default), Client::new(&world.blue));
    let www = |name: &str| question(name, RecordType::A, None);
    let times = |client: &Client, name: &str| {
        client.ask(&www(name));
        asked.try_iter().count()
    };
    assert_eq!(times(&client, "www.example."), 1);
    let by_tcp = Message::from_vec(&client.by_tcp(&www("WWW.example."))).unwrap();
    for told in [by_tcp, other.ask(&www("WWW.example."))] {
        assert_eq!(told.metadata.id, 0xABCD);
        assert_eq!(told.queries[0].name().to_ascii(), "WWW.example.");
        assert_eq!(told.answers[0].data.to_string(), "192.0.2.7");
    }
    assert_eq!(asked.try_iter().count(), 0);
    let counters = world.dns.counters();
    assert_eq!((counters.forwarded, counters.cached), (1, 2));

    assert_eq!(times(&client, "zero.example."), 1);
    assert_eq!(times(&client, "zero.example."), 1);
    let since = Instant::now();
    assert_eq!(times(&client, "brief.example."), 1);
    assert_eq!(times(&client, "brief.example."), 0);
    until("its second is over", || {
        times(&client, "brief.example.") == 1
    })
    .await;
    assert!(since.elapsed() >= Duration::from_secs(1));

    // Other resolvers may answer differently: a change of the file clears the cache.
    write_resolvers(&world.resolv_conf, &[address]);
    until("it is forgotten", || times(&client, "www.example.") == 1).await;

    // Cached replies outlive their resolver.
    let told = client.ask(&www("end.example."));
    assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    let told = client.ask(&www("www.example."));
    assert_eq!(told.answers[0].data.to_string(), "192.0.2.7");
}

/// A resolver that the test controls query by query.
pub(crate) struct ManualResolver(UdpSocket);

impl ManualResolver {
    pub(crate) fn new() -> (Self, Ipv4Addr) {
        let address = unused_loopback();
        let socket = UdpSocket::bind((address, 53)).unwrap();
        socket.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
        (Self(socket), address)
    }

    /// A query that has arrived and wasn't read.
    pub(crate) fn query_if_any(&self) -> Option<(Message, SocketAddr)> {
        self.0.set_nonblocking(true).unwrap();
        let mut query = [0; 4_096];
        let received = self.0.recv_from(&mut query);
        self.0.set_nonblocking(false).unwrap();
        let (length, asker) = received.ok()?;
        Some((Message::from_vec(&query[..length]).unwrap(), asker))
    }

    pub(crate) fn query(&self) -> (Message, SocketAddr) {
        let mut query = [0; 4_096];
        let (length, asker) = self.0.recv_from(&mut query).unwrap();
        (Message::from_vec(&query[..length]).unwrap(), asker)
    }

    pub(crate) fn answers(&self, (query, asker): &(Message, SocketAddr), address: &str) {
        let mut reply = reply_to(query);
        let owner = query.queries[0].name().clone();
        let told = RData::A(address.parse().unwrap());
        reply.add_answer(Record::from_rdata(owner, 0, told));
        self.0.send_to(&reply.to_vec().unwrap(), asker).unwrap();
    }

    fn fails(&self, (query, asker): &(Message, SocketAddr)) {
        let mut reply = reply_to(query);
        reply.metadata.response_code = ResponseCode::ServFail;
        self.0.send_to(&reply.to_vec().unwrap(), asker).unwrap();
    }
}

pub(crate) fn received_address(client: &Client) -> String {
    let reply = Message::from_vec(&client.receive().expect("an answer")).unwrap();
    assert_eq!(reply.metadata.id, 0xABCD);
    reply.answers[0].data.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn next_resolver_is_asked_after_a_while_and_the_first_may_still_answer() {
    let ((first, one), (second, two)) = (ManualResolver::new(), ManualResolver::new());
    let world = world(&[one, two]).await;
    let client = Client::new(&world.default);
    let ask = || {
        let query = question("www.example.", RecordType::A, None);
        client.udp.send(&query).unwrap();
        Instant::now()
    };
    for first_answers in [true, false] {
        let since = ask();
        let (of_first, of_second) = (first.query(), second.query());
        let took = since.elapsed();
        let due = Duration::from_millis(500)..Duration::from_millis(1_500);
        assert!(due.contains(&took), "{took:?}");
        match first_answers {
            true => first.answers(&of_first, "192.0.2.1"),
            false => second.answers(&of_second, "192.0.2.1"),
        }
        assert_eq!(received_address(&client), "192.0.2.1");
    }
    // The first resolver was silent last, so it is asked last.
    ask();
    second.answers(&second.query(), "192.0.2.2");
    assert_eq!(received_address(&client), "192.0.2.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_resolver_is_not_waited_for() {
    let ((first, one), (second, two)) = (ManualResolver::new(), ManualResolver::new());
    let world = world(&[one, two]).await;
    let client = Client::new(&world.default);
    let since = Instant::now();
    for _ in 0..3 {
        let query = question("www.example.", RecordType::A, None);
        client.udp.send(&query).unwrap();
        first.fails(&first.query());
        second.answers(&second.query(), "192.0.2.2");
        assert_eq!(received_address(&client), "192.0.2.2");
    }
    let took = since.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    let counters = world.dns.counters();
    assert_eq!((counters.forwarded, counters.failed), (3, 0));
}

/// A forwarded query has an id of ours, and its reply the client's id.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_forwarded_queries_get_their_own_replies() {
    let address = unused_loopback();
    let (sender, ids) = std::sync::mpsc::channel();
    resolver(address, move |query| {
        sender.send(query.metadata.id).unwrap();
        let name = query.queries[0].name().clone();
        let number = name.to_ascii()[1..].trim_end_matches('.').parse().unwrap();
        let mut reply = reply_to(&query);
        let told = RData::A(Ipv4Addr::new(192, 0, 2, number).into());
        reply.add_answer(Record::from_rdata(name, 0, told));
        reply.to_vec().unwrap()
    });
    let world = world(&[address]).await;
    let client = Client::new(&world.default);
    for _ in 0..20 {
        // Fewer than may wait at once.
        for number in 0..100 {
            let mut query = question(&format!("h{number}."), RecordType::A, None);
            query[..2].copy_from_slice(&[7, number]);
            client.udp.send(&query).unwrap();
        }
        let mut due: BTreeSet<u8> = (0..100).collect();
        while !due.is_empty() {
            let reply = Message::from_vec(&client.receive().expect("an answer")).unwrap();
            let [seven, number] = reply.metadata.id.to_be_bytes();
            let told = reply.answers[0].data.to_string();
            assert_eq!(told, format!("192.0.2.{number}"));
            assert!(seven == 7 && due.remove(&number), "{reply}");
        }
    }
    let ids: BTreeSet<u16> = ids.try_iter().collect();
    // Of 65,536 few are drawn twice.
    assert!(ids.len() > 1_900, "{}", ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_server_waits_for_no_resolver() {
    let (silent, address) = ManualResolver::new();
    let world = world(&[address]).await;
    let client = Client::new(&world.default);
    let query = question("www.example.", RecordType::A, None);
    client.udp.send(&query).unwrap();
    silent.query();
    let since = Instant::now();
    world.dns.drop_domain(&TenantName::default_tenant());
    let sockets = ["ip", "netns", "exec", &world.default.0, "ss", "-Hlun"];
    until("its socket is closed", || {
        let output = Command::new(sockets[0])
            .args(&sockets[1..])
            .output()
            .unwrap();
        !String::from_utf8_lossy(&output.stdout).contains(":53 ")
    })
    .await;
    // A query waits so long for a resolver.
    assert!(since.elapsed() < Duration::from_millis(1_500));
}
