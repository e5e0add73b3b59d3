//! DNS over TCP, with a bound on its connections.
//!
//! hickory's own listener accepts without limit, and spins when the process has no file descriptor
//! left: one container could take the daemon's from everybody. Here a domain has [`CONNECTIONS`] of
//! them; more wait in the kernel's backlog until one falls silent or ends.

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

/// Connections of one domain at once.
const CONNECTIONS: usize = 64;
/// How long a connection may take for its next query, or to take an answer (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(2);
/// Answers of one connection that are to be written: queries are answered one after another.
const AHEAD: usize = 1;
/// After an error of `accept`, which comes back at once while no descriptor is free.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, handler: Arc<Handler>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, asker)) => {
                let handler = handler.clone();
                connections.spawn(async move {
                    if let Err(error) = converse(stream, asker, handler).await {
                        tracing::debug!(%asker, %error, "DNS connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "DNS connection not accepted");
                #[expect(clippy::disallowed_methods, reason = "the pause before the next try")]
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Answers one query after another, until the asker ends, is silent or says nonsense.
async fn converse(stream: TcpStream, asker: SocketAddr, handler: Arc<Handler>) -> io::Result<()> {
    let stream = AsyncIoTokioAsStd(stream);
    let (messages, out) = DnsStream::from_stream_with_buffer_size(stream, asker, AHEAD);
    let front = Front::new(handler, Out::Connection(out));
    // Answers are written when the next query is waited for.
    let mut messages = TimeoutStream::new(messages, IDLE);
    while let Some(message) = messages.next().await {
        let (bytes, asker) = message?.into_parts();
        let Some(request) = front.read(bytes, asker) else {
            break;
        };
        front.answer(&request).await;
    }
    Ok(())
}
