//! DNS over UDP. What is ours is answered where it is read: no task, no copy for each query.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::handler::{Handler, Step};
use super::wire::Transport;

/// Longer questions don't exist: a name has 255 bytes, and options little more.
const QUERY_MAX: usize = 4_096;
/// Answered in a row before others get their turn on this thread.
const AT_ONCE: usize = 64;

/// Serves until the socket fails; returns why.
pub(super) async fn serve(socket: UdpSocket, handler: Handler) -> io::Error {
    let socket = Arc::new(socket);
    let mut waiting = JoinSet::new();
    let (mut query, mut out) = (vec![0; QUERY_MAX], Vec::with_capacity(QUERY_MAX));
    loop {
        if let Err(error) = socket.ready(Interest::READABLE).await {
            return error;
        }
        while waiting.try_join_next().is_some() {}
        for _ in 0..AT_ONCE {
            let (length, asker) = match socket.try_recv_from(&mut query) {
                Ok(received) => received,
                Err(error) if is_passing(&error) => break,
                Err(error) => return error,
            };
            let bytes = &query[..length];
            match handler.answer(bytes, asker.ip().to_canonical(), Transport::Udp, &mut out) {
                Step::Answered => send(&socket, &out, asker),
                Step::Dropped => {}
                Step::Waits(permit) => {
                    let (socket, handler, bytes) =
                        (socket.clone(), handler.clone(), bytes.to_vec());
                    waiting.spawn(async move {
                        let ip = asker.ip().to_canonical();
                        let answer = handler.finish(&bytes, ip, Transport::Udp, permit).await;
                        send(&socket, &answer, asker);
                    });
                }
            }
        }
        tokio::task::yield_now().await;
    }
}

/// An answer that finds no room is as good as lost on its way: who asked asks again.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, to) {
        tracing::debug!(%to, %error, "answer not sent");
    }
}

/// What is over with the next try: nothing to read, or a word from somebody who is gone.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock | Interrupted | ConnectionRefused | ConnectionReset | HostUnreachable
    )
}
