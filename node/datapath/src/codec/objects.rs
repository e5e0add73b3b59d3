//! Tables, chains, rules and sets as nftables' netlink messages hold them. No I/O.

use super::entry::{self, Data};
use crate::wire::{Buffer, GeneralHeader, find, find_number, find_text};
use node_core::resource::{Family, Field, Span};

/// `NFNL_SUBSYS_NFTABLES`, and a message's type in it.
pub(crate) const SUBSYSTEM: u16 = 10;
pub(crate) const fn nft(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}
pub(crate) const GET_TABLE: u16 = nft(1);
pub(crate) const NEW_CHAIN: u16 = nft(3);
pub(crate) const GET_CHAIN: u16 = nft(4);
pub(crate) const DELETE_CHAIN: u16 = nft(5);
pub(crate) const NEW_RULE: u16 = nft(6);
pub(crate) const GET_RULE: u16 = nft(7);
pub(crate) const DELETE_RULE: u16 = nft(8);
pub(crate) const NEW_SET: u16 = nft(9);
pub(crate) const GET_SET: u16 = nft(10);
pub(crate) const DELETE_SET: u16 = nft(11);
pub(crate) const NEW_ELEMENTS: u16 = nft(12);
pub(crate) const GET_ELEMENTS: u16 = nft(13);
pub(crate) const DELETE_ELEMENTS: u16 = nft(14);
pub(crate) const GET_GENERATION: u16 = nft(16);
pub(crate) const GET_OBJECT: u16 = nft(19);

/// `NFPROTO_INET`, `NFPROTO_ARP`, and the family of iptables' tables, `NFPROTO_IPV4`.
const INET: u8 = 1;
const ARP: u8 = 3;
pub(crate) const IPV4: u8 = 2;

/// The head of a message about a table of this family.
pub(crate) fn about(family: Family) -> GeneralHeader {
    GeneralHeader {
        family: match family {
            Family::Inet => INET,
            Family::Arp => ARP,
        },
        resource: 0,
    }
}

/// The first attribute of a table, a chain, a rule, a set, an object and a list of elements: the
/// table's name. The second one names the rule's chain, the set and the object.
pub(crate) const OF_TABLE: u16 = 1;
pub(crate) const NAME: u16 = 2;
const TABLE_FLAGS: u16 = 2;
pub(crate) const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// The hooks of families inet and arp, by their numbers.
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
const ARP_HOOKS: [&str; 2] = ["input", "output"];
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
pub(crate) const RULE_USERDATA: u16 = 7;
pub(crate) const SET_FLAGS: u16 = 3;
pub(crate) const SET_KEY_TYPE: u16 = 4;
pub(crate) const SET_KEY_LEN: u16 = 5;
pub(crate) const SET_DATA_TYPE: u16 = 6;
pub(crate) const SET_DATA_LEN: u16 = 7;
pub(crate) const SET_DESC: u16 = 9;
pub(crate) const SET_ID: u16 = 10;
pub(crate) const SET_USERDATA: u16 = 13;
pub(crate) const DESC_SIZE: u16 = 1;
pub(crate) const ANONYMOUS: u32 = 1;
pub(crate) const CONSTANT: u32 = 2;
pub(crate) const INTERVAL: u32 = 4;
pub(crate) const MAP: u32 = 8;
/// `NFT_SET_EVAL`
const DYNAMIC: u32 = 0x20;
pub(crate) const LIST_ELEMENTS: u16 = 3;
pub(crate) const LIST_SET_ID: u16 = 4;
const GENERATION_ID: u16 = 1;
pub(crate) const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`
pub(crate) const COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;

/// `nft`'s numbers of the types of keys and data, by which it prints them: `enum datatypes` of its
/// `datatype.h`.
pub(crate) const TYPE_MARK: u32 = 19;
const TYPE_CLASSID: u32 = 23;
const TYPE_IPV4_ADDRESS: u32 = 7;
pub(crate) fn type_of(field: Field) -> u32 {
    match field {
        Field::Mark => TYPE_MARK,
        Field::Priority => TYPE_CLASSID,
        Field::Protocol => 12,
        Field::Source | Field::Destination => TYPE_IPV4_ADDRESS,
        Field::Port => 13,
    }
}

/// The field of a map's keys; of a type that our maps don't have: ports.
fn field_of(key_type: u32) -> Field {
    match key_type {
        TYPE_MARK => Field::Mark,
        TYPE_CLASSID => Field::Priority,
        TYPE_IPV4_ADDRESS => Field::Source,
        _ => Field::Port,
    }
}

/// `NFTNL_UDATA_RULE_COMMENT` of libnftnl's `udata.h`: type, length and text.
const COMMENT: u8 = 0;

pub(crate) fn comment(text: &str) -> Vec<u8> {
    let mut bytes = vec![COMMENT, text.len() as u8 + 1];
    bytes.extend(text.as_bytes());
    bytes.push(0);
    bytes
}

fn read_comment(mut userdata: &[u8]) -> Option<&str> {
    while let [kind, length, rest @ ..] = userdata {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            return str::from_utf8(value.strip_suffix(&[0])?).ok();
        }
        userdata = rest;
    }
    None
}

/// Name and flags of a table.
pub(crate) fn table(body: &[u8]) -> Option<(&str, u32)> {
    let flags = find_number(body, TABLE_FLAGS).unwrap_or_default();
    Some((find_text(body, OF_TABLE)?, flags))
}

/// The number of the latest transaction.
pub(crate) fn generation(body: &[u8]) -> Option<u32> {
    find_number(body, GENERATION_ID)
}

/// Whether a chain, a rule or a set is of this table.
pub(crate) fn is_of(body: &[u8], table: &str) -> bool {
    find_text(body, OF_TABLE) == Some(table)
}

/// Name and packets of a named counter.
pub(crate) fn counter(body: &[u8]) -> Option<(String, u64)> {
    let packets = find(find(body, OBJECT_DATA)?, COUNTER_PACKETS)?;
    let name = find_text(body, NAME)?.to_owned();
    Some((name, u64::from_be_bytes(packets.try_into().ok()?)))
}

/// Type, hook and priority of a base chain.
pub(crate) type Base = (String, String, i32);

/// Name and base of a chain in a table of this family.
pub(crate) fn chain(family: Family, body: &[u8]) -> Option<(String, Option<Base>)> {
    let name = find_text(body, CHAIN_NAME)?.to_owned();
    let base = find(body, CHAIN_HOOK).and_then(|hook| {
        let number = find_number(hook, HOOK_NUMBER)?;
        let hooks = match family {
            Family::Inet => HOOKS.as_slice(),
            Family::Arp => ARP_HOOKS.as_slice(),
        };
        let name = hooks
            .get(number as usize)
            .copied()
            .unwrap_or("another hook");
        let priority = find_number(hook, HOOK_PRIORITY)? as i32;
        Some((
            find_text(body, CHAIN_TYPE)?.to_owned(),
            name.to_owned(),
            priority,
        ))
    });
    Some((name, base))
}

/// A rule as it is in the kernel.
pub(crate) struct Rule<'a> {
    pub(crate) chain: &'a str,
    pub(crate) comment: &'a str,
    pub(crate) expressions: &'a [u8],
}

pub(crate) fn rule(body: &[u8]) -> Option<Rule<'_>> {
    let comment = find(body, RULE_USERDATA).and_then(read_comment);
    Some(Rule {
        chain: find_text(body, NAME)?,
        comment: comment.unwrap_or_default(),
        expressions: find(body, RULE_EXPRESSIONS).unwrap_or_default(),
    })
}

/// A set or map without its elements.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: String,
    flags: u32,
    key_type: u32,
    data_type: u32,
}

impl Set {
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let number = |kind| find_number(body, kind).unwrap_or_default();
        Some(Self {
            name: find_text(body, NAME)?.to_owned(),
            flags: number(SET_FLAGS),
            key_type: number(SET_KEY_TYPE),
            data_type: number(SET_DATA_TYPE),
        })
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        self.flags & ANONYMOUS != 0
    }

    /// Whether packets add its elements, which so aren't ours.
    pub(crate) fn is_dynamic(&self) -> bool {
        self.flags & DYNAMIC != 0
    }

    pub(crate) fn field(&self) -> Field {
        field_of(self.key_type)
    }
}

/// A set that exactly one rule looks up.
#[derive(Debug, Clone)]
pub(crate) struct Anonymous {
    ranges: bool,
    /// A list of elements in the order of their bytes, behind the kind of the set.
    content: Vec<u8>,
}

/// The length of what comes before the elements.
const KIND: usize = 12;

impl Anonymous {
    pub(crate) fn new(set: &Set, mut elements: Vec<Vec<u8>>) -> Self {
        elements.sort();
        let mut content = Vec::new();
        for number in [set.flags, set.key_type, set.data_type] {
            content.extend(number.to_ne_bytes());
        }
        let mut list = Buffer::default();
        for element in &elements {
            list.attribute(super::LIST_ELEM, element);
        }
        content.extend(list.bytes());
        Self {
            ranges: set.flags & INTERVAL != 0,
            content,
        }
    }

    /// The set as bytes to compare.
    pub(crate) fn comparable(&self) -> &[u8] {
        &self.content
    }

    pub(super) fn spans(&self, field: Field) -> Option<Vec<(Span, Data<'_>)>> {
        entry::spans(field, self.ranges, self.content.get(KIND..)?)
    }
}
