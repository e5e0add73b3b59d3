//! One socket to nftables in one namespace: batches in, and what the kernel refuses of them; named
//! counters out.
//!
//! Numbers are those of `linux/netfilter/nf_tables.h`.

use std::collections::BTreeMap;
use std::io;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use rtnetlink::sys::Socket;

use super::netfilter::Netfilter;
use super::netns::Namespace;
use super::wire::{
    About, Buffer, DONE, DUMP, ERROR, Message, REQUEST, attributes, code, messages, subject,
};
use node_core::resource::TABLE;

/// `NFT_MSG_GETOBJ` of `NFNL_SUBSYS_NFTABLES`.
const GET_OBJECT: u16 = 10 << 8 | 19;
const OBJECT_TABLE: u16 = 1;
const OBJECT_NAME: u16 = 2;
const OBJECT_TYPE: u16 = 3;
const OBJECT_DATA: u16 = 4;
/// `NFT_OBJECT_COUNTER`
const COUNTER: u32 = 1;
const COUNTER_PACKETS: u16 = 2;
/// `NFPROTO_INET`
const ABOUT: About = About {
    family: 1,
    resource: 0,
};

/// Bytes for the kernel's errors, one for each message that it refuses.
const ERRORS: usize = 8 << 20;
/// The kernel takes a batch that is smaller than the buffer by so much, and so do we.
const SLACK: usize = 4_096;

/// Cheap to clone; a clone is the same socket.
#[derive(Debug, Clone)]
pub(crate) struct Nftables {
    netfilter: Netfilter,
}

/// What the kernel refuses in a batch.
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
            Ok(setsockopt(socket, RcvBufForce, &ERRORS)?)
        };
        let netfilter = Netfilter::open(namespace, set).await?;
        Ok(Self { netfilter })
    }

    /// By which the kernel names the author of a change.
    pub(crate) fn port(&self) -> u32 {
        self.netfilter.port()
    }

    /// Has a batch done whole, or refused whole: then what is wrong with it.
    pub(super) async fn commit(&self, batch: Buffer) -> io::Result<Vec<Refused>> {
        let work = move |socket: &Socket| exchange(socket, batch.bytes());
        self.netfilter.run(work).await
    }

    /// The packets that each named counter of our table has seen; none where there is no table.
    pub(super) async fn counters(&self) -> io::Result<BTreeMap<String, u64>> {
        self.netfilter.run(dump_counters).await
    }
}

fn dump_counters(socket: &Socket) -> io::Result<BTreeMap<String, u64>> {
    let mut request = Buffer::default();
    request.message((GET_OBJECT, REQUEST | DUMP, 0), ABOUT, |body| {
        body.text(OBJECT_TABLE, TABLE);
        body.number(OBJECT_TYPE, COUNTER);
    });
    socket.send(request.bytes(), 0)?;
    let mut counters = BTreeMap::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for Message { kind, payload, .. } in messages(&bytes) {
            match kind {
                DONE => return Ok(counters),
                ERROR => return Err(io::Error::from_raw_os_error(code(payload))),
                _ => counters.extend(counter(payload.get(4..).unwrap_or_default())),
            }
        }
    }
}

/// Name and packets.
fn counter(object: &[u8]) -> Option<(String, u64)> {
    let value = |of, kind| attributes(of).find_map(|(it, value)| (it == kind).then_some(value));
    let name = value(object, OBJECT_NAME)?.strip_suffix(&[0])?;
    let packets = value(value(object, OBJECT_DATA)?, COUNTER_PACKETS)?;
    let name = String::from_utf8(name.to_vec()).ok()?;
    Some((name, u64::from_be_bytes(packets.try_into().ok()?)))
}

/// The kernel works while it is sent to (`nfnetlink_rcv`): all that it has to say is there then.
fn exchange(socket: &Socket, batch: &[u8]) -> io::Result<Vec<Refused>> {
    setsockopt(socket, SndBufForce, &(batch.len() + SLACK))?;
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
