//! One socket to netfilter in one namespace.

use std::io;
use std::sync::{Arc, Mutex};

use rtnetlink::sys::{Socket, SocketAddr};

use super::netns::Namespace;
use super::wire::NETLINK_NETFILTER;
use runtime::lock;

/// Cheap to clone; a clone is the same socket, whose users wait for each other. Reading never waits:
/// the kernel works while it is sent to and read from, so what it has to say is there.
#[derive(Debug, Clone)]
pub(super) struct Netfilter {
    socket: Arc<Mutex<Socket>>,
    port: u32,
}

impl Netfilter {
    /// `set` sets what else the socket needs.
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

    /// By which the kernel names the author of a change.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Works with the socket alone, where nobody is held up.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Socket) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let socket = Arc::clone(&self.socket);
        let done = tokio::task::spawn_blocking(move || work(&lock(&socket))).await;
        done.map_err(io::Error::other)?
    }
}
