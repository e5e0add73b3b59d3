//! Forwards queries for other names to the host's resolvers, from the host's namespace.
//!
//! Each query ends within [`REPLY_TIMEOUT`]. A resolver that is silent, for the question or for all, is
//! asked last; if all are, they are asked at once, for [`SILENT_REPLY_TIMEOUT`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::ResponseCode;
use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::cache::{Cache, CacheKey};
use super::health::Health;
use super::message::HEADER_BYTES;
use super::pool::{self, OnEvent, Pool};
use super::relay::{self, ForwardedQuery};
use super::resolv_conf::{FileStamp, file_stamp, parse};
use super::shared_questions::{Lead, Leading, SharedQuestions};
use runtime::lock;

/// Limits the wait for any resolver's answer. Clients ask again after 5 s (resolv.conf(5)), Docker
/// after 3 s.
const REPLY_TIMEOUT: Duration = Duration::from_millis(1_800);
/// Limits the same wait if none of the resolvers has answered lately.
const SILENT_REPLY_TIMEOUT: Duration = Duration::from_millis(300);
/// The next resolver, or the only one again, is also asked after this time without a reply.
const NEXT_RESOLVER_DELAY: Duration = pool::LATE_AFTER;
/// Resolvers are asked so many times for one query.
const MAX_ATTEMPTS: usize = 3;
/// resolv.conf(5) is checked for changes no more often than this.
const FILE_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A query can fail for these reasons.
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
    /// Seconds; a negative answer is cached no longer.
    ttl: u32,
    file: Mutex<ResolvConf>,
}

/// The resolvers read last from resolv.conf(5).
#[derive(Debug, Default)]
struct ResolvConf {
    checked_at: Option<Instant>,
    stamp: Option<FileStamp>,
    resolvers: Arc<Resolvers>,
}

/// The resolvers of one version of the file, and a cache of their answers: other resolvers may
/// answer differently.
#[derive(Debug, Default)]
struct Resolvers {
    all: Vec<Arc<Resolver>>,
    cache: Mutex<Cache>,
    questions: Arc<SharedQuestions>,
}

/// A query for the host's resolvers.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    upstream: &'a Upstream,
    query: ForwardedQuery<'a>,
    /// Absent if the answer is neither cached nor shared.
    key: Option<CacheKey>,
    leading: Option<Leading>,
    resolvers: Arc<Resolvers>,
    /// Those that the asker may ask.
    allowed: Vec<Arc<Resolver>>,
}

/// A query that was sent to one resolver.
#[derive(Debug)]
pub(super) struct FirstAttempt {
    resolvers: Arc<Resolvers>,
    allowed: Vec<Arc<Resolver>>,
    leading: Option<Leading>,
    resolver: Arc<Resolver>,
    since: Instant,
}

/// The first attempt's result, unless it was a usable answer.
#[derive(Debug)]
pub(super) enum FirstResult {
    Done(io::Result<Vec<u8>>),
    /// No reply yet; it may still arrive here.
    Pending(oneshot::Receiver<io::Result<Vec<u8>>>),
}

#[derive(Debug)]
struct Resolver {
    address: SocketAddr,
    pool: Pool,
    health: Mutex<Health>,
}

impl Upstream {
    pub(super) fn new(resolv_conf: PathBuf, ttl: u32) -> Self {
        Self {
            resolv_conf,
            ttl,
            file: Mutex::default(),
        }
    }

    pub(super) fn forward<'a>(&'a self, query: ForwardedQuery<'a>) -> Forward<'a> {
        let resolvers = self.resolvers(Instant::now());
        Forward {
            upstream: self,
            query,
            key: CacheKey::of(query),
            leading: None,
            allowed: resolvers.all.clone(),
            resolvers,
        }
    }

    /// Asks further resolvers after a first attempt.
    pub(super) async fn continue_with(
        &self,
        query: ForwardedQuery<'_>,
        first: FirstAttempt,
        result: FirstResult,
    ) -> Result<Vec<u8>, ForwardError> {
        let resolvers = first.resolvers.clone();
        let (leading, allowed) = (first.leading, first.allowed);
        let first = StartedAttempt {
            resolver: first.resolver,
            since: first.since,
            result,
        };
        let reply = race(&allowed, query, Some(first)).await;
        resolvers.finish(leading, query.question, reply, self.ttl)
    }

    /// Caches the answer to a first attempt and notes that its resolver answers.
    pub(super) fn record_reply(&self, first: FirstAttempt, question: &[u8], reply: &mut [u8]) {
        first.resolver.answers(question);
        first
            .resolvers
            .keep(first.leading, question, reply, self.ttl);
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let resolvers = self.resolvers(Instant::now());
        resolvers.all.iter().map(|it| it.address.ip()).collect()
    }

    /// The resolvers in the file now.
    fn resolvers(&self, now: Instant) -> Arc<Resolvers> {
        let mut file = lock(&self.file);
        let is_fresh = |at: Instant| now < at + FILE_CHECK_INTERVAL;
        if file.checked_at.is_some_and(is_fresh) {
            return file.resolvers.clone();
        }
        file.checked_at = Some(now);
        let file_stamp = file_stamp(&self.resolv_conf);
        if file.stamp != file_stamp || file_stamp.is_none() {
            let text = std::fs::read(&self.resolv_conf).unwrap_or_default();
            let addresses = parse(&String::from_utf8_lossy(&text));
            file.resolvers = Arc::new(Resolvers {
                all: addresses.into_iter().map(Resolver::new).collect(),
                cache: Mutex::default(),
                questions: Arc::default(),
            });
            file.stamp = file_stamp;
        }
        file.resolvers.clone()
    }
}

impl<'a> Forward<'a> {
    /// Keeps the resolvers that may be asked. Only askers of all resolvers share and cache answers:
    /// one of another resolver may differ, and would tell the others' questions.
    pub(super) fn retain(&mut self, mut may_ask: impl FnMut(IpAddr) -> bool) {
        self.allowed.retain(|it| may_ask(it.address.ip()));
        if self.allowed.len() < self.resolvers.all.len() {
            self.key = None;
        }
    }

    /// Whether there are resolvers, but none that may be asked.
    pub(super) fn is_denied(&self) -> bool {
        self.allowed.is_empty() && !self.resolvers.all.is_empty()
    }

    /// Asks for all who have this question, unless another query does.
    pub(super) fn lead(mut self) -> Lead<'a> {
        let Some(key) = self.key.clone() else {
            return Lead::Taken(self);
        };
        match self.resolvers.questions.begin((key, self.query.protocol)) {
            Ok(leading) => {
                self.leading = Some(leading);
                Lead::Taken(self)
            }
            Err(followed) => Lead::Others(followed),
        }
    }

    /// The cached reply.
    pub(super) fn recall(&self) -> Option<Vec<u8>> {
        let now = Instant::now().into_std();
        lock(&self.resolvers.cache).get(self.key.as_ref()?, self.query, now)
    }

    /// Forwards the query, unchanged except for its id, and returns the first usable reply, which
    /// has at least a header.
    pub(super) async fn ask(self) -> Result<Vec<u8>, ForwardError> {
        let resolvers = &self.allowed;
        if resolvers.is_empty() {
            let path = self.upstream.resolv_conf.display().to_string();
            return Err(ForwardError::NoResolver(path));
        }
        let reply = race(resolvers, self.query, None).await;
        let (question, ttl) = (self.query.question, self.upstream.ttl);
        self.resolvers.finish(self.leading, question, reply, ttl)
    }

    /// Selects the resolver to ask first; `None` if all are to be asked at once, or there is none.
    pub(super) fn begin(&mut self) -> Option<FirstAttempt> {
        let since = Instant::now();
        let mut all = self.allowed.iter();
        Some(FirstAttempt {
            resolver: all
                .find(|it| !it.is_silent(self.query.question, since))?
                .clone(),
            resolvers: self.resolvers.clone(),
            allowed: self.allowed.clone(),
            leading: self.leading.take(),
            since,
        })
    }
}

impl Resolvers {
    /// Keeps a reply; without one those who wait for it get none.
    fn finish(
        &self,
        leading: Option<Leading>,
        question: &[u8],
        reply: Result<Vec<u8>, ForwardError>,
        ttl: u32,
    ) -> Result<Vec<u8>, ForwardError> {
        match reply {
            Ok(mut reply) => {
                self.keep(leading, question, &mut reply, ttl);
                Ok(reply)
            }
            Err(error) => {
                if let Some(leading) = leading {
                    leading.answer(None);
                }
                Err(error)
            }
        }
    }

    /// Limits a reply's negative TTL to `ttl`, caches the reply if it is cacheable, and gives it to
    /// those who wait for it.
    fn keep(&self, leading: Option<Leading>, question: &[u8], reply: &mut [u8], ttl: u32) {
        // A reply that can't be parsed is passed on to the client as it is.
        let records = relay::records(reply).ok().map(|mut records| {
            relay::cap_negative(reply, &mut records, ttl);
            records
        });
        let Some(leading) = leading else { return };
        if let Some(records) = records {
            let (key, now) = (leading.key().clone(), Instant::now().into_std());
            lock(&self.cache).put(key, question, (reply, &records), now);
        }
        leading.answer(Some(reply));
    }
}

impl FirstAttempt {
    /// Sends the query by UDP; the callback that `callback` makes is called once.
    pub(super) fn launch(self, query: ForwardedQuery<'_>, callback: impl FnOnce(Self) -> OnEvent) {
        let (resolver, since) = (self.resolver.clone(), self.since);
        resolver.pool.launch(query, since, callback(self));
    }
}

/// The first attempt of a race, started before it.
struct StartedAttempt {
    resolver: Arc<Resolver>,
    since: Instant,
    result: FirstResult,
}

/// Asks one resolver after another and still accepts replies of those asked before.
async fn race(
    resolvers: &[Arc<Resolver>],
    query: ForwardedQuery<'_>,
    mut first: Option<StartedAttempt>,
) -> Result<Vec<u8>, ForwardError> {
    let begin = first.as_ref().map_or_else(Instant::now, |it| it.since);
    let was_asked = |it: &Resolver| {
        let asked = first.as_ref().map(|first| &*first.resolver);
        asked.is_some_and(|asked| std::ptr::eq(asked, it))
    };
    let mut order: Vec<&Resolver> = resolvers.iter().map(|it| &**it).collect();
    let is_silent = |it: &Resolver| it.is_silent(query.question, begin);
    order.sort_by_key(|resolver| (!was_asked(resolver), is_silent(resolver)));
    let all_silent = first.is_none() && order.iter().all(|it| is_silent(it));
    let (timeout, pause) = match all_silent {
        true => (SILENT_REPLY_TIMEOUT, Duration::ZERO),
        false => (REPLY_TIMEOUT, NEXT_RESOLVER_DELAY),
    };
    let deadline = begin + timeout;
    let attempts = if all_silent {
        order.len()
    } else {
        MAX_ATTEMPTS.max(order.len())
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
            Ok(Some(Ok(reply))) if is_helpful(&reply) => return Ok(reply),
            Ok(Some(Ok(reply))) => unhelpful = Some(reply),
            Ok(Some(Err(error))) => worst = ForwardError::Failed(error),
            Ok(None) | Err(_) => {}
        }
    }
    unhelpful.ok_or(worst)
}

/// Whether a reply is an answer. After a failure or a refusal another resolver is asked.
pub(super) fn is_helpful(reply: &[u8]) -> bool {
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

    fn is_silent(&self, question: &[u8], now: Instant) -> bool {
        self.health().is_silent(question, now)
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        lock(&self.health)
    }

    fn answers(&self, question: &[u8]) {
        self.health().answer(question, Instant::now());
    }

    async fn ask(
        &self,
        query: ForwardedQuery<'_>,
        first: Option<StartedAttempt>,
    ) -> io::Result<Vec<u8>> {
        // If the query is given up before a reply, the resolver counts as silent.
        let since = first.as_ref().map_or_else(Instant::now, |it| it.since);
        let mut asked = Unanswered {
            resolver: self,
            question: query.question,
            since: Some(since),
        };
        let reply = match (first.map(|it| it.result), query.protocol) {
            (Some(FirstResult::Done(reply)), _) => reply,
            (Some(FirstResult::Pending(reply_rx)), _) => pool::await_reply(reply_rx).await,
            (None, Protocol::Udp) => self.pool.ask(query).await,
            (None, _) => by_tcp(self.address, query).await,
        };
        // "Connection refused" also arrives at once and delays nobody: it isn't silence.
        asked.since = None;
        if reply.is_ok() {
            self.answers(query.question);
        }
        reply
    }
}

/// Notes that a resolver didn't answer when its query is given up.
struct Unanswered<'a> {
    resolver: &'a Resolver,
    question: &'a [u8],
    since: Option<Instant>,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let (now, Some(since)) = (Instant::now(), self.since) else {
            return;
        };
        if now >= since + SILENT_REPLY_TIMEOUT {
            self.resolver.health().miss(self.question, since, now);
        }
    }
}

async fn by_tcp(resolver: SocketAddr, query: ForwardedQuery<'_>) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.bytes.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(resolver).await?;
    let mut message = length.to_be_bytes().to_vec();
    message.extend_from_slice(query.bytes);
    stream.write_all(&message).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    let same_id = reply.get(..2) == query.bytes.get(..2);
    if reply.len() >= HEADER_BYTES && same_id && relay::is_reply_to(&reply, query.question) {
        Ok(reply)
    } else {
        Err(io::Error::other("the reply is to another question"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_resolv_conf_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let upstream = Upstream::new(path.clone(), 5);
        let begin = Instant::now();
        let resolvers = |checks: u32| upstream.resolvers(begin + FILE_CHECK_INTERVAL * checks);
        assert!(resolvers(0).all.is_empty());
        std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(resolvers(1).all.len(), 1);
        let other = dir.path().join("other");
        std::fs::write(&other, "nameserver 10.0.0.2\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(resolvers(2).all[0].address.ip().to_string(), "10.0.0.2");
    }
}
