//! The host's resolvers: everything that isn't ours is asked there, from the host's namespace.
//!
//! Whoever asks hears within [`PATIENCE`], whatever the resolvers do. A resolver that was silent is
//! asked last for a while; when all of them were, they are asked at once and waited for briefly.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::cache::{Cache, Key};
use super::message::HEADER;
use super::pool::{self, Pool, Then};
use super::relay::{self, Passed};
use node_core::resource::DNS_ADDRESS;
use runtime::lock;

/// For an answer of any resolver. Clients ask again after 5 s (resolv.conf(5)), Docker after 3 s.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// The same, when all of them have just been silent.
const BRIEF: Duration = Duration::from_millis(300);
/// After this silence the next resolver is asked too, or the only one again.
const NEXT: Duration = pool::LATE;
/// How long a resolver's silence is remembered.
const SILENCE: Duration = Duration::from_secs(10);
/// Resolvers that are asked; more are ignored, as resolv.conf(5) has it.
const RESOLVERS: usize = 3;
/// Times that resolvers are asked about one query.
const ATTEMPTS: usize = 3;
/// Between two looks at resolv.conf(5).
const LOOK: Duration = Duration::from_millis(50);
const PORT: u16 = 53;

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
    /// Seconds that a denial may be remembered.
    ttl: u32,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    named: Arc<Named>,
}

/// The resolvers that the file names, and what they said. Others may say otherwise.
#[derive(Debug, Default)]
struct Named {
    resolvers: Vec<Arc<Resolver>>,
    cache: Mutex<Cache>,
}

/// A query for the host's resolvers.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    upstream: &'a Upstream,
    query: Passed<'a>,
    key: Option<Key>,
    named: Arc<Named>,
}

/// A query of which one resolver was asked.
#[derive(Debug)]
pub(super) struct Begun {
    named: Arc<Named>,
    key: Option<Key>,
    resolver: Arc<Resolver>,
    since: Instant,
}

/// What came of it first, unless that was an answer.
#[derive(Debug)]
pub(super) enum Heard {
    Word(io::Result<Vec<u8>>),
    /// Nothing so far; it may still come.
    Nothing(oneshot::Receiver<io::Result<Vec<u8>>>),
}

#[derive(Debug)]
struct Resolver {
    address: SocketAddr,
    pool: Pool,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    answered: Option<Instant>,
    silent_until: Option<Instant>,
}

/// Tells a file from a changed one; who writes it may replace it within one tick of its clock.
type Stamp = (SystemTime, u64, u64);

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf, ttl: u32) -> Self {
        Self {
            resolv_conf,
            ttl,
            known: Mutex::default(),
        }
    }

    pub(super) fn forward<'a>(&'a self, query: Passed<'a>) -> Forward<'a> {
        Forward {
            upstream: self,
            query,
            key: Key::of(query),
            named: self.named(Instant::now()),
        }
    }

    /// Goes on with what was begun.
    pub(super) async fn go_on(
        &self,
        query: Passed<'_>,
        begun: Begun,
        heard: Heard,
    ) -> Result<Vec<u8>, ForwardError> {
        let named = begun.named.clone();
        let first = First {
            resolver: begun.resolver,
            since: begun.since,
            heard,
        };
        let mut reply = race(&named.resolvers, query, Some(first)).await?;
        named.keep(begun.key, query.question, &mut reply, self.ttl);
        Ok(reply)
    }

    /// A reply came to what was begun, and it is an answer.
    pub(super) fn note(&self, begun: Begun, question: &[u8], reply: &mut [u8]) {
        begun.resolver.answers();
        begun.named.keep(begun.key, question, reply, self.ttl);
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let named = self.named(Instant::now());
        named.resolvers.iter().map(|it| it.address.ip()).collect()
    }

    /// The resolvers as the file names them now.
    fn named(&self, now: Instant) -> Arc<Named> {
        let mut known = lock(&self.known);
        if known.looked.is_some_and(|looked| now < looked + LOOK) {
            return known.named.clone();
        }
        known.looked = Some(now);
        let stamp = stamp(&self.resolv_conf);
        if known.stamp != stamp || stamp.is_none() {
            let text = std::fs::read(&self.resolv_conf).unwrap_or_default();
            let addresses = parse(&String::from_utf8_lossy(&text));
            known.named = Arc::new(Named {
                resolvers: addresses.into_iter().map(Resolver::new).collect(),
                cache: Mutex::default(),
            });
            known.stamp = stamp;
        }
        known.named.clone()
    }
}

impl Forward<'_> {
    /// What they said before, if it still holds.
    pub(super) fn recall(&self) -> Option<Vec<u8>> {
        let now = Instant::now().into_std();
        lock(&self.named.cache).get(self.key.as_ref()?, self.query, now)
    }

    /// Forwards it, byte for byte but for its id; the reply, of at least a header, is the first
    /// good one.
    pub(super) async fn ask(self) -> Result<Vec<u8>, ForwardError> {
        let resolvers = &self.named.resolvers;
        if resolvers.is_empty() {
            let path = self.upstream.resolv_conf.display().to_string();
            return Err(ForwardError::NoResolver(path));
        }
        let mut reply = race(resolvers, self.query, None).await?;
        let (question, ttl) = (self.query.question, self.upstream.ttl);
        self.named.keep(self.key, question, &mut reply, ttl);
        Ok(reply)
    }

    /// The resolver that is to be asked before the others; `None`: all of them at once, or none.
    pub(super) fn begin(&mut self) -> Option<Begun> {
        let since = Instant::now();
        let mut all = self.named.resolvers.iter();
        Some(Begun {
            resolver: all.find(|it| !it.is_silent(since))?.clone(),
            named: self.named.clone(),
            key: self.key.take(),
            since,
        })
    }
}

impl Named {
    /// Remembers a reply, if it may be. What it denies is made to hold no longer than `ttl`.
    fn keep(&self, key: Option<Key>, question: &[u8], reply: &mut [u8], ttl: u32) {
        // Who asked sees for itself that a reply can't be read.
        let Ok(mut records) = relay::records(reply) else {
            return;
        };
        relay::cap_negative(reply, &mut records, ttl);
        if let Some(key) = key {
            let now = Instant::now().into_std();
            let said = (&*reply, &records[..]);
            lock(&self.cache).put(key, question, said, now);
        }
    }
}

impl Begun {
    /// Asks by UDP, and calls `then` of it once.
    pub(super) fn launch(self, query: Passed<'_>, then: impl FnOnce(Self) -> Then) {
        let (resolver, since) = (self.resolver.clone(), self.since);
        resolver.pool.launch(query, since, then(self));
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

/// The first attempt of a race, made before it.
struct First {
    resolver: Arc<Resolver>,
    since: Instant,
    heard: Heard,
}

/// Asks one resolver after another, without giving up on those asked before.
async fn race(
    resolvers: &[Arc<Resolver>],
    query: Passed<'_>,
    mut first: Option<First>,
) -> Result<Vec<u8>, ForwardError> {
    let begin = first.as_ref().map_or_else(Instant::now, |it| it.since);
    let was_asked = |it: &Resolver| {
        let asked = first.as_ref().map(|first| &*first.resolver);
        asked.is_some_and(|asked| std::ptr::eq(asked, it))
    };
    let mut order: Vec<&Resolver> = resolvers.iter().map(|it| &**it).collect();
    order.sort_by_key(|resolver| (!was_asked(resolver), resolver.is_silent(begin)));
    let hopeless = first.is_none() && order.iter().all(|resolver| resolver.is_silent(begin));
    let (patience, pause) = match hopeless {
        true => (BRIEF, Duration::ZERO),
        false => (PATIENCE, NEXT),
    };
    let deadline = begin + patience;
    let attempts = if hopeless {
        order.len()
    } else {
        ATTEMPTS.max(order.len())
    };
    let mut next = order.iter().cycle().take(attempts).peekable();
    let mut asked = FuturesUnordered::new();
    let mut worst = ForwardError::Silent;
    let mut unhelpful = None;
    while Instant::now() < deadline {
        let since = first.as_ref().map_or_else(Instant::now, |it| it.since);
        match next.next() {
            Some(resolver) => asked.push(resolver.ask(query, first.take())),
            None if asked.is_empty() => break,
            None => {}
        }
        let until = match next.peek() {
            None => deadline,
            Some(_) => deadline.min(since + pause),
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
pub(super) fn helpful(reply: &[u8]) -> bool {
    use ResponseCode::{NotImp, Refused, ServFail};
    !matches!(relay::code_of(reply), ServFail | Refused | NotImp)
}

impl Resolver {
    fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            pool: Pool::new(address),
            health: Mutex::default(),
        })
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.health().silent_until.is_some_and(|until| now < until)
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        lock(&self.health)
    }

    fn answers(&self) {
        *self.health() = Health {
            answered: Some(Instant::now()),
            silent_until: None,
        };
    }

    async fn ask(&self, query: Passed<'_>, begun: Option<First>) -> io::Result<Vec<u8>> {
        // Until it answers it counts as silent, from the moment when the next one is asked.
        let since = begun.as_ref().map_or_else(Instant::now, |it| it.since);
        let mut asked = Unanswered {
            resolver: self,
            since: Some(since),
        };
        let reply = match (begun.map(|it| it.heard), query.by) {
            (Some(Heard::Word(word)), _) => word,
            (Some(Heard::Nothing(replied)), _) => pool::hear(replied).await,
            (None, Protocol::Udp) => self.pool.ask(query).await,
            (None, _) => by_tcp(self.address, query).await,
        };
        // Also a word that nobody listens there comes at once, and costs nobody time.
        asked.since = None;
        if reply.is_ok() {
            self.answers();
        }
        reply
    }
}

/// Notes a resolver's silence when its query is given up.
struct Unanswered<'a> {
    resolver: &'a Resolver,
    since: Option<Instant>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let (now, Some(since)) = (Instant::now(), self.since) else {
            return;
        };
        let mut health = self.resolver.health();
        if now >= since + BRIEF && health.answered.is_none_or(|answered| answered < since) {
            health.silent_until = Some(now + SILENCE);
        }
    }
}

async fn by_tcp(resolver: SocketAddr, query: Passed<'_>) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.bytes.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(query.bytes);
    stream.write_all(&message).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    let same_id = reply.get(..2) == query.bytes.get(..2);
    if reply.len() >= HEADER && same_id && relay::is_reply_to(&reply, query.question) {
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
        let upstream = Upstream::new(path.clone(), 5);
        let begin = Instant::now();
        let named = |looks: u32| upstream.named(begin + LOOK * looks);
        assert!(named(0).resolvers.is_empty());
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(named(1).resolvers.len(), 1);
        let other = dir.path().join("other");
        std::fs::write(&other, "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(named(2).resolvers[0].address.ip().to_string(), "10.0.0.2");
    }
}
