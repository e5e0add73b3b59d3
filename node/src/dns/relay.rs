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
    if let Some(id) = reply.get_mut(..2) {
        id.copy_from_slice(&request.metadata.id.to_be_bytes());
    }
    Outcome::Passed(reply)
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

/// Whether a reply is to this question. Names are compared without case, type and class with it:
/// 65 and 97 are both types.
pub(super) fn is_reply_to(reply: &[u8], question: &[u8]) -> bool {
    let (name, kind) = question.split_at(question.len().saturating_sub(4));
    let of = reply.get(HEADER..HEADER + question.len());
    of.and_then(|of| of.split_at_checked(name.len()))
        .is_some_and(|of| reply[2] & 0x80 != 0 && of.0.eq_ignore_ascii_case(name) && of.1 == kind)
}

/// The code in a reply's header.
pub(super) fn code_of(reply: &[u8]) -> ResponseCode {
    ResponseCode::from_low(reply.get(3).map_or(0, |it| it & 0x0F))
}
