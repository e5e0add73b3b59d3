//! Changes of our table as one batch of nftables' netlink messages. No I/O.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`. A message bears the number
//! of its op as its sequence number, by which the kernel's errors say what they are about.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::expressions::{self, Content, DATA_VALUE, Own, verdict};
use super::wire::{APPEND, About, Buffer, CREATE, REQUEST};
use node_core::reconcile::Op;
use node_core::resource::{
    Chain, Element, Field, Object, RuleBody, RuleMap, Span, TABLE, Target, halves,
};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const fn nft(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}
const NEW_CHAIN: u16 = nft(3);
const DELETE_CHAIN: u16 = nft(5);
const NEW_RULE: u16 = nft(6);
const DELETE_RULE: u16 = nft(8);
const NEW_SET: u16 = nft(9);
const DELETE_SET: u16 = nft(11);
const NEW_ELEMENTS: u16 = nft(12);
const DELETE_ELEMENTS: u16 = nft(14);

/// `NFPROTO_INET`
const ABOUT: About = About {
    family: 1,
    resource: 0,
};

const LIST_ELEM: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LEN: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LEN: u16 = 7;
const SET_DESC: u16 = 9;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const DESC_SIZE: u16 = 1;
const ANONYMOUS: u32 = 1;
const CONSTANT: u32 = 2;
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_SET_ID: u16 = 4;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_KEY_END: u16 = 10;
const INTERVAL_END: u32 = 1;
/// `NFT_DATA_VERDICT`: the type of a map's data; the kernel leaves those below to us.
const VERDICTS: u32 = 0xffff_ff00;

/// What `nft` calls the types of keys and data, to print them: `enum datatypes` of its
/// `datatype.h`.
const TYPE_MARK: u32 = 19;
fn type_of(field: Field) -> u32 {
    match field {
        Field::Mark => TYPE_MARK,
        Field::Priority => 23,
        Field::Protocol => 12,
        Field::Source | Field::Destination => 7,
        Field::Port => 13,
    }
}

/// `NFTNL_UDATA_SET_KEYBYTEORDER` and `_DATABYTEORDER` of libnftnl's `udata.h`, by which `nft` reads
/// numbers: type, length and one of its `enum byteorder`.
fn order(what: u8, order: u8) -> [u8; 6] {
    [what, 4, order, 0, 0, 0]
}
const OF_KEYS: u8 = 0;
const OF_DATA: u8 = 1;
const OURS: u8 = 1;
const WIRES: u8 = 2;

/// `NFTNL_UDATA_RULE_COMMENT`
const COMMENT: u8 = 0;

/// So many elements of a set go in one message, which has 64 KiB for them. The kernel looks
/// through a table's sets for the name in each message.
const TOGETHER: usize = 200;

/// The sequence number of what is no op's: the kernel names it when it refuses the whole.
pub(super) const WHOLE: u32 = 0;

/// Whether a message of this type takes something away.
pub(super) fn is_deletion(kind: u16) -> bool {
    matches!(
        kind,
        DELETE_CHAIN | DELETE_RULE | DELETE_SET | DELETE_ELEMENTS
    )
}

/// The number of an op in a batch.
pub(super) fn number(index: usize) -> u32 {
    index as u32 + 1
}

/// One batch of these ops, which are in their order and about elements, chains and maps. With
/// `together`, elements of a set that follow each other share a message and the first one's number.
pub(super) fn batch(ops: &[(u32, Cow<'_, Op>)], together: bool) -> Buffer {
    let mut batch = Batch {
        buffer: Buffer::default(),
        maps: 0,
    };
    let bounds = About {
        family: 0,
        resource: SUBSYSTEM,
    };
    batch
        .buffer
        .message((BATCH_BEGIN, REQUEST, WHOLE), bounds, |_| {});
    // A rule may lead to any of the chains and look up any of the maps.
    for (number, op) in ops {
        match made(op) {
            Some(Object::Map(it)) => batch.map(*number, it),
            Some(Object::Chain(it)) => batch.chain(NEW_CHAIN, *number, &it.name),
            _ => {}
        }
    }
    for (number, op) in ops {
        match (made(op), deleted(op)) {
            (Some(Object::Chain(it)), _) => batch.fill(*number, it),
            (_, Some(Object::Chain(it))) => batch.flush(*number, &it.name),
            _ => {}
        }
    }
    batch.elements(ops, together);
    for (number, op) in ops {
        match deleted(op) {
            Some(Object::Chain(it)) => batch.chain(DELETE_CHAIN, *number, &it.name),
            Some(Object::Map(it)) => batch.drop_map(*number, &it.name),
            _ => {}
        }
    }
    batch
        .buffer
        .message((BATCH_END, REQUEST, WHOLE), bounds, |_| {});
    batch.buffer
}

fn made(op: &Op) -> Option<&Object> {
    op.made().map(|it| &it.object)
}

fn deleted(op: &Op) -> Option<&Object> {
    op.deleted().map(|it| &it.object)
}

struct Batch {
    buffer: Buffer,
    /// Maps that have ids.
    maps: u32,
}

impl Batch {
    fn say(&mut self, kind: u16, flags: u16, number: u32, body: impl FnOnce(&mut Buffer)) {
        let head = (kind, REQUEST | flags, number);
        self.buffer.message(head, ABOUT, body);
    }

    fn chain(&mut self, kind: u16, number: u32, name: &str) {
        let flags = if kind == NEW_CHAIN { CREATE } else { 0 };
        self.say(kind, flags, number, |it| {
            it.text(CHAIN_TABLE, TABLE);
            it.text(CHAIN_NAME, name);
        });
    }

    fn flush(&mut self, number: u32, name: &str) {
        self.say(DELETE_RULE, 0, number, |it| {
            it.text(RULE_TABLE, TABLE);
            it.text(RULE_CHAIN, name);
        });
    }

    fn fill(&mut self, number: u32, chain: &Chain<RuleBody>) {
        self.flush(number, &chain.name);
        for rule in &chain.rules {
            let Some(steps) = &rule.text.0 else { continue };
            let first = self.maps + 1;
            for own in expressions::own_maps(steps) {
                self.own_map(number, &own);
            }
            self.say(NEW_RULE, CREATE | APPEND, number, |it| {
                it.text(RULE_TABLE, TABLE);
                it.text(RULE_CHAIN, &chain.name);
                it.nest(RULE_EXPRESSIONS, |it| expressions::write(it, steps, first));
                let mut comment = vec![COMMENT, rule.digest.len() as u8 + 1];
                comment.extend(rule.digest.as_bytes());
                comment.push(0);
                it.attribute(RULE_USERDATA, &comment);
            });
        }
    }

    fn map(&mut self, number: u32, map: &RuleMap) {
        self.maps += 1;
        let id = self.maps;
        self.say(NEW_SET, CREATE, number, |it| {
            it.text(SET_TABLE, TABLE);
            it.text(SET_NAME, &map.name);
            it.number(SET_FLAGS, MAP);
            it.number(SET_KEY_TYPE, type_of(map.field));
            it.number(SET_KEY_LEN, expressions::value(map.field, 0).len() as u32);
            it.number(SET_DATA_TYPE, VERDICTS);
            it.number(SET_DATA_LEN, 0);
            it.number(SET_ID, id);
            let of_keys = match map.field {
                Field::Mark | Field::Priority => OURS,
                Field::Protocol | Field::Source | Field::Destination | Field::Port => WIRES,
            };
            it.attribute(SET_USERDATA, &order(OF_KEYS, of_keys));
        });
    }

    fn drop_map(&mut self, number: u32, name: &str) {
        self.say(DELETE_SET, 0, number, |it| {
            it.text(SET_TABLE, TABLE);
            it.text(SET_NAME, name);
        });
    }

    fn own_map(&mut self, number: u32, own: &Own<'_>) {
        let entries: Vec<(Span, Data<'_>)> = match own.of {
            Content::Marks(of) => of
                .iter()
                .map(|(it, mark)| (*it, Data::Mark(*mark)))
                .collect(),
            Content::Targets(to) => to.iter().map(|(it, to)| (*it, Data::Target(to))).collect(),
        };
        let ranges = entries.iter().any(|(Span(first, last), _)| first != last);
        let elements = match ranges {
            true => intervals(own.field, &entries),
            false => {
                let exact = entries.iter().map(|(Span(first, _), data)| Entry {
                    key: expressions::value(own.field, *first),
                    end: None,
                    data: *data,
                    closes: false,
                });
                exact.collect()
            }
        };
        let (data_type, data_len) = match own.of {
            Content::Marks(_) => (TYPE_MARK, 4),
            Content::Targets(_) => (VERDICTS, 0),
        };
        self.maps += 1;
        let id = self.maps;
        self.say(NEW_SET, CREATE, number, |it| {
            it.text(SET_TABLE, TABLE);
            it.text(SET_NAME, expressions::OWN_MAP);
            let interval = if ranges { INTERVAL } else { 0 };
            it.number(SET_FLAGS, ANONYMOUS | CONSTANT | MAP | interval);
            it.number(SET_KEY_TYPE, type_of(own.field));
            it.number(SET_KEY_LEN, expressions::value(own.field, 0).len() as u32);
            it.number(SET_DATA_TYPE, data_type);
            it.number(SET_DATA_LEN, data_len);
            it.nest(SET_DESC, |it| it.number(DESC_SIZE, elements.len() as u32));
            it.number(SET_ID, id);
            if matches!(own.of, Content::Marks(_)) {
                it.attribute(SET_USERDATA, &order(OF_DATA, OURS));
            }
        });
        for some in elements.chunks(TOGETHER) {
            self.say(NEW_ELEMENTS, CREATE, number, |it| {
                it.text(LIST_TABLE, TABLE);
                it.text(LIST_SET, expressions::OWN_MAP);
                it.number(LIST_SET_ID, id);
                it.nest(LIST_ELEMENTS, |it| {
                    for entry in some {
                        entry.write(it);
                    }
                });
            });
        }
    }

    /// What goes, then what comes.
    fn elements(&mut self, ops: &[(u32, Cow<'_, Op>)], together: bool) {
        let gone = ops.iter().filter_map(|(number, op)| match &**op {
            Op::Delete(it) | Op::Change { from: it, .. } => Some((*number, &it.object)),
            _ => None,
        });
        let going = gone.filter_map(|(number, object)| match object {
            Object::Element(it) => Some((number, it)),
            _ => None,
        });
        self.each_set(DELETE_ELEMENTS, &going.collect::<Vec<_>>(), together);
        let coming = ops.iter().filter_map(|(number, op)| match made(op) {
            Some(Object::Element(it)) => Some((*number, it)),
            _ => None,
        });
        self.each_set(NEW_ELEMENTS, &coming.collect::<Vec<_>>(), together);
    }

    fn each_set(&mut self, kind: u16, elements: &[(u32, &Element)], together: bool) {
        let (flags, data) = match kind {
            NEW_ELEMENTS => (CREATE, true),
            _ => (0, false),
        };
        let same = |(_, one): &(u32, &Element), (_, other): &(u32, &Element)| {
            together && one.set() == other.set()
        };
        for of_set in elements.chunk_by(same) {
            for some in of_set.chunks(TOGETHER) {
                let [(number, first), ..] = some else {
                    continue;
                };
                self.say(kind, flags, *number, |it| {
                    it.text(LIST_TABLE, TABLE);
                    it.text(LIST_SET, first.set());
                    it.nest(LIST_ELEMENTS, |it| {
                        for (_, element) in some {
                            Entry::of(element, data).write(it);
                        }
                    });
                });
            }
        }
    }
}

/// What a key is mapped to.
#[derive(Debug, Clone, Copy)]
enum Data<'a> {
    Nothing,
    Mark(u32),
    Zone(u16),
    Target(&'a Target),
    Jump(&'a str),
}

/// An element as the kernel takes it.
struct Entry<'a> {
    key: Vec<u8>,
    /// The last of a range of concatenated keys.
    end: Option<Vec<u8>>,
    data: Data<'a>,
    /// The range before it ends before it.
    closes: bool,
}

/// A range is an element where it begins and one behind its end, where no other begins.
fn intervals<'a>(field: Field, entries: &[(Span, Data<'a>)]) -> Vec<Entry<'a>> {
    let most = match field {
        Field::Port => u16::MAX.into(),
        Field::Protocol => u8::MAX.into(),
        Field::Mark | Field::Priority | Field::Source | Field::Destination => u32::MAX,
    };
    let mut elements = Vec::new();
    let mut entries = entries.iter().peekable();
    while let Some((Span(first, last), data)) = entries.next() {
        elements.push(Entry {
            key: expressions::value(field, *first),
            end: None,
            data: *data,
            closes: false,
        });
        let next = entries.peek().map(|(Span(first, _), _)| *first);
        if *last < most && next != Some(last + 1) {
            elements.push(Entry {
                key: expressions::value(field, last + 1),
                end: None,
                data: Data::Nothing,
                closes: true,
            });
        }
    }
    elements
}

impl<'a> Entry<'a> {
    fn of(element: &'a Element, with_data: bool) -> Self {
        let (key, data) = key_and_data(element);
        let end = match element {
            Element::Subnet { zone, subnet } => {
                Some([of_zone_in_ranges(*zone), last(*subnet)].concat())
            }
            _ => None,
        };
        Self {
            key,
            end,
            data: if with_data { data } else { Data::Nothing },
            closes: false,
        }
    }

    fn write(&self, to: &mut Buffer) {
        to.nest(LIST_ELEM, |it| {
            if self.closes {
                it.number(ELEM_FLAGS, INTERVAL_END);
            }
            it.nest(ELEM_KEY, |it| it.attribute(DATA_VALUE, &self.key));
            if let Some(end) = &self.end {
                it.nest(ELEM_KEY_END, |it| it.attribute(DATA_VALUE, end));
            }
            match self.data {
                Data::Nothing => {}
                Data::Mark(mark) => it.nest(ELEM_DATA, |it| {
                    it.attribute(DATA_VALUE, &mark.to_ne_bytes());
                }),
                Data::Zone(zone) => it.nest(ELEM_DATA, |it| {
                    it.attribute(DATA_VALUE, &zone.to_ne_bytes());
                }),
                Data::Target(target) => it.nest(ELEM_DATA, |it| verdict(it, target)),
                Data::Jump(chain) => {
                    let target = Target::Jump(chain.to_owned());
                    it.nest(ELEM_DATA, |it| verdict(it, &target));
                }
            }
        });
    }
}

/// As `Ruleset` declares the sets: parts of a concatenation begin at multiples of four bytes.
fn key_and_data(element: &Element) -> (Vec<u8>, Data<'_>) {
    let mark = |number: u32| number.to_ne_bytes().to_vec();
    let zoned = |zone: &u16, rest: Vec<u8>| [of_zone(*zone), rest].concat();
    match element {
        Element::Peer { vtep } => (octets(*vtep), Data::Nothing),
        Element::Stamp {
            interface,
            address,
            stamp,
        } => (
            [name(interface), octets(*address)].concat(),
            Data::Mark(stamp.0.into()),
        ),
        Element::Endpoint { interface, address } => {
            ([name(interface), octets(*address)].concat(), Data::Nothing)
        }
        Element::Gateway { zone, address } => (zoned(zone, octets(*address)), Data::Nothing),
        Element::Subnet { zone, subnet } => (
            [of_zone_in_ranges(*zone), octets(subnet.network())].concat(),
            Data::Nothing,
        ),
        Element::Zone { interface, zone } => (name(interface), Data::Zone(*zone)),
        Element::AllowedSource { zone, group } => (
            zoned(zone, mark(group.0.into())),
            Data::Mark(group.0.into()),
        ),
        Element::Member {
            zone,
            address,
            group,
        } => (zoned(zone, octets(*address)), Data::Mark(group.0.into())),
        Element::Program {
            zone, group, chain, ..
        } => (zoned(zone, mark(group.0.into())), Data::Jump(chain)),
        Element::VmapEntry { map, key, to } => {
            (expressions::value(map.field, *key), Data::Target(to))
        }
        Element::RuleCounter { zone, rule } => (zoned(zone, mark(*rule)), Data::Nothing),
        Element::CtMarkTemplate { zone, group } => (
            zoned(zone, mark(group.0.into())),
            Data::Mark(group.0.into()),
        ),
        Element::EstablishedPair { zone, group } => {
            let group = mark(group.0.into());
            (zoned(zone, [group.clone(), group].concat()), Data::Nothing)
        }
        Element::Revision { zone, revision } => {
            (zoned(zone, mark(u32::from(*revision) << 16)), Data::Nothing)
        }
        Element::Applied { zone, revision } => {
            let [high, low] = halves(*revision).map(mark);
            (zoned(zone, [high, low].concat()), Data::Nothing)
        }
        Element::RevisionChain { zone, chain } => (zone.to_ne_bytes().to_vec(), Data::Jump(chain)),
    }
}

fn of_zone(zone: u16) -> Vec<u8> {
    let [a, b] = zone.to_ne_bytes();
    vec![a, b, 0, 0]
}

/// Ranges are compared byte by byte, so `nft` swaps what it looks up in a set that has them.
fn of_zone_in_ranges(zone: u16) -> Vec<u8> {
    let [a, b] = zone.to_be_bytes();
    vec![a, b, 0, 0]
}

/// `IFNAMSIZ` bytes; what doesn't fit is refused by the kernel.
fn name(interface: &str) -> Vec<u8> {
    let mut bytes = interface.as_bytes().to_vec();
    bytes.resize(bytes.len().max(16), 0);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().into(),
        IpAddr::V6(v6) => v6.octets().into(),
    }
}

fn last(subnet: IpNet) -> Vec<u8> {
    octets(subnet.broadcast())
}
