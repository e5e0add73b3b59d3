//! Netlink messages and their attributes as they lie in a buffer, see netlink(7), read and written.
//! No I/O.

/// Marks an attribute whose value is attributes again.
pub(super) const NESTED: u16 = 0x8000;

const HEADER: usize = 16;

/// The protocol of netfilter's subsystems, and flags of requests, from `linux/netlink.h`.
pub(super) const NETLINK_NETFILTER: isize = 12;
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const CREATE: u16 = 0x400;
pub(super) const APPEND: u16 = 0x800;
pub(super) const DUMP: u16 = 0x300;
/// Types of answers.
pub(super) const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

/// Messages to netfilter, one behind another.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

/// What `struct nfgenmsg` says besides the version, which is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct About {
    pub(super) family: u8,
    pub(super) resource: u16,
}

impl Buffer {
    /// Header, `struct nfgenmsg` and what `body` writes.
    pub(super) fn message(
        &mut self,
        (kind, flags, sequence): (u16, u16, u32),
        about: About,
        body: impl FnOnce(&mut Self),
    ) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(flags.to_ne_bytes());
        self.0.extend(sequence.to_ne_bytes());
        self.0.extend([0; 4]);
        self.0.extend([about.family, 0]);
        self.0.extend(about.resource.to_be_bytes());
        body(self);
        let length = (self.0.len() - start) as u32;
        self.0[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.part(kind, |it| it.0.extend(value));
    }

    /// A number as nftables and conntrack take it.
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

/// What an answer of type [`ERROR`] says: 0 is an acknowledgement.
pub(super) fn code(payload: &[u8]) -> i32 {
    word(payload, 0).map_or(0, |code| -(code as i32))
}

/// Type and sequence number of the message that an answer of type [`ERROR`] is about.
pub(super) fn subject(payload: &[u8]) -> (u16, u32) {
    let request = payload.get(4..).unwrap_or_default();
    let kind = half(request, 4).unwrap_or_default();
    (kind, word(request, 8).unwrap_or_default())
}

/// One message.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    /// The socket that asked for it; 0: the kernel itself.
    pub(super) port: u32,
    pub(super) payload: &'a [u8],
}

pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let length = |header: &[u8]| word(header, 0).map_or(0, |length| length as usize);
    parts(bytes, HEADER, length).map(|(header, payload)| Message {
        kind: half(header, 4).unwrap_or_default(),
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

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// Header and body of each part; ends at the first that isn't whole.
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
