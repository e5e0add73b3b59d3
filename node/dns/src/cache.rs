//! What the host's resolvers said, for as long as they said that it holds. Pure.
//!
//! Every resolver of a node remembers: a name that a thousand containers ask for is asked upstream
//! once. Only plain questions are remembered, with what answers them in full; no failure, nothing
//! that was cut. What is given out counts down (RFC 1035 §4.1.3, RFC 2181 §8).

use std::collections::BTreeSet;
#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::message::HEADER;
use super::relay::{self, Passed, Record, Section};

/// Seconds: whatever a resolver says, a change is seen after them, as in Kubernetes.
const LONGEST: u32 = 30;
const REPLIES: usize = 10_000;
const BYTES: usize = 4 << 20;
/// Of one reply. What is longer is rare, and would take the place of many.
const LENGTH: usize = 4_096;
/// Of a header's third and fourth byte (RFC 1035 §4.1.1, RFC 4035 §3).
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const AUTHENTIC_OR_UNCHECKED: u8 = 0x30;

/// A question as its answer depends on it: its name without case, its type and class, and the
/// flags RD, AD, CD and DO, this with whether there is EDNS at all. Neither id nor room are part
/// of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key(Arc<[u8]>);

impl Key {
    /// `None`: there is more to the query than that, so that its answer may be nobody else's.
    pub(super) fn of(query: Passed<'_>) -> Option<Self> {
        let (header, rest) = query.bytes.split_first_chunk::<HEADER>()?;
        let &[_, _, high, low, 0, 1, 0, 0, 0, 0, 0, additionals] = header else {
            return None;
        };
        let edns = match (additionals, rest.strip_prefix(query.question)?) {
            (0, []) => 0,
            // An OPT record without options; two bytes are the room (RFC 6891 §6.1.2).
            (1, [0, 0, 41, _, _, 0, 0, dnssec_ok @ (0 | 0x80), 0, 0, 0]) => dnssec_ok | 1,
            _ => return None,
        };
        if high & !RECURSION_DESIRED != 0 || low & !AUTHENTIC_OR_UNCHECKED != 0 {
            return None;
        }
        let (name, kind) = relay::parts(query.question).filter(|it| is_spelled(it.0))?;
        let mut key = Vec::with_capacity(query.question.len() + 3);
        key.extend(name.iter().map(u8::to_ascii_lowercase));
        key.extend(kind);
        key.extend([high, low, edns]);
        Some(Self(key.into()))
    }
}

/// Whether a name is spelled out, and doesn't point to somewhere.
fn is_spelled(mut name: &[u8]) -> bool {
    loop {
        match name {
            [0] => return true,
            [length @ 1..64, rest @ ..] => match rest.get(usize::from(*length)..) {
                Some(rest) => name = rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

/// Bounded: what ends next goes first.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
pub(super) struct Cache {
    kept: HashMap<Key, Kept>,
    ends: BTreeSet<(Instant, Key)>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    reply: Vec<u8>,
    /// Where each record says for how long it holds.
    ttls: Vec<usize>,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// What was said to this question, spelled as this asker spells it.
    pub(super) fn get(&self, key: &Key, query: Passed<'_>, now: Instant) -> Option<Vec<u8>> {
        let kept = self.kept.get(key).filter(|it| now < it.until)?;
        let mut reply = kept.reply.clone();
        let spelled = reply.get_mut(HEADER..HEADER + query.question.len())?;
        spelled.copy_from_slice(query.question);
        // Who remembers isn't who knows.
        reply[2] &= !AUTHORITATIVE;
        let age = now.saturating_duration_since(kept.since).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        for place in &kept.ttls {
            let ttl = reply.get_mut(*place..)?.first_chunk_mut()?;
            *ttl = u32::from_be_bytes(*ttl).saturating_sub(age).to_be_bytes();
        }
        Some(reply)
    }

    /// Keeps a reply to this question, if it may be kept.
    pub(super) fn put(
        &mut self,
        key: Key,
        question: &[u8],
        (reply, records): (&[u8], &[Record]),
        now: Instant,
    ) {
        let Some(ttl) = lasts(question, reply, records) else {
            return;
        };
        let kept = Kept {
            reply: reply.to_vec(),
            ttls: lasting(records).map(|it| it.place).collect(),
            since: now,
            until: now + Duration::from_secs(ttl.into()),
        };
        self.drop(&key);
        self.bytes += kept.size(&key);
        self.ends.insert((kept.until, key.clone()));
        self.kept.insert(key, kept);
        let over = |it: &Self| it.bytes > BYTES || it.kept.len() > REPLIES;
        while let Some((until, key)) = self.ends.first().cloned()
            && (until <= now || over(self))
        {
            self.drop(&key);
        }
    }

    fn drop(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.size(key);
            self.ends.remove(&(kept.until, key.clone()));
        }
    }
}

impl Kept {
    /// Memory, about.
    fn size(&self, key: &Key) -> usize {
        let places = size_of_val(&self.ttls[..]);
        2 * size_of::<Self>() + key.0.len() + self.reply.len() + places
    }
}

/// Seconds that a reply may be kept; `None`: it may not be.
fn lasts(question: &[u8], reply: &[u8], records: &[Record]) -> Option<u32> {
    let extended =
        |it: &Record| it.kind == RecordType::OPT && (it.ttl >> 24 != 0 || it.length != 0);
    if reply.len() > LENGTH || reply.get(2)? & TRUNCATED != 0 || records.iter().any(extended) {
        return None;
    }
    let (_, [high, low, ..]) = relay::parts(question)?;
    let kind = RecordType::from(u16::from_be_bytes([*high, *low]));
    let wanted =
        |it: &Record| it.section == Section::Answer && (it.kind == kind || kind == RecordType::ANY);
    // That there is nothing is kept if it is said for how long (RFC 2308 §5).
    let may = match relay::code_of(reply) {
        ResponseCode::NoError => records.iter().any(|it| wanted(it) || it.minimum.is_some()),
        ResponseCode::NXDomain => records.iter().any(|it| it.minimum.is_some()),
        _ => false,
    };
    let least = lasting(records).map(Record::holds).min()?;
    (may && least > 0).then_some(least.min(LONGEST))
}

/// The time of an OPT record is none.
fn lasting(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|it| it.kind != RecordType::OPT)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::SOA;
    use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
    use hickory_proto::rr::{Name, RData, Record as Told};
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

    /// A query as it is forwarded.
    struct Asked {
        bytes: Vec<u8>,
        question: usize,
    }

    impl Asked {
        fn new(query: &Message) -> Self {
            let bytes = query.to_vec().unwrap();
            let question = query.queries[0].to_bytes().unwrap().len();
            Self { bytes, question }
        }

        fn passed(&self) -> Passed<'_> {
            Passed {
                bytes: &self.bytes,
                question: &self.bytes[HEADER..HEADER + self.question],
                by: Protocol::Udp,
            }
        }

        fn key(&self) -> Option<Key> {
            Key::of(self.passed())
        }
    }

    fn key(query: &Message) -> Option<Key> {
        Asked::new(query).key()
    }

    fn address(owner: &str, ttl: u32) -> Told {
        let data = RData::A("192.0.2.7".parse().unwrap());
        Told::from_rdata(name(owner), ttl, data)
    }

    fn denial(ttl: u32, minimum: u32) -> Told {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        Told::from_rdata(Name::root(), ttl, RData::SOA(soa))
    }

    fn reply(query: &Message, code: ResponseCode, answers: &[Told], denied: &[Told]) -> Message {
        let id = query.metadata.id;
        let mut reply = Message::new(id, MessageType::Response, OpCode::Query);
        reply.metadata.response_code = code;
        reply.metadata.authoritative = true;
        reply.add_query(query.queries[0].clone());
        reply.add_answers(answers.iter().cloned());
        reply.add_authorities(denied.iter().cloned());
        reply.edns = query.edns.clone();
        reply
    }

    fn put(cache: &mut Cache, query: &Message, reply: &[u8], now: Instant) {
        let records = relay::records(reply).unwrap();
        let asked = Asked::new(query);
        let key = asked.key().unwrap();
        cache.put(key, asked.passed().question, (reply, &records), now);
    }

    fn get(cache: &Cache, query: &Message, now: Instant) -> Option<Message> {
        let asked = Asked::new(query);
        let told = cache.get(&asked.key()?, asked.passed(), now)?;
        Some(Message::from_vec(&told).unwrap())
    }

    const fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn what_changes_an_answer_tells_questions_apart() {
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
            // Bytes that would be letters: as a type they are none.
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
    fn what_is_more_than_a_question_is_nobody_elses() {
        let plain = query("www.example.", RecordType::A);
        let mut option = with_edns(plain.clone(), 1_232, false);
        let edns = option.edns.as_mut().unwrap();
        let told = EdnsOption::Unknown(10, vec![1; 8]);
        edns.options_mut().insert(told);
        assert!(edns.option(EdnsCode::from(10)).is_some());
        let mut record = plain.clone();
        record.add_answer(address("www.example.", 1));
        for (what, query) in [("an option", option), ("a record", record)] {
            assert_eq!(key(&query), None, "{what}");
        }
        // Bytes behind it, and a name that points to the id.
        let mut asked = Asked::new(&plain);
        asked.bytes.push(0);
        assert_eq!(asked.key(), None);
        let bytes = [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xC0, 0, 0, 1, 0, 1];
        let question = 6;
        let pointing = Asked {
            bytes: bytes.to_vec(),
            question,
        };
        assert_eq!(pointing.key(), None);
    }

    #[test]
    fn what_is_given_out_counts_down_and_is_spelled_as_it_was_asked() {
        let (mut cache, begin) = (Cache::default(), Instant::now());
        let asked = with_edns(query("www.example.", RecordType::A), 1_232, true);
        let answers = [address("www.example.", 20), address("www.example.", 9)];
        let said = reply(&asked, ResponseCode::NoError, &answers, &[]);
        put(&mut cache, &asked, &said.to_vec().unwrap(), begin);

        let again = with_edns(query("WwW.example.", RecordType::A), 600, true);
        let told = get(&cache, &again, begin + seconds(4)).unwrap();
        assert_eq!(told.queries[0].name().to_ascii(), "WwW.example.");
        let ttls: Vec<u32> = told.answers.iter().map(|it| it.ttl).collect();
        assert_eq!(ttls, [16, 5]);
        assert!(!told.metadata.authoritative);
        // The flags of an OPT record stand where others have their time.
        assert!(told.edns.unwrap().flags().dnssec_ok);
        let last = begin + Duration::from_millis(8_999);
        assert!(get(&cache, &again, last).is_some());
        assert!(get(&cache, &again, begin + seconds(9)).is_none());
    }

    /// Whether it is still there after so many seconds.
    #[track_caller]
    fn check(said: &Message, kept: bool, after: u64) {
        let (mut cache, begin) = (Cache::default(), Instant::now());
        let asked = query("www.example.", RecordType::A);
        put(&mut cache, &asked, &said.to_vec().unwrap(), begin);
        let told = get(&cache, &asked, begin + seconds(after));
        assert_eq!(told.is_some(), kept, "{said}");
    }

    #[test]
    fn only_what_answers_in_full_is_kept_and_none_for_long() {
        use ResponseCode::{NXDomain, NoError, Refused, ServFail};
        let asked = query("www.example.", RecordType::A);
        let said = |code, ttls: &[u32], denied: &[Told]| {
            let answers: Vec<Told> = ttls.iter().map(|it| address("www.example.", *it)).collect();
            reply(&asked, code, &answers, denied)
        };
        check(&said(NoError, &[86_400], &[]), true, 29);
        check(&said(NoError, &[86_400], &[]), false, 30);
        check(&said(NoError, &[60, 0], &[]), false, 0);
        check(&said(NoError, &[60, 1 << 31], &[]), false, 0);
        check(&said(ServFail, &[60], &[]), false, 0);
        check(&said(Refused, &[60], &[denial(60, 60)]), false, 0);
        let mut cut = said(NoError, &[60], &[]);
        cut.metadata.truncation = true;
        check(&cut, false, 0);
        let mut version = said(ResponseCode::BADVERS, &[60], &[]);
        version.edns = Some(Edns::new());
        check(&version, false, 0);

        // That there is nothing: for the less of both that a SOA says, and not without one.
        for code in [NoError, NXDomain] {
            check(&said(code, &[], &[denial(9, 4)]), true, 3);
            check(&said(code, &[], &[denial(9, 4)]), false, 4);
            check(&said(code, &[], &[denial(4, 9)]), false, 4);
            check(&said(code, &[], &[denial(9, 0)]), false, 0);
            check(&said(code, &[], &[]), false, 0);
        }
        // An alias of what isn't there is no answer.
        let to = RData::CNAME(hickory_proto::rr::rdata::CNAME(name("web.example.")));
        let alias = Told::from_rdata(name("www.example."), 60, to);
        let mut half = said(NoError, &[], &[]);
        half.add_answer(alias);
        check(&half, false, 0);
    }

    #[test]
    fn what_ends_next_makes_room() {
        let (mut cache, begin) = (Cache::default(), Instant::now());
        let of = |number: usize| query(&format!("h{number}.example."), RecordType::A);
        let add = |cache: &mut Cache, number, ttl, now| {
            let asked = of(number);
            let answers = [address("www.example.", ttl)];
            let said = reply(&asked, ResponseCode::NoError, &answers, &[]);
            put(cache, &asked, &said.to_vec().unwrap(), now);
        };
        add(&mut cache, 0, 29, begin);
        add(&mut cache, 1, 5, begin);
        for number in 2..REPLIES + 1 {
            add(&mut cache, number, 29, begin);
        }
        assert_eq!(cache.kept.len(), REPLIES);
        assert!(get(&cache, &of(1), begin).is_none());
        assert!(get(&cache, &of(0), begin).is_some());
        // Said again, it takes no more room than once.
        let bytes = cache.bytes;
        add(&mut cache, 0, 30, begin);
        assert_eq!((cache.kept.len(), cache.bytes), (REPLIES, bytes));
        // What is over goes with the next that comes.
        add(&mut cache, 1, 29, begin + seconds(30));
        assert_eq!((cache.kept.len(), cache.ends.len()), (1, 1));

        let text = vec!["x".repeat(255); 12];
        let long = RData::TXT(hickory_proto::rr::rdata::TXT::new(text));
        for number in 0..2 * BYTES / 3_000 {
            let asked = query(&format!("t{number}.example."), RecordType::TXT);
            let answers = [Told::from_rdata(Name::root(), 20, long.clone())];
            let said = reply(&asked, ResponseCode::NoError, &answers, &[]);
            put(&mut cache, &asked, &said.to_vec().unwrap(), begin);
        }
        assert!(cache.bytes <= BYTES && cache.kept.len() > 1_000);
    }
}
