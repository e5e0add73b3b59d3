//! Sockets to one resolver of the host, each for many queries at once.
//!
//! A socket for each query would cost more than the query. Ports and ids stay hard to guess: there
//! are [`SOCKETS`] of random ports, each is given up after [`LIFE`], and an id is random among those
//! free. A reply counts when its question is the one that was asked under its id.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::relay::{self, Passed};
use crate::lock::lock;

const SOCKETS: usize = 16;
const LIFE: Duration = Duration::from_secs(5);
/// Longer replies come by TCP.
const REPLY_MAX: usize = 4_096;
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
}

#[derive(Debug)]
struct Waiting {
    question: Vec<u8>,
    reply: oneshot::Sender<io::Result<Vec<u8>>>,
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
        let line = self.line().await?;
        let (reply, replied) = oneshot::channel();
        let (id, query) = line.enter(query, reply)?;
        // Forgets the query, however this ends.
        let _entry = Entry { line: &line, id };
        line.socket.send(&query).await?;
        let gone = |_| io::Error::other("its socket was closed");
        replied.await.map_err(gone)?
    }

    async fn line(&self) -> io::Result<Arc<Line>> {
        let place = fastrand::usize(..SOCKETS);
        let young = |line: &Arc<Line>| line.born.elapsed() < LIFE;
        let known = lock(&self.lines)[place].clone().filter(young);
        if let Some(line) = known {
            return Ok(line);
        }
        let any: IpAddr = match self.resolver {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.resolver).await?;
        let line = Arc::new(Line {
            socket,
            born: Instant::now(),
            waiting: Mutex::default(),
        });
        tokio::spawn(read(line.clone()));
        lock(&self.lines)[place] = Some(line.clone());
        Ok(line)
    }
}

impl Line {
    fn enter(
        &self,
        query: Passed<'_>,
        reply: oneshot::Sender<io::Result<Vec<u8>>>,
    ) -> io::Result<(u16, Vec<u8>)> {
        let mut bytes = query.bytes.to_vec();
        let mut waiting = lock(&self.waiting);
        let id = (0..TRIES).map(|_| random_id());
        let id = id.into_iter().find(|id| !waiting.contains_key(id));
        let id = id.ok_or_else(|| io::Error::other("no id is free"))?;
        if let Some(place) = bytes.get_mut(..2) {
            place.copy_from_slice(&id.to_be_bytes());
        }
        let entry = Waiting {
            question: query.question.to_vec(),
            reply,
        };
        waiting.insert(id, entry);
        Ok((id, bytes))
    }

    fn take(&self, reply: &[u8]) -> Option<Waiting> {
        let id = u16::from_be_bytes(*reply.first_chunk()?);
        let mut waiting = lock(&self.waiting);
        let asked = waiting.get(&id)?;
        if !relay::is_reply_to(reply, &asked.question) {
            return None;
        }
        waiting.remove(&id)
    }

    /// Nobody listens there, says the kernel; of which query it doesn't say.
    fn fail(&self, error: &io::Error) {
        for waiting in std::mem::take(&mut *lock(&self.waiting)).into_values() {
            // Who asked may have its answer from another resolver.
            let _ = waiting.reply.send(Err(io::Error::from(error.kind())));
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
    let mut buffer = vec![0; REPLY_MAX];
    loop {
        let received = tokio::time::timeout(LIFE, line.socket.recv(&mut buffer)).await;
        match received {
            Ok(Ok(length)) => {
                if let Some(waiting) = line.take(&buffer[..length]) {
                    // Who asked may have its answer from another resolver.
                    let _ = waiting.reply.send(Ok(buffer[..length].to_vec()));
                }
            }
            Ok(Err(error)) => line.fail(&error),
            Err(_) => {}
        }
        let old = line.born.elapsed() >= LIFE;
        // The pool may hold one of the handles, as long as nobody else takes it from there.
        if old && lock(&line.waiting).is_empty() && Arc::strong_count(&line) <= 2 {
            return;
        }
    }
}

/// From the system's generator: what was sent before tells nothing about it.
fn random_id() -> u16 {
    let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
    u16::from_be_bytes([a, b])
}
