//! What was just said of our own names, so that the same question again costs one look-up. Pure.
//!
//! A reply is kept for the very bytes of a query but for its id, for who asked, and for the view of
//! which it was made. Every change makes another view: nothing is said that the zone wouldn't say
//! once more.

#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::message::HEADER;

/// Of all domains together.
const REPLIES: usize = 1 << 14;
/// Bytes of a query, or of its reply. What is longer is rare.
const LENGTH: usize = 512;
const ID: usize = 2;

/// A query as its answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key(Vec<u8>);

impl Key {
    /// `view` is a number that no other view has, nor any other domain's. `None`: too long, or from
    /// nowhere.
    pub(super) fn of(query: &[u8], asker: SocketAddr, view: u64) -> Option<Self> {
        if asker.port() == 0 || !(HEADER..=LENGTH).contains(&query.len()) {
            return None;
        }
        let mut key = Vec::with_capacity(query.len() + 24);
        key.extend(view.to_ne_bytes());
        match asker.ip().to_canonical() {
            IpAddr::V4(it) => key.extend(it.octets()),
            IpAddr::V6(it) => key.extend(it.octets()),
        }
        key.extend(&query[ID..]);
        Some(Self(key))
    }
}

/// Bounded: when it is full, it starts anew.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
pub(super) struct Recent {
    kept: HashMap<Key, Box<[u8]>>,
}

impl Recent {
    /// The reply to this query, under its id.
    pub(super) fn get(&self, key: &Key, query: &[u8]) -> Option<Vec<u8>> {
        let kept = self.kept.get(key)?;
        let mut reply = Vec::with_capacity(ID + kept.len());
        reply.extend(query.get(..ID)?);
        reply.extend(&kept[..]);
        Some(reply)
    }

    pub(super) fn put(&mut self, key: Key, reply: &[u8]) {
        let Some(kept) = reply.get(ID..).filter(|it| it.len() <= LENGTH) else {
            return;
        };
        if self.kept.len() >= REPLIES {
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

    fn asker(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn key(query: &[u8], from: &str, view: u64) -> Option<Key> {
        Key::of(query, asker(from), view)
    }

    #[test]
    fn a_reply_is_said_again_under_the_id_of_who_asks() {
        let mut recent = Recent::default();
        let asked = key(QUERY, "20.1.1.1:1000", 1).unwrap();
        assert_eq!(recent.get(&asked, QUERY), None);
        recent.put(asked, b"\x00\x07reply");
        let mut again = QUERY.to_vec();
        again[1] = 8;
        let asked = key(&again, "20.1.1.1:2000", 1).unwrap();
        assert_eq!(recent.get(&asked, &again).unwrap(), b"\x00\x08reply");
    }

    #[test]
    fn whatever_else_differs_is_another_question() {
        let known = key(QUERY, "20.1.1.1:1000", 1);
        assert!(known.is_some());
        for (from, view) in [("20.1.1.2:1000", 1), ("20.1.1.1:1000", 2)] {
            assert_ne!(key(QUERY, from, view), known);
        }
        for place in ID..QUERY.len() {
            let mut other = QUERY.to_vec();
            other[place] ^= 0x20;
            assert_ne!(key(&other, "20.1.1.1:1000", 1), known, "{place}");
        }
        assert_eq!(key(QUERY, "20.1.1.1:0", 1), None);
        assert_eq!(key(&QUERY[..HEADER - 1], "20.1.1.1:1000", 1), None);
        assert_eq!(key(&[0; LENGTH + 1], "20.1.1.1:1000", 1), None);
    }

    #[test]
    fn it_is_bounded() {
        let mut recent = Recent::default();
        for view in 0..REPLIES as u64 + 1 {
            let asked = key(QUERY, "20.1.1.1:1000", view).unwrap();
            recent.put(asked.clone(), QUERY);
            assert!(recent.get(&asked, QUERY).is_some());
            assert!(recent.kept.len() <= REPLIES);
        }
        let asked = key(QUERY, "20.1.1.1:1000", u64::MAX).unwrap();
        recent.put(asked.clone(), &[0; LENGTH + ID + 1]);
        assert_eq!(recent.get(&asked, QUERY), None);
    }
}
