//! The codec between our resources and nftables' netlink messages, in both directions. No I/O.
//!
//! `../transaction.rs` writes batches with it, `../listing.rs` reads our table with it. Numbers are
//! those of `linux/netfilter/nf_tables.h`.
//!
//! | file | ours | the kernel's |
//! |---|---|---|
//! | `expressions.rs` | – | an expression of a rule |
//! | `rules.rs` | the body of a compiled rule | its expressions and anonymous maps |
//! | `entry.rs` | a key with its data | an element of a set |
//! | `elements.rs` | an element of one of our sets | an entry |
//! | `objects.rs` | – | tables, chains, rules and sets |

pub(super) mod elements;
pub(super) mod entry;
pub(super) mod expressions;
pub(super) mod objects;
pub(super) mod rules;
#[cfg(test)]
mod tests;

use node_core::resource::Field;

/// `NFTA_LIST_ELEM`
const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: u32 = -3_i32 as u32;
const GOTO: u32 = -4_i32 as u32;

/// A value of a field as it lies in a register. Marks, priorities and zones are numbers of this
/// machine, all else is in the order of the wire.
pub(super) fn value(field: Field, value: u32) -> Vec<u8> {
    match field {
        Field::Mark | Field::Priority => value.to_ne_bytes().into(),
        Field::Protocol => vec![value as u8],
        Field::Source | Field::Destination => value.to_be_bytes().into(),
        Field::Port => (value as u16).to_be_bytes().into(),
    }
}

/// The value that [`value`] wrote.
fn read_value(field: Field, bytes: &[u8]) -> Option<u32> {
    match field {
        Field::Mark | Field::Priority => Some(u32::from_ne_bytes(bytes.try_into().ok()?)),
        Field::Protocol => Some(u8::from_ne_bytes(bytes.try_into().ok()?).into()),
        Field::Source | Field::Destination => Some(u32::from_be_bytes(bytes.try_into().ok()?)),
        Field::Port => Some(u16::from_be_bytes(bytes.try_into().ok()?).into()),
    }
}
