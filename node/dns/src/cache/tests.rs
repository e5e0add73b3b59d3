use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RData, Record as WireRecord};
use hickory_proto::serialize::binary::BinEncodable;
use hickory_server::net::xfer::Protocol;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(owner: &str, kind: RecordType) -> Message {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name(owner), kind));
    query
}

fn with_edns(mut query: Message, room: u16, dnssec_ok: bool) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(room);
    edns.set_dnssec_ok(dnssec_ok);
    query.edns = Some(edns);
    query
}

/// A query as it is forwarded, with its question's length.
struct QueryBytes {
    bytes: Vec<u8>,
    question: usize,
}

impl QueryBytes {
    fn new(query: &Message) -> Self {
        let bytes = query.to_vec().unwrap();
        let question = query.queries[0].to_bytes().unwrap().len();
        Self { bytes, question }
    }

    fn query(&self) -> ForwardedQuery<'_> {
        ForwardedQuery {
            bytes: &self.bytes,
            question: &self.bytes[HEADER_BYTES..HEADER_BYTES + self.question],
            protocol: Protocol::Udp,
        }
    }

    fn key(&self) -> Option<CacheKey> {
        CacheKey::of(self.query())
    }
}

fn key(query: &Message) -> Option<CacheKey> {
    QueryBytes::new(query).key()
}

fn address(owner: &str, ttl: u32) -> WireRecord {
    let data = RData::A("192.0.2.7".parse().unwrap());
    WireRecord::from_rdata(name(owner), ttl, data)
}

fn denial(ttl: u32, minimum: u32) -> WireRecord {
    let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
    WireRecord::from_rdata(Name::root(), ttl, RData::SOA(soa))
}

fn reply(
    query: &Message,
    code: ResponseCode,
    answers: &[WireRecord],
    authorities: &[WireRecord],
) -> Message {
    let id = query.metadata.id;
    let mut reply = Message::new(id, MessageType::Response, OpCode::Query);
    reply.metadata.response_code = code;
    reply.metadata.authoritative = true;
    reply.add_query(query.queries[0].clone());
    reply.add_answers(answers.iter().cloned());
    reply.add_authorities(authorities.iter().cloned());
    reply.edns = query.edns.clone();
    reply
}

fn put(cache: &mut Cache, query: &Message, reply: &[u8], now: Instant) {
    let records = relay::records(reply).unwrap();
    let asked = QueryBytes::new(query);
    let key = asked.key().unwrap();
    cache.put(key, asked.query().question, (reply, &records), now);
}

fn get(cache: &Cache, query: &Message, now: Instant) -> Option<Message> {
    let asked = QueryBytes::new(query);
    let cached = cache.get(&asked.key()?, asked.query(), now)?;
    Some(Message::from_vec(&cached).unwrap())
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn cache_key_has_everything_that_changes_an_answer() {
    use RecordType::{A, AAAA, Unknown};
    let plain = query("www.example.", A);
    let mut other_id = plain.clone();
    other_id.metadata.id = 8;
    assert_eq!(key(&plain), key(&other_id));
    assert_eq!(key(&plain), key(&query("wWw.EXAMPLE.", A)));
    let edns = with_edns(plain.clone(), 1_232, false);
    assert_eq!(key(&edns), key(&with_edns(plain.clone(), 512, false)));

    let changed = |change: fn(&mut Message)| {
        let mut changed = plain.clone();
        change(&mut changed);
        key(&changed)
    };
    let all = [
        key(&plain),
        key(&query("www.example.", AAAA)),
        // Types whose bytes would be the same letter in two cases.
        key(&query("www.example.", Unknown(u16::from(b'A')))),
        key(&query("www.example.", Unknown(u16::from(b'a')))),
        key(&query("example.", A)),
        key(&edns),
        key(&with_edns(plain.clone(), 1_232, true)),
        changed(|it| it.metadata.recursion_desired = false),
        changed(|it| it.metadata.checking_disabled = true),
        changed(|it| it.metadata.authentic_data = true),
    ];
    for (n, one) in all.iter().enumerate() {
        assert!(one.is_some() && !all[..n].contains(one), "{n}");
    }
}

#[test]
fn cache_ignores_queries_with_options() {
    let plain = query("www.example.", RecordType::A);
    let mut option = with_edns(plain.clone(), 1_232, false);
    let edns = option.edns.as_mut().unwrap();
    edns.options_mut()
        .insert(EdnsOption::Unknown(10, vec![1; 8]));
    assert!(edns.option(EdnsCode::from(10)).is_some());
    let mut record = plain.clone();
    record.add_answer(address("www.example.", 1));
    for (what, query) in [("an option", option), ("a record", record)] {
        assert_eq!(key(&query), None, "{what}");
    }
    // Extra bytes at its end, and a name that is a pointer to the id.
    let mut asked = QueryBytes::new(&plain);
    asked.bytes.push(0);
    assert_eq!(asked.key(), None);
    let bytes = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 0, 0, 1, 0, 1];
    let question = 6;
    let pointing = QueryBytes {
        bytes: bytes.to_vec(),
        question,
    };
    assert_eq!(pointing.key(), None);
}

#[test]
fn cached_ttls_count_down_and_the_name_has_the_query_s_case() {
    let (mut cache, begin) = (Cache::default(), Instant::now());
    let asked = with_edns(query("www.example.", RecordType::A), 1_232, true);
    let answers = [address("www.example.", 20), address("www.example.", 9)];
    let answer = reply(&asked, ResponseCode::NoError, &answers, &[]);
    put(&mut cache, &asked, &answer.to_vec().unwrap(), begin);

    let again = with_edns(query("WwW.example.", RecordType::A), 600, true);
    let cached = get(&cache, &again, begin + seconds(4)).unwrap();
    assert_eq!(cached.queries[0].name().to_ascii(), "WwW.example.");
    let ttls: Vec<u32> = cached.answers.iter().map(|it| it.ttl).collect();
    assert_eq!(ttls, [16, 5]);
    assert!(!cached.metadata.authoritative);
    // An OPT record has flags in place of a TTL.
    assert!(cached.edns.unwrap().flags().dnssec_ok);
    let last = begin + Duration::from_millis(8_999);
    assert!(get(&cache, &again, last).is_some());
    assert!(get(&cache, &again, begin + seconds(9)).is_none());
}

/// Checks whether a reply is still cached after so many seconds.
#[track_caller]
fn check(reply: &Message, is_kept: bool, after: u64) {
    let (mut cache, begin) = (Cache::default(), Instant::now());
    let asked = query("www.example.", RecordType::A);
    put(&mut cache, &asked, &reply.to_vec().unwrap(), begin);
    let cached = get(&cache, &asked, begin + seconds(after));
    assert_eq!(cached.is_some(), is_kept, "{reply}");
}

#[test]
fn cache_keeps_complete_answers_only_and_for_thirty_seconds() {
    use ResponseCode::{NXDomain, NoError, Refused, ServFail};
    let asked = query("www.example.", RecordType::A);
    let with = |code, ttls: &[u32], authorities: &[WireRecord]| {
        let answers: Vec<WireRecord> = ttls.iter().map(|it| address("www.example.", *it)).collect();
        reply(&asked, code, &answers, authorities)
    };
    check(&with(NoError, &[86_400], &[]), true, 29);
    check(&with(NoError, &[86_400], &[]), false, 30);
    check(&with(NoError, &[60, 0], &[]), false, 0);
    check(&with(NoError, &[60, 1 << 31], &[]), false, 0);
    check(&with(ServFail, &[60], &[]), false, 0);
    check(&with(Refused, &[60], &[denial(60, 60)]), false, 0);
    let mut cut = with(NoError, &[60], &[]);
    cut.metadata.truncation = true;
    check(&cut, false, 0);
    let mut version = with(ResponseCode::BADVERS, &[60], &[]);
    version.edns = Some(Edns::new());
    check(&version, false, 0);

    // A negative answer: for the smaller of the SOA's TTL and minimum, and not without a SOA.
    for code in [NoError, NXDomain] {
        check(&with(code, &[], &[denial(9, 4)]), true, 3);
        check(&with(code, &[], &[denial(9, 4)]), false, 4);
        check(&with(code, &[], &[denial(4, 9)]), false, 4);
        check(&with(code, &[], &[denial(9, 0)]), false, 0);
        check(&with(code, &[], &[]), false, 0);
    }
    // An alias without its target's address isn't a complete answer.
    let to = RData::CNAME(hickory_proto::rr::rdata::CNAME(name("web.example.")));
    let alias = WireRecord::from_rdata(name("www.example."), 60, to);
    let mut half = with(NoError, &[], &[]);
    half.add_answer(alias);
    check(&half, false, 0);
}

#[test]
fn cache_evicts_the_reply_that_expires_next() {
    let (mut cache, begin) = (Cache::default(), Instant::now());
    let of = |number: usize| query(&format!("h{number}.example."), RecordType::A);
    let add = |cache: &mut Cache, number, ttl, now| {
        let asked = of(number);
        let answers = [address("www.example.", ttl)];
        let answer = reply(&asked, ResponseCode::NoError, &answers, &[]);
        put(cache, &asked, &answer.to_vec().unwrap(), now);
    };
    add(&mut cache, 0, 29, begin);
    add(&mut cache, 1, 5, begin);
    for number in 2..MAX_REPLIES + 1 {
        add(&mut cache, number, 29, begin);
    }
    assert_eq!(cache.replies.len(), MAX_REPLIES);
    assert!(get(&cache, &of(1), begin).is_none());
    assert!(get(&cache, &of(0), begin).is_some());
    // A second reply replaces the first.
    let bytes = cache.bytes;
    add(&mut cache, 0, 30, begin);
    assert_eq!((cache.replies.len(), cache.bytes), (MAX_REPLIES, bytes));
    // Expired replies are dropped with the next insertion.
    add(&mut cache, 1, 29, begin + seconds(30));
    assert_eq!((cache.replies.len(), cache.by_expiry.len()), (1, 1));

    let text = vec!["x".repeat(255); 12];
    let long = RData::TXT(hickory_proto::rr::rdata::TXT::new(text));
    for number in 0..2 * MAX_BYTES / 3_000 {
        let asked = query(&format!("t{number}.example."), RecordType::TXT);
        let answers = [WireRecord::from_rdata(Name::root(), 20, long.clone())];
        let answer = reply(&asked, ResponseCode::NoError, &answers, &[]);
        put(&mut cache, &asked, &answer.to_vec().unwrap(), begin);
    }
    assert!(cache.bytes <= MAX_BYTES && cache.replies.len() > 1_000);
}
