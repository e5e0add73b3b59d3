//! DNS over UDP, burst by burst. What is ours is answered where it is read: no task for each query,
//! and what was just said is said again without being thought of again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use hickory_server::server::ResponseInfo;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::datagrams::{Inbox, Postbox};
use super::front::{Front, Out};
use super::handler::Handler;

/// Serves until the socket fails; returns why.
pub(super) async fn serve(socket: UdpSocket, handler: Arc<Handler>) -> io::Error {
    let postbox = Arc::new(Postbox::new(socket));
    let server = Server {
        front: Arc::new(Front::new(handler.clone(), Out::Socket(postbox.clone()))),
        handler,
        postbox,
    };
    let mut waiting = JoinSet::new();
    let mut inbox = Inbox::default();
    loop {
        match inbox.receive(&server.postbox.socket).await {
            Ok(()) => {}
            Err(error) if is_passing(&error) => continue,
            Err(error) => return error,
        }
        while waiting.try_join_next().is_some() {}
        for (query, asker) in inbox.burst() {
            if let Some(answer) = asker.and_then(|asker| server.answer(query, asker)) {
                // The handler's bound on what waits is the bound of these tasks.
                waiting.spawn(answer);
            }
        }
        server.postbox.send();
    }
}

struct Server {
    front: Arc<Front>,
    handler: Arc<Handler>,
    postbox: Arc<Postbox>,
}

impl Server {
    /// Puts what can be said at once into the postbox; else returns who waits for it.
    fn answer(
        &self,
        query: &[u8],
        asker: SocketAddr,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        // Before it is answered: the answer is as new as this view, or newer.
        let key = self.handler.key(query, asker);
        if let Some(reply) = key.as_ref().and_then(|key| self.handler.recall(key, query)) {
            self.postbox.put(reply, asker);
            return None;
        }
        let request = self.front.read(query.to_vec(), asker)?;
        let (front, postbox) = (self.front.clone(), self.postbox.clone());
        let before = postbox.len();
        let mut answered = Box::pin(async move { front.answer(&request).await });
        let Some(info) = answered.as_mut().now_or_never() else {
            return Some(async move {
                answered.await;
                postbox.send();
            });
        };
        let said = is_steady(&info).then(|| self.postbox.after(before));
        if let (Some(key), Some(reply)) = (key, said.flatten()) {
            self.handler.remember(key, &reply);
        }
        None
    }
}

/// Whether the same will be said for as long as the view is the same: our own word, of which there
/// is nothing to rotate.
fn is_steady(info: &ResponseInfo) -> bool {
    info.authoritative && !info.truncation && info.counts().answers <= 1
}

/// What is over with the next try: a word from somebody who is gone.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted};
    matches!(
        error.kind(),
        Interrupted | ConnectionRefused | ConnectionReset | HostUnreachable
    )
}
