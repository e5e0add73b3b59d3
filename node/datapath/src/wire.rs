//! Reads and writes netlink messages and their attributes in a buffer, see netlink(7). No I/O.

/// Flag of an attribute whose value is a list of attributes.
pub(super) const NESTED: u16 = 0x8000;

const HEADER: usize = 16;

/// The protocol of netfilter's subsystems, and flags of requests, from `linux/netlink.h`.
pub(super) const NETLINK_NETFILTER: isize = 12;
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: a change came between two messages of a dump.
pub(super) const INTERRUPTED: u16 = 0x10;
/// Types of messages of the kernel.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

/// A buffer of consecutive messages to netfilter.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

/// `struct nfgenmsg` without the version, which is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct GeneralHeader {
    pub(super) family: u8,
    pub(super) resource: u16,
}

impl Buffer {
    /// Adds a message: header, `struct nfgenmsg` and the attributes that `body` writes.
    pub(super) fn message(
        &mut self,
        (kind, flags, sequence): (u16, u16, u32),
        general: GeneralHeader,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        self.0.extend([general.family, 0]);
        self.0.extend(general.resource.to_be_bytes());
        body(self);
        let length = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.part(kind, |it| it.0.extend(value));
    }

    /// Adds a number in the byte order of nftables and conntrack.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.part(kind, |it| {
            it.0.extend(value.as_bytes());
            it.0.push(0);
        });
    }

    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.part(kind | NESTED, body);
    }

    fn part(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        body(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The errno of a message of type [`ERROR`]; 0 is an acknowledgement.
pub(super) fn code(payload: &[u8]) -> i32 {
    word(payload, 0).map_or(0, |code| -(code as i32))
}

/// Type and sequence number of the refused message, from an answer of type [`ERROR`].
pub(super) fn subject(payload: &[u8]) -> (u16, u32) {
    let request = payload.get(4..).unwrap_or_default();
    let kind = half(request, 4).unwrap_or_default();
    (kind, word(request, 8).unwrap_or_default())
}

/// A message of the kernel.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// The port of the socket that caused it; 0: the kernel itself.
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let length = |header: &[u8]| word(header, 0).map_or(0, |length| length as usize);
    parts(bytes, HEADER, length).map(|(header, payload)| Message {
        kind: half(header, 4).unwrap_or_default(),
        flags: half(header, 6).unwrap_or_default(),
        port: word(header, 12).unwrap_or_default(),
        payload,
    })
}

/// Type and value of each attribute.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let length = |header: &[u8]| half(header, 0).map_or(0, usize::from);
    parts(bytes, 4, length)
        .map(|(header, value)| (half(header, 2).unwrap_or_default() & !NESTED, value))
}

/// The value of the first attribute of this type.
pub(super) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(it, value)| (it == kind).then_some(value))
}

/// The value of an attribute that is a number of 32 bits.
pub(super) fn find_number(bytes: &[u8], kind: u16) -> Option<u32> {
    Some(u32::from_be_bytes(find(bytes, kind)?.try_into().ok()?))
}

/// The value of an attribute that is a text which ends with a zero byte.
pub(super) fn find_text(bytes: &[u8], kind: u16) -> Option<&str> {
    let text = find(bytes, kind)?.split(|byte| *byte == 0).next()?;
    str::from_utf8(text).ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// Header and body of each part; ends before an incomplete one.
fn parts(
    mut bytes: &[u8],
    header: usize,
    length: impl Fn(&[u8]) -> usize,
) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let head = bytes.get(..header)?;
        let length = length(head);
        let body = bytes.get(header..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((head, body))
    })
}
