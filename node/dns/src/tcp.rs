//! Serves DNS over TCP with a limit on connections.
//!
//! hickory's own listener accepts without limit, and spins when the process has no file descriptor
//! left: one container could use up the daemon's descriptors. Here a domain has at most
//! [`MAX_CONNECTIONS`]; more wait in the kernel's backlog until one ends or is idle.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp::TcpStream as DnsStream;
use hickory_server::server::TimeoutStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::front::{Front, Out};
use super::handler::Handler;

/// Limits the connections of one domain.
const MAX_CONNECTIONS: usize = 64;
/// Limits the wait for a connection's next query, and for it to take an answer (RFC 7766 §6.2.3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Limits a connection's unwritten answers: queries are answered one after another.
const MAX_QUEUED_ANSWERS: usize = 1;
/// Pause after an error of `accept`, which fails again at once while no descriptor is free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, handler: Arc<Handler>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let handler = handler.clone();
                connections.spawn(async move {
                    if let Err(error) = converse(stream, client, handler).await {
                        tracing::debug!(%client, %error, "DNS connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "DNS connection not accepted");
                #[expect(clippy::disallowed_methods, reason = "the pause before the next try")]
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Answers one query after another, until the client closes, is idle or sends a malformed message.
async fn converse(stream: TcpStream, client: SocketAddr, handler: Arc<Handler>) -> io::Result<()> {
    let stream = AsyncIoTokioAsStd(stream);
    let (messages, out) =
        DnsStream::from_stream_with_buffer_size(stream, client, MAX_QUEUED_ANSWERS);
    let front = Front::new(handler, Out::Connection(out));
    // An answer is written while the next query is awaited.
    let mut messages = TimeoutStream::new(messages, IDLE_TIMEOUT);
    while let Some(message) = messages.next().await {
        let (bytes, client) = message?.into_parts();
        let Some(request) = front.read(bytes, client) else {
            break;
        };
        front.answer(&request).await;
    }
    Ok(())
}
