//! What another resolver said, passed on byte for byte. Pure.
//!
//! hickory could read it and write it anew, which costs twice and loses what it doesn't know. So
//! of a reply only that is touched which is the asker's: its id, its length, and for how long it
//! may remember that there is nothing.

use hickory_proto::op::{Header, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::Queries;

use super::message::{HEADER, Outcome, Said, room};

/// A query on its way to another resolver, as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Passed<'a> {
    pub(super) bytes: &'a [u8],
    /// Name, type and class.
    pub(super) question: &'a [u8],
    pub(super) by: Protocol,
}

impl<'a> Passed<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        Self {
            bytes: request.as_slice(),
            question: request.queries.as_bytes(),
            by: request.protocol(),
        }
    }
}

/// A reply made fit for who asked: with its id, and as long as it may be.
pub(super) fn relay(request: &Request, mut reply: Vec<u8>) -> Outcome {
    if reply.len() > room(request).into() {
        let mut said = Said::only(request, code_of(&reply));
        said.metadata.truncation = true;
        return Outcome::Said(said);
    }
    give_id_of(request.as_slice(), &mut reply);
    Outcome::Passed(reply)
}

/// Of two messages, both with a header.
pub(super) fn give_id_of(query: &[u8], reply: &mut [u8]) {
    if let (Some(is), Some(id)) = (query.first_chunk::<2>(), reply.first_chunk_mut()) {
        *id = *is;
    }
}

/// Lets a reply be remembered no longer than `ttl` where it says that there is nothing: tomorrow
/// there may be.
pub(super) fn cap_negative(reply: &mut [u8], records: &mut [Record], ttl: u32) {
    for record in records.iter_mut() {
        if record.minimum.is_some()
            && record.ttl > ttl
            && let Some(place) = reply.get_mut(record.place..record.place + 4)
        {
            place.copy_from_slice(&ttl.to_be_bytes());
            record.ttl = ttl;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// A record of a reply, without its name and data.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) section: Section,
    pub(super) kind: RecordType,
    pub(super) ttl: u32,
    /// Where its time to live stands.
    pub(super) place: usize,
    /// Of its data.
    pub(super) length: usize,
    /// Of a SOA among the authorities, which says that there is nothing, and for how long
    /// (RFC 2308 §2, §4).
    pub(super) minimum: Option<u32>,
}

impl Record {
    /// Seconds for which it may be remembered. The highest bit is none of a time's (RFC 2181 §8).
    pub(super) fn holds(&self) -> u32 {
        match self.ttl >> 31 {
            0 => self.ttl.min(self.minimum.unwrap_or(self.ttl)),
            _ => 0,
        }
    }
}

/// All records of a reply.
pub(super) fn records(reply: &[u8]) -> Result<Vec<Record>, DecodeError> {
    let mut decoder = BinDecoder::new(reply);
    let counts = Header::read(&mut decoder)?.counts;
    Queries::read(&mut decoder, counts.queries.into())?;
    let mut records = Vec::new();
    for (section, count) in [
        (Section::Answer, counts.answers),
        (Section::Authority, counts.authorities),
        (Section::Additional, counts.additionals),
    ] {
        for _ in 0..count {
            Name::read(&mut decoder)?;
            let kind = RecordType::read(&mut decoder)?;
            decoder.read_u16()?;
            let place = decoder.index();
            let ttl = decoder.read_u32()?.unverified();
            let length = usize::from(decoder.read_u16()?.unverified());
            let data = decoder.read_slice(length)?.unverified();
            let denies = section == Section::Authority && kind == RecordType::SOA;
            let minimum = data.last_chunk().filter(|_| denies);
            records.push(Record {
                section,
                kind,
                ttl,
                place,
                length,
                minimum: minimum.map(|it| u32::from_be_bytes(*it)),
            });
        }
    }
    Ok(records)
}

/// The name of a question, and what stands behind it: its type and class (RFC 1035 §4.1.2).
pub(super) fn parts(question: &[u8]) -> Option<(&[u8], &[u8; 4])> {
    question.split_last_chunk()
}

/// Whether a reply is to this question. Names are compared without case, type and class with it:
/// 65 and 97 are both types.
pub(super) fn is_reply_to(reply: &[u8], question: &[u8]) -> bool {
    let answers = reply.get(2).is_some_and(|it| it & 0x80 != 0);
    let of = reply.get(HEADER..HEADER + question.len());
    let (Some((name, kind)), Some(of)) = (parts(question), of.and_then(parts)) else {
        return false;
    };
    answers && of.0.eq_ignore_ascii_case(name) && of.1 == kind
}

/// The code in a reply's header.
pub(super) fn code_of(reply: &[u8]) -> ResponseCode {
    ResponseCode::from_low(reply.get(3).map_or(0, |it| it & 0x0F))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] = b"\x03www\x07example\x00\x00\x01\x00\x01";

    /// A reply with this question, of which the byte from the end `at` is `is`.
    fn reply(at: usize, is: u8) -> Vec<u8> {
        let mut reply = b"\x00\x07\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        reply.extend(QUESTION);
        let place = reply.len() - at;
        reply[place] = is;
        reply
    }

    #[test]
    fn a_reply_is_to_the_very_question() {
        let end = QUESTION.len();
        assert!(is_reply_to(&reply(1, 1), QUESTION));
        // Who answers may spell a name otherwise; a type is a number, and no letter.
        assert!(is_reply_to(&reply(end - 1, b'W'), QUESTION));
        assert!(!is_reply_to(&reply(end - 1, b'x'), QUESTION));
        for (asked, told, same) in [(65, 65, true), (65, 97, false), (97, 65, false)] {
            let mut question = QUESTION.to_vec();
            question[end - 3] = asked;
            assert_eq!(is_reply_to(&reply(3, told), &question), same);
        }
        assert!(!is_reply_to(&reply(1, 3), QUESTION), "another class");
        assert!(!is_reply_to(&reply(end + 10, 0), QUESTION), "a question");
        for length in 0..HEADER + end {
            assert!(!is_reply_to(&reply(1, 1)[..length], QUESTION));
        }
    }
}
