//! Changes of our table as one batch of nftables' netlink messages. No I/O.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h` and `nfnetlink.h`. A message has the number of its
//! op as sequence number, and the kernel's errors name it.

use std::borrow::Cow;

use super::codec::elements::entry;
use super::codec::objects::{
    ANONYMOUS, CHAIN_NAME, CONSTANT, DELETE_CHAIN, DELETE_ELEMENTS, DELETE_RULE, DELETE_SET,
    DESC_SIZE, INTERVAL, LIST_ELEMENTS, LIST_SET_ID, MAP, NAME, NEW_CHAIN, NEW_ELEMENTS, NEW_RULE,
    NEW_SET, OF_TABLE, RULE_EXPRESSIONS, RULE_USERDATA, SET_DATA_LEN, SET_DATA_TYPE, SET_DESC,
    SET_FLAGS, SET_ID, SET_KEY_LEN, SET_KEY_TYPE, SET_USERDATA, SUBSYSTEM, TYPE_MARK, about,
    comment, type_of,
};
use super::codec::rules::{self, ANONYMOUS_MAP, OwnMap};
use super::codec::value;
use super::wire::{APPEND, Buffer, CREATE, GeneralHeader, REQUEST};
use node_core::reconcile::Op;
use node_core::resource::{Chain, Element, Family, Field, Object, RuleBody, RuleMap, TABLE};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

/// `NFT_DATA_VERDICT`: the type of a map's data; the kernel leaves those below to us.
const VERDICTS: u32 = 0xffff_ff00;

/// `NFTNL_UDATA_SET_KEYBYTEORDER` and `_DATABYTEORDER` of libnftnl's `udata.h`, by which `nft` reads
/// numbers: type, length and one of its `enum byteorder`.
fn order(what: u8, order: u8) -> [u8; 6] {
    [what, 4, order, 0, 0, 0]
}
const OF_KEYS: u8 = 0;
const OF_DATA: u8 = 1;
const HOST_ORDER: u8 = 1;
const WIRE_ORDER: u8 = 2;

/// The elements of a set in one message, which has 64 KiB for them. For each message the kernel
/// searches the table's sets for the name.
const MAX_MESSAGE_ELEMENTS: usize = 200;

/// The sequence number of the messages that frame a batch: the kernel names it when it refuses the
/// whole.
pub(super) const WHOLE: u32 = 0;

/// Whether a message of this type deletes something.
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

/// Makes one batch of these ops, which are in their order and about elements, chains and maps. With
/// `together`, consecutive elements of a set share a message and the first one's number.
pub(super) fn batch(ops: &[(u32, Cow<'_, Op>)], together: bool) -> Buffer {
    let mut batch = Batch {
        buffer: Buffer::default(),
        maps: 0,
    };
    let bounds = GeneralHeader {
        family: 0,
        resource: SUBSYSTEM,
    };
    batch
        .buffer
        .message((BATCH_BEGIN, REQUEST, WHOLE), bounds, |_| {});
    // A rule may jump to any of the chains and look up any of the maps.
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
    /// The number of maps so far, which is the last one's id.
    maps: u32,
}

impl Batch {
    fn message(&mut self, kind: u16, flags: u16, number: u32, body: impl FnOnce(&mut Buffer)) {
        let head = (kind, REQUEST | flags, number);
        self.buffer.message(head, about(Family::Inet), body);
    }

    fn chain(&mut self, kind: u16, number: u32, name: &str) {
        let flags = if kind == NEW_CHAIN { CREATE } else { 0 };
        self.message(kind, flags, number, |it| {
            it.text(OF_TABLE, TABLE);
            it.text(CHAIN_NAME, name);
        });
    }

    fn flush(&mut self, number: u32, name: &str) {
        self.message(DELETE_RULE, 0, number, |it| {
            it.text(OF_TABLE, TABLE);
            it.text(NAME, name);
        });
    }

    fn fill(&mut self, number: u32, chain: &Chain<RuleBody>) {
        self.flush(number, &chain.name);
        for rule in &chain.rules {
            let Some(body) = &rule.text.0 else { continue };
            let first = self.maps + 1;
            for own in rules::own_maps(body) {
                self.own_map(number, &own);
            }
            self.message(NEW_RULE, CREATE | APPEND, number, |it| {
                it.text(OF_TABLE, TABLE);
                it.text(NAME, &chain.name);
                it.nest(RULE_EXPRESSIONS, |it| rules::write(it, body, first));
                it.attribute(RULE_USERDATA, &comment(&rule.digest));
            });
        }
    }

    fn map(&mut self, number: u32, map: &RuleMap) {
        self.maps += 1;
        let id = self.maps;
        self.message(NEW_SET, CREATE, number, |it| {
            it.text(OF_TABLE, TABLE);
            it.text(NAME, &map.name);
            it.number(SET_FLAGS, MAP);
            it.number(SET_KEY_TYPE, type_of(map.field));
            it.number(SET_KEY_LEN, value(map.field, 0).len() as u32);
            it.number(SET_DATA_TYPE, VERDICTS);
            it.number(SET_DATA_LEN, 0);
            it.number(SET_ID, id);
            let of_keys = match map.field {
                Field::Mark | Field::Priority => HOST_ORDER,
                Field::Protocol | Field::Source | Field::Destination | Field::Port => WIRE_ORDER,
            };
            it.attribute(SET_USERDATA, &order(OF_KEYS, of_keys));
        });
    }

    fn drop_map(&mut self, number: u32, name: &str) {
        self.message(DELETE_SET, 0, number, |it| {
            it.text(OF_TABLE, TABLE);
            it.text(NAME, name);
        });
    }

    fn own_map(&mut self, number: u32, map: &OwnMap<'_>) {
        let (data_type, data_len) = match map.of_marks {
            true => (TYPE_MARK, 4),
            false => (VERDICTS, 0),
        };
        self.maps += 1;
        let id = self.maps;
        self.message(NEW_SET, CREATE, number, |it| {
            it.text(OF_TABLE, TABLE);
            it.text(NAME, ANONYMOUS_MAP);
            let interval = if map.ranges { INTERVAL } else { 0 };
            it.number(SET_FLAGS, ANONYMOUS | CONSTANT | MAP | interval);
            it.number(SET_KEY_TYPE, type_of(map.field));
            it.number(SET_KEY_LEN, value(map.field, 0).len() as u32);
            it.number(SET_DATA_TYPE, data_type);
            it.number(SET_DATA_LEN, data_len);
            it.nest(SET_DESC, |it| {
                it.number(DESC_SIZE, map.entries.len() as u32);
            });
            it.number(SET_ID, id);
            if map.of_marks {
                it.attribute(SET_USERDATA, &order(OF_DATA, HOST_ORDER));
            }
        });
        for some in map.entries.chunks(MAX_MESSAGE_ELEMENTS) {
            self.message(NEW_ELEMENTS, CREATE, number, |it| {
                it.text(OF_TABLE, TABLE);
                it.text(NAME, ANONYMOUS_MAP);
                it.number(LIST_SET_ID, id);
                it.nest(LIST_ELEMENTS, |it| {
                    for entry in some {
                        entry.write(it);
                    }
                });
            });
        }
    }

    /// Deletes elements, then adds elements.
    fn elements(&mut self, ops: &[(u32, Cow<'_, Op>)], together: bool) {
        let gone = ops.iter().filter_map(|(number, op)| match &**op {
            Op::Delete(it) | Op::Change { from: it, .. } => Some((*number, &it.object)),
            _ => None,
        });
        let deleted = gone.filter_map(|(number, object)| match object {
            Object::Element(it) => Some((number, it)),
            _ => None,
        });
        self.each_set(DELETE_ELEMENTS, &deleted.collect::<Vec<_>>(), together);
        let added = ops.iter().filter_map(|(number, op)| match made(op) {
            Some(Object::Element(it)) => Some((*number, it)),
            _ => None,
        });
        self.each_set(NEW_ELEMENTS, &added.collect::<Vec<_>>(), together);
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
            for some in of_set.chunks(MAX_MESSAGE_ELEMENTS) {
                let [(number, first), ..] = some else {
                    continue;
                };
                let head = (kind, REQUEST | flags, *number);
                self.buffer.message(head, about(first.family()), |it| {
                    it.text(OF_TABLE, TABLE);
                    it.text(NAME, first.set());
                    it.nest(LIST_ELEMENTS, |it| {
                        for (_, element) in some {
                            entry(element, data).write(it);
                        }
                    });
                });
            }
        }
    }
}
