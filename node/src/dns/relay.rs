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

/// A reply made fit for who asked: with its id, as long as it may be, and remembered no longer than
/// `ttl` where it says that there is nothing: tomorrow there may be.
pub(super) fn relay(request: &Request, mut reply: Vec<u8>, ttl: u32) -> Outcome {
    if reply.len() > room(request) {
        let mut said = Said::only(request, code_of(&reply));
        said.metadata.truncation = true;
        return Outcome::Said(said);
    }
    if let Some(id) = reply.get_mut(..2) {
        id.copy_from_slice(&request.metadata.id.to_be_bytes());
    }
    // Who asked sees for itself that such a reply can't be read.
    let _ = cap_negative(&mut reply, ttl);
    Outcome::Passed(reply)
}

/// A SOA among the authorities says that there is nothing, and for how long (RFC 2308 §2).
fn cap_negative(reply: &mut [u8], ttl: u32) -> Result<(), DecodeError> {
    let mut places = Vec::new();
    let mut decoder = BinDecoder::new(reply);
    let counts = Header::read(&mut decoder)?.counts;
    if counts.authorities == 0 {
        return Ok(());
    }
    Queries::read(&mut decoder, counts.queries.into())?;
    for number in 0..u32::from(counts.answers) + u32::from(counts.authorities) {
        Name::read(&mut decoder)?;
        let kind = RecordType::read(&mut decoder)?;
        decoder.read_u16()?;
        let place = decoder.index();
        let held = decoder.read_u32()?.unverified();
        let length = decoder.read_u16()?.unverified();
        decoder.read_slice(length.into())?;
        if number >= counts.answers.into() && kind == RecordType::SOA && held > ttl {
            places.push(place);
        }
    }
    for place in places {
        if let Some(held) = reply.get_mut(place..place + 4) {
            held.copy_from_slice(&ttl.to_be_bytes());
        }
    }
    Ok(())
}

/// Whether a reply is to this question. Names are compared without case.
pub(super) fn is_reply_to(reply: &[u8], question: &[u8]) -> bool {
    let of = reply.get(HEADER..HEADER + question.len());
    of.is_some_and(|of| reply[2] & 0x80 != 0 && of.eq_ignore_ascii_case(question))
}

/// The code in a reply's header.
pub(super) fn code_of(reply: &[u8]) -> ResponseCode {
    ResponseCode::from_low(reply.get(3).map_or(0, |it| it & 0x0F))
}
