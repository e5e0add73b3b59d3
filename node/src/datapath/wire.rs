//! Netlink messages and their attributes as they lie in a buffer, see netlink(7). No I/O.

/// Marks an attribute whose value is attributes again.
pub(super) const NESTED: u16 = 0x8000;

const HEADER: usize = 16;

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
