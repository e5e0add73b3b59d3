//! DNS messages, as far as names of ours need them: one question in, its answer out (RFC 1035 §4).
//!
//! Pure. What isn't a question is told apart from what is and can't be answered; what is neither
//! ours nor wrong is passed on byte for byte, so nothing else has to be understood.

use std::net::IpAddr;

pub(super) const HEADER: usize = 12;
/// The longest name, with its lengths (RFC 1035 §2.3.4).
const NAME: usize = 255;
const LABEL: usize = 63;
/// The question's name, for whoever bears it too.
const TO_QUESTION: u16 = 0xC00C;
/// Bytes of a UDP answer: what passes any path unfragmented (DNS flag day 2020).
const UDP_MAX: u16 = 1232;
const UDP_MIN: u16 = 512;
const OPT_LENGTH: usize = 11;

pub(super) const A: u16 = 1;
pub(super) const SOA: u16 = 6;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
const OPT: u16 = 41;
pub(super) const ANY: u16 = 255;
pub(super) const IN: u16 = 1;

/// RFC 1035 §4.1.1, RFC 6891 §9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// By what a message came, and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What a message is.
#[derive(Debug)]
pub(super) enum Parsed<'a> {
    Query(Query<'a>),
    /// A question that can't be answered, and how to say so.
    Wrong(Query<'a>, Code),
    /// No question at all. Nothing is said to it, so that nobody can be made to answer answers.
    Garbage,
}

/// One question.
#[derive(Debug)]
pub(super) struct Query<'a> {
    bytes: &'a [u8],
    /// Where its question ends, or where its header does.
    end: usize,
    name: [u8; NAME],
    length: usize,
    pub(super) kind: u16,
    pub(super) class: u16,
    edns: Option<Edns>,
}

#[derive(Debug, Clone, Copy)]
struct Edns {
    payload: u16,
    version: u8,
    flags: u16,
}

/// A record of an answer, and whose it is: the question's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Data<'a> {
    Address(IpAddr),
    /// Without its last dot.
    Name(&'a str),
}

/// What is said beside the answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) code: Code,
    pub(super) authoritative: bool,
    /// Seconds that it may be remembered, also that there is nothing.
    pub(super) ttl: u32,
    /// Nothing is there: how many of the name's last bytes name the zone that says so.
    pub(super) zone: Option<usize>,
}

pub(super) fn parse(bytes: &[u8]) -> Parsed<'_> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Parsed::Garbage;
    };
    if header[2] & 0x80 != 0 {
        return Parsed::Garbage;
    }
    let mut query = Query {
        bytes,
        end: HEADER,
        name: [0; NAME],
        length: 0,
        kind: 0,
        class: 0,
        edns: None,
    };
    if header[2] >> 3 & 0x0F != 0 {
        return Parsed::Wrong(query, Code::NotImp);
    }
    if u16_at(bytes, 4) != Some(1) {
        return Parsed::Wrong(query, Code::FormErr);
    }
    if query.read().is_none() {
        return Parsed::Garbage;
    }
    match query.edns {
        Some(edns) if edns.version > 0 => Parsed::Wrong(query, Code::BadVers),
        _ => Parsed::Query(query),
    }
}

impl<'a> Query<'a> {
    /// In lower case, without its last dot; `None`: none that an endpoint could bear.
    pub(super) fn name(&self) -> Option<&str> {
        std::str::from_utf8(self.name.get(..self.length)?).ok()
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes that an answer may have.
    pub(super) fn room(&self, by: Transport) -> usize {
        match (by, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => usize::from(UDP_MIN),
            (Transport::Udp, Some(edns)) => usize::from(edns.payload.clamp(UDP_MIN, UDP_MAX)),
        }
    }

    /// Reads the question and what follows it; `None`: it isn't whole.
    fn read(&mut self) -> Option<()> {
        let mut at = HEADER;
        loop {
            let length = usize::from(*self.bytes.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = self.bytes.get(at..at + length)?;
            at += length;
            // No question points anywhere: there is nothing before it.
            if length > LABEL || at - HEADER >= NAME {
                return None;
            }
            self.push(label);
        }
        self.kind = u16_at(self.bytes, at)?;
        self.class = u16_at(self.bytes, at + 2)?;
        at += 4;
        self.end = at;
        let count = |at| u16_at(self.bytes, at).map(usize::from);
        let records = count(6)? + count(8)? + count(10)?;
        for _ in 0..records {
            let record = record_at(self.bytes, at)?;
            if record.kind == OPT {
                let [_, version, high, low] = record.ttl.to_be_bytes();
                self.edns = Some(Edns {
                    payload: record.class,
                    version,
                    flags: u16::from_be_bytes([high, low]),
                });
            }
            at = record.end;
        }
        Some(())
    }

    fn push(&mut self, label: &[u8]) {
        let dot = usize::from(self.length > 0);
        let start = self.length + dot;
        // A dot within a label is none between labels: nobody's name, which isn't looked up.
        let odd = label.contains(&b'.') || start + label.len() > NAME || self.length > NAME;
        if odd {
            self.length = NAME + 1;
            return;
        }
        if dot == 1 {
            self.name[self.length] = b'.';
        }
        let place = &mut self.name[start..start + label.len()];
        place.copy_from_slice(label);
        place.make_ascii_lowercase();
        self.length = start + label.len();
    }

    /// Writes the answer over `out`. What has no room is left out, and TC says so.
    pub(super) fn answer<'d>(
        &self,
        said: Said,
        answers: impl Iterator<Item = Data<'d>>,
        by: Transport,
        out: &mut Vec<u8>,
    ) {
        out.clear();
        out.extend_from_slice(&self.bytes[..self.end]);
        let code = said.code as u16;
        let opcode_and_rd = self.bytes[2] & 0x79;
        out[2] = 0x80 | opcode_and_rd | if said.authoritative { 0x04 } else { 0 };
        // Recursion is available; checking stays as disabled as it was.
        out[3] = 0x80 | (self.bytes[3] & 0x10) | (code & 0x0F) as u8;
        out[4..6].copy_from_slice(&u16::from(self.end > HEADER).to_be_bytes());
        let room = self.room(by) - self.edns.map_or(0, |_| OPT_LENGTH);
        let mut count: u16 = 0;
        for data in answers {
            let before = out.len();
            write_data(data, said.ttl, out);
            if out.len() > room {
                out.truncate(before);
                out[2] |= 0x02;
                break;
            }
            count += u16::from(out.len() > before);
        }
        out[6..8].copy_from_slice(&count.to_be_bytes());
        let denied = said.zone.filter(|_| count == 0 && self.end > HEADER);
        if let Some(zone) = denied {
            self.write_soa(zone, said.ttl, out);
        }
        out[8..10].copy_from_slice(&u16::from(denied.is_some()).to_be_bytes());
        out[10..12].copy_from_slice(&u16::from(self.edns.is_some()).to_be_bytes());
        if let Some(edns) = self.edns {
            out.push(0);
            out.extend(OPT.to_be_bytes());
            out.extend(UDP_MAX.to_be_bytes());
            out.extend([(code >> 4) as u8, 0]);
            // DO as it was asked (RFC 3225 §3).
            out.extend((edns.flags & 0x8000).to_be_bytes());
            out.extend([0, 0]);
        }
    }

    /// Tells how long one may remember that there is nothing (RFC 2308 §3). `zone` bytes at the
    /// question's end name the zone.
    fn write_soa(&self, zone: usize, ttl: u32, out: &mut Vec<u8>) {
        let name_end = self.end - 4;
        let name = u16::try_from(name_end.saturating_sub(zone).max(HEADER)).unwrap_or(0x0C);
        let pointer = (0xC000 | name).to_be_bytes();
        out.extend(pointer);
        out.extend(SOA.to_be_bytes());
        out.extend(IN.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        out.extend((4 + 20_u16).to_be_bytes());
        out.extend(pointer);
        out.extend(pointer);
        // Serial, refresh, retry and expire are for secondaries, of which there are none.
        for number in [1, 3_600, 600, 86_400, ttl] {
            out.extend(number.to_be_bytes());
        }
    }
}

fn write_data(data: Data<'_>, ttl: u32, out: &mut Vec<u8>) {
    let start = out.len();
    let (kind, length) = match data {
        Data::Address(IpAddr::V4(_)) => (A, 4),
        Data::Address(IpAddr::V6(_)) => (AAAA, 16),
        Data::Name(_) => (PTR, 0),
    };
    out.extend(TO_QUESTION.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(IN.to_be_bytes());
    out.extend(ttl.to_be_bytes());
    out.extend(u16::to_be_bytes(length));
    match data {
        Data::Address(IpAddr::V4(address)) => out.extend(address.octets()),
        Data::Address(IpAddr::V6(address)) => out.extend(address.octets()),
        Data::Name(name) => {
            let begin = out.len();
            for label in name.split('.') {
                match u8::try_from(label.len()) {
                    Ok(length) if (1..=LABEL).contains(&label.len()) => out.push(length),
                    // A name that DNS can't say.
                    _ => return out.truncate(start),
                }
                out.extend(label.as_bytes());
            }
            out.push(0);
            let length = out.len() - begin;
            if length > NAME {
                return out.truncate(start);
            }
            out[begin - 2..begin].copy_from_slice(&(length as u16).to_be_bytes());
        }
    }
}

/// A reply of another resolver, made fit for who asked: with its id, as long as it may be, and
/// remembered no longer than `ttl` where it says that there is nothing: tomorrow there may be.
pub(super) fn relay(query: &Query<'_>, reply: &mut Vec<u8>, ttl: u32, by: Transport) {
    if reply.len() > query.room(by) {
        let (code, authoritative) = (Code::NoError, reply[2] & 0x04 != 0);
        let said = Said {
            code,
            authoritative,
            ttl,
            zone: None,
        };
        query.answer(said, std::iter::empty(), by, reply);
        reply[2] |= 0x02;
        return;
    }
    reply[..2].copy_from_slice(&query.bytes[..2]);
    cap_negative(reply, ttl);
}

fn cap_negative(reply: &mut [u8], ttl: u32) -> Option<()> {
    let nothing = reply.get(3)? & 0x0F == Code::NxDomain as u8 || u16_at(reply, 6)? == 0;
    let mut at = HEADER;
    for _ in 0..u16_at(reply, 4)? {
        at = skip_name(reply, at)? + 4;
    }
    let count = |at| u16_at(reply, at).map(usize::from);
    let records = if nothing { count(6)? + count(8)? } else { 0 };
    for _ in 0..records {
        let record = record_at(reply, at)?;
        if record.kind == SOA {
            let place = reply.get_mut(record.ttl_at..record.ttl_at + 4)?;
            place.copy_from_slice(&record.ttl.min(ttl).to_be_bytes());
        }
        at = record.end;
    }
    Some(())
}

/// Whether a reply is to this question. Names are compared without case.
pub(super) fn is_reply_to(reply: &[u8], query: &[u8]) -> bool {
    let answers = |end: usize| {
        let (of, to) = (reply.get(HEADER..end)?, query.get(HEADER..end)?);
        Some(reply[2] & 0x80 != 0 && of.eq_ignore_ascii_case(to))
    };
    let end = skip_name(query, HEADER).map(|end| end + 4);
    end.and_then(answers).unwrap_or(false)
}

/// The code in a reply's header.
pub(super) fn code_of(reply: &[u8]) -> u8 {
    reply.get(3).map_or(0, |it| it & 0x0F)
}

struct Record {
    kind: u16,
    class: u16,
    ttl: u32,
    ttl_at: usize,
    end: usize,
}

fn record_at(bytes: &[u8], at: usize) -> Option<Record> {
    let at = skip_name(bytes, at)?;
    let ttl = bytes.get(at + 4..)?.first_chunk::<4>()?;
    let end = at + 10 + usize::from(u16_at(bytes, at + 8)?);
    (end <= bytes.len()).then_some(())?;
    Some(Record {
        kind: u16_at(bytes, at)?,
        class: u16_at(bytes, at + 2)?,
        ttl: u32::from_be_bytes(*ttl),
        ttl_at: at + 4,
        end,
    })
}

/// Behind a name, which may end with a pointer (RFC 1035 §4.1.4).
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some(at + 1),
            length if length <= LABEL => at += 1 + length,
            pointer if pointer >= 0xC0 => return (at + 2 <= bytes.len()).then_some(at + 2),
            _ => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|it| u16::from_be_bytes(*it))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
