//! DNS over TCP, with a bound on its connections.
//!
//! Without one, one container could take the daemon's file descriptors from everybody. A domain
//! has [`CONNECTIONS`] of them; more wait in the kernel's backlog until one falls silent or ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::handler::{Handler, Step};
use super::wire::Transport;

/// Connections of one domain at once.
const CONNECTIONS: usize = 64;
/// How long a connection may take for its next query, or to take an answer (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(2);
/// After an error of `accept`, which comes back at once while no descriptor is free.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, handler: Handler) {
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
                    if let Err(error) = converse(stream, asker, &handler).await {
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
async fn converse(mut stream: TcpStream, asker: SocketAddr, handler: &Handler) -> io::Result<()> {
    let asker = asker.ip().to_canonical();
    let mut answer = Vec::new();
    loop {
        let query = timeout(IDLE, receive(&mut stream)).await??;
        match handler.answer(&query, asker, Transport::Tcp, &mut answer) {
            Step::Answered => {}
            Step::Dropped => return Ok(()),
            Step::Waits(permit) => {
                answer = handler.finish(&query, asker, Transport::Tcp, permit).await;
            }
        }
        // Behind its length (RFC 1035 §4.2.2).
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut query = vec![0; usize::from(length)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}
