//! Caches recent replies about our own names, so that a repeated query costs one lookup. Pure.
//!
//! The key is the query's bytes without its id, the client's address, and the number of the view
//! that the reply was made from. Each change makes another view, so a cached reply is always equal
//! to the zone's current one.

#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::message::HEADER_BYTES;

/// Limits the replies of all domains together.
const MAX_REPLIES: usize = 1 << 14;
/// Longer queries and replies are rare and not cached.
const MAX_MESSAGE_BYTES: usize = 512;
const ID_BYTES: usize = 2;

/// The parts of a query that its answer depends on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RecentKey(Vec<u8>);

impl RecentKey {
    /// `view` is a number that no other view of any domain has. `None` if the query is too long or
    /// its source port is 0.
    pub(super) fn of(query: &[u8], client: SocketAddr, view: u64) -> Option<Self> {
        if client.port() == 0 || !(HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&query.len()) {
            return None;
        }
        let mut key = Vec::with_capacity(query.len() + 24);
        key.extend(view.to_ne_bytes());
        match client.ip().to_canonical() {
            IpAddr::V4(it) => key.extend(it.octets()),
            IpAddr::V6(it) => key.extend(it.octets()),
        }
        key.extend(&query[ID_BYTES..]);
        Some(Self(key))
    }
}

/// A bounded map: when it is full, it is cleared.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
pub(super) struct RecentReplies {
    kept: HashMap<RecentKey, Box<[u8]>>,
}

impl RecentReplies {
    /// The cached reply with this query's id.
    pub(super) fn get(&self, key: &RecentKey, query: &[u8]) -> Option<Vec<u8>> {
        let kept = self.kept.get(key)?;
        let mut reply = Vec::with_capacity(ID_BYTES + kept.len());
        reply.extend(query.get(..ID_BYTES)?);
        reply.extend(&kept[..]);
        Some(reply)
    }

    pub(super) fn put(&mut self, key: RecentKey, reply: &[u8]) {
        let Some(kept) = reply
            .get(ID_BYTES..)
            .filter(|it| it.len() <= MAX_MESSAGE_BYTES)
        else {
            return;
        };
        if self.kept.len() >= MAX_REPLIES {
            self.kept.clear();
        }
        self.kept.insert(key, kept.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x00\x00\x01\x00\x01";

    fn client(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn key(query: &[u8], from: &str, view: u64) -> Option<RecentKey> {
        RecentKey::of(query, client(from), view)
    }

    #[test]
    fn reply_is_repeated_with_the_id_of_the_new_query() {
        let mut recent = RecentReplies::default();
        let asked = key(QUERY, "20.1.1.1:1000", 1).unwrap();
        assert_eq!(recent.get(&asked, QUERY), None);
        recent.put(asked, b"\x00\x07reply");
        let mut again = QUERY.to_vec();
        again[1] = 8;
        let asked = key(&again, "20.1.1.1:2000", 1).unwrap();
        assert_eq!(recent.get(&asked, &again).unwrap(), b"\x00\x08reply");
    }

    #[test]
    fn key_differs_with_any_other_byte_address_or_view() {
        let known = key(QUERY, "20.1.1.1:1000", 1);
        assert!(known.is_some());
        for (from, view) in [("20.1.1.2:1000", 1), ("20.1.1.1:1000", 2)] {
            assert_ne!(key(QUERY, from, view), known);
        }
        for place in ID_BYTES..QUERY.len() {
            let mut other = QUERY.to_vec();
            other[place] ^= 0x20;
            assert_ne!(key(&other, "20.1.1.1:1000", 1), known, "{place}");
        }
        assert_eq!(key(QUERY, "20.1.1.1:0", 1), None);
        assert_eq!(key(&QUERY[..HEADER_BYTES - 1], "20.1.1.1:1000", 1), None);
        assert_eq!(key(&[0; MAX_MESSAGE_BYTES + 1], "20.1.1.1:1000", 1), None);
    }

    #[test]
    fn recent_replies_are_bounded() {
        let mut recent = RecentReplies::default();
        for view in 0..MAX_REPLIES as u64 + 1 {
            let asked = key(QUERY, "20.1.1.1:1000", view).unwrap();
            recent.put(asked.clone(), QUERY);
            assert!(recent.get(&asked, QUERY).is_some());
            assert!(recent.kept.len() <= MAX_REPLIES);
        }
        let asked = key(QUERY, "20.1.1.1:1000", u64::MAX).unwrap();
        recent.put(asked.clone(), &[0; MAX_MESSAGE_BYTES + ID_BYTES + 1]);
        assert_eq!(recent.get(&asked, QUERY), None);
    }
}
