//! Serves DNS over UDP in bursts. Queries for our own names are answered without a task for each,
//! and repeated ones from the recent replies.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures::FutureExt;
use hickory_server::server::ResponseInfo;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::datagrams::{Inbox, Outbox};
use super::front::{Front, Out};
use super::handler::Handler;
use super::shares::Rates;

/// Serves until the socket fails; returns why.
pub(super) async fn serve(socket: UdpSocket, handler: Arc<Handler>) -> io::Error {
    let outbox = Arc::new(Outbox::new(socket));
    let server = Server {
        front: Arc::new(Front::new(handler.clone(), Out::Socket(outbox.clone()))),
        handler,
        outbox,
    };
    let mut waiting = JoinSet::new();
    let (mut inbox, mut rates) = (Inbox::default(), Rates::default());
    loop {
        match inbox.receive(&server.outbox.socket).await {
            Ok(()) => {}
            Err(error) if is_transient(&error) => continue,
            Err(error) => return error,
        }
        while waiting.try_join_next().is_some() {}
        let now = Instant::now();
        for (query, client) in inbox.burst() {
            let client = client.filter(|it| rates.admit(it.ip().to_canonical(), now));
            if client.is_none() {
                server
                    .handler
                    .counters()
                    .failed
                    .fetch_add(1, Ordering::Relaxed);
            }
            if let Some(answer) = client.and_then(|client| server.answer(query, client)) {
                // The askers' shares limit these tasks.
                waiting.spawn(answer);
            }
        }
        server.outbox.send();
    }
}

struct Server {
    front: Arc<Front>,
    handler: Arc<Handler>,
    outbox: Arc<Outbox>,
}

impl Server {
    /// Puts the answer into the outbox if it is available at once; else returns a future that waits.
    fn answer(
        &self,
        query: &[u8],
        client: SocketAddr,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        // Read the view's number first: the answer comes from this view or a newer one.
        let key = self.handler.recent_key(query, client);
        if let Some(reply) = key.as_ref().and_then(|key| self.handler.recall(key, query)) {
            self.outbox.put(reply, client);
            return None;
        }
        let request = self.front.read(query.to_vec(), client)?;
        let (front, outbox) = (self.front.clone(), self.outbox.clone());
        let before = outbox.len();
        let mut answered = Box::pin(async move { front.answer(&request).await });
        let Some(info) = answered.as_mut().now_or_never() else {
            return Some(async move {
                answered.await;
                outbox.send();
            });
        };
        let reply_bytes = is_repeatable(&info).then(|| self.outbox.nth(before));
        if let (Some(key), Some(reply)) = (key, reply_bytes.flatten()) {
            self.handler.remember(key, &reply);
        }
        None
    }
}

/// Whether the answer stays the same while the view does: it is our own, and has no addresses to
/// rotate.
fn is_repeatable(info: &ResponseInfo) -> bool {
    info.authoritative && !info.truncation && info.counts().answers <= 1
}

/// Whether an error concerns a client that is gone, so that the socket still works.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted};
    matches!(
        error.kind(),
        Interrupted | ConnectionRefused | ConnectionReset | HostUnreachable
    )
}
