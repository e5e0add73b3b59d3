//! Builds replies from hickory's records. Pure.

use std::net::IpAddr;

use hickory_proto::op::{Metadata, ResponseCode};
use hickory_proto::rr::rdata::{PTR, SOA};
use hickory_proto::rr::{Name, RData, Record};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

/// Limits a UDP answer to a size that isn't fragmented on any path (DNS flag day 2020).
pub(super) const MAX_UDP_BYTES: u16 = 1232;
/// Size of a message's header (RFC 1035 §4.1.1).
pub(super) const HEADER_BYTES: usize = 12;
/// Size of an OPT record without options (RFC 6891 §6.1.2).
const OPT_BYTES: usize = 11;
/// Size of a record without its data, whose name is a pointer to the question's.
const RECORD_BYTES: usize = 12;

/// The reply to a query.
#[derive(Debug)]
pub(super) enum Reply {
    /// A reply of our own.
    Built(Response),
    /// Another resolver's reply, byte for byte.
    Relayed(Vec<u8>),
}

/// The parts of a reply of our own, without the question.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) metadata: Metadata,
    pub(super) answers: Vec<Record>,
    /// The SOA with the negative TTL, if there is no answer (RFC 2308 §3).
    pub(super) authorities: Vec<Record>,
}

impl Response {
    /// A response with a code only.
    pub(super) fn code_only(request: &Request, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        Self {
            metadata,
            answers: Vec::new(),
            authorities: Vec::new(),
        }
    }

    /// An authoritative response.
    pub(super) fn authoritative(
        request: &Request,
        code: ResponseCode,
        answers: Vec<Record>,
    ) -> Self {
        let mut response = Self::code_only(request, code);
        response.metadata.authoritative = true;
        response.answers = answers;
        response
    }
}

/// A response with a name's addresses. Those that don't fit are left out, and TC is set.
pub(super) fn addresses(request: &Request, name: &Name, ttl: u32, all: &[IpAddr]) -> Response {
    let mut left =
        usize::from(room(request)).saturating_sub(HEADER_BYTES + request.queries.as_bytes().len());
    if request.edns.is_some() {
        left = left.saturating_sub(OPT_BYTES);
    }
    let mut answers = Vec::new();
    for address in all {
        let (data, length) = match *address {
            IpAddr::V4(v4) => (RData::A(v4.into()), 4),
            IpAddr::V6(v6) => (RData::AAAA(v6.into()), 16),
        };
        let Some(rest) = left.checked_sub(RECORD_BYTES + length) else {
            break;
        };
        left = rest;
        answers.push(Record::from_rdata(name.clone(), ttl, data));
    }
    let cut = answers.len() < all.len();
    let mut response = Response::authoritative(request, ResponseCode::NoError, answers);
    response.metadata.truncation = cut;
    response
}

/// The PTR record of an address; `None` if the name isn't valid in DNS.
pub(super) fn pointer(name: &Name, ttl: u32, to: &str) -> Option<Record> {
    let to = Name::from_ascii(format!("{to}.")).ok()?;
    Some(Record::from_rdata(name.clone(), ttl, RData::PTR(PTR(to))))
}

/// The SOA record of a negative answer, which holds its TTL. Serial, refresh, retry and expire are
/// for secondary servers, and there are none.
pub(super) fn denial(zone: Name, ttl: u32) -> Record {
    let soa = SOA::new(zone.clone(), zone.clone(), 1, 3_600, 600, 86_400, ttl);
    Record::from_rdata(zone, ttl, RData::SOA(soa))
}

/// The maximum size of an answer in bytes.
pub(super) fn room(request: &Request) -> u16 {
    match request.protocol() {
        Protocol::Udp => request.max_payload().min(MAX_UDP_BYTES),
        _ => u16::MAX,
    }
}

/// A name as text, in lower case and without its last dot; `None` if no endpoint can have it.
pub(super) fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        // A dot inside a label would read as a dot between labels.
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
