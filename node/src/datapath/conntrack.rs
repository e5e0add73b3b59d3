//! Forgets the connections of an address, by ctnetlink: `conntrack -D` without the tool.
//!
//! The messages are `enum ctnl_msg_types` and `enum ctattr_type` of
//! `linux/netfilter/nfnetlink_conntrack.h`. Kernels before 6.9 can't delete by a part of a tuple,
//! so we dump, and delete each entry by the tuple and the zone that the dump gave.

use std::io;
use std::net::IpAddr;

use rtnetlink::sys::{Socket, SocketAddr};

use super::netns::Namespace;
use super::wire::{Message, NESTED, attributes, messages};

const NETLINK_NETFILTER: isize = 12;
const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const AF_INET: u8 = 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;

/// Deletes every entry in whose tuples one of these addresses is, in its conntrack zone.
pub(crate) async fn forget(namespace: &Namespace, gone: Vec<(u16, IpAddr)>) -> io::Result<usize> {
    namespace
        .run(move || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            let entries = dump(&socket)?;
            let concerned = entries
                .iter()
                .filter(|entry| gone.iter().any(|(zone, it)| entry.is_of(*zone, *it)));
            let mut deleted = 0;
            for entry in concerned {
                deleted += usize::from(delete(&socket, entry)?);
            }
            Ok(deleted)
        })
        .await
}

/// A connection, as far as we need it; the tuples as the kernel wrote them.
#[derive(Debug, Default)]
struct Entry {
    orig: Vec<u8>,
    reply: Vec<u8>,
    zone: u16,
}

impl Entry {
    fn parse(payload: &[u8]) -> Self {
        let mut entry = Self::default();
        for (kind, value) in attributes(payload) {
            match kind {
                TUPLE_ORIG => entry.orig = value.to_vec(),
                TUPLE_REPLY => entry.reply = value.to_vec(),
                ZONE => entry.zone = u16::from_be_bytes(value.try_into().unwrap_or_default()),
                _ => {}
            }
        }
        entry
    }

    fn is_of(&self, zone: u16, address: IpAddr) -> bool {
        let tuples = [&self.orig, &self.reply];
        let mut ips = tuples.into_iter().flat_map(|tuple| {
            let ip = attributes(tuple).filter(|(kind, _)| *kind == TUPLE_IP);
            ip.flat_map(|(_, ip)| attributes(ip))
                .map(|(_, value)| value)
        });
        self.zone == zone
            && ips.any(|found| match address {
                IpAddr::V4(v4) => found == v4.octets(),
                IpAddr::V6(v6) => found == v6.octets(),
            })
    }
}

fn dump(socket: &Socket) -> io::Result<Vec<Entry>> {
    socket.send(&message(GET, REQUEST | DUMP, &[]), 0)?;
    let mut entries = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for Message { kind, payload, .. } in messages(&bytes) {
            match kind {
                DONE => return Ok(entries),
                ERROR => return Err(error(payload)),
                _ => entries.push(Entry::parse(payload.get(4..).unwrap_or_default())),
            }
        }
    }
}

/// Whether it was there to be deleted.
fn delete(socket: &Socket, entry: &Entry) -> io::Result<bool> {
    let mut body = attribute(TUPLE_ORIG | NESTED, &entry.orig);
    body.extend(attribute(ZONE, &entry.zone.to_be_bytes()));
    socket.send(&message(DELETE, REQUEST | ACK, &body), 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    for Message { kind, payload, .. } in messages(&bytes) {
        if kind == ERROR {
            let error = error(payload);
            return match error.raw_os_error() {
                Some(0) => Ok(true),
                Some(code) if code == nix::Error::ENOENT as i32 => Ok(false),
                _ => Err(error),
            };
        }
    }
    Ok(true)
}

fn error(payload: &[u8]) -> io::Error {
    let code = payload
        .first_chunk::<4>()
        .map_or(0, |code| i32::from_ne_bytes(*code));
    io::Error::from_raw_os_error(-code)
}

/// A netlink header, `struct nfgenmsg` and the attributes.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([AF_INET, 0, 0, 0]);
    bytes.extend(body);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = ((4 + value.len()) as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
