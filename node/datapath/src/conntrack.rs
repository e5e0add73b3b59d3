//! Lists connections and ends them, by ctnetlink: `conntrack -L` and `-D` without the tool.
//!
//! The messages are `enum ctnl_msg_types` and `enum ctattr_type` of
//! `linux/netfilter/nfnetlink_conntrack.h`. Kernels before 6.9 can't delete by a part of a tuple,
//! so we dump all entries, and delete each by its tuple and its zone.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use bus_schema::GroupId;
use bus_schema::policy::Protocol;
use rtnetlink::sys::Socket;

use super::netfilter::{self, Netfilter, get};
use super::netns::Namespace;
use super::wire::{
    ACK, Buffer, DUMP, GeneralHeader, NESTED, REQUEST, attributes, find, find_number,
};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const STATS: u16 = SUBSYSTEM | 5;
/// `AF_INET`
const GENERAL_HEADER: GeneralHeader = GeneralHeader {
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
/// `CTA_STATS_GLOBAL_ENTRIES` and, since Linux 4.18, `_MAX_ENTRIES`
const STATS_ENTRIES: u16 = 1;
const STATS_MAX_ENTRIES: u16 = 2;

/// A connection of a domain, by the addresses and ports of its first packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: Protocol,
    pub source_port: u16,
    pub port: u16,
    /// The group of the endpoint that opened it; another one may have the address now.
    pub opener: GroupId,
    /// The low 16 bits of the revision whose rules let it pass; 0 where another node decided.
    pub revision: u16,
    entry: Entry,
}

/// How full a conntrack table is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConntrackUsage {
    pub entries: u32,
    /// `net.netfilter.nf_conntrack_max`
    pub max: u32,
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

    pub(super) async fn usage(&self) -> io::Result<ConntrackUsage> {
        self.netfilter.run(usage).await
    }

    /// The number of entries in each zone.
    pub(super) async fn zones(&self) -> io::Result<BTreeMap<u16, u64>> {
        let count = |socket: &Socket| {
            let mut zones = BTreeMap::new();
            dump(socket, |body| {
                let zone = find(body, ZONE).and_then(|it| it.try_into().ok());
                *zones.entry(zone.map_or(0, u16::from_be_bytes)).or_default() += 1;
            })?;
            Ok(zones)
        };
        self.netfilter.run(count).await
    }

    /// Lists the connections in a zone.
    pub(super) async fn list(&self, zone: u16) -> io::Result<Vec<Connection>> {
        let entries = self.netfilter.run(entries).await?;
        let of_zone = entries.into_iter().filter(|entry| entry.zone == zone);
        Ok(of_zone.filter_map(Connection::of).collect())
    }

    /// Ends connections, and returns how many there were.
    pub(super) async fn end(&self, these: Vec<Connection>) -> io::Result<usize> {
        self.netfilter
            .run(move |socket| {
                let mut ended = 0;
                for connection in &these {
                    ended += usize::from(delete(socket, &connection.entry)?);
                }
                Ok(ended)
            })
            .await
    }

    /// Deletes each entry that has one of these addresses in a tuple, in its conntrack zone.
    pub(super) async fn forget(&self, gone: Vec<(u16, IpAddr)>) -> io::Result<usize> {
        self.netfilter
            .run(move |socket| {
                let entries = entries(socket)?;
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
}

/// The attributes of a connection that we need; the tuples are as the kernel wrote them.
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

fn usage(socket: &Socket) -> io::Result<ConntrackUsage> {
    let mut request = Buffer::default();
    request.message((STATS, REQUEST, 0), GENERAL_HEADER, |_| {});
    let usage = get(socket, &request, |body| {
        Some(ConntrackUsage {
            entries: find_number(body, STATS_ENTRIES)?,
            max: find_number(body, STATS_MAX_ENTRIES).unwrap_or_default(),
        })
    });
    usage.map(Option::unwrap_or_default)
}

/// A dump walks through the buckets of all namespaces' entries, 5 ms of them.
fn dump(socket: &Socket, each: impl FnMut(&[u8])) -> io::Result<()> {
    if usage(socket)?.entries == 0 {
        return Ok(());
    }
    let mut request = Buffer::default();
    request.message((GET, REQUEST | DUMP, 0), GENERAL_HEADER, |_| {});
    netfilter::dump(socket, &request, each)
}

fn entries(socket: &Socket) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    dump(socket, |body| entries.push(Entry::parse(body)))?;
    Ok(entries)
}

/// Deletes an entry, and returns whether it was still there.
fn delete(socket: &Socket, entry: &Entry) -> io::Result<bool> {
    let mut request = Buffer::default();
    request.message((DELETE, REQUEST | ACK, 0), GENERAL_HEADER, |body| {
        body.attribute(TUPLE_ORIG | NESTED, &entry.orig);
        body.attribute(ZONE, &entry.zone.to_be_bytes());
    });
    match get(socket, &request, |_| Some(())) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(nix::Error::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}
