//! Receives and sends datagrams in bursts: one system call for many, recvmmsg(2) and sendmmsg(2).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use runtime::lock;

/// Limits a burst: enough datagrams that a call costs each of them little, and few enough that
/// the first doesn't wait long for the last.
const MAX_BURST_DATAGRAMS: usize = 32;
/// Limits a received datagram. No query is longer, as a name has 255 bytes; longer replies come by
/// TCP.
pub(super) const MAX_DATAGRAM_BYTES: usize = 4_096;

/// The burst that a socket received last.
#[derive(Debug)]
pub(super) struct Inbox {
    buffers: Vec<[u8; MAX_DATAGRAM_BYTES]>,
    /// Each buffer's used bytes, and their sender.
    received: Vec<(usize, Option<SocketAddr>)>,
    /// Datagrams requested from the kernel: twice as many as came last, as each requested one costs
    /// a little even if it doesn't come.
    room: usize,
}

/// A socket and its queue of datagrams to send.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) socket: UdpSocket,
    queued: Mutex<Vec<Datagram>>,
}

type Datagram = (Vec<u8>, SocketAddr);

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: vec![[0; MAX_DATAGRAM_BYTES]; MAX_BURST_DATAGRAMS],
            received: Vec::with_capacity(MAX_BURST_DATAGRAMS),
            room: 0,
        }
    }
}

impl Inbox {
    /// Waits for a burst, which stays until the next call. Yields between two full bursts, so that
    /// other tasks run.
    pub(super) async fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let last = self.received.len();
        if last == MAX_BURST_DATAGRAMS {
            tokio::task::yield_now().await;
        }
        self.room = (2 * last).clamp(2, MAX_BURST_DATAGRAMS);
        self.received.clear();
        loop {
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let none = || io::Error::from(io::ErrorKind::WouldBlock);
            let mut took = Ok(());
            if ready.is_readable() {
                took = socket.try_io(Interest::READABLE, || {
                    self.try_receive(socket)?;
                    // Fewer than requested: the socket is empty. Clear its readiness, so that the next
                    // datagram wakes us.
                    let all = self.received.len() < self.room;
                    if all { Err(none()) } else { Ok(()) }
                });
            } else if ready.is_error() {
                took = socket.try_io(Interest::ERROR, || {
                    let error = socket.take_error()?;
                    Err(error.unwrap_or_else(none))
                });
            }
            match took {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ if !self.received.is_empty() => return Ok(()),
                _ => {}
            }
        }
    }

    /// Each datagram with its sender.
    pub(super) fn burst(&mut self) -> impl Iterator<Item = (&mut [u8], Option<SocketAddr>)> {
        let received = self.buffers.iter_mut().zip(&self.received);
        received.map(|(buffer, (length, from))| (&mut buffer[..*length], *from))
    }

    fn try_receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let buffers = self.buffers[..self.room].iter_mut();
        let mut slices: Vec<_> = buffers.map(|it| [IoSliceMut::new(it)]).collect();
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(self.room, None);
        let flags = MsgFlags::MSG_DONTWAIT;
        let took = recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter_mut(),
            flags,
            None,
        )?;
        let from = |it: SockaddrStorage| {
            let v4 = it.as_sockaddr_in().map(|it| SocketAddr::from(*it));
            v4.or_else(|| Some(SocketAddr::from(*it.as_sockaddr_in6()?)))
        };
        let took = took.map(|it| (it.bytes, it.address.and_then(from)));
        self.received.extend(took);
        Ok(())
    }
}

impl Outbox {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            queued: Mutex::default(),
        }
    }

    /// Queues a datagram for the next [`Self::send`].
    pub(super) fn put(&self, bytes: Vec<u8>, to: SocketAddr) {
        lock(&self.queued).push((bytes, to));
    }

    /// The number of queued datagrams.
    pub(super) fn len(&self) -> usize {
        lock(&self.queued).len()
    }

    /// The queued datagram at this position.
    pub(super) fn nth(&self, place: usize) -> Option<Vec<u8>> {
        lock(&self.queued)
            .get(place)
            .map(|(bytes, _)| bytes.clone())
    }

    /// Sends the queue without waiting. If the socket's buffer is full, the rest is lost, as on any
    /// network.
    pub(super) fn send(&self) {
        let mut queued = lock(&self.queued);
        let mut rest = &queued[..];
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(MAX_BURST_DATAGRAMS)];
            let sent = match some {
                [(bytes, to)] => self.socket.try_send_to(bytes, *to).map(|_| 1),
                _ => self
                    .socket
                    .try_io(Interest::WRITABLE, || self.send_some(some)),
            };
            match sent {
                Ok(sent) => rest = &rest[sent..],
                Err(error) => {
                    tracing::debug!(%error, "answer not sent");
                    if error.kind() == io::ErrorKind::WouldBlock {
                        break;
                    }
                    // This client is gone; send to the others.
                    rest = &rest[1..];
                }
            }
        }
        queued.clear();
    }

    /// Sends some of them; returns how many, at least one.
    fn send_some(&self, some: &[Datagram]) -> io::Result<usize> {
        let slices: Vec<_> = some.iter().map(|it| [IoSlice::new(&it.0)]).collect();
        let to: Vec<_> = some.iter().map(|it| Some(it.1.into())).collect();
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(some.len(), None);
        let flags = MsgFlags::MSG_DONTWAIT;
        let socket = self.socket.as_raw_fd();
        let sent = sendmmsg(socket, &mut headers, &slices, &to, [], flags)?.count();
        if sent == 0 {
            Err(Errno::EAGAIN.into())
        } else {
            Ok(sent)
        }
    }
}
