//! Serves DNS over TCP with a limit on connections.
//!
//! hickory's own listener accepts without limit, and spins when the process has no file descriptor
//! left: one container could use up the daemon's descriptors. Here a domain has at most
//! [`MAX_CONNECTIONS`], of which each asker has its share: a new one ends an old one.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp::TcpStream as DnsStream;
use hickory_server::server::TimeoutStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::front::{Front, Out};
use super::handler::Handler;

/// Limits the connections of one domain.
const MAX_CONNECTIONS: usize = 256;
/// Limits the connections of one asker.
const MAX_ASKER_CONNECTIONS: usize = 16;
/// Limits the wait for a connection's next query, and for it to take an answer (RFC 7766 §6.2.3).
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);
/// Limits a connection's unwritten answers: queries are answered one after another.
const MAX_QUEUED_ANSWERS: usize = 1;
/// Pause after an error of `accept`, which fails again at once while no descriptor is free.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The connections of one domain; they end when this is dropped.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    /// Of each asker, the oldest first.
    of: BTreeMap<IpAddr, VecDeque<AbortHandle>>,
}

impl Connections {
    /// Adds a connection. If its asker has too many, the asker's oldest one ends; if all have, that of
    /// the asker with the most.
    fn add(&mut self, asker: IpAddr, conversation: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.of.retain(|_, own| {
            own.retain(|it| !it.is_finished());
            !own.is_empty()
        });
        if self
            .of
            .get(&asker)
            .is_some_and(|own| own.len() >= MAX_ASKER_CONNECTIONS)
        {
            self.end_oldest(asker);
        } else if self.tasks.len() >= MAX_CONNECTIONS
            && let Some((most, _)) = self.of.iter().max_by_key(|(_, own)| own.len())
        {
            self.end_oldest(*most);
        }
        let task = self.tasks.spawn(conversation);
        self.of.entry(asker).or_default().push_back(task);
    }

    fn end_oldest(&mut self, asker: IpAddr) {
        let oldest = self.of.get_mut(&asker).and_then(VecDeque::pop_front);
        if let Some(oldest) = oldest {
            oldest.abort();
        }
    }
}

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, handler: Arc<Handler>) {
    let mut connections = Connections::default();
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let handler = handler.clone();
                connections.add(client.ip().to_canonical(), async move {
                    if let Err(error) = converse(stream, client, handler).await {
                        tracing::debug!(%client, %error, "DNS connection ended");
                    }
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
