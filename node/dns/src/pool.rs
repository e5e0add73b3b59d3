//! Sockets to one resolver of the host, each for many queries at once.
//!
//! A socket for each query would cost more than the query. Ports and ids stay hard to guess: there
//! are [`SOCKETS`] of random ports, each is given up after [`LIFE`], and an id is random among those
//! free. A reply counts when its question is the one that was asked under its id.

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

use super::datagrams::{Inbox, Postbox};
use super::relay::{self, Passed};
use runtime::lock;

const SOCKETS: usize = 16;
const LIFE: Duration = Duration::from_secs(5);
/// After this silence a query is [`Word::Late`], or up to [`LOOK`] later.
pub(super) const LATE: Duration = Duration::from_millis(500);
/// Between two looks for what is late.
const LOOK: Duration = Duration::from_millis(50);
/// Tries to find a free id; with a quarter of them taken, one of sixteen fails once in billions.
const TRIES: usize = 16;

#[derive(Debug)]
pub(super) struct Pool {
    resolver: SocketAddr,
    lines: Mutex<Vec<Option<Arc<Line>>>>,
}

/// One socket. Its reader ends with the last handle.
#[derive(Debug)]
struct Line {
    socket: UdpSocket,
    born: Instant,
    waiting: Mutex<BTreeMap<u16, Waiting>>,
    /// Somebody waits where nobody did.
    first_waits: Notify,
}

struct Waiting {
    question: Vec<u8>,
    hears: Hears,
}

/// Who waits for a reply.
enum Hears {
    /// Who waits for as long as it likes.
    Asker(oneshot::Sender<io::Result<Vec<u8>>>),
    /// Who asked then, and is told of the first thing that happens.
    Since(Instant, Then),
}

/// What becomes of a query. Returns where something is to be sent now.
pub(super) type Then = Box<dyn FnOnce(Word<'_>) -> Option<Arc<Postbox>> + Send>;

/// The first that is heard of a query.
#[derive(Debug)]
pub(super) enum Word<'a> {
    Reply(&'a mut [u8]),
    Failed(io::Error),
    /// Nothing for [`LATE`]; it may still come.
    Late(oneshot::Receiver<io::Result<Vec<u8>>>),
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(resolver: SocketAddr) -> Self {
        Self {
            resolver,
            lines: Mutex::new((0..SOCKETS).map(|_| None).collect()),
        }
    }

    /// Asks once and waits for as long as the caller does.
    pub(super) async fn ask(&self, query: Passed<'_>) -> io::Result<Vec<u8>> {
        let line = self.line()?;
        let (reply, replied) = oneshot::channel();
        let (id, query) = line.enter(query, Hears::Asker(reply)).map_err(|it| it.1)?;
        // Forgets the query, however this ends.
        let _entry = Entry { line: &line, id };
        line.socket.send(&query).await?;
        hear(replied).await
    }

    /// Asks once; nobody waits, but `then` is called once.
    pub(super) fn launch(&self, query: Passed<'_>, now: Instant, then: Then) {
        let line = match self.line() {
            Ok(line) => line,
            Err(error) => return fail(then, error),
        };
        let (id, query) = match line.enter(query, Hears::Since(now, then)) {
            Ok(entered) => entered,
            Err((hears, error)) => return hears.fail(error),
        };
        // Not by tokio, which doesn't know of a new socket that it can be written to.
        if let Err(error) = send(line.socket.as_raw_fd(), &query, MsgFlags::MSG_DONTWAIT)
            && let Some(waiting) = lock(&line.waiting).remove(&id)
        {
            waiting.hears.fail(error.into());
        }
    }

    fn line(&self) -> io::Result<Arc<Line>> {
        let place = rand::random_range(..SOCKETS);
        let young = |line: &Arc<Line>| line.born.elapsed() < LIFE;
        let known = lock(&self.lines)[place].clone().filter(young);
        if let Some(line) = known {
            return Ok(line);
        }
        let any: IpAddr = match self.resolver {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect(self.resolver)?;
        socket.set_nonblocking(true)?;
        let line = Arc::new(Line {
            socket: UdpSocket::from_std(socket)?,
            born: Instant::now(),
            waiting: Mutex::default(),
            first_waits: Notify::new(),
        });
        tokio::spawn(read(line.clone()));
        lock(&self.lines)[place] = Some(line.clone());
        Ok(line)
    }
}

/// Waits for a reply to what was asked.
pub(super) async fn hear(replied: oneshot::Receiver<io::Result<Vec<u8>>>) -> io::Result<Vec<u8>> {
    let gone = |_| io::Error::other("its socket was closed");
    replied.await.map_err(gone)?
}

impl Hears {
    fn fail(self, error: io::Error) {
        match self {
            // Who asked may have its answer from another resolver.
            Self::Asker(asker) => drop(asker.send(Err(error))),
            Self::Since(_, then) => fail(then, error),
        }
    }
}

fn fail(then: Then, error: io::Error) {
    if let Some(postbox) = then(Word::Failed(error)) {
        postbox.send();
    }
}

impl Line {
    /// The query as it is to be sent, under its id here.
    fn enter(&self, query: Passed<'_>, hears: Hears) -> Result<(u16, Vec<u8>), (Hears, io::Error)> {
        let mut bytes = query.bytes.to_vec();
        let mut waiting = lock(&self.waiting);
        // From a cryptographic generator (ChaCha, seeded by the system's): what was sent before
        // tells nothing about it.
        let id = (0..TRIES).map(|_| rand::random());
        let Some(id) = id.into_iter().find(|id| !waiting.contains_key(id)) else {
            return Err((hears, io::Error::other("no id is free")));
        };
        if let Some(place) = bytes.get_mut(..2) {
            place.copy_from_slice(&id.to_be_bytes());
        }
        if waiting.is_empty() {
            self.first_waits.notify_one();
        }
        let entry = Waiting {
            question: query.question.to_vec(),
            hears,
        };
        waiting.insert(id, entry);
        Ok((id, bytes))
    }

    fn take(&self, reply: &[u8]) -> Option<Hears> {
        let id = u16::from_be_bytes(*reply.first_chunk()?);
        let mut waiting = lock(&self.waiting);
        let asked = waiting.get(&id)?;
        if !relay::is_reply_to(reply, &asked.question) {
            return None;
        }
        Some(waiting.remove(&id)?.hears)
    }

    fn hear(&self, reply: &mut [u8]) -> Option<Arc<Postbox>> {
        match self.take(reply)? {
            Hears::Asker(asker) => {
                // Who asked may have its answer from another resolver.
                let _ = asker.send(Ok(reply.to_vec()));
                None
            }
            Hears::Since(_, then) => then(Word::Reply(reply)),
        }
    }

    /// Nobody listens there, says the kernel; of which query it doesn't say.
    fn fail(&self, error: &io::Error) {
        for waiting in std::mem::take(&mut *lock(&self.waiting)).into_values() {
            waiting.hears.fail(io::Error::from(error.kind()));
        }
    }

    /// Tells who has heard nothing for too long, and forgets who doesn't wait any more.
    fn look(&self, now: Instant) {
        let mut late = Vec::new();
        lock(&self.waiting).retain(|_, waiting| match &waiting.hears {
            Hears::Asker(asker) => !asker.is_closed(),
            Hears::Since(since, _) => {
                if now >= *since + LATE {
                    let (reply, replied) = oneshot::channel();
                    let hears = std::mem::replace(&mut waiting.hears, Hears::Asker(reply));
                    late.push((hears, replied));
                }
                true
            }
        });
        for (hears, replied) in late {
            if let Hears::Since(_, then) = hears {
                then(Word::Late(replied));
            }
        }
    }
}

struct Entry<'a> {
    line: &'a Line,
    id: u16,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.line.waiting).remove(&self.id);
    }
}

/// Reads until nobody can ask by this socket any more and nobody waits.
async fn read(line: Arc<Line>) {
    let (mut inbox, mut looked) = (Inbox::default(), Instant::now());
    loop {
        let pause = match lock(&line.waiting).is_empty() {
            true => LIFE,
            false => LOOK,
        };
        tokio::select! {
            biased;
            received = timeout(pause, inbox.receive(&line.socket)) => match received {
                Ok(Ok(())) => {
                    let to: Vec<_> = inbox.burst().filter_map(|it| line.hear(it.0)).collect();
                    to.iter().for_each(|postbox| postbox.send());
                }
                Ok(Err(error)) => line.fail(&error),
                Err(_) => {}
            },
            () = line.first_waits.notified() => {}
        }
        let now = Instant::now();
        if now >= looked + LOOK {
            line.look(now);
            looked = now;
        }
        let old = line.born + LIFE <= now;
        // The pool may hold one of the handles, as long as nobody else takes it from there.
        if old && lock(&line.waiting).is_empty() && Arc::strong_count(&line) <= 2 {
            return;
        }
    }
}
