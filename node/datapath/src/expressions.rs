//! Bodies of compiled rules as expressions of nftables. No I/O.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`. Each step is written as `nft` writes the
//! words that it prints, so that `nft` shows those again (`node/datapath/tests/datapath/netlink.rs`). Marks,
//! priorities and zones are numbers of this machine, all else is in the order of the wire.

use super::wire::Buffer;
use node_core::resource::{CT_MARK_GROUP, Field, RuleBody, Span, Statement, Target};

const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
pub(super) const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const JUMP: u32 = -3_i32 as u32;
const GOTO: u32 = -4_i32 as u32;

const REG_VERDICT: u32 = 0;
/// `NFT_REG_1`, and `NFT_REG32_01` right behind its first four bytes.
const REG: u32 = 1;
const REG_NEXT: u32 = 9;

const IMMEDIATE_DREG: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const META_DREG: u16 = 1;
const META_KEY: u16 = 2;
const META_SREG: u16 = 3;
const META_PRIORITY: u32 = 2;
const META_MARK: u32 = 3;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_DREG: u16 = 1;
const CT_KEY: u16 = 2;
const CT_SREG: u16 = 4;
const CT_MARK: u32 = 3;
const CT_ZONE: u32 = 17;
const PAYLOAD_DREG: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const CMP_SREG: u16 = 1;
const CMP_OP: u16 = 2;
const CMP_DATA: u16 = 3;
const EQ: u32 = 0;
const LTE: u32 = 3;
const GT: u32 = 4;
const GTE: u32 = 5;
const BITWISE_SREG: u16 = 1;
const BITWISE_DREG: u16 = 2;
const BITWISE_LEN: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const BYTEORDER_SREG: u16 = 1;
const BYTEORDER_DREG: u16 = 2;
const BYTEORDER_OP: u16 = 3;
const BYTEORDER_LEN: u16 = 4;
const BYTEORDER_SIZE: u16 = 5;
const HTON: u32 = 1;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SREG: u16 = 2;
const LOOKUP_DREG: u16 = 3;
const LOOKUP_SET_ID: u16 = 4;

/// `NFPROTO_IPV4`
const IPV4: u8 = 2;

/// A map without a name of its own, that a rule looks up; it is made right before the rule.
pub(super) struct Own<'a> {
    pub(super) field: Field,
    pub(super) of: Content<'a>,
}

pub(super) enum Content<'a> {
    Marks(&'a [(Span, u32)]),
    Targets(&'a [(Span, Target)]),
}

/// The maps of its own that a rule looks up, in the order in which it does.
pub(super) fn own_maps(steps: &RuleBody) -> impl Iterator<Item = Own<'_>> {
    steps.0.iter().filter_map(|step| match step {
        Statement::SetMarkByMap(field, of) => Some(Own {
            field: *field,
            of: Content::Marks(of),
        }),
        Statement::Vmap(field, _, to) => Some(Own {
            field: *field,
            of: Content::Targets(to),
        }),
        _ => None,
    })
}

/// Expressions, into an attribute that is a list of them; `first` is the id of its first own map.
pub(super) fn write(to: &mut Buffer, steps: &RuleBody, first: u32) {
    let mut ids = first..;
    let mut next = || ids.next().unwrap_or_default();
    for step in &steps.0 {
        match step {
            Statement::Match(field, span) => {
                load(to, *field);
                compare(to, *field, *span);
            }
            Statement::CtMarkAbove(mark) => {
                ct_load(to, CT_MARK, REG);
                expression(to, "byteorder", |it| {
                    it.number(BYTEORDER_SREG, REG);
                    it.number(BYTEORDER_DREG, REG);
                    it.number(BYTEORDER_OP, HTON);
                    it.number(BYTEORDER_LEN, 4);
                    it.number(BYTEORDER_SIZE, 4);
                });
                cmp(to, GT, &mark.to_be_bytes());
            }
            Statement::SetMark(mark) => {
                expression(to, "immediate", |it| {
                    it.number(IMMEDIATE_DREG, REG);
                    it.nest(IMMEDIATE_DATA, |it| {
                        it.attribute(DATA_VALUE, &mark.to_ne_bytes());
                    });
                });
                set_mark(to);
            }
            Statement::SetMarkByMap(field, _) => {
                load(to, *field);
                lookup(to, OWN_MAP, Some(next()), REG);
                set_mark(to);
            }
            Statement::SetMarkByMember => {
                ipv4_only(to);
                ct_load(to, CT_ZONE, REG);
                payload(to, Field::Destination, REG_NEXT);
                lookup(to, "members", None, REG);
                set_mark(to);
            }
            Statement::CtMarkFromMark => {
                meta_load(to, META_MARK);
                ct_set_mark(to);
            }
            Statement::SetCtMark(mark) => {
                ct_load(to, CT_MARK, REG);
                bitwise(to, &CT_MARK_GROUP.to_ne_bytes(), &mark.to_ne_bytes());
                ct_set_mark(to);
            }
            Statement::Verdict(target) => expression(to, "immediate", |it| {
                it.number(IMMEDIATE_DREG, REG_VERDICT);
                it.nest(IMMEDIATE_DATA, |it| verdict(it, target));
            }),
            Statement::Vmap(field, mask, _) => {
                load_masked(to, *field, *mask);
                lookup(to, OWN_MAP, Some(next()), REG_VERDICT);
            }
            Statement::NamedVmap(field, mask, map) => {
                load_masked(to, *field, *mask);
                lookup(to, map, None, REG_VERDICT);
            }
        }
    }
}

/// The kernel puts a number for `%d`; the id tells which one is meant.
pub(super) const OWN_MAP: &str = "__map%d";

/// A value of a field, as it lies in a register.
pub(super) fn value(field: Field, value: u32) -> Vec<u8> {
    match field {
        Field::Mark | Field::Priority => value.to_ne_bytes().into(),
        Field::Protocol => vec![value as u8],
        Field::Source | Field::Destination => value.to_be_bytes().into(),
        Field::Port => (value as u16).to_be_bytes().into(),
    }
}

pub(super) fn verdict(to: &mut Buffer, target: &Target) {
    let (code, chain) = match target {
        Target::Jump(chain) => (JUMP, chain),
        Target::Goto(chain) => (GOTO, chain),
    };
    to.nest(DATA_VERDICT, |it| {
        it.number(VERDICT_CODE, code);
        it.text(VERDICT_CHAIN, chain);
    });
}

fn expression(to: &mut Buffer, name: &str, data: impl FnOnce(&mut Buffer)) {
    to.nest(LIST_ELEM, |it| {
        it.text(EXPR_NAME, name);
        it.nest(EXPR_DATA, data);
    });
}

fn load(to: &mut Buffer, field: Field) {
    match field {
        Field::Mark => meta_load(to, META_MARK),
        Field::Priority => meta_load(to, META_PRIORITY),
        Field::Protocol => meta_load(to, META_L4PROTO),
        Field::Port => payload(to, field, REG),
        Field::Source | Field::Destination => {
            ipv4_only(to);
            payload(to, field, REG);
        }
    }
}

fn load_masked(to: &mut Buffer, field: Field, mask: u32) {
    load(to, field);
    if mask != Statement::FULL_MASK {
        let mask = value(field, mask);
        bitwise(to, &mask, &vec![0; mask.len()]);
    }
}

fn ipv4_only(to: &mut Buffer) {
    meta_load(to, META_NFPROTO);
    cmp(to, EQ, &[IPV4]);
}

fn compare(to: &mut Buffer, field: Field, Span(first, last): Span) {
    if first == last {
        return cmp(to, EQ, &value(field, first));
    }
    cmp(to, GTE, &value(field, first));
    cmp(to, LTE, &value(field, last));
}

fn meta_load(to: &mut Buffer, key: u32) {
    expression(to, "meta", |it| {
        it.number(META_DREG, REG);
        it.number(META_KEY, key);
    });
}

fn set_mark(to: &mut Buffer) {
    expression(to, "meta", |it| {
        it.number(META_KEY, META_MARK);
        it.number(META_SREG, REG);
    });
}

fn ct_load(to: &mut Buffer, key: u32, register: u32) {
    expression(to, "ct", |it| {
        it.number(CT_DREG, register);
        it.number(CT_KEY, key);
    });
}

fn ct_set_mark(to: &mut Buffer) {
    expression(to, "ct", |it| {
        it.number(CT_KEY, CT_MARK);
        it.number(CT_SREG, REG);
    });
}

/// Offsets of RFC 791 §3.1, and of the destination's port in TCP, UDP and SCTP.
fn payload(to: &mut Buffer, field: Field, register: u32) {
    let (base, offset, length) = match field {
        Field::Source => (NETWORK_HEADER, 12, 4),
        Field::Destination => (NETWORK_HEADER, 16, 4),
        Field::Port | Field::Mark | Field::Priority | Field::Protocol => (TRANSPORT_HEADER, 2, 2),
    };
    expression(to, "payload", |it| {
        it.number(PAYLOAD_DREG, register);
        it.number(PAYLOAD_BASE, base);
        it.number(PAYLOAD_OFFSET, offset);
        it.number(PAYLOAD_LEN, length);
    });
}

fn cmp(to: &mut Buffer, op: u32, data: &[u8]) {
    expression(to, "cmp", |it| {
        it.number(CMP_SREG, REG);
        it.number(CMP_OP, op);
        it.nest(CMP_DATA, |it| it.attribute(DATA_VALUE, data));
    });
}

fn bitwise(to: &mut Buffer, mask: &[u8], xor: &[u8]) {
    expression(to, "bitwise", |it| {
        it.number(BITWISE_SREG, REG);
        it.number(BITWISE_DREG, REG);
        it.number(BITWISE_LEN, mask.len() as u32);
        it.nest(BITWISE_MASK, |it| it.attribute(DATA_VALUE, mask));
        it.nest(BITWISE_XOR, |it| it.attribute(DATA_VALUE, xor));
    });
}

fn lookup(to: &mut Buffer, map: &str, id: Option<u32>, into: u32) {
    expression(to, "lookup", |it| {
        it.text(LOOKUP_SET, map);
        it.number(LOOKUP_SREG, REG);
        it.number(LOOKUP_DREG, into);
        if let Some(id) = id {
            it.number(LOOKUP_SET_ID, id);
        }
    });
}
