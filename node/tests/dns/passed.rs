//! What other resolvers say, as it is passed on.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::client::{Client, question, world};
use crate::world::{until, unused_loopback, write_resolvers};

/// Answers each query on this address by what `of` makes of it, until that is nothing.
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
async fn anothers_no_is_remembered_no_longer_than_ours() {
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
async fn what_another_says_is_passed_on_byte_for_byte() {
    let address = unused_loopback();
    let (sender, sent) = std::sync::mpsc::channel();
    resolver(address, move |query| {
        let mut reply = reply_to(&query);
        let name = query.queries[0].name().clone();
        // Of a type that nobody knows.
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
        bytes.extend(b"what stands behind");
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

    // What has no room is cut, and says so.
    let query = question("big.example.", RecordType::Unknown(65_280), None);
    let told = client.ask(&query);
    assert!(told.metadata.truncation && told.answers.is_empty());
    assert!(sent.recv().unwrap().len() > 512);
}

/// Not another question's, though its id is the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_to_another_question_counts_for_none() {
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

/// One container's question is the others', too, whatever domain they are of.
#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_is_asked_once_for_as_long_as_it_said() {
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

    // Other resolvers may say otherwise.
    write_resolvers(&world.resolv_conf, &[address]);
    until("it is forgotten", || times(&client, "www.example.") == 1).await;

    // Whoever is gone has said what it said.
    let told = client.ask(&www("end.example."));
    assert_eq!(told.metadata.response_code, ResponseCode::ServFail);
    let told = client.ask(&www("www.example."));
    assert_eq!(told.answers[0].data.to_string(), "192.0.2.7");
}
