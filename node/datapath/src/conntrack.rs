//! Lists connections and ends them, by ctnetlink: `conntrack -L` and `-D` without the tool.
//!
//! The messages are `enum ctnl_msg_types` and `enum ctattr_type` of
//! `linux/netfilter/nfnetlink_conntrack.h`. Kernels before 6.9 can't delete by a part of a tuple,
//! so we dump, and delete each entry by the tuple and the zone that the dump gave.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use bus_schema::GroupId;
use bus_schema::policy::Protocol;
use rtnetlink::sys::Socket;

use super::netfilter::Netfilter;
use super::netns::Namespace;
use super::wire::{
    ACK, About, Buffer, DONE, DUMP, ERROR, Message, NESTED, REQUEST, attributes, code, messages,
};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const STATS: u16 = SUBSYSTEM | 5;
/// `AF_INET`
const ABOUT: About = About {
    family: 2,
    resource: 0,
};

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const MARK: u16 = 8;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_PORT: u16 = 3;
/// `CTA_STATS_GLOBAL_ENTRIES`
const STATS_ENTRIES: u16 = 1;

/// A connection of a domain, as its first packet showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: Protocol,
    pub source_port: u16,
    pub port: u16,
    /// The group of who opened it, whoever has the address now.
    pub opener: GroupId,
    /// The low 16 bits of the revision whose rules let it pass; 0 where another node decided.
    pub revision: u16,
    entry: Entry,
}

/// One socket to the conntrack of one namespace. Cheap to clone; a clone is the same socket.
///
/// It stays open: closing one waits until the kernel freed what was deleted from nftables, after a
/// grace period of RCU (`nft_rcv_nl_event`).
#[derive(Debug, Clone)]
pub(super) struct Conntrack {
    netfilter: Netfilter,
}

impl Conntrack {
    pub(super) async fn open(namespace: &Namespace) -> io::Result<Self> {
        let netfilter = Netfilter::open(namespace, |_| Ok(())).await?;
        Ok(Self { netfilter })
    }

    /// The connections in a zone.
    pub(super) async fn list(&self, zone: u16) -> io::Result<Vec<Connection>> {
        let entries = self.run(dump).await?;
        let of_zone = entries.into_iter().filter(|entry| entry.zone == zone);
        Ok(of_zone.filter_map(Connection::of).collect())
    }

    /// Ends connections; how many were there.
    pub(super) async fn end(&self, these: Vec<Connection>) -> io::Result<usize> {
        self.run(move |socket| {
            let mut ended = 0;
            for connection in &these {
                ended += usize::from(delete(socket, &connection.entry)?);
            }
            Ok(ended)
        })
        .await
    }

    /// Deletes every entry in whose tuples one of these addresses is, in its conntrack zone.
    pub(super) async fn forget(&self, gone: Vec<(u16, IpAddr)>) -> io::Result<usize> {
        self.run(move |socket| {
            let entries = dump(socket)?;
            let concerned = entries
                .iter()
                .filter(|entry| gone.iter().any(|(zone, it)| entry.is_of(*zone, *it)));
            let mut deleted = 0;
            for entry in concerned {
                deleted += usize::from(delete(socket, entry)?);
            }
            Ok(deleted)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Socket) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let work = |socket: &Socket| {
            // What is left of a work that failed.
            while socket.recv_from_full().is_ok() {}
            work(socket)
        };
        self.netfilter.run(work).await
    }
}

/// A connection, as far as we need it; the tuples as the kernel wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Entry {
    orig: Vec<u8>,
    reply: Vec<u8>,
    zone: u16,
    mark: u32,
}

impl Connection {
    fn of(entry: Entry) -> Option<Self> {
        let part = |kind: u16| {
            let mut parts = attributes(&entry.orig).filter(move |(it, _)| *it == kind);
            parts.next().map(|(_, value)| value)
        };
        let (ip, proto) = (part(TUPLE_IP)?, part(TUPLE_PROTO)?);
        let value = |nest, kind| {
            let mut found = attributes(nest).filter(move |(it, _)| *it == kind);
            found.next().map(|(_, value)| value)
        };
        let address = |kind| {
            let bytes: [u8; 4] = value(ip, kind)?.try_into().ok()?;
            Some(Ipv4Addr::from(bytes))
        };
        let port = |kind| {
            let bytes = value(proto, kind).and_then(|it| it.try_into().ok());
            bytes.map_or(0, u16::from_be_bytes)
        };
        Some(Self {
            from: address(IP_SOURCE)?,
            to: address(IP_DESTINATION)?,
            protocol: Protocol(*value(proto, PROTO_NUMBER)?.first()?),
            source_port: port(PROTO_SOURCE_PORT),
            port: port(PROTO_PORT),
            opener: GroupId(entry.mark as u16),
            revision: (entry.mark >> 16) as u16,
            entry,
        })
    }
}

impl Entry {
    fn parse(payload: &[u8]) -> Self {
        let mut entry = Self::default();
        for (kind, value) in attributes(payload) {
            match kind {
                TUPLE_ORIG => entry.orig = value.to_vec(),
                TUPLE_REPLY => entry.reply = value.to_vec(),
                MARK => entry.mark = u32::from_be_bytes(value.try_into().unwrap_or_default()),
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

/// A dump walks through the buckets of all namespaces' entries, 5 ms of them.
fn dump(socket: &Socket) -> io::Result<Vec<Entry>> {
    if count(socket)? == Some(0) {
        return Ok(Vec::new());
    }
    let mut request = Buffer::default();
    request.message((GET, REQUEST | DUMP, 0), ABOUT, |_| {});
    socket.send(request.bytes(), 0)?;
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

/// How many entries the namespace has, if the kernel tells.
fn count(socket: &Socket) -> io::Result<Option<u32>> {
    let mut request = Buffer::default();
    request.message((STATS, REQUEST, 0), ABOUT, |_| {});
    socket.send(request.bytes(), 0)?;
    let (bytes, _) = socket.recv_from_full()?;
    let told = messages(&bytes).filter(|message| message.kind == STATS);
    let told = told.flat_map(|it| attributes(it.payload.get(4..).unwrap_or_default()));
    let mut entries = told.filter(|(kind, _)| *kind == STATS_ENTRIES);
    let entries = entries.next().and_then(|(_, value)| value.try_into().ok());
    Ok(entries.map(u32::from_be_bytes))
}

/// Whether it was there to be deleted.
fn delete(socket: &Socket, entry: &Entry) -> io::Result<bool> {
    let mut request = Buffer::default();
    request.message((DELETE, REQUEST | ACK, 0), ABOUT, |body| {
        body.attribute(TUPLE_ORIG | NESTED, &entry.orig);
        body.attribute(ZONE, &entry.zone.to_be_bytes());
    });
    socket.send(request.bytes(), 0)?;
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
    io::Error::from_raw_os_error(code(payload))
}
