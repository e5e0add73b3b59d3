//! The body of a compiled rule as expressions, and back. No I/O.
//!
//! Each statement is written as `nft` writes the words that it prints, so that `nft` shows those again
//! (`node/datapath/tests/datapath/netlink.rs`).

use std::borrow::Cow;

use super::entry::{self, Data, Entry};
use super::expressions::{
    CT_MARK, CT_ZONE, EQ, Expression, GT, GTE, LTE, META_L4PROTO, META_MARK, META_NFPROTO,
    META_PRIORITY, NETWORK_HEADER, REG, REG_NEXT, REG_THIRD, SetReference, TRANSPORT_HEADER,
};
use super::objects::Anonymous;
use super::{read_value, value};
use crate::wire::{Buffer, attributes};
use node_core::resource::{BucketLimit, CT_MARK_GROUP, Field, RuleBody, Span, Statement, Target};

/// `NFPROTO_IPV4`
const IPV4: u8 = 2;

/// The map of destinations and their groups.
const MEMBERS: &str = "members";
/// The map of groups' own addresses and the groups.
const POOLS: &str = "pools";
/// The set of the endpoints' connections.
const CONNECTIONS: &str = "connections";

/// The kernel puts a number for `%d`; the id tells which one is meant.
pub(crate) const ANONYMOUS_MAP: &str = "__map%d";
const ANONYMOUS_PREFIX: &str = "__map";

/// A map without a name of its own that a rule looks up; it is made right before the rule.
pub(crate) struct OwnMap<'a> {
    pub(crate) field: Field,
    /// Its data are marks, else verdicts.
    pub(crate) of_marks: bool,
    /// It has intervals.
    pub(crate) ranges: bool,
    pub(crate) entries: Vec<Entry<'a>>,
}

/// The anonymous maps of a rule, in the order in which it looks them up.
pub(crate) fn own_maps(body: &RuleBody) -> impl Iterator<Item = OwnMap<'_>> {
    body.0.iter().filter_map(|statement| {
        let (field, of_marks, (ranges, entries)) = match statement {
            Statement::SetMarkByMap(field, of) => {
                let mark = |mark: u32| Data::Value(mark.to_ne_bytes().to_vec().into());
                let spans = of.iter().map(|(span, it)| (*span, mark(*it)));
                (*field, true, entry::entries(*field, spans))
            }
            Statement::Vmap(field, _, of) => {
                let spans = of
                    .iter()
                    .map(|(span, to)| (*span, Data::Target(Cow::Borrowed(to))));
                (*field, false, entry::entries(*field, spans))
            }
            _ => return None,
        };
        Some(OwnMap {
            field,
            of_marks,
            ranges,
            entries,
        })
    })
}

/// Adds a rule's expressions to an attribute that is a list of them; `first` is the id of its first
/// anonymous map.
pub(crate) fn write(to: &mut Buffer, body: &RuleBody, first: u32) {
    let mut ids = first..;
    for expression in body
        .0
        .iter()
        .flat_map(|statement| of_statement(statement, &mut ids))
    {
        expression.write(to);
    }
}

fn of_statement(statement: &Statement, ids: &mut impl Iterator<Item = u32>) -> Vec<Expression> {
    use Expression::{
        Cmp, CtSet, Immediate, Map, MetaLoad, MetaSet, ToWireOrder, Verdict, VerdictMap,
    };
    let mut anonymous = || SetReference {
        name: ANONYMOUS_MAP.to_owned(),
        id: ids.next(),
    };
    match statement {
        Statement::Match(field, Span(one, other)) if one == other => then(
            load(*field, Statement::FULL_MASK),
            [Cmp(EQ, value(*field, *one))],
        ),
        Statement::Match(field, Span(first, last)) => {
            let bounds = [
                Cmp(GTE, value(*field, *first)),
                Cmp(LTE, value(*field, *last)),
            ];
            then(load(*field, Statement::FULL_MASK), bounds)
        }
        Statement::CtMarkAbove(mark) => vec![
            load_ct(CT_MARK),
            ToWireOrder(4),
            Cmp(GT, mark.to_be_bytes().into()),
        ],
        Statement::SetMark(mark) => vec![Immediate(mark.to_ne_bytes().into()), MetaSet(META_MARK)],
        Statement::SetMarkByMap(field, _) => {
            let map = [Map(anonymous()), MetaSet(META_MARK)];
            then(load(*field, Statement::FULL_MASK), map)
        }
        Statement::SetMarkByMember => set_mark_by_member(),
        Statement::SetMarkByPool => set_mark_by_pool(),
        Statement::CtMarkFromMark => vec![MetaLoad(META_MARK), CtSet(CT_MARK)],
        Statement::SetCtMark(mark) => set_ct_mark(*mark),
        Statement::CountConnections(limit) => count_connections(*limit),
        Statement::Verdict(target) => vec![Verdict(target.clone())],
        Statement::Vmap(field, mask, _) => then(load(*field, *mask), [VerdictMap(anonymous())]),
        Statement::NamedVmap(field, mask, map) => {
            then(load(*field, *mask), [VerdictMap(named(map))])
        }
    }
}

fn then<const N: usize>(mut first: Vec<Expression>, rest: [Expression; N]) -> Vec<Expression> {
    first.extend(rest);
    first
}

fn named(name: &str) -> SetReference {
    SetReference {
        name: name.to_owned(),
        id: None,
    }
}

fn set_mark_by_member() -> Vec<Expression> {
    let [family, is_ipv4] = ipv4_only();
    vec![
        family,
        is_ipv4,
        load_ct(CT_ZONE),
        payload(Field::Destination, REG_NEXT),
        Expression::Map(named(MEMBERS)),
        Expression::MetaSet(META_MARK),
    ]
}

/// Ranges are compared byte by byte, so the zone is looked up in the wire's order.
fn set_mark_by_pool() -> Vec<Expression> {
    let [family, is_ipv4] = ipv4_only();
    vec![
        family,
        is_ipv4,
        load_ct(CT_ZONE),
        Expression::ToWireOrder(2),
        payload(Field::Destination, REG_NEXT),
        Expression::Map(named(POOLS)),
        Expression::MetaSet(META_MARK),
    ]
}

/// Keeps the bits of the group.
fn set_ct_mark(mark: u32) -> Vec<Expression> {
    let bits = Expression::Bitwise {
        mask: CT_MARK_GROUP.to_ne_bytes().into(),
        xor: mark.to_ne_bytes().into(),
        register: REG,
    };
    vec![load_ct(CT_MARK), bits, Expression::CtSet(CT_MARK)]
}

fn count_connections(BucketLimit { mask, connections }: BucketLimit) -> Vec<Expression> {
    let count = Expression::CountInto(CONNECTIONS.to_owned(), connections);
    then(sender_and_bucket(mask).into(), [count])
}

fn load_ct(key: u32) -> Expression {
    Expression::CtLoad { key, register: REG }
}

fn load(field: Field, mask: u32) -> Vec<Expression> {
    let mut all = match field {
        Field::Mark => vec![Expression::MetaLoad(META_MARK)],
        Field::Priority => vec![Expression::MetaLoad(META_PRIORITY)],
        Field::Protocol => vec![Expression::MetaLoad(META_L4PROTO)],
        Field::Port => vec![payload(field, REG)],
        Field::Source | Field::Destination => {
            let [family, is_ipv4] = ipv4_only();
            vec![family, is_ipv4, payload(field, REG)]
        }
    };
    if mask != Statement::FULL_MASK {
        let mask = value(field, mask);
        let xor = vec![0; mask.len()];
        let register = REG;
        all.push(Expression::Bitwise {
            mask,
            xor,
            register,
        });
    }
    all
}

/// Loads `ct zone . ip saddr . ct mark & mask`.
fn sender_and_bucket(mask: u32) -> [Expression; 6] {
    let [family, is_ipv4] = ipv4_only();
    let register = REG_THIRD;
    [
        family,
        is_ipv4,
        load_ct(CT_ZONE),
        payload(Field::Source, REG_NEXT),
        Expression::CtLoad {
            key: CT_MARK,
            register,
        },
        Expression::Bitwise {
            mask: mask.to_ne_bytes().into(),
            xor: vec![0; 4],
            register,
        },
    ]
}

fn ipv4_only() -> [Expression; 2] {
    [
        Expression::MetaLoad(META_NFPROTO),
        Expression::Cmp(EQ, vec![IPV4]),
    ]
}

/// Offsets of RFC 791 §3.1, and of the destination's port in TCP, UDP and SCTP.
fn payload(field: Field, register: u32) -> Expression {
    let (base, offset, length) = match field {
        Field::Source => (NETWORK_HEADER, 12, 4),
        Field::Destination => (NETWORK_HEADER, 16, 4),
        Field::Port | Field::Mark | Field::Priority | Field::Protocol => (TRANSPORT_HEADER, 2, 2),
    };
    Expression::Payload {
        base,
        offset,
        length,
        register,
    }
}

/// Reads a list of expressions; `None`: no compiled rule has such a body.
pub(crate) fn read<'a>(
    expressions: &[u8],
    anonymous: &dyn Fn(&str) -> Option<&'a Anonymous>,
) -> Option<RuleBody> {
    let all: Option<Vec<_>> = attributes(expressions)
        .map(|(_, it)| Expression::read(it))
        .collect();
    let all = all?;
    let mut rest = all.as_slice();
    let mut body = Vec::new();
    while !rest.is_empty() {
        let (statement, after) = statement_without_field(rest)
            .or_else(|| statement_of_zone(rest))
            .or_else(|| statement_on_a_field(rest, anonymous))?;
        body.push(statement);
        rest = after;
    }
    Some(RuleBody(body))
}

/// Reads a statement whose key begins with the zone and an address.
fn statement_of_zone(expressions: &[Expression]) -> Option<(Statement, &[Expression])> {
    use Expression::{Bitwise, CountInto, CtLoad, Map, MetaSet, ToWireOrder};
    const LOAD_ZONE: Expression = CtLoad {
        key: CT_ZONE,
        register: REG,
    };
    if let Some([LOAD_ZONE, to, Map(set), MetaSet(META_MARK), rest @ ..]) =
        expressions.strip_prefix(&ipv4_only())
        && *to == payload(Field::Destination, REG_NEXT)
        && set.name == MEMBERS
    {
        return Some((Statement::SetMarkByMember, rest));
    }
    if let Some(
        [
            LOAD_ZONE,
            ToWireOrder(2),
            to,
            Map(set),
            MetaSet(META_MARK),
            rest @ ..,
        ],
    ) = expressions.strip_prefix(&ipv4_only())
        && *to == payload(Field::Destination, REG_NEXT)
        && set.name == POOLS
    {
        return Some((Statement::SetMarkByPool, rest));
    }
    if let [.., Bitwise { mask, .. }] = expressions.get(..6).unwrap_or_default()
        && let Some(mask) = read_value(Field::Mark, mask)
        && let Some([CountInto(set, connections), rest @ ..]) =
            expressions.strip_prefix(&sender_and_bucket(mask))
        && set == CONNECTIONS
    {
        let connections = *connections;
        let limit = BucketLimit { mask, connections };
        return Some((Statement::CountConnections(limit), rest));
    }
    None
}

/// Reads a statement that looks at no field.
fn statement_without_field(expressions: &[Expression]) -> Option<(Statement, &[Expression])> {
    use Expression::{
        Bitwise, Cmp, CtLoad, CtSet, Immediate, MetaLoad, MetaSet, ToWireOrder, Verdict,
    };
    const LOAD_MARK: Expression = CtLoad {
        key: CT_MARK,
        register: REG,
    };
    match expressions {
        [Verdict(target), rest @ ..] => Some((Statement::Verdict(target.clone()), rest)),
        [Immediate(mark), MetaSet(META_MARK), rest @ ..] => {
            Some((Statement::SetMark(read_value(Field::Mark, mark)?), rest))
        }
        [MetaLoad(META_MARK), CtSet(CT_MARK), rest @ ..] => Some((Statement::CtMarkFromMark, rest)),
        [LOAD_MARK, ToWireOrder(4), Cmp(GT, mark), rest @ ..] => {
            let mark = u32::from_be_bytes(mark.as_slice().try_into().ok()?);
            Some((Statement::CtMarkAbove(mark), rest))
        }
        [
            LOAD_MARK,
            Bitwise {
                mask,
                xor,
                register: REG,
            },
            CtSet(CT_MARK),
            rest @ ..,
        ] if read_value(Field::Mark, mask)? == CT_MARK_GROUP => {
            Some((Statement::SetCtMark(read_value(Field::Mark, xor)?), rest))
        }
        _ => None,
    }
}

/// Reads a statement that loads a field and compares it or looks it up.
fn statement_on_a_field<'a, 'b>(
    expressions: &'a [Expression],
    anonymous: &dyn Fn(&str) -> Option<&'b Anonymous>,
) -> Option<(Statement, &'a [Expression])> {
    use Expression::{Bitwise, Cmp, Map, MetaSet, VerdictMap};
    let (field, rest) = loaded_field(expressions)?;
    let number = |bytes: &[u8]| read_value(field, bytes);
    match rest {
        [Cmp(EQ, value), rest @ ..] => {
            Some((Statement::Match(field, Span::one(number(value)?)), rest))
        }
        [Cmp(GTE, first), Cmp(LTE, last), rest @ ..] => {
            let span = Span(number(first)?, number(last)?);
            // One value is written in another way.
            (span.0 != span.1).then_some((Statement::Match(field, span), rest))
        }
        [Map(set), MetaSet(META_MARK), rest @ ..] => {
            let marks = anonymous(&set.name)?.spans(field)?;
            let marks = marks.into_iter().map(|(span, data)| match data {
                Data::Value(mark) => Some((span, read_value(Field::Mark, &mark)?)),
                _ => None,
            });
            Some((
                Statement::SetMarkByMap(field, marks.collect::<Option<_>>()?),
                rest,
            ))
        }
        [VerdictMap(set), rest @ ..] => Some((
            verdict_map(field, Statement::FULL_MASK, set, anonymous)?,
            rest,
        )),
        [
            Bitwise {
                mask,
                xor,
                register: REG,
            },
            VerdictMap(set),
            rest @ ..,
        ] if xor.iter().all(|byte| *byte == 0) => {
            Some((verdict_map(field, number(mask)?, set, anonymous)?, rest))
        }
        _ => None,
    }
}

fn verdict_map<'a>(
    field: Field,
    mask: u32,
    set: &SetReference,
    anonymous: &dyn Fn(&str) -> Option<&'a Anonymous>,
) -> Option<Statement> {
    if !set.name.starts_with(ANONYMOUS_PREFIX) {
        return Some(Statement::NamedVmap(field, mask, set.name.clone()));
    }
    let targets = anonymous(&set.name)?.spans(field)?;
    let targets = targets.into_iter().map(|(span, data)| match data {
        Data::Target(target) => Some((span, target.into_owned())),
        _ => None,
    });
    Some(Statement::Vmap(
        field,
        mask,
        targets.collect::<Option<Vec<(Span, Target)>>>()?,
    ))
}

/// The field that the first expressions load, and those behind them.
fn loaded_field(expressions: &[Expression]) -> Option<(Field, &[Expression])> {
    const FIELDS: [Field; 6] = [
        Field::Mark,
        Field::Priority,
        Field::Protocol,
        Field::Source,
        Field::Destination,
        Field::Port,
    ];
    FIELDS.into_iter().find_map(|field| {
        let rest = expressions.strip_prefix(load(field, Statement::FULL_MASK).as_slice())?;
        Some((field, rest))
    })
}
