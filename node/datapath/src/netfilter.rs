//! One socket to netfilter in one namespace.

use std::io;
use std::sync::{Arc, Mutex};

use rtnetlink::sys::{Socket, SocketAddr};

use super::netns::Namespace;
use super::wire::{Buffer, DONE, ERROR, INTERRUPTED, Message, NETLINK_NETFILTER, code, messages};
use runtime::lock;

/// A socket to netfilter. A clone is cheap and has the same socket; its users wait for each other.
/// Reading never waits: the kernel works within the calls that send and receive, so its answer is there
/// when they return.
#[derive(Debug, Clone)]
pub(super) struct Netfilter {
    socket: Arc<Mutex<Socket>>,
    port: u32,
}

impl Netfilter {
    /// Opens a socket; `set` sets further options of it.
    pub(super) async fn open(
        namespace: &Namespace,
        set: fn(&mut Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        namespace
            .run(move || {
                let mut socket = Socket::new(NETLINK_NETFILTER)?;
                let port = socket.bind_auto()?.port_number();
                socket.connect(&SocketAddr::new(0, 0))?;
                socket.set_non_blocking(true)?;
                set(&mut socket)?;
                let socket = Arc::new(Mutex::new(socket));
                Ok(Self { socket, port })
            })
            .await
    }

    /// The socket's port, by which a notification names the author of a change.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Works with the socket on a thread that may block.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Socket) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let socket = Arc::clone(&self.socket);
        let done = tokio::task::spawn_blocking(move || work(&lock(&socket))).await;
        done.map_err(io::Error::other)?
    }
}

/// Bytes that are received at once: the kernel packs up to 32 KiB of a dump into one packet
/// (`netlink_dump`).
const RECEIVE_BYTES: usize = 64 << 10;

/// `struct nfgenmsg`, before a message's attributes.
const GENERAL_HEADER_BYTES: usize = 4;

/// Sends a request for a dump, and gives the attributes of each message to `each`. `EINTR`: what is
/// dumped was changed meanwhile.
pub(super) fn dump(
    socket: &Socket,
    request: &Buffer,
    mut each: impl FnMut(&[u8]),
) -> io::Result<()> {
    ask(socket, request)?;
    let mut bytes = Vec::with_capacity(RECEIVE_BYTES);
    let mut interrupted = false;
    loop {
        receive(socket, &mut bytes)?;
        for message in messages(&bytes) {
            interrupted |= message.flags & INTERRUPTED != 0;
            match message.kind {
                // A dump that fails ends with the error's number.
                DONE | ERROR => match code(message.payload) {
                    0 if interrupted => return Err(nix::Error::EINTR.into()),
                    0 => return Ok(()),
                    code => return Err(io::Error::from_raw_os_error(code)),
                },
                _ => each(body(&message)),
            }
        }
    }
}

/// Sends a request with one answer, and reads its attributes; an acknowledgement has none.
pub(super) fn get<T>(
    socket: &Socket,
    request: &Buffer,
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<Option<T>> {
    ask(socket, request)?;
    let mut bytes = Vec::with_capacity(RECEIVE_BYTES);
    receive(socket, &mut bytes)?;
    match messages(&bytes).next() {
        Some(message) if message.kind == ERROR => match code(message.payload) {
            0 => Ok(None),
            code => Err(io::Error::from_raw_os_error(code)),
        },
        Some(message) => Ok(read(body(&message))),
        None => Ok(None),
    }
}

/// The attributes of a message.
fn body<'a>(message: &Message<'a>) -> &'a [u8] {
    let payload = message.payload;
    payload.get(GENERAL_HEADER_BYTES..).unwrap_or_default()
}

/// Sends a request, after the answers to one that failed are read to their end.
fn ask(socket: &Socket, request: &Buffer) -> io::Result<()> {
    while socket.recv_from_full().is_ok() {}
    socket.send(request.bytes(), 0).map(|_| ())
}

fn receive(socket: &Socket, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.clear();
    socket.recv(bytes, 0).map(|_| ())
}
