//! The host's resolvers: everything that isn't ours is asked there, from the host's namespace.
//!
//! Each query has a socket of its own, connected, so that only the asked resolver's reply to this
//! id and this question counts. Whoever asks hears within [`PATIENCE`], whatever the resolvers do.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};

use crate::resource::DNS_ADDRESS;

/// For an answer of any resolver. Clients ask again after 5 s (resolv.conf(5)), Docker after 3 s.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// After this silence the next resolver is asked too, or the only one again.
const NEXT: Duration = Duration::from_millis(500);
/// Resolvers that are asked; more are ignored, as resolv.conf(5) has it.
const RESOLVERS: usize = 3;
/// Times that resolvers are asked about one query.
const ATTEMPTS: usize = 3;
const PORT: u16 = 53;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Why a query has no reply.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("{0} names no resolver")]
    NoResolver(String),
    #[error("no resolver of the host answered in time")]
    Silent,
    #[error("no resolver of the host could be asked: {0}")]
    Failed(io::Error),
}

#[derive(Debug)]
pub(super) struct Upstream {
    resolv_conf: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    resolvers: Arc<[SocketAddr]>,
}

/// Tells a file from a changed one; who writes it may replace it within one tick of its clock.
type Stamp = (SystemTime, u64, u64);

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf) -> Self {
        Self {
            resolv_conf,
            known: Mutex::default(),
        }
    }

    /// Forwards a query, byte for byte but for its id; the reply is the first good one.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        transport: Transport,
    ) -> Result<Message, ForwardError> {
        let resolvers = self.resolvers();
        if resolvers.is_empty() {
            let path = self.resolv_conf.display().to_string();
            return Err(ForwardError::NoResolver(path));
        }
        race(&resolvers, query, transport).await
    }

    /// The resolvers as the file names them now.
    fn resolvers(&self) -> Arc<[SocketAddr]> {
        let stamp = stamp(&self.resolv_conf);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.stamp != stamp || stamp.is_none() {
            let text = std::fs::read(&self.resolv_conf).unwrap_or_default();
            known.resolvers = parse(&String::from_utf8_lossy(&text)).into();
            known.stamp = stamp;
        }
        known.resolvers.clone()
    }
}

fn stamp(path: &std::path::Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// The resolvers of a resolv.conf(5). Our own address is left out: it would ask itself.
fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(words.next()?)
        })
        .filter_map(address)
        .filter(|resolver| resolver.ip() != IpAddr::V4(DNS_ADDRESS))
        .take(RESOLVERS)
        .collect()
}

/// `10.0.0.1`, `fd00::1` or `fe80::1%eth0`.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = match zone.parse() {
        Ok(index) => index,
        Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
    };
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

/// Asks one resolver after another, without giving up on those asked before.
async fn race(
    resolvers: &[SocketAddr],
    query: &[u8],
    transport: Transport,
) -> Result<Message, ForwardError> {
    let deadline = Instant::now() + PATIENCE;
    let attempts = ATTEMPTS.max(resolvers.len());
    let mut next = resolvers.iter().cycle().take(attempts).peekable();
    let mut asked = FuturesUnordered::new();
    let mut worst = ForwardError::Silent;
    let mut unhelpful = None;
    while Instant::now() < deadline {
        match next.next() {
            Some(resolver) => asked.push(one(*resolver, query, transport)),
            None if asked.is_empty() => break,
            None => {}
        }
        let until = match next.peek() {
            None => deadline,
            Some(_) => deadline.min(Instant::now() + NEXT),
        };
        match timeout_at(until, asked.next()).await {
            Ok(Some(Ok(reply))) if helpful(&reply) => return Ok(reply),
            Ok(Some(Ok(reply))) => unhelpful = Some(reply),
            Ok(Some(Err(error))) => worst = ForwardError::Failed(error),
            Ok(None) | Err(_) => {}
        }
    }
    unhelpful.ok_or(worst)
}

/// Another resolver may know better than one that fails or refuses.
fn helpful(reply: &Message) -> bool {
    !matches!(
        reply.metadata.response_code,
        ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp
    )
}

async fn one(resolver: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Message> {
    let mut query = query.to_vec();
    let asked = Message::from_vec(&query).map_err(io::Error::other)?;
    // Unguessable, as the port is, so that nobody off the path can answer.
    let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
    let id = u16::from_be_bytes([a, b]);
    if let Some(place) = query.get_mut(..2) {
        place.copy_from_slice(&[a, b]);
    }
    let answers = |reply: &Message| {
        reply.metadata.id == id
            && reply.metadata.message_type == MessageType::Response
            && reply.queries == asked.queries
    };
    match transport {
        Transport::Udp => by_udp(resolver, &query, answers).await,
        Transport::Tcp => by_tcp(resolver, &query, answers).await,
    }
}

async fn by_udp(
    resolver: SocketAddr,
    query: &[u8],
    answers: impl Fn(&Message) -> bool,
) -> io::Result<Message> {
    let any: IpAddr = match resolver {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let reply = Message::from_vec(&buffer[..length]);
        if let Ok(reply) = reply
            && answers(&reply)
        {
            return Ok(reply);
        }
    }
}

async fn by_tcp(
    resolver: SocketAddr,
    query: &[u8],
    answers: impl Fn(&Message) -> bool,
) -> io::Result<Message> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(query);
    stream.write_all(&message).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    let reply = Message::from_vec(&reply).map_err(io::Error::other)?;
    if answers(&reply) {
        Ok(reply)
    } else {
        Err(io::Error::other("the reply is to another question"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 127.0.0.53\n\
                    nameserver\t10.0.0.2 # two\nnameserver nonsense\nnameserver 169.254.53.53\n\
                    nameserver fd00::1\nnameserver 10.0.0.4\noptions edns0\n";
        let shown: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.53:53", "10.0.0.2:53", "[fd00::1]:53"]);
        assert_eq!(parse("nameserver fe80::1%7\n").len(), 1);
        assert!(parse("\u{0}\u{1}nameserver").is_empty());
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let upstream = Upstream::new(path.clone());
        assert!(upstream.resolvers().is_empty());
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(upstream.resolvers().len(), 1);
        let other = dir.path().join("other");
        std::fs::write(&other, "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(upstream.resolvers()[0].ip().to_string(), "10.0.0.2");
    }
}
