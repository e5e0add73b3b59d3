//! DNS over UDP. What is ours is answered where it is read: no task for each query.

use std::io;
use std::sync::Arc;

use futures::FutureExt;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::front::{Front, Out};
use super::handler::Handler;

/// Longer queries are none: a name has 255 bytes.
const QUERY_MAX: usize = 4_096;

/// Serves until the socket fails; returns why.
pub(super) async fn serve(socket: UdpSocket, handler: Arc<Handler>) -> io::Error {
    let socket = Arc::new(socket);
    let front = Arc::new(Front::new(handler, Out::Socket(socket.clone())));
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; QUERY_MAX];
    loop {
        let (length, asker) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return error,
        };
        while waiting.try_join_next().is_some() {}
        let Some(request) = front.read(buffer[..length].to_vec(), asker) else {
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
