//! The body of a compiled rule: the statements that compiled rules use, and no others.
//!
//! A body prints as words of nft; `datapath` writes the same as netlink expressions.

use std::fmt;
use std::net::Ipv4Addr;

use super::BucketLimit;
use super::ruleset::CT_MARK_GROUP;

/// A field of a packet that a statement reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The packet's mark: the group of the other end, or the result of a [`PortTable`](crate::policy::PortTable).
    Mark,
    /// The packet's priority: the sender's group.
    Priority,
    Protocol,
    Source,
    Destination,
    /// The destination's port, in protocols that have ports.
    Port,
}

impl Field {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Mark => "meta mark",
            Self::Priority => "meta priority",
            Self::Protocol => "meta l4proto",
            Self::Source => "ip saddr",
            Self::Destination => "ip daddr",
            Self::Port => "th dport",
        }
    }

    pub(super) fn value(self, value: u32) -> NftValue {
        NftValue(self, value)
    }
}

/// A value of a field, as nft writes it.
pub(super) struct NftValue(Field, u32);

impl fmt::Display for NftValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(field, value) = *self;
        match field {
            Field::Mark => write!(f, "{value:#x}"),
            Field::Priority => write!(f, "0:{value:x}"),
            Field::Protocol | Field::Port => write!(f, "{value}"),
            Field::Source | Field::Destination => Ipv4Addr::from_bits(value).fmt(f),
        }
    }
}

/// A range of a field's values: the first and the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u32, pub u32);

impl Span {
    pub fn one(value: u32) -> Self {
        Self(value, value)
    }

    fn words(self, field: Field) -> String {
        match self {
            Self(first, last) if first == last => field.value(first).to_string(),
            Self(first, last) => format!("{}-{}", field.value(first), field.value(last)),
        }
    }
}

/// A verdict that continues in another chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// The packet returns after it.
    Jump(String),
    Goto(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

/// One statement of a rule, with an example of its nft text. A rule ends at a match that fails and
/// at a map without the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Statement {
    /// `meta l4proto 6`, `th dport 80-90`
    Match(Field, Span),
    /// `ct mark > 0x63ffffff`
    CtMarkAbove(u32),
    /// `meta mark set 0x62000007`
    SetMark(u32),
    /// `meta mark set th dport table { 80 : 0x62000007, 443 : 0x62000009 }`: an anonymous map, whose
    /// spans are disjoint and sorted.
    SetMarkByMap(Field, Vec<(Span, u32)>),
    /// `meta mark set ct zone . ip daddr map @members`: the mark becomes the destination's group.
    SetMarkByMember,
    /// `meta mark set ct zone . ip daddr map @pools`: the mark becomes the group in whose pool the
    /// destination is.
    SetMarkByPool,
    /// `ct mark set meta mark`
    CtMarkFromMark,
    /// `ct mark set ct mark & 0xffff | 0x70000`: keeps the bits of [`CT_MARK_GROUP`].
    SetCtMark(u32),
    /// `update @connections { ct zone . ip saddr . ct mark & 0x3ff ct count over 88 }`: the rule goes on
    /// if the sender's bucket holds more connections.
    CountConnections(BucketLimit),
    /// `goto m7_98`
    Verdict(Target),
    /// `th dport vmap { 0-1023 : goto l7_… }`: an anonymous map from the field, masked, to verdicts;
    /// its spans are disjoint and sorted.
    Vmap(Field, u32, Vec<(Span, Target)>),
    /// `ip saddr & 255.255.255.0 vmap @n7_…`: the same with a named map.
    NamedVmap(Field, u32, String),
}

impl Statement {
    /// The mask that keeps all bits of a field.
    pub const FULL_MASK: u32 = u32::MAX;
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match(field, span) => write!(f, "{} {}", field.words(), span.words(*field)),
            Self::CtMarkAbove(mark) => write!(f, "ct mark > {mark:#x}"),
            Self::SetMark(mark) => write!(f, "meta mark set {mark:#x}"),
            Self::SetMarkByMap(field, of) => {
                write!(f, "meta mark set {} map {{ ", field.words())?;
                list(
                    f,
                    *field,
                    of.iter().map(|(span, mark)| (*span, format!("{mark:#x}"))),
                )
            }
            Self::SetMarkByMember => f.write_str("meta mark set ct zone . ip daddr map @members"),
            Self::SetMarkByPool => f.write_str("meta mark set ct zone . ip daddr map @pools"),
            Self::CtMarkFromMark => f.write_str("ct mark set meta mark"),
            Self::SetCtMark(mark) => {
                write!(f, "ct mark set ct mark & {CT_MARK_GROUP:#x} | {mark:#x}")
            }
            Self::CountConnections(BucketLimit { mask, connections }) => write!(
                f,
                "update @connections {{ ct zone . ip saddr . ct mark & {mask:#x} \
                 ct count over {connections} }}"
            ),
            Self::Verdict(target) => target.fmt(f),
            Self::Vmap(field, mask, to) => {
                write!(f, "{}{} vmap {{ ", field.words(), Mask(*field, *mask))?;
                list(f, *field, to.iter().map(|(span, target)| (*span, target)))
            }
            Self::NamedVmap(field, mask, map) => {
                write!(f, "{}{} vmap @{map}", field.words(), Mask(*field, *mask))
            }
        }
    }
}

/// ` & MASK`, or nothing for the full mask.
struct Mask(Field, u32);

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(_, Statement::FULL_MASK) => Ok(()),
            Self(field, mask) => write!(f, " & {}", field.value(mask)),
        }
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    field: Field,
    of: impl Iterator<Item = (Span, impl fmt::Display)>,
) -> fmt::Result {
    for (index, (span, value)) in of.enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{} : {value}", span.words(field))?;
    }
    f.write_str(" }")
}

/// The statements of one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleBody(pub Vec<Statement>);

impl RuleBody {
    /// CRC-32 of the rule's text, stored as its comment; a restart recognises the rule by it.
    pub fn digest(&self) -> u32 {
        /// Increment it when the same text is encoded for the kernel in another way.
        const ENCODING: u8 = 1;
        struct Digest(crc32fast::Hasher);
        impl fmt::Write for Digest {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.update(text.as_bytes());
                Ok(())
            }
        }
        let mut digest = Digest(crc32fast::Hasher::new());
        digest.0.update(&[ENCODING]);
        // `write_str` never fails.
        let _ = fmt::write(&mut digest, format_args!("{self}"));
        digest.0.finalize()
    }
}

impl fmt::Display for RuleBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, statement) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{statement}")?;
        }
        Ok(())
    }
}
