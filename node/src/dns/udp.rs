//! DNS over UDP. What is ours is answered where it is read: no task for each query.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::net::udp::UdpStream;
use hickory_server::net::xfer::Protocol;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::front::Front;
use super::handler::Handler;

/// Serves until the socket fails; returns why.
pub(super) async fn serve(socket: UdpSocket, handler: Arc<Handler>) -> io::Error {
    // Nobody's: each answer goes to who asked.
    let peer = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let (mut messages, out) = UdpStream::<TokioRuntimeProvider>::with_bound(socket, peer);
    let front = Arc::new(Front::new(handler, out, Protocol::Udp));
    let mut waiting = JoinSet::new();
    loop {
        let message = match messages.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) if is_passing(&error) => continue,
            Some(Err(error)) => return error,
            None => return io::ErrorKind::UnexpectedEof.into(),
        };
        while waiting.try_join_next().is_some() {}
        let Some(request) = front.read(message) else {
            continue;
        };
        let front = front.clone();
        let mut answered = Box::pin(async move { front.answer(&request).await });
        // The handler's bound on what waits is the bound of these tasks.
        if answered.as_mut().now_or_never().is_none() {
            waiting.spawn(answered);
        }
    }
}

/// What is over with the next try: a word from somebody who is gone.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted};
    matches!(
        error.kind(),
        Interrupted | ConnectionRefused | ConnectionReset | HostUnreachable
    )
}
