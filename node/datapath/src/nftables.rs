//! Two sockets to nftables in one namespace: one commits batches and gets what the kernel refuses of
//! them, the other reads. So a change never waits for a long read.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bus_schema::node::Counter;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use rtnetlink::sys::Socket;

use super::codec::elements::{hit, refused};
use super::codec::entry::Entry;
use super::codec::objects::{
    self, COUNTER, GET_CHAIN, GET_ELEMENTS, GET_GENERATION, GET_OBJECT, GET_RULE, GET_SET,
    GET_TABLE, IPV4, LIST_ELEMENTS, NAME, OBJECT_TYPE, OF_TABLE, Set, about,
};
use super::listing::{Bodies, Listing, Reading};
use super::netfilter::{Netfilter, dump, get};
use super::netns::Namespace;
use super::wire::{
    Buffer, DUMP, ERROR, GeneralHeader, Message, REQUEST, attributes, code, find, messages, subject,
};
use node_core::resource::{Family, TABLE};

/// Bytes for the kernel's errors, one for each message that it refuses.
const ERROR_BUFFER_BYTES: usize = 8 << 20;
/// The kernel takes a batch that is smaller than the buffer by so much, and so do we.
const SEND_BUFFER_SLACK: usize = 4_096;

/// For so long a table is read again that changed while it was read; `nft` gives up never.
const READ_TIMEOUT: Duration = Duration::from_secs(20);

/// Cheap to clone; a clone has the same sockets.
#[derive(Debug, Clone)]
pub(crate) struct Nftables {
    writer: Netfilter,
    reader: Netfilter,
}

/// The refusals of the kernel in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The message's type and number.
    pub(crate) kind: u16,
    pub(crate) number: u32,
    pub(crate) code: i32,
}

impl Nftables {
    pub(crate) async fn open(namespace: &Namespace) -> io::Result<Self> {
        let set = |socket: &mut Socket| {
            // Errors without the messages that they are about.
            socket.set_cap_ack(true)?;
            Ok(setsockopt(socket, RcvBufForce, &ERROR_BUFFER_BYTES)?)
        };
        Ok(Self {
            writer: Netfilter::open(namespace, set).await?,
            reader: Netfilter::open(namespace, |_| Ok(())).await?,
        })
    }

    /// By which the kernel names the author of a change.
    pub(crate) fn port(&self) -> u32 {
        self.writer.port()
    }

    /// Has a batch done whole, or refused whole: then what is wrong with it.
    pub(super) async fn commit(&self, batch: Buffer) -> io::Result<Vec<Refused>> {
        let work = move |socket: &Socket| exchange(socket, batch.bytes());
        self.writer.run(work).await
    }

    /// Our table of this family, all of one generation; `None` when there is none. A rule is checked
    /// against `bodies`.
    pub(super) async fn table(
        &self,
        family: Family,
        bodies: Bodies,
    ) -> io::Result<Option<Listing>> {
        let work =
            move |socket: &Socket| consistently(socket, || read_table(socket, family, &bodies));
        self.reader.run(work).await
    }

    /// The tables that IPv4 packets pass, by family and name.
    pub(super) async fn tables(&self) -> io::Result<Vec<(u8, String)>> {
        let work = |socket: &Socket| {
            let mut tables = Vec::new();
            let ipv4 = GeneralHeader {
                family: IPV4,
                resource: 0,
            };
            for about in [ipv4, about(Family::Inet)] {
                dump(socket, &request(GET_TABLE, about, |_| {}), |body| {
                    let family = about.family;
                    let name = objects::table(body).map(|(name, _)| (family, name.to_owned()));
                    tables.extend(name);
                })?;
            }
            Ok(tables)
        };
        self.reader.run(work).await
    }

    /// The counters of rules by zone and number; none where there is no such set.
    pub(super) async fn hits(&self) -> io::Result<Vec<(u16, u32, Counter)>> {
        let work = |socket: &Socket| {
            consistently(socket, || {
                let mut hits = Vec::new();
                let read =
                    |element: &[u8]| hits.extend(Entry::read(element).as_ref().and_then(hit));
                match read_elements(socket, Family::Inet, "hits", read) {
                    Err(error) if is(&error, nix::Error::ENOENT) => Ok(Vec::new()),
                    result => result.map(|()| hits),
                }
            })
        };
        self.reader.run(work).await
    }

    /// The endpoints that were refused a connection in the last minute: zone, address, and the packets.
    pub(super) async fn refused(&self) -> io::Result<Vec<(u16, IpAddr, u64)>> {
        let work = |socket: &Socket| {
            let mut all = Vec::new();
            let read = |element: &[u8]| all.extend(Entry::read(element).as_ref().and_then(refused));
            match read_elements(socket, Family::Inet, "refused", read) {
                Err(error) if is(&error, nix::Error::ENOENT) => Ok(Vec::new()),
                result => result.map(|()| all),
            }
        };
        self.reader.run(work).await
    }

    /// The packets that each named counter of our table has seen; none where there is no table.
    pub(super) async fn counters(&self) -> io::Result<BTreeMap<String, u64>> {
        let work = |socket: &Socket| {
            let mut counters = BTreeMap::new();
            let request = request(GET_OBJECT, about(Family::Inet), |body| {
                body.text(OF_TABLE, TABLE);
                body.number(OBJECT_TYPE, COUNTER);
            });
            dump(socket, &request, |body| {
                counters.extend(objects::counter(body));
            })?;
            Ok(counters)
        };
        self.reader.run(work).await
    }
}

fn is(error: &io::Error, code: nix::Error) -> bool {
    error.raw_os_error() == Some(code as i32)
}

fn request(kind: u16, about: GeneralHeader, body: impl FnOnce(&mut Buffer)) -> Buffer {
    let mut request = Buffer::default();
    request.message((kind, REQUEST | DUMP, 0), about, body);
    request
}

/// Reads again until nothing changed in between: the kernel flags a dump during which a transaction
/// was committed, and several dumps are of one state if the generation stayed the same.
fn consistently<T>(socket: &Socket, read: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let deadline = Instant::now() + READ_TIMEOUT;
    loop {
        let before = generation(socket)?;
        let result = read();
        let over = Instant::now() > deadline;
        match result {
            Err(error) if is(&error, nix::Error::EINTR) && !over => {}
            result if generation(socket)? == before => return result,
            _ if over => return Err(nix::Error::EINTR.into()),
            _ => {}
        }
    }
}

fn generation(socket: &Socket) -> io::Result<Option<u32>> {
    let mut request = Buffer::default();
    request.message((GET_GENERATION, REQUEST, 0), about(Family::Inet), |_| {});
    get(socket, &request, objects::generation)
}

fn read_table(socket: &Socket, family: Family, bodies: &Bodies) -> io::Result<Option<Listing>> {
    let mut request = Buffer::default();
    request.message((GET_TABLE, REQUEST, 0), about(family), |body| {
        body.text(OF_TABLE, TABLE);
    });
    let flags = get(socket, &request, |body| Some(objects::table(body)?.1));
    let flags = match flags {
        Err(error) if is(&error, nix::Error::ENOENT) => return Ok(None),
        flags => flags?,
    };
    if flags != Some(0) {
        return Ok(Some(Listing::flagged(family)));
    }
    let mut reading = Reading::new(family, bodies);
    let mut sets = Vec::new();
    ours(socket, family, GET_SET, |body| sets.extend(Set::read(body)))?;
    for set in sets {
        if set.is_anonymous() {
            let mut elements = Vec::new();
            read_elements(socket, family, &set.name, |element| {
                elements.push(element.to_vec());
            })?;
            reading.anonymous(&set, elements);
        } else {
            reading.set(&set);
            if set.is_dynamic() {
                continue;
            }
            read_elements(socket, family, &set.name, |element| {
                reading.element(&set, element);
            })?;
        }
    }
    ours(socket, family, GET_CHAIN, |body| reading.chain(body))?;
    ours(socket, family, GET_RULE, |body| reading.rule(body))?;
    Ok(Some(reading.end()))
}

/// Gives each object of our table; older kernels dump other tables', too.
fn ours(socket: &Socket, family: Family, kind: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let request = request(kind, about(family), |body| body.text(OF_TABLE, TABLE));
    dump(socket, &request, |body| {
        if objects::is_of(body, TABLE) {
            each(body);
        }
    })
}

fn read_elements(
    socket: &Socket,
    family: Family,
    set: &str,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    let request = request(GET_ELEMENTS, about(family), |body| {
        body.text(OF_TABLE, TABLE);
        body.text(NAME, set);
    });
    dump(socket, &request, |body| {
        let list = find(body, LIST_ELEMENTS).unwrap_or_default();
        attributes(list).for_each(|(_, element)| each(element));
    })
}

/// The kernel works while it is sent to (`nfnetlink_rcv`): all that it has to say is there then.
fn exchange(socket: &Socket, batch: &[u8]) -> io::Result<Vec<Refused>> {
    setsockopt(socket, SndBufForce, &(batch.len() + SEND_BUFFER_SLACK))?;
    let sent = socket.send(batch, 0);
    let mut refused = Vec::new();
    let mut lost = None;
    loop {
        match socket.recv_from_full() {
            Ok((bytes, _)) => refused.extend(refusals(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Errors that had no room; those that had are not to be taken for the next batch's.
            Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                lost = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    sent?;
    match lost {
        Some(error) => Err(error),
        None => Ok(refused),
    }
}

fn refusals(bytes: &[u8]) -> impl Iterator<Item = Refused> {
    let errors = messages(bytes).filter(|message| message.kind == ERROR);
    let refused = errors.map(|Message { payload, .. }| {
        let (kind, number) = subject(payload);
        let code = code(payload);
        Refused { kind, number, code }
    });
    refused.filter(|refused| refused.code != 0)
}
