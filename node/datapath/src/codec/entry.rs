//! An element of a set as nftables' netlink messages hold it, and the ranges of an interval set.
//! No I/O.

use std::borrow::Cow;

use bus_schema::node::Counter;

use super::{
    DATA_VALUE, DATA_VERDICT, GOTO, JUMP, LIST_ELEM, VERDICT_CHAIN, VERDICT_CODE, read_value, value,
};
use crate::wire::{Buffer, attributes, find, find_number, find_text};
use node_core::resource::{Field, Span, Target};

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_TIMEOUT: u16 = 4;
const ELEM_USERDATA: u16 = 6;
/// `NFTA_SET_ELEM_EXPR`, here a counter.
const ELEM_EXPRESSION: u16 = 7;
const ELEM_KEY_END: u16 = 10;
const INTERVAL_END: u32 = 1;
const EXPR_DATA: u16 = 2;
const COUNTER_BYTES: u16 = 1;
const COUNTER_PACKETS: u16 = 2;

/// A key of a set, with what a map has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Cow<'a, [u8]>,
    /// The last key of a range of concatenated keys.
    pub(crate) end: Option<Cow<'a, [u8]>>,
    pub(crate) data: Data<'a>,
    /// The range before this key ends before it.
    pub(crate) closes: bool,
    /// It has a comment or a time limit, which ours never have.
    pub(crate) decorated: bool,
    pub(crate) counter: Option<Counter>,
}

/// The data of a key in a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data<'a> {
    Nothing,
    Value(Cow<'a, [u8]>),
    Target(Cow<'a, Target>),
    /// A verdict that ours never have.
    OtherVerdict,
}

impl<'a> Entry<'a> {
    pub(crate) fn new(key: impl Into<Cow<'a, [u8]>>, data: Data<'a>) -> Self {
        Self {
            key: key.into(),
            end: None,
            data,
            closes: false,
            decorated: false,
            counter: None,
        }
    }

    /// Adds it to an attribute that is a list of elements.
    pub(crate) fn write(&self, to: &mut Buffer) {
        to.nest(LIST_ELEM, |it| {
            if self.closes {
                it.number(ELEM_FLAGS, INTERVAL_END);
            }
            it.nest(ELEM_KEY, |it| it.attribute(DATA_VALUE, &self.key));
            if let Some(end) = &self.end {
                it.nest(ELEM_KEY_END, |it| it.attribute(DATA_VALUE, end));
            }
            match &self.data {
                Data::Nothing | Data::OtherVerdict => {}
                Data::Value(value) => it.nest(ELEM_DATA, |it| it.attribute(DATA_VALUE, value)),
                Data::Target(target) => it.nest(ELEM_DATA, |it| verdict(it, target)),
            }
        });
    }

    /// Reads an element of a list of elements; `None` for the one that stands for all other keys.
    pub(crate) fn read(bytes: &'a [u8]) -> Option<Self> {
        let of = |kind| find(find(bytes, kind)?, DATA_VALUE).map(Cow::Borrowed);
        let data = match find(bytes, ELEM_DATA) {
            None => Data::Nothing,
            Some(data) => match (find(data, DATA_VALUE), find(data, DATA_VERDICT)) {
                (Some(value), _) => Data::Value(Cow::Borrowed(value)),
                (None, verdict) => match verdict.and_then(read_verdict) {
                    Some(target) => Data::Target(Cow::Owned(target)),
                    None => Data::OtherVerdict,
                },
            },
        };
        Some(Self {
            key: of(ELEM_KEY)?,
            end: of(ELEM_KEY_END),
            data,
            closes: find_number(bytes, ELEM_FLAGS).unwrap_or_default() & INTERVAL_END != 0,
            decorated: find(bytes, ELEM_TIMEOUT)
                .or(find(bytes, ELEM_USERDATA))
                .is_some(),
            counter: find(bytes, ELEM_EXPRESSION).and_then(counter),
        })
    }
}

fn counter(expression: &[u8]) -> Option<Counter> {
    let data = find(expression, EXPR_DATA)?;
    let value = |kind| Some(u64::from_be_bytes(find(data, kind)?.try_into().ok()?));
    Some(Counter {
        packets: value(COUNTER_PACKETS)?,
        bytes: value(COUNTER_BYTES)?,
    })
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

/// `None`: a verdict that ends a packet's way.
pub(super) fn read_verdict(bytes: &[u8]) -> Option<Target> {
    let chain = find_text(bytes, VERDICT_CHAIN)?.to_owned();
    match find_number(bytes, VERDICT_CODE)? {
        JUMP => Some(Target::Jump(chain)),
        GOTO => Some(Target::Goto(chain)),
        _ => None,
    }
}

fn last_of(field: Field) -> u32 {
    match field {
        Field::Port => u16::MAX.into(),
        Field::Protocol => u8::MAX.into(),
        Field::Mark | Field::Priority | Field::Source | Field::Destination => u32::MAX,
    }
}

/// The entries of an anonymous map, and whether it is one of intervals.
///
/// Of intervals a range is an entry where it begins, and one behind its end if no other begins there.
pub(super) fn entries<'a>(
    field: Field,
    spans: impl Iterator<Item = (Span, Data<'a>)> + Clone,
) -> (bool, Vec<Entry<'a>>) {
    let ranges = spans.clone().any(|(Span(first, last), _)| first != last);
    let mut entries = Vec::new();
    let mut spans = spans.peekable();
    while let Some((Span(first, last), data)) = spans.next() {
        entries.push(Entry::new(value(field, first), data));
        let next = spans.peek().map(|(Span(first, _), _)| *first);
        if ranges && last < last_of(field) && next != Some(last + 1) {
            let mut end = Entry::new(value(field, last + 1), Data::Nothing);
            end.closes = true;
            entries.push(end);
        }
    }
    (ranges, entries)
}

/// The spans that [`entries`] wrote, in the order of their values.
pub(super) fn spans<'a>(
    field: Field,
    ranges: bool,
    elements: &'a [u8],
) -> Option<Vec<(Span, Data<'a>)>> {
    let mut entries = Vec::new();
    for (_, element) in attributes(elements) {
        let entry = Entry::read(element).filter(|it| !it.decorated)?;
        entries.push((read_value(field, &entry.key)?, entry));
    }
    entries.sort_by_key(|(value, _)| *value);
    let mut spans = Vec::new();
    let mut entries = entries.into_iter().peekable();
    while let Some((first, entry)) = entries.next() {
        let next = entries.peek().map(|(value, _)| *value);
        let last = match next {
            _ if !ranges => first,
            None => last_of(field),
            Some(next) => next.checked_sub(1)?,
        };
        if !entry.closes {
            spans.push((Span(first, last), entry.data));
        }
    }
    Some(spans)
}
