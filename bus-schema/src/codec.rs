//! Bytes ⇄ values: MessagePack with named fields.
//!
//! Named fields and internally tagged enums survive unknown fields and unknown variants;
//! positional encoding or external tags don't. The human-readable form (addresses and ids as
//! strings) is needed because serde buffers internally tagged variants through a deserializer
//! that always claims to be human-readable.

use rmp_serde::{Deserializer, Serializer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Envelope, Header, SCHEMA};

/// Deeper than any message of this schema, and shallow enough for the smallest stack: garbage of
/// nested arrays must not end a process. (rmp-serde's own limit of 1024 overflows 2 MiB.)
const MAX_DEPTH: usize = 32;

/// Bytes that are no message of this schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(String);

/// A decoded envelope, for a reader of this build's schema.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<T> {
    Known(Envelope<T>),
    /// It was written for newer readers only ([`Header::min_reader`]), so its body isn't decoded.
    Newer(Header),
}

/// Encodes a value of this crate's types.
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = Serializer::new(&mut bytes)
        .with_struct_map()
        .with_human_readable();
    #[expect(
        clippy::expect_used,
        reason = "writing to a Vec can't fail, and this crate's types hold no map with other keys than strings"
    )]
    value.serialize(&mut serializer).expect("encodable");
    bytes
}

/// Decodes a value; bytes behind it are an error.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let mut rest = bytes;
    let mut deserializer = Deserializer::new(&mut rest).with_human_readable();
    deserializer.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut deserializer).map_err(|e| Malformed(e.to_string()))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(Malformed(format!(
            "{} bytes behind the message",
            rest.len()
        )))
    }
}

/// Decodes an envelope, its header first, so that an event for newer readers differs from garbage.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Decoded<T>, Malformed> {
    let header: Header = from_bytes(bytes)?;
    if header.min_reader > SCHEMA {
        return Ok(Decoded::Newer(header));
    }
    #[derive(Deserialize)]
    struct Body<T> {
        body: T,
    }
    let Body { body } = from_bytes(bytes)?;
    Ok(Decoded::Known(Envelope { header, body }))
}
