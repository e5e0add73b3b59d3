//! Caches the replies of the host's resolvers for their TTL. Pure.
//!
//! A node's servers share it: a name that a thousand containers ask for is asked upstream once. Only
//! plain questions and complete answers are cached; no failures and no truncated replies. The TTLs
//! in a cached reply count down (RFC 1035 §4.1.3, RFC 2181 §8).

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

use super::message::HEADER_BYTES;
use super::relay::{self, ForwardedQuery, Record, Section};

/// Limits every TTL, so that a change is seen after this time, as in Kubernetes.
const MAX_TTL_SECONDS: u32 = 30;
const MAX_REPLIES: usize = 10_000;
const MAX_BYTES: usize = 4 << 20;
/// Longer replies are rare, would take the place of many, and are not cached.
const MAX_REPLY_BYTES: usize = 4_096;
/// Flags in a header's third and fourth byte (RFC 1035 §4.1.1, RFC 4035 §3).
const AUTHORITATIVE: u8 = 0x04;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const AUTHENTIC_OR_UNCHECKED: u8 = 0x30;

/// The parts of a query that its answer depends on: the name in lower case, type and class, the
/// flags RD, AD, CD and DO, and whether there is EDNS. The id and the payload size aren't part of
/// it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct CacheKey(Arc<[u8]>);

impl CacheKey {
    /// `None` if the query has anything else, such as EDNS options: its answer may not suit others.
    pub(super) fn of(query: ForwardedQuery<'_>) -> Option<Self> {
        let (header, rest) = query.bytes.split_first_chunk::<HEADER_BYTES>()?;
        let &[_, _, high, low, 0, 1, 0, 0, 0, 0, 0, additionals] = header else {
            return None;
        };
        let edns = match (additionals, rest.strip_prefix(query.question)?) {
            (0, []) => 0,
            // An OPT record without options; two bytes are the payload size (RFC 6891 §6.1.2).
            (1, [0, 0, 41, _, _, 0, 0, dnssec_ok @ (0 | 0x80), 0, 0, 0]) => dnssec_ok | 1,
            _ => return None,
        };
        if high & !RECURSION_DESIRED != 0 || low & !AUTHENTIC_OR_UNCHECKED != 0 {
            return None;
        }
        let (name, kind) = relay::split_question(query.question).filter(|it| is_spelled(it.0))?;
        let mut key = Vec::with_capacity(query.question.len() + 3);
        key.extend(name.iter().map(u8::to_ascii_lowercase));
        key.extend(kind);
        key.extend([high, low, edns]);
        Some(Self(key.into()))
    }
}

/// Whether a name is uncompressed: labels only, no pointer.
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

/// A bounded map: the reply that expires next is evicted first.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
pub(super) struct Cache {
    replies: HashMap<CacheKey, CachedReply>,
    by_expiry: BTreeSet<(Instant, CacheKey)>,
    bytes: usize,
}

#[derive(Debug)]
struct CachedReply {
    reply: Vec<u8>,
    /// Position of each record's TTL.
    ttl_offsets: Vec<usize>,
    stored_at: Instant,
    expires_at: Instant,
}

impl Cache {
    /// The cached reply to this question, with the name in this query's case.
    pub(super) fn get(
        &self,
        key: &CacheKey,
        query: ForwardedQuery<'_>,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let cached = self.replies.get(key).filter(|it| now < it.expires_at)?;
        let mut reply = cached.reply.clone();
        let question = reply.get_mut(HEADER_BYTES..HEADER_BYTES + query.question.len())?;
        question.copy_from_slice(query.question);
        // A cached answer isn't authoritative.
        reply[2] &= !AUTHORITATIVE;
        let age = now.saturating_duration_since(cached.stored_at).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        for ttl_offset in &cached.ttl_offsets {
            let ttl = reply.get_mut(*ttl_offset..)?.first_chunk_mut()?;
            *ttl = u32::from_be_bytes(*ttl).saturating_sub(age).to_be_bytes();
        }
        Some(reply)
    }

    /// Caches a reply to this question if it is cacheable.
    pub(super) fn put(
        &mut self,
        key: CacheKey,
        question: &[u8],
        (reply, records): (&[u8], &[Record]),
        now: Instant,
    ) {
        let Some(ttl) = cacheable_ttl(question, reply, records) else {
            return;
        };
        let cached = CachedReply {
            reply: reply.to_vec(),
            ttl_offsets: records_with_ttl(records).map(|it| it.ttl_offset).collect(),
            stored_at: now,
            expires_at: now + Duration::from_secs(ttl.into()),
        };
        self.drop(&key);
        self.bytes += cached.size(&key);
        self.by_expiry.insert((cached.expires_at, key.clone()));
        self.replies.insert(key, cached);
        let is_full = |it: &Self| it.bytes > MAX_BYTES || it.replies.len() > MAX_REPLIES;
        while let Some((expires_at, key)) = self.by_expiry.first().cloned()
            && (expires_at <= now || is_full(self))
        {
            self.drop(&key);
        }
    }

    fn drop(&mut self, key: &CacheKey) {
        if let Some(cached) = self.replies.remove(key) {
            self.bytes -= cached.size(key);
            self.by_expiry.remove(&(cached.expires_at, key.clone()));
        }
    }
}

impl CachedReply {
    /// Approximate memory in bytes.
    fn size(&self, key: &CacheKey) -> usize {
        let offsets = size_of_val(&self.ttl_offsets[..]);
        2 * size_of::<Self>() + key.0.len() + self.reply.len() + offsets
    }
}

/// Seconds for which a reply may be cached; `None` if it may not be.
fn cacheable_ttl(question: &[u8], reply: &[u8], records: &[Record]) -> Option<u32> {
    let extended =
        |it: &Record| it.kind == RecordType::OPT && (it.ttl >> 24 != 0 || it.data_bytes != 0);
    if reply.len() > MAX_REPLY_BYTES
        || reply.get(2)? & TRUNCATED != 0
        || records.iter().any(extended)
    {
        return None;
    }
    let (_, [high, low, ..]) = relay::split_question(question)?;
    let kind = RecordType::from(u16::from_be_bytes([*high, *low]));
    let wanted =
        |it: &Record| it.section == Section::Answer && (it.kind == kind || kind == RecordType::ANY);
    // A negative answer is cached only if it has a negative TTL (RFC 2308 §5).
    let is_cacheable = match relay::code_of(reply) {
        ResponseCode::NoError => records.iter().any(|it| wanted(it) || it.minimum.is_some()),
        ResponseCode::NXDomain => records.iter().any(|it| it.minimum.is_some()),
        _ => false,
    };
    let least = records_with_ttl(records).map(Record::effective_ttl).min()?;
    (is_cacheable && least > 0).then_some(least.min(MAX_TTL_SECONDS))
}

/// All records but OPT, whose TTL field holds flags.
fn records_with_ttl(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|it| it.kind != RecordType::OPT)
}

#[cfg(test)]
mod tests;
