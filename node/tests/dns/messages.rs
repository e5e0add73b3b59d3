//! Messages as they are on the wire, read and written by hickory's client side.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{NULL, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use nix::sched::{CloneFlags, setns};
use node::dns;
use socket2::{Domain, Socket, Type};

use crate::world::{Namespace, World, endpoint, unused_loopback};

const ASKER: &str = "20.1.1.1";
/// How long an answer is waited for, and how long none.
const PATIENCE: Duration = Duration::from_secs(5);
const NONE: Duration = Duration::from_millis(300);

/// Asks from inside a namespace.
struct Client {
    udp: UdpSocket,
    tcp: TcpStream,
}

impl Client {
    fn new(namespace: &Namespace) -> Self {
        let path = format!("/run/netns/{}", namespace.0);
        let open = move || {
            let file = std::fs::File::open(path).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = |kind| {
                let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
                let asker: Ipv4Addr = ASKER.parse().unwrap();
                socket.bind(&SocketAddr::from((asker, 0)).into()).unwrap();
                let server = SocketAddr::from(([169, 254, 53, 53], 53));
                socket.connect(&server.into()).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket
            };
            Self {
                udp: socket(Type::DGRAM).into(),
                tcp: socket(Type::STREAM).into(),
            }
        };
        std::thread::spawn(open).join().unwrap()
    }

    fn by_udp(&self, query: &[u8]) -> Vec<u8> {
        self.udp.send(query).unwrap();
        self.receive().expect("an answer")
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut reply = vec![0; 65_535];
        let length = self.udp.recv(&mut reply).ok()?;
        reply.truncate(length);
        Some(reply)
    }

    fn by_tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut tcp = &self.tcp;
        let length = u16::try_from(query.len()).unwrap();
        tcp.write_all(&[&length.to_be_bytes(), query].concat())
            .unwrap();
        let mut length = [0; 2];
        tcp.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        tcp.read_exact(&mut reply).unwrap();
        reply
    }

    fn ask(&self, query: &[u8]) -> Message {
        Message::from_vec(&self.by_udp(query)).unwrap()
    }
}

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0xABCD, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.set_dnssec_ok(true);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

async fn world(resolvers: &[Ipv4Addr]) -> World {
    let config = dns::Config {
        ttl: 7,
        ..dns::Config::default()
    };
    World::with(resolvers, config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_what_others_read() {
    let world = world(&[]).await;
    let client = Client::new(&world.default);
    let bytes = question("pRod_db.Front.", RecordType::A, Some(4_096));
    let by_tcp = Message::from_vec(&client.by_tcp(&bytes)).unwrap();
    for reply in [client.ask(&bytes), by_tcp] {
        assert_eq!(reply.metadata.id, 0xABCD);
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert!(reply.metadata.recursion_desired && !reply.metadata.truncation);
        // The name as it was asked, each letter's case (draft-vixie-dnsext-dns0x20).
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
    // A name that DNS can't say.
    let long = endpoint("default", "front", "prod_db", "20.1.1.2");
    let mut long = Arc::unwrap_or_clone(long);
    long.name = Some("x".repeat(64));
    world.view.send_modify(|view| view.show(Arc::new(long)));
    let reply = client.ask(&bytes);
    assert!(reply.answers.is_empty(), "{reply}");
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
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
async fn that_there_is_nothing_is_remembered_no_longer_than_anything() {
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
async fn what_has_no_room_is_left_out_and_asked_for_by_tcp() {
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
async fn what_cannot_be_answered_is_told_so_and_what_is_no_question_is_not() {
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

    client.udp.set_read_timeout(Some(NONE)).unwrap();
    let mut garbage: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
    garbage.push(changed(2, 0x80)); // An answer.
    garbage.push(changed(5, 2)); // A question that isn't there.
    garbage.push(changed(12, 0xC0)); // A pointer.
    garbage.push(changed(12, 60)); // A label behind its end.
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
            assert!(since.elapsed() < PATIENCE, "{left} not told of");
        }
    }
    assert_eq!(world.default.short(ASKER, &["prod_db"]), "20.1.1.2");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_who_ask_at_once_gets_its_own_answer() {
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

/// Answers each query on this address by what `of` makes of it.
fn resolver(address: Ipv4Addr, mut of: impl FnMut(Message) -> Vec<u8> + Send + 'static) {
    let socket = UdpSocket::bind((address, 53)).unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 4_096];
        while let Ok((length, asker)) = socket.recv_from(&mut query) {
            let query = Message::from_vec(&query[..length]).unwrap();
            socket.send_to(&of(query), asker).unwrap();
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
