//! One expression of a rule, as nftables' netlink messages hold it. No I/O.
//!
//! There is nothing here that compiled rules don't use. Reading is strict: an expression with an
//! attribute or a register that we never write isn't ours.

use super::entry::{read_verdict, verdict};
use super::{DATA_VALUE, DATA_VERDICT, LIST_ELEM};
use crate::wire::{Buffer, attributes, find, find_number, find_text};
use node_core::resource::Target;

const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;

const REG_VERDICT: u32 = 0;
/// `NFT_REG_1`, and `NFT_REG32_01` right behind its first four bytes.
pub(super) const REG: u32 = 1;
pub(super) const REG_NEXT: u32 = 9;
/// `NFT_REG32_02`, right behind that.
pub(super) const REG_THIRD: u32 = 10;

const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_SREG: u16 = 3;
pub(super) const META_PRIORITY: u32 = 2;
pub(super) const META_MARK: u32 = 3;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_SREG: u16 = 4;
pub(super) const CT_MARK: u32 = 3;
pub(super) const CT_ZONE: u32 = 17;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
pub(super) const NETWORK_HEADER: u32 = 1;
pub(super) const TRANSPORT_HEADER: u32 = 2;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
pub(super) const EQ: u32 = 0;
pub(super) const LTE: u32 = 3;
pub(super) const GT: u32 = 4;
pub(super) const GTE: u32 = 5;
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
/// 0: mask and xor.
const BITWISE_OP: u16 = 6;
const BYTEORDER_SREG: u16 = 1;
const BYTEORDER_DREG: u16 = 2;
const BYTEORDER_OP: u16 = 3;
const BYTEORDER_LEN: u16 = 4;
const BYTEORDER_SIZE: u16 = 5;
const HTON: u32 = 1;
const DYNSET_SET: u16 = 1;
const DYNSET_OP: u16 = 3;
const DYNSET_KEY_SREG: u16 = 4;
/// 0: the set's own.
const DYNSET_TIMEOUT: u16 = 6;
const DYNSET_EXPRESSION: u16 = 7;
const DYNSET_PAD: u16 = 8;
/// `NFT_DYNSET_OP_UPDATE`
const UPDATE: u32 = 1;
/// 0, unless the set is one of several expressions.
const DYNSET_FLAGS: u16 = 9;
const CONNLIMIT: &str = "connlimit";
const CONNLIMIT_COUNT: u16 = 1;
const CONNLIMIT_FLAGS: u16 = 2;
/// `NFT_CONNLIMIT_F_INV`: true above the limit.
const ABOVE: u32 = 1;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_DREG: u16 = 3;
const LOOKUP_SET_ID: u16 = 4;
/// 1: true where the set has no such key.
const LOOKUP_FLAGS: u16 = 5;

/// An expression; the register is [`REG`] where none is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    Immediate(Vec<u8>),
    Verdict(Target),
    /// Loads this key, `META_…`.
    MetaLoad(u32),
    MetaSet(u32),
    CtLoad {
        key: u32,
        register: u32,
    },
    CtSet(u32),
    Payload {
        base: u32,
        offset: u32,
        length: u32,
        register: u32,
    },
    Cmp(u32, Vec<u8>),
    Bitwise {
        mask: Vec<u8>,
        xor: Vec<u8>,
        register: u32,
    },
    /// So many bytes, two or four, from this machine's order to the wire's.
    ToWireOrder(u32),
    /// Looks up a key, and loads its data.
    Map(SetReference),
    /// Looks up a key, and does its verdict.
    VerdictMap(SetReference),
    /// Adds a key to this set, with a `connlimit` of so many connections: the rule goes on if there are
    /// more.
    CountInto(String, u32),
}

/// The set or map of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SetReference {
    pub(super) name: String,
    /// The id of an anonymous set that the same batch makes; the kernel doesn't keep it.
    pub(super) id: Option<u32>,
}

impl Expression {
    /// Adds it to an attribute that is a list of expressions.
    pub(super) fn write(&self, to: &mut Buffer) {
        to.nest(LIST_ELEM, |it| {
            it.text(EXPR_NAME, self.name());
            it.nest(EXPR_DATA, |it| self.write_data(it));
        });
    }

    /// The name by which the kernel registers the expression.
    fn name(&self) -> &'static str {
        match self {
            Self::Immediate(_) | Self::Verdict(_) => "immediate",
            Self::MetaLoad(_) | Self::MetaSet(_) => "meta",
            Self::CtLoad { .. } | Self::CtSet(_) => "ct",
            Self::Payload { .. } => "payload",
            Self::Cmp(..) => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::ToWireOrder(_) => "byteorder",
            Self::Map(_) | Self::VerdictMap(_) => "lookup",
            Self::CountInto(..) => "dynset",
        }
    }

    fn write_data(&self, it: &mut Buffer) {
        match self {
            Self::Immediate(value) => {
                it.number(IMMEDIATE_DREG, REG);
                it.nest(IMMEDIATE_DATA, |it| it.attribute(DATA_VALUE, value));
            }
            Self::Verdict(target) => {
                it.number(IMMEDIATE_DREG, REG_VERDICT);
                it.nest(IMMEDIATE_DATA, |it| verdict(it, target));
            }
            Self::MetaLoad(key) => {
                it.number(META_DREG, REG);
                it.number(META_KEY, *key);
            }
            Self::MetaSet(key) => {
                it.number(META_KEY, *key);
                it.number(META_SREG, REG);
            }
            Self::CtLoad { key, register } => {
                it.number(CT_DREG, *register);
                it.number(CT_KEY, *key);
            }
            Self::CtSet(key) => {
                it.number(CT_KEY, *key);
                it.number(CT_SREG, REG);
            }
            Self::Payload {
                base,
                offset,
                length,
                register,
            } => {
                it.number(PAYLOAD_DREG, *register);
                it.number(PAYLOAD_BASE, *base);
                it.number(PAYLOAD_OFFSET, *offset);
                it.number(PAYLOAD_LEN, *length);
            }
            Self::Cmp(op, data) => {
                it.number(CMP_SREG, REG);
                it.number(CMP_OP, *op);
                it.nest(CMP_DATA, |it| it.attribute(DATA_VALUE, data));
            }
            Self::Bitwise {
                mask,
                xor,
                register,
            } => {
                it.number(BITWISE_SREG, *register);
                it.number(BITWISE_DREG, *register);
                it.number(BITWISE_LEN, mask.len() as u32);
                it.nest(BITWISE_MASK, |it| it.attribute(DATA_VALUE, mask));
                it.nest(BITWISE_XOR, |it| it.attribute(DATA_VALUE, xor));
            }
            Self::ToWireOrder(bytes) => {
                it.number(BYTEORDER_SREG, REG);
                it.number(BYTEORDER_DREG, REG);
                it.number(BYTEORDER_OP, HTON);
                it.number(BYTEORDER_LEN, *bytes);
                it.number(BYTEORDER_SIZE, *bytes);
            }
            Self::Map(set) => set.write(it, REG),
            Self::VerdictMap(set) => set.write(it, REG_VERDICT),
            Self::CountInto(set, limit) => {
                it.text(DYNSET_SET, set);
                it.number(DYNSET_OP, UPDATE);
                it.number(DYNSET_KEY_SREG, REG);
                it.nest(DYNSET_EXPRESSION, |it| {
                    it.text(EXPR_NAME, CONNLIMIT);
                    it.nest(EXPR_DATA, |it| {
                        it.number(CONNLIMIT_COUNT, *limit);
                        it.number(CONNLIMIT_FLAGS, ABOVE);
                    });
                });
            }
        }
    }

    /// Reads an element of a list of expressions; `None`: we never write such a one.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (name, data) = name_and_data(bytes)?;
        match name {
            "immediate" => read_immediate(data),
            "meta" => {
                let key = find_number(data, META_KEY)?;
                match registers(data, [META_KEY, META_DREG, META_SREG])? {
                    (Some(REG), None) => Some(Self::MetaLoad(key)),
                    (None, Some(REG)) => Some(Self::MetaSet(key)),
                    _ => None,
                }
            }
            "ct" => {
                let key = find_number(data, CT_KEY)?;
                match registers(data, [CT_KEY, CT_DREG, CT_SREG])? {
                    (Some(register), None) => Some(Self::CtLoad { key, register }),
                    (None, Some(REG)) => Some(Self::CtSet(key)),
                    _ => None,
                }
            }
            "payload" => {
                only(
                    data,
                    &[PAYLOAD_DREG, PAYLOAD_BASE, PAYLOAD_OFFSET, PAYLOAD_LEN],
                )?;
                Some(Self::Payload {
                    base: find_number(data, PAYLOAD_BASE)?,
                    offset: find_number(data, PAYLOAD_OFFSET)?,
                    length: find_number(data, PAYLOAD_LEN)?,
                    register: find_number(data, PAYLOAD_DREG)?,
                })
            }
            "cmp" => {
                only(data, &[CMP_SREG, CMP_OP, CMP_DATA])?;
                is(data, CMP_SREG, REG)?;
                Some(Self::Cmp(
                    find_number(data, CMP_OP)?,
                    read_data(data, CMP_DATA)?,
                ))
            }
            "bitwise" => read_bitwise(data),
            "byteorder" => {
                is(data, BYTEORDER_SREG, REG)?;
                is(data, BYTEORDER_DREG, REG)?;
                is(data, BYTEORDER_OP, HTON)?;
                let bytes = find_number(data, BYTEORDER_LEN)?;
                is(data, BYTEORDER_SIZE, bytes)?;
                Some(Self::ToWireOrder(bytes))
            }
            "lookup" => read_lookup(data),
            "dynset" => read_dynset(data),
            _ => None,
        }
    }
}

impl SetReference {
    fn write(&self, to: &mut Buffer, register: u32) {
        to.text(LOOKUP_SET, &self.name);
        to.number(LOOKUP_SREG, REG);
        to.number(LOOKUP_DREG, register);
        if let Some(id) = self.id {
            to.number(LOOKUP_SET_ID, id);
        }
    }
}

fn read_immediate(data: &[u8]) -> Option<Expression> {
    only(data, &[IMMEDIATE_DREG, IMMEDIATE_DATA])?;
    let value = find(data, IMMEDIATE_DATA)?;
    match find_number(data, IMMEDIATE_DREG)? {
        REG_VERDICT => {
            let target = read_verdict(find(value, DATA_VERDICT)?)?;
            Some(Expression::Verdict(target))
        }
        REG => Some(Expression::Immediate(find(value, DATA_VALUE)?.to_vec())),
        _ => None,
    }
}

fn read_bitwise(data: &[u8]) -> Option<Expression> {
    let known = [
        BITWISE_SREG,
        BITWISE_DREG,
        BITWISE_LEN,
        BITWISE_MASK,
        BITWISE_XOR,
        BITWISE_OP,
    ];
    only(data, &known)?;
    let register = find_number(data, BITWISE_SREG)?;
    is(data, BITWISE_DREG, register)?;
    let mask_and_xor = find_number(data, BITWISE_OP).unwrap_or_default() == 0;
    mask_and_xor.then_some(Expression::Bitwise {
        mask: read_data(data, BITWISE_MASK)?,
        xor: read_data(data, BITWISE_XOR)?,
        register,
    })
}

fn read_lookup(data: &[u8]) -> Option<Expression> {
    let known = [
        LOOKUP_SET,
        LOOKUP_SREG,
        LOOKUP_DREG,
        LOOKUP_SET_ID,
        LOOKUP_FLAGS,
    ];
    only(data, &known)?;
    is(data, LOOKUP_SREG, REG)?;
    if find_number(data, LOOKUP_FLAGS).unwrap_or_default() != 0 {
        return None;
    }
    let set = SetReference {
        name: find_text(data, LOOKUP_SET)?.to_owned(),
        id: find_number(data, LOOKUP_SET_ID),
    };
    match find_number(data, LOOKUP_DREG)? {
        REG => Some(Expression::Map(set)),
        REG_VERDICT => Some(Expression::VerdictMap(set)),
        _ => None,
    }
}

fn read_dynset(data: &[u8]) -> Option<Expression> {
    let known = [
        DYNSET_SET,
        DYNSET_OP,
        DYNSET_KEY_SREG,
        DYNSET_TIMEOUT,
        DYNSET_EXPRESSION,
        DYNSET_PAD,
        DYNSET_FLAGS,
    ];
    only(data, &known)?;
    is(data, DYNSET_OP, UPDATE)?;
    is(data, DYNSET_KEY_SREG, REG)?;
    let timeout = find(data, DYNSET_TIMEOUT).unwrap_or_default();
    let is_plain = timeout.iter().all(|byte| *byte == 0);
    if !is_plain || find_number(data, DYNSET_FLAGS).unwrap_or_default() != 0 {
        return None;
    }
    let (name, limit) = name_and_data(find(data, DYNSET_EXPRESSION)?)?;
    is(limit, CONNLIMIT_FLAGS, ABOVE)?;
    let set = find_text(data, DYNSET_SET)?.to_owned();
    (name == CONNLIMIT).then_some(Expression::CountInto(
        set,
        find_number(limit, CONNLIMIT_COUNT)?,
    ))
}

fn name_and_data(bytes: &[u8]) -> Option<(&str, &[u8])> {
    Some((find_text(bytes, EXPR_NAME)?, find(bytes, EXPR_DATA)?))
}

fn read_data(data: &[u8], kind: u16) -> Option<Vec<u8>> {
    Some(find(find(data, kind)?, DATA_VALUE)?.to_vec())
}

/// The registers of an expression that has, besides its key, only those two.
fn registers(data: &[u8], [key, to, from]: [u16; 3]) -> Option<(Option<u32>, Option<u32>)> {
    only(data, &[key, to, from])?;
    Some((find_number(data, to), find_number(data, from)))
}

/// `None`: there is an attribute of another type.
fn only(data: &[u8], known: &[u16]) -> Option<()> {
    attributes(data)
        .all(|(kind, _)| known.contains(&kind))
        .then_some(())
}

fn is(data: &[u8], kind: u16, value: u32) -> Option<()> {
    (find_number(data, kind)? == value).then_some(())
}

/// The expressions of a rule as bytes to compare: two rules are equal if these are.
///
/// It leaves out the values of counters, and an anonymous set is there by its content instead of by
/// the number that the kernel gave to it.
pub(crate) fn comparable<'a>(
    expressions: &[u8],
    anonymous: &dyn Fn(&str) -> Option<&'a [u8]>,
) -> Vec<u8> {
    let mut comparable = Vec::new();
    let mut add = |kind: u16, value: &[u8]| {
        comparable.extend(kind.to_ne_bytes());
        comparable.extend((value.len() as u32).to_ne_bytes());
        comparable.extend(value);
    };
    for (_, expression) in attributes(expressions) {
        let Some((name, data)) = name_and_data(expression) else {
            continue;
        };
        add(EXPR_NAME, name.as_bytes());
        for (kind, value) in attributes(data).filter(|_| name != "counter") {
            let content = || anonymous(find_text(data, LOOKUP_SET)?);
            match name {
                "lookup" if kind == LOOKUP_SET => add(kind, content().unwrap_or(value)),
                _ => add(kind, value),
            }
        }
    }
    comparable
}
