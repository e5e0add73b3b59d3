//! What is said to a question, in hickory's records. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

/// Bytes of a UDP answer: what passes any path unfragmented (DNS flag day 2020).
pub(super) const UDP_MAX: u16 = 1232;
/// RFC 1035 §4.1.1.
pub(super) const HEADER: usize = 12;
/// RFC 6891 §6.1.2, without options.
const OPT: usize = 11;
/// A record without its data, whose name points to the question's.
const RECORD: usize = 12;

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Outcome {
    Said(Said),
    /// Another resolver's words, byte for byte.
    Passed(Vec<u8>),
}

/// What goes back, beside the question.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) metadata: Metadata,
    pub(super) answers: Vec<Record>,
    /// For how long there is nothing, if there is nothing (RFC 2308 §3).
    pub(super) denied: Vec<Record>,
}

impl Said {
    /// A code and nothing else.
    pub(super) fn only(request: &Request, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        Self {
            metadata,
            answers: Vec::new(),
            denied: Vec::new(),
        }
    }

    /// The word of a name's owner, which may be remembered for `ttl` seconds.
    pub(super) fn ours(request: &Request, code: ResponseCode, answers: Vec<Record>) -> Self {
        let mut said = Self::only(request, code);
        said.metadata.authoritative = true;
        said.answers = answers;
        said
    }
}

/// Addresses of a name. What has no room is left out, and TC says so.
pub(super) fn addresses(request: &Request, name: &Name, ttl: u32, all: &[IpAddr]) -> Said {
    let mut left =
        usize::from(room(request)).saturating_sub(HEADER + request.queries.as_bytes().len());
    if request.edns.is_some() {
        left = left.saturating_sub(OPT);
    }
    let mut answers = Vec::new();
    for address in all {
        let (data, length) = match *address {
            IpAddr::V4(v4) => (RData::A(v4.into()), 4),
            IpAddr::V6(v6) => (RData::AAAA(v6.into()), 16),
        };
        let Some(rest) = left.checked_sub(RECORD + length) else {
            break;
        };
        left = rest;
        answers.push(Record::from_rdata(name.clone(), ttl, data));
    }
    let cut = answers.len() < all.len();
    let mut said = Said::ours(request, ResponseCode::NoError, answers);
    said.metadata.truncation = cut;
    said
}

/// The name of an address; `None`: it is one that DNS can't say.
pub(super) fn pointer(name: &Name, ttl: u32, to: &str) -> Option<Record> {
    let to = Name::from_ascii(format!("{to}.")).ok()?;
    Some(Record::from_rdata(name.clone(), ttl, RData::PTR(PTR(to))))
}

/// Says for how long there is nothing. Serial, refresh, retry and expire are for secondaries, of
/// which there are none.
pub(super) fn denial(zone: Name, ttl: u32) -> Record {
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 3_600, 600, 86_400, ttl);
    Record::from_rdata(zone, ttl, RData::SOA(soa))
}

/// Bytes that an answer may have.
pub(super) fn room(request: &Request) -> u16 {
    match request.protocol() {
        Protocol::Udp => request.max_payload().min(UDP_MAX),
        _ => u16::MAX,
    }
}

/// A name as people write it, in lower case and without its last dot; `None`: none that an
/// endpoint could bear.
pub(super) fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        // A dot within a label is none between labels.
        if label.contains('.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text += label;
    }
    text.make_ascii_lowercase();
    Some(text)
}
