use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::SOA as Soa;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::*;

fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0xABCD, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(name).unwrap();
    message.add_query(hickory_proto::op::Query::query(name, kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.set_dnssec_ok(true);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

fn query(bytes: &[u8]) -> Query<'_> {
    match parse(bytes) {
        Parsed::Query(query) => query,
        other => panic!("{other:?}"),
    }
}

const FOUND: Said = Said {
    code: Code::NoError,
    authoritative: true,
    ttl: 7,
    zone: Some(usize::MAX),
};

fn answered(bytes: &[u8], said: Said, answers: &[Data<'_>], by: Transport) -> Message {
    let mut out = Vec::new();
    query(bytes).answer(said, answers.iter().copied(), by, &mut out);
    Message::from_vec(&out).unwrap()
}

#[test]
fn an_answer_is_what_others_read() {
    let bytes = question("dB_1.Front.", RecordType::A, Some(4_096));
    assert_eq!(query(&bytes).name(), Some("db_1.front"));
    let address = "20.1.1.2".parse().unwrap();
    let reply = answered(&bytes, FOUND, &[Data::Address(address)], Transport::Udp);
    assert_eq!(reply.metadata.id, 0xABCD);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert!(reply.metadata.recursion_desired && !reply.metadata.truncation);
    // The name as it was asked, each letter's case (draft-vixie-dnsext-dns0x20).
    assert_eq!(reply.queries[0].name().to_ascii(), "dB_1.Front.");
    let [answer] = &reply.answers[..] else {
        panic!("{reply}");
    };
    assert_eq!(answer.ttl, 7);
    assert_eq!(answer.name.to_ascii(), "dB_1.Front.");
    assert_eq!(answer.data, RData::A("20.1.1.2".parse().unwrap()));
    assert!(reply.authorities.is_empty());
    let edns = reply.edns.as_ref().unwrap();
    assert!(edns.flags().dnssec_ok && edns.max_payload() == UDP_MAX);

    let bytes = question("2.1.1.20.in-addr.arpa.", RecordType::PTR, None);
    let reply = answered(&bytes, FOUND, &[Data::Name("a.b.front")], Transport::Udp);
    assert_eq!(reply.answers[0].data.to_string(), "a.b.front.");
    assert!(reply.edns.is_none());
    let long = "x".repeat(64);
    let reply = answered(&bytes, FOUND, &[Data::Name(&long)], Transport::Udp);
    assert!(reply.answers.is_empty());
}

#[test]
fn that_there_is_nothing_is_remembered_no_longer_than_anything() {
    let bytes = question("db.contiv.local.", RecordType::AAAA, None);
    for (code, zone, owner) in [
        (Code::NoError, usize::MAX, "db.contiv.local."),
        (Code::NxDomain, "contiv.local".len() + 2, "contiv.local."),
    ] {
        let zone = Some(zone);
        let said = Said {
            code,
            zone,
            ..FOUND
        };
        let reply = answered(&bytes, said, &[], Transport::Udp);
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

#[test]
fn what_has_no_room_is_left_out_and_asked_for_by_tcp() {
    let addresses: Vec<IpAddr> = (0..200_u32).map(|n| IpAddr::V4(n.into())).collect();
    let data: Vec<_> = addresses.iter().copied().map(Data::Address).collect();
    for (payload, room) in [
        (None, 512),
        (Some(800), 800),
        (Some(4_096), 1_232),
        (Some(1), 512),
    ] {
        let bytes = question("pool.", RecordType::A, payload);
        let mut out = Vec::new();
        query(&bytes).answer(FOUND, data.iter().copied(), Transport::Udp, &mut out);
        assert!(
            out.len() <= room && out.len() + 16 > room,
            "{} of {room}",
            out.len()
        );
        let reply = Message::from_vec(&out).unwrap();
        assert!(reply.metadata.truncation && reply.edns.is_some() == payload.is_some());
        let whole = answered(&bytes, FOUND, &data, Transport::Tcp);
        assert_eq!(whole.answers.len(), 200);
        assert!(!whole.metadata.truncation);
    }
}

#[test]
fn what_cannot_be_answered_is_told_so_and_what_is_no_question_is_not() {
    let good = question("db.", RecordType::A, Some(1_232));
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    let code = |bytes: &[u8]| match parse(bytes) {
        Parsed::Wrong(query, code) => {
            let mut out = Vec::new();
            let said = Said {
                code,
                zone: None,
                ..FOUND
            };
            query.answer(said, std::iter::empty(), Transport::Udp, &mut out);
            let reply = Message::from_vec(&out).unwrap();
            Some(reply.metadata.response_code)
        }
        Parsed::Query(_) => Some(ResponseCode::NoError),
        Parsed::Garbage => None,
    };
    assert_eq!(code(&good), Some(ResponseCode::NoError));
    assert_eq!(code(&changed(2, 0x28)), Some(ResponseCode::NotImp));
    assert_eq!(code(&changed(5, 2)), Some(ResponseCode::FormErr));
    assert_eq!(code(&changed(5, 0)), Some(ResponseCode::FormErr));
    let version = good.len() - 5;
    // 16 has two names (RFC 6891 §9).
    let told = code(&changed(version, 1)).map(u16::from);
    assert_eq!(told, Some(u16::from(ResponseCode::BADVERS)));
    assert_eq!(code(&changed(2, 0x80)), None, "an answer");
    assert_eq!(code(&changed(12, 0xC0)), None, "a pointer");
    assert_eq!(code(&changed(12, 60)), None, "a label behind its end");
    for length in 0..good.len() {
        assert!(code(&good[..length]).is_none(), "{length} bytes of it");
    }
}

#[test]
fn nothing_makes_it_fall() {
    let mut random = fastrand::Rng::with_seed(11);
    let good = question("db.front.contiv.local.", RecordType::A, Some(1_232));
    for _ in 0..50_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..=bytes.len()));
        let mut reply = bytes.clone();
        cap_negative(&mut reply, 5);
        is_reply_to(&bytes, &good);
        if let Parsed::Query(query) = parse(&bytes) {
            let mut out = Vec::new();
            query.name();
            query.answer(FOUND, std::iter::empty(), Transport::Udp, &mut out);
        }
    }
}

#[test]
fn anothers_no_is_remembered_no_longer_than_ours() {
    let bytes = question("web.", RecordType::A, None);
    let mut reply = Message::new(1, MessageType::Response, OpCode::Query);
    reply.metadata.response_code = ResponseCode::NXDomain;
    reply.add_query(Message::from_vec(&bytes).unwrap().queries[0].clone());
    let root = Name::root();
    let soa = Soa::new(root.clone(), root.clone(), 1, 1, 1, 1, 86_400);
    reply.add_authority(Record::from_rdata(root, 86_400, RData::SOA(soa)));
    let mut passed = reply.to_vec().unwrap();
    assert!(is_reply_to(&passed, &bytes));
    relay(&query(&bytes), &mut passed, 5, Transport::Udp);
    let told = Message::from_vec(&passed).unwrap();
    assert_eq!(told.metadata.id, 0xABCD);
    assert_eq!(told.authorities[0].ttl, 5);
    assert!(!is_reply_to(
        &passed,
        &question("web2.", RecordType::A, None)
    ));
}
