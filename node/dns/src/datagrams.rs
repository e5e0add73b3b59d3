//! Datagrams by the burst: one call of the kernel takes or sends many of them, recvmmsg(2) and
//! sendmmsg(2).

use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use runtime::lock;

/// Datagrams of a burst: enough that a call costs each of them little, and few enough that the
/// first doesn't wait long for the last.
const BURST: usize = 32;
/// Bytes. Longer queries are none, as a name has 255; longer replies come by TCP.
const LENGTH: usize = 4_096;

/// What a socket received last.
#[derive(Debug)]
pub(super) struct Inbox {
    buffers: Vec<[u8; LENGTH]>,
    /// How many bytes of each buffer, and from whom.
    received: Vec<(usize, Option<SocketAddr>)>,
    /// How many are asked for: twice as many as came last, as each costs a little even if it doesn't
    /// come.
    room: usize,
}

/// A socket, and what is to be sent by it.
#[derive(Debug)]
pub(super) struct Postbox {
    pub(super) socket: UdpSocket,
    due: Mutex<Vec<Letter>>,
}

type Letter = (Vec<u8>, SocketAddr);

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: vec![[0; LENGTH]; BURST],
            received: Vec::with_capacity(BURST),
            room: 0,
        }
    }
}

impl Inbox {
    /// Waits for a burst, which is there until the next. Lets others run between two of them,
    /// however many come.
    pub(super) async fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        let last = self.received.len();
        if last == BURST {
            tokio::task::yield_now().await;
        }
        self.room = (2 * last).clamp(2, BURST);
        self.received.clear();
        loop {
            let ready = socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let none = || io::Error::from(io::ErrorKind::WouldBlock);
            let mut took = Ok(());
            if ready.is_readable() {
                took = socket.try_io(Interest::READABLE, || {
                    self.take(socket)?;
                    // Less than there is room for: it is as good as asked once more, and what comes
                    // from now on wakes us.
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

    /// Each datagram, and who sent it.
    pub(super) fn burst(&mut self) -> impl Iterator<Item = (&mut [u8], Option<SocketAddr>)> {
        let received = self.buffers.iter_mut().zip(&self.received);
        received.map(|(buffer, (length, from))| (&mut buffer[..*length], *from))
    }

    fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
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

impl Postbox {
    pub(super) fn new(socket: UdpSocket) -> Self {
        Self {
            socket,
            due: Mutex::default(),
        }
    }

    /// Goes with the next [`Self::send`].
    pub(super) fn put(&self, bytes: Vec<u8>, to: SocketAddr) {
        lock(&self.due).push((bytes, to));
    }

    /// How much was put and isn't sent yet.
    pub(super) fn len(&self) -> usize {
        lock(&self.due).len()
    }

    /// What was put after so much.
    pub(super) fn after(&self, place: usize) -> Option<Vec<u8>> {
        lock(&self.due).get(place).map(|(bytes, _)| bytes.clone())
    }

    /// A socket that takes no more loses the rest, as any network may: nothing waits here.
    pub(super) fn send(&self) {
        let mut due = lock(&self.due);
        let mut rest = &due[..];
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(BURST)];
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
                    // Who asked is gone. The others aren't.
                    rest = &rest[1..];
                }
            }
        }
        due.clear();
    }

    /// How many of them, at least one.
    fn send_some(&self, some: &[Letter]) -> io::Result<usize> {
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
