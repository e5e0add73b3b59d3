//! UDP sockets to one resolver of the host, each for many queries at once.
//!
//! A socket for each query would cost more than the query. Ports and ids stay hard to guess: there
//! are [`POOL_SOCKETS`] with random ports, each is replaced after [`SOCKET_LIFETIME`], and an id is
//! random among the free ones. A reply is accepted only if it repeats the question sent with its id.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::datagrams::{Inbox, Outbox};
use super::relay::{self, ForwardedQuery};
use runtime::lock;

const POOL_SOCKETS: usize = 16;
const SOCKET_LIFETIME: Duration = Duration::from_secs(5);
/// A query without a reply becomes [`QueryEvent::Late`] after this time, or up to
/// [`LATE_CHECK_INTERVAL`] later.
pub(super) const LATE_AFTER: Duration = Duration::from_millis(500);
/// Time between two checks for late queries.
const LATE_CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// Limits the search for a free id; with a quarter of them taken, sixteen attempts fail once in
/// four billion searches.
const MAX_ID_ATTEMPTS: usize = 16;

#[derive(Debug)]
pub(super) struct Pool {
    resolver: SocketAddr,
    sockets: Mutex<Vec<Option<Arc<PoolSocket>>>>,
}

/// One socket. Its reading task ends with the last handle.
#[derive(Debug)]
struct PoolSocket {
    udp: UdpSocket,
    opened_at: Instant,
    pending: Mutex<BTreeMap<u16, PendingQuery>>,
    /// Notified when a query is added to an empty `pending`.
    query_added: Notify,
}

struct PendingQuery {
    question: Vec<u8>,
    waiter: Waiter,
}

/// The receiver of a reply.
enum Waiter {
    /// A task, which waits for as long as it likes.
    Task(oneshot::Sender<io::Result<Vec<u8>>>),
    /// A callback for the first event of a query sent at this time.
    Callback(Instant, OnEvent),
}

/// Called with a query's first event. Returns an outbox with datagrams to send.
pub(super) type OnEvent = Box<dyn FnOnce(QueryEvent<'_>) -> Option<Arc<Outbox>> + Send>;

/// The first event of a query.
#[derive(Debug)]
pub(super) enum QueryEvent<'a> {
    Reply(&'a mut [u8]),
    Failed(io::Error),
    /// No reply within [`LATE_AFTER`]; it may still arrive here.
    Late(oneshot::Receiver<io::Result<Vec<u8>>>),
}

impl std::fmt::Debug for PendingQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingQuery").finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(resolver: SocketAddr) -> Self {
        Self {
            resolver,
            sockets: Mutex::new((0..POOL_SOCKETS).map(|_| None).collect()),
        }
    }

    /// Sends a query once and waits for as long as the caller does.
    pub(super) async fn ask(&self, query: ForwardedQuery<'_>) -> io::Result<Vec<u8>> {
        let socket = self.socket()?;
        let (reply, reply_rx) = oneshot::channel();
        let (id, query) = socket
            .register(query, Waiter::Task(reply))
            .map_err(|it| it.1)?;
        // Removes the query, however this ends.
        let _guard = PendingGuard {
            socket: &socket,
            id,
        };
        socket.udp.send(&query).await?;
        await_reply(reply_rx).await
    }

    /// Sends a query once; no task waits for it, `on_event` is called once.
    pub(super) fn launch(&self, query: ForwardedQuery<'_>, now: Instant, on_event: OnEvent) {
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(error) => return fail(on_event, error),
        };
        let (id, query) = match socket.register(query, Waiter::Callback(now, on_event)) {
            Ok(registered) => registered,
            Err((waiter, error)) => return waiter.fail(error),
        };
        // Not by tokio, which doesn't yet take a new socket for writable.
        if let Err(error) = send(socket.udp.as_raw_fd(), &query, MsgFlags::MSG_DONTWAIT)
            && let Some(pending) = lock(&socket.pending).remove(&id)
        {
            pending.waiter.fail(error.into());
        }
    }

    fn socket(&self) -> io::Result<Arc<PoolSocket>> {
        let place = rand::random_range(..POOL_SOCKETS);
        let young = |socket: &Arc<PoolSocket>| socket.opened_at.elapsed() < SOCKET_LIFETIME;
        let known = lock(&self.sockets)[place].clone().filter(young);
        if let Some(socket) = known {
            return Ok(socket);
        }
        let any: IpAddr = match self.resolver {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let udp = std::net::UdpSocket::bind((any, 0))?;
        udp.connect(self.resolver)?;
        udp.set_nonblocking(true)?;
        let socket = Arc::new(PoolSocket {
            udp: UdpSocket::from_std(udp)?,
            opened_at: Instant::now(),
            pending: Mutex::default(),
            query_added: Notify::new(),
        });
        tokio::spawn(read(socket.clone()));
        lock(&self.sockets)[place] = Some(socket.clone());
        Ok(socket)
    }
}

/// Waits for the reply to a registered query.
pub(super) async fn await_reply(
    reply_rx: oneshot::Receiver<io::Result<Vec<u8>>>,
) -> io::Result<Vec<u8>> {
    let gone = |_| io::Error::other("its socket was closed");
    reply_rx.await.map_err(gone)?
}

impl Waiter {
    fn fail(self, error: io::Error) {
        match self {
            // The task may have another resolver's answer and be gone.
            Self::Task(task) => drop(task.send(Err(error))),
            Self::Callback(_, on_event) => fail(on_event, error),
        }
    }
}

fn fail(on_event: OnEvent, error: io::Error) {
    if let Some(outbox) = on_event(QueryEvent::Failed(error)) {
        outbox.send();
    }
}

impl PoolSocket {
    /// Gives the query a free id, notes its waiter, and returns the id and the bytes to send.
    fn register(
        &self,
        query: ForwardedQuery<'_>,
        waiter: Waiter,
    ) -> Result<(u16, Vec<u8>), (Waiter, io::Error)> {
        let mut bytes = query.bytes.to_vec();
        let mut pending = lock(&self.pending);
        // From a cryptographic generator (ChaCha, seeded by the system's): former ids don't help
        // to predict it.
        let id = (0..MAX_ID_ATTEMPTS).map(|_| rand::random());
        let Some(id) = id.into_iter().find(|id| !pending.contains_key(id)) else {
            return Err((waiter, io::Error::other("no id is free")));
        };
        if let Some(place) = bytes.get_mut(..2) {
            place.copy_from_slice(&id.to_be_bytes());
        }
        if pending.is_empty() {
            self.query_added.notify_one();
        }
        let entry = PendingQuery {
            question: query.question.to_vec(),
            waiter,
        };
        pending.insert(id, entry);
        Ok((id, bytes))
    }

    fn take(&self, reply: &[u8]) -> Option<Waiter> {
        let id = u16::from_be_bytes(*reply.first_chunk()?);
        let mut pending = lock(&self.pending);
        let asked = pending.get(&id)?;
        if !relay::is_reply_to(reply, &asked.question) {
            return None;
        }
        Some(pending.remove(&id)?.waiter)
    }

    /// Hands a reply to its waiter.
    fn deliver(&self, reply: &mut [u8]) -> Option<Arc<Outbox>> {
        match self.take(reply)? {
            Waiter::Task(task) => {
                // The task may have another resolver's answer and be gone.
                let _ = task.send(Ok(reply.to_vec()));
                None
            }
            Waiter::Callback(_, on_event) => on_event(QueryEvent::Reply(reply)),
        }
    }

    /// Fails all pending queries: the kernel reports that nobody listens at the resolver, and not
    /// for which query.
    fn fail(&self, error: &io::Error) {
        for pending in std::mem::take(&mut *lock(&self.pending)).into_values() {
            pending.waiter.fail(io::Error::from(error.kind()));
        }
    }

    /// Reports late queries to their callbacks and drops queries whose task is gone.
    fn report_late(&self, now: Instant) {
        let mut late = Vec::new();
        lock(&self.pending).retain(|_, pending| match &pending.waiter {
            Waiter::Task(task) => !task.is_closed(),
            Waiter::Callback(since, _) => {
                if now >= *since + LATE_AFTER {
                    let (reply, reply_rx) = oneshot::channel();
                    let waiter = std::mem::replace(&mut pending.waiter, Waiter::Task(reply));
                    late.push((waiter, reply_rx));
                }
                true
            }
        });
        for (waiter, reply_rx) in late {
            if let Waiter::Callback(_, on_event) = waiter {
                on_event(QueryEvent::Late(reply_rx));
            }
        }
    }
}

/// Removes a query when dropped.
struct PendingGuard<'a> {
    socket: &'a PoolSocket,
    id: u16,
}

impl Drop for PendingGuard<'_> {
    fn drop(&mut self) {
        lock(&self.socket.pending).remove(&self.id);
    }
}

/// Reads replies until the socket is old, no query is pending and nobody can add one.
async fn read(socket: Arc<PoolSocket>) {
    let (mut inbox, mut checked) = (Inbox::default(), Instant::now());
    loop {
        let pause = match lock(&socket.pending).is_empty() {
            true => SOCKET_LIFETIME,
            false => LATE_CHECK_INTERVAL,
        };
        tokio::select! {
            biased;
            received = timeout(pause, inbox.receive(&socket.udp)) => match received {
                Ok(Ok(())) => {
                    let to: Vec<_> = inbox.burst().filter_map(|it| socket.deliver(it.0)).collect();
                    to.iter().for_each(|outbox| outbox.send());
                }
                Ok(Err(error)) => socket.fail(&error),
                Err(_) => {}
            },
            () = socket.query_added.notified() => {}
        }
        let now = Instant::now();
        if now >= checked + LATE_CHECK_INTERVAL {
            socket.report_late(now);
            checked = now;
        }
        let old = socket.opened_at + SOCKET_LIFETIME <= now;
        // The pool may hold one of the handles: a third handle belongs to a caller who took it from
        // there and may add a query.
        if old && lock(&socket.pending).is_empty() && Arc::strong_count(&socket) <= 2 {
            return;
        }
    }
}
