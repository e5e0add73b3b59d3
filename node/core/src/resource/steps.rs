//! What a compiled rule does, step by step.
//!
//! Prints as words of nft; `datapath` writes the same for the kernel. There is nothing here that
//! the compiled rules don't use.

use std::fmt;
use std::net::Ipv4Addr;

use super::ruleset::OPENER;

/// What a step looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// The packet's mark: the other end's group, or a line's result.
    Mark,
    /// The packet's priority: the sender's group.
    Priority,
    Protocol,
    Source,
    Destination,
    /// The destination's port, of a protocol that has ports.
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

    pub(super) fn value(self, value: u32) -> Words {
        Words(self, value)
    }
}

/// A value of a field, as nft writes it.
pub(super) struct Words(Field, u32);

impl fmt::Display for Words {
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

/// First and last value of a field.
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

/// Another chain that goes on with a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// It comes back.
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

/// One step; where it finds nothing, the rule ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Is(Field, Span),
    /// The connection's mark is greater than this.
    Worse(u32),
    /// Sets the mark.
    Mark(u32),
    /// Sets the mark to the value of the field's span; spans are disjoint and sorted.
    Find(Field, Vec<(Span, u32)>),
    /// Sets the mark to the group of the destination.
    Member,
    /// The connection's mark becomes the packet's.
    Keep,
    /// Sets the connection's mark, except the part that says who opened it.
    Stamp(u32),
    Go(Target),
    /// Goes where the span of the field, of which only these bits count, leads; disjoint, sorted.
    Lead(Field, u32, Vec<(Span, Target)>),
    /// Likewise, where the map of this name leads.
    Ask(Field, u32, String),
}

impl Step {
    /// All bits of a field count.
    pub const ALL: u32 = u32::MAX;
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(field, span) => write!(f, "{} {}", field.words(), span.words(*field)),
            Self::Worse(mark) => write!(f, "ct mark > {mark:#x}"),
            Self::Mark(mark) => write!(f, "meta mark set {mark:#x}"),
            Self::Find(field, of) => {
                write!(f, "meta mark set {} map {{ ", field.words())?;
                list(
                    f,
                    *field,
                    of.iter().map(|(span, mark)| (*span, format!("{mark:#x}"))),
                )
            }
            Self::Member => f.write_str("meta mark set ct zone . ip daddr map @members"),
            Self::Keep => f.write_str("ct mark set meta mark"),
            Self::Stamp(mark) => write!(f, "ct mark set ct mark & {OPENER:#x} | {mark:#x}"),
            Self::Go(target) => target.fmt(f),
            Self::Lead(field, mask, to) => {
                write!(f, "{}{} vmap {{ ", field.words(), Mask(*field, *mask))?;
                list(f, *field, to.iter().map(|(span, target)| (*span, target)))
            }
            Self::Ask(field, mask, map) => {
                write!(f, "{}{} vmap @{map}", field.words(), Mask(*field, *mask))
            }
        }
    }
}

struct Mask(Field, u32);

impl fmt::Display for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(_, Step::ALL) => Ok(()),
            Self(field, mask) => write!(f, " & {}", field.value(mask)),
        }
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    field: Field,
    of: impl Iterator<Item = (Span, impl fmt::Display)>,
) -> fmt::Result {
    for (index, (span, what)) in of.enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{} : {what}", span.words(field))?;
    }
    f.write_str(" }")
}

/// The steps of one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    /// By which the rule is told again in the kernel.
    pub fn digest(&self) -> u32 {
        /// Counted up when the same words are written to the kernel in another way.
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
        // It takes all that is written.
        let _ = fmt::write(&mut digest, format_args!("{self}"));
        digest.0.finalize()
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{step}")?;
        }
        Ok(())
    }
}
