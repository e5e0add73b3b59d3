//! Relays another resolver's reply byte for byte. Pure.
//!
//! Parsing and writing it again with hickory would cost twice and lose unknown record types. Only
//! the client's own fields are rewritten: id, length, negative TTL.

use hickory_proto::op::{Header, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use hickory_server::zone_handler::Queries;

use super::message::{HEADER_BYTES, Reply, Response, room};

/// A client's query, unchanged, that is forwarded to another resolver.
#[derive(Debug, Clone, Copy)]
pub(super) struct ForwardedQuery<'a> {
    pub(super) bytes: &'a [u8],
    /// Name, type and class.
    pub(super) question: &'a [u8],
    pub(super) protocol: Protocol,
}

impl<'a> ForwardedQuery<'a> {
    pub(super) fn new(request: &'a Request) -> Self {
        Self {
            bytes: request.as_slice(),
            question: request.queries.as_bytes(),
            protocol: request.protocol(),
        }
    }
}

/// Fits a reply to the client's query: its id, and its maximum length.
pub(super) fn relay(request: &Request, mut reply: Vec<u8>) -> Reply {
    if reply.len() > room(request).into() {
        let mut response = Response::code_only(request, code_of(&reply));
        response.metadata.truncation = true;
        return Reply::Built(response);
    }
    copy_id(request.as_slice(), &mut reply);
    Reply::Relayed(reply)
}

/// Copies a query's id into the reply.
pub(super) fn copy_id(query: &[u8], reply: &mut [u8]) {
    if let (Some(is), Some(id)) = (query.first_chunk::<2>(), reply.first_chunk_mut()) {
        *id = *is;
    }
}

/// Limits a reply's negative TTL to `ttl`: the name may exist soon.
pub(super) fn cap_negative(reply: &mut [u8], records: &mut [Record], ttl: u32) {
    for record in records.iter_mut() {
        if record.minimum.is_some()
            && record.ttl > ttl
            && let Some(bytes) = reply.get_mut(record.ttl_offset..record.ttl_offset + 4)
        {
            bytes.copy_from_slice(&ttl.to_be_bytes());
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
    /// Position of its TTL in the reply.
    pub(super) ttl_offset: usize,
    pub(super) data_bytes: usize,
    /// The negative TTL of a SOA in the authority section (RFC 2308 §2, §4).
    pub(super) minimum: Option<u32>,
}

impl Record {
    /// Seconds for which it may be cached: 0 if the TTL's highest bit is set (RFC 2181 §8).
    pub(super) fn effective_ttl(&self) -> u32 {
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
            let ttl_offset = decoder.index();
            let ttl = decoder.read_u32()?.unverified();
            let data_bytes = usize::from(decoder.read_u16()?.unverified());
            let data = decoder.read_slice(data_bytes)?.unverified();
            let denies = section == Section::Authority && kind == RecordType::SOA;
            let minimum = data.last_chunk().filter(|_| denies);
            records.push(Record {
                section,
                kind,
                ttl,
                ttl_offset,
                data_bytes,
                minimum: minimum.map(|it| u32::from_be_bytes(*it)),
            });
        }
    }
    Ok(records)
}

/// Splits a question into its name and its type and class (RFC 1035 §4.1.2).
pub(super) fn split_question(question: &[u8]) -> Option<(&[u8], &[u8; 4])> {
    question.split_last_chunk()
}

/// Whether a reply is to this question. Names are compared without case; type and class are
/// numbers, so 65 and 97 differ.
pub(super) fn is_reply_to(reply: &[u8], question: &[u8]) -> bool {
    let answers = reply.get(2).is_some_and(|it| it & 0x80 != 0);
    let of = reply.get(HEADER_BYTES..HEADER_BYTES + question.len());
    let (Some((name, kind)), Some(of)) = (split_question(question), of.and_then(split_question))
    else {
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

    /// A reply with this question, in which the byte `at` from the end is `is`.
    fn reply(at: usize, is: u8) -> Vec<u8> {
        let mut reply = b"\x00\x07\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        reply.extend(QUESTION);
        let place = reply.len() - at;
        reply[place] = is;
        reply
    }

    #[test]
    fn reply_must_repeat_the_question() {
        let end = QUESTION.len();
        assert!(is_reply_to(&reply(1, 1), QUESTION));
        // A resolver may change a name's case; a type is a number, not a letter.
        assert!(is_reply_to(&reply(end - 1, b'W'), QUESTION));
        assert!(!is_reply_to(&reply(end - 1, b'x'), QUESTION));
        for (asked, told, same) in [(65, 65, true), (65, 97, false), (97, 65, false)] {
            let mut question = QUESTION.to_vec();
            question[end - 3] = asked;
            assert_eq!(is_reply_to(&reply(3, told), &question), same);
        }
        assert!(!is_reply_to(&reply(1, 3), QUESTION), "another class");
        assert!(!is_reply_to(&reply(end + 10, 0), QUESTION), "a question");
        for length in 0..HEADER_BYTES + end {
            assert!(!is_reply_to(&reply(1, 1)[..length], QUESTION));
        }
    }
}
