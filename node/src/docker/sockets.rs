//! Holds the engine's plugin sockets while netplugin comes and goes: a process of its own, with a unit
//! of its own.
//!
//! An engine that finds no server on a plugin's socket tries for 15 seconds, for each of its endpoints
//! one after the other, before it answers anybody. So this process answers in netplugin's place: it
//! hands each call to netplugin, holds calls during a restart of it, and refuses them at once while
//! it is away. When netplugin is back, netplugin starts the containers that were refused
//! ([`refused`](super::refused)).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::any;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::server::{self, Scope, ServerError, constant_reply, failure, response};
use super::swarm;
use crate::local::client::{HttpResponse, post};
use runtime::log::excerpt;
use runtime::pause;

/// netplugin's own sockets in its run directory, for this process: of `contiv` and of the swarm's
/// plugin.
pub(super) const LOCAL_NAME: &str = "docker-local.sock";
pub(super) const SWARM_NAME: &str = "docker-swarm.sock";

/// A call that only this process answers, with the run directory that it serves: a netplugin asks
/// whether its sockets are held.
pub(super) const HOLDER_CALL: &str = "Contiv.Holder";

/// Calls wait for a restart of netplugin for this long after its end. A restart takes one to three
/// seconds; an engine that starts meanwhile must answer within ten.
const RESTART_GRACE: Duration = Duration::from_secs(5);
/// Limits a call from its arrival: netplugin's answer, which takes 15 seconds at most, and one restart.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// A call is sent so many times at most: if netplugin ends during each, the call may be the cause.
const MAX_SENDS: usize = 3;
/// netplugin runs well if it ran for this long.
const STEADY_AFTER: Duration = Duration::from_secs(10);
/// After so many ends in a row, each within [`STEADY_AFTER`] of its start, no call waits for the next start.
const MAX_EARLY_ENDS: u32 = 3;
/// The pause between two attempts to connect to netplugin. An attempt costs one `connect`.
const CONNECT_DELAY: Duration = Duration::from_millis(100);

/// The refusal while netplugin is away. The engine keeps it as the reason why a container isn't
/// started, and netplugin recognizes it there: it never changes.
pub(super) const AWAY: &str = "netplugin doesn't run on this node";

fn away() -> String {
    format!(
        "{AWAY}: start it with `systemctl start netplugin`; it then starts the containers that have a restart policy"
    )
}

fn silent(call: &str) -> String {
    format!("netplugin is silent about {call}: see `netplugin status` on this node")
}

/// The presence of netplugin on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    AwaySince(Instant),
}

/// Serves the engine's sockets until the future is dropped. `run_dir` is netplugin's.
pub async fn hold(plugin_dir: &Path, run_dir: &Path) -> Result<(), ServerError> {
    let pairs = [
        (plugin_dir.join("contiv.sock"), LOCAL_NAME, Scope::Local),
        (run_dir.join(swarm::SOCKET_NAME), SWARM_NAME, Scope::Swarm),
    ];
    let presence = watch::Sender::new(Presence::AwaySince(Instant::now()));
    let mut servers = Vec::new();
    for (path, name, scope) in pairs {
        if holder_of(&path).is_some() {
            return Err(ServerError::Held(path));
        }
        let held = Held {
            run_dir: run_dir.to_owned(),
            netplugin: run_dir.join(name),
            scope,
            presence: presence.subscribe(),
        };
        let router = Router::new().route("/{call}", any(answer)).with_state(held);
        servers.push(axum::serve(server::bind(&path)?, router));
    }
    // The order at boot: netplugin and the engine start when the sockets answer.
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    tracing::info!(plugins = %plugin_dir.display(), run_dir = %run_dir.display(), "hold the plugin sockets");
    let netplugin = run_dir.join(LOCAL_NAME);
    tokio::join!(
        follow(&netplugin, &presence),
        futures::future::join_all(servers.into_iter().map(IntoFuture::into_future)),
    );
    Ok(())
}

/// Keeps a connection to netplugin, whose end is netplugin's end.
async fn follow(socket: &Path, presence: &watch::Sender<Presence>) {
    let mut ends = Ends::new(Instant::now());
    loop {
        if let Ok(mut stream) = UnixStream::connect(socket).await {
            tracing::info!("netplugin answers");
            let began = Instant::now();
            presence.send_replace(Presence::Here);
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            let ended = ends.note(began, Instant::now());
            presence.send_replace(Presence::AwaySince(ended));
            tracing::warn!("netplugin is away");
        }
        pause(CONNECT_DELAY).await;
    }
}

/// The ends of netplugin. One that ends again and again soon after its start is away all the time.
#[derive(Debug)]
struct Ends {
    /// The end from which calls wait for a restart.
    last: Instant,
    /// Ends soon after a start, in a row.
    early: u32,
}

impl Ends {
    fn new(last: Instant) -> Self {
        Self { last, early: 0 }
    }

    /// The end from which calls wait, after netplugin ran from `began` to `now`.
    fn note(&mut self, began: Instant, now: Instant) -> Instant {
        let early = now.duration_since(began) < STEADY_AFTER;
        self.early = if early { self.early + 1 } else { 0 };
        if self.early < MAX_EARLY_ENDS {
            self.last = now;
        }
        self.last
    }
}

/// One of the two sockets.
#[derive(Debug, Clone)]
struct Held {
    run_dir: PathBuf,
    /// netplugin's own socket for these calls.
    netplugin: PathBuf,
    scope: Scope,
    presence: watch::Receiver<Presence>,
}

async fn answer(
    State(mut held): State<Held>,
    UrlPath(call): UrlPath<String>,
    body: Bytes,
) -> Response {
    if call == HOLDER_CALL {
        return response(StatusCode::OK, json!(held.run_dir).to_string());
    }
    if let Some(reply) = constant_reply(held.scope, &call) {
        return response(StatusCode::OK, reply.to_string());
    }
    let refusal = match timeout(CALL_TIMEOUT, held.hand_over(&call, &body)).await {
        Ok(Ok(reply)) => {
            let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
            return response(status, reply.body);
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => silent(&call),
    };
    let call = excerpt(&call);
    tracing::warn!(call, refusal, "refused an engine's call");
    response(StatusCode::OK, failure(refusal).to_string())
}

impl Held {
    /// Hands a call to netplugin, again if netplugin ends meanwhile: each call can be repeated. The error
    /// is the refusal.
    async fn hand_over(&mut self, call: &str, body: &Bytes) -> Result<HttpResponse, String> {
        let mut sent = 0;
        while sent < MAX_SENDS {
            if !self.is_here().await {
                return Err(away());
            }
            match self.forward(call, body).await {
                Ok(reply) => return Ok(reply),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Err(silent(call)),
                    // Its socket is closed already.
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {}
                    _ => {
                        sent += 1;
                        let call = excerpt(call);
                        tracing::warn!(call, sent, %error, "netplugin ended during an engine's call");
                    }
                },
            }
            pause(CONNECT_DELAY).await;
        }
        Err(format!(
            "netplugin ended {MAX_SENDS} times during {call}: see `journalctl -u netplugin` on this node"
        ))
    }

    /// Waits for netplugin until its restart can't be meant any more.
    async fn is_here(&mut self) -> bool {
        loop {
            let now = *self.presence.borrow_and_update();
            let Presence::AwaySince(ended) = now else {
                return true;
            };
            let changed = self.presence.changed();
            match tokio::time::timeout_at(ended + RESTART_GRACE, changed).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }

    async fn forward(&self, call: &str, body: &Bytes) -> io::Result<HttpResponse> {
        let (socket, path) = (self.netplugin.clone(), format!("/{call}"));
        let body = String::from_utf8_lossy(body).into_owned();
        let sent = tokio::task::spawn_blocking(move || post(&socket, &path, &body));
        sent.await.map_err(io::Error::other).flatten()
    }
}

/// The run directory whose netplugin gets the calls of this socket; `None` if no process holds it.
pub(super) fn holder_of(socket: &Path) -> Option<PathBuf> {
    let reply = post(socket, &format!("/{HOLDER_CALL}"), "").ok()?;
    serde_json::from_str(&reply.body).ok()
}

/// Listens on the engine's sockets in netplugin itself, unless another process holds them for it.
pub(super) fn listen_unless_held(
    socket: PathBuf,
    run_dir: &Path,
) -> Result<Option<UnixListener>, ServerError> {
    match holder_of(&socket) {
        Some(held) if held == run_dir => Ok(None),
        Some(held) => Err(ServerError::HeldForAnother {
            socket,
            held,
            ours: run_dir.to_owned(),
        }),
        None => {
            tracing::info!(socket = %socket.display(), "no `netplugin docker-sockets` runs: serve the engine's calls on its socket, until this netplugin ends");
            server::listen(socket).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netplugin_that_ends_soon_again_and_again_counts_as_away_from_its_second_end_on() {
        let begin = Instant::now();
        let second = |number: u64| begin + Duration::from_secs(number);
        let mut ends = Ends::new(begin);
        assert_eq!(ends.note(second(1), second(2)), second(2));
        assert_eq!(ends.note(second(3), second(4)), second(4));
        for number in [5, 15, 25] {
            let ended = ends.note(second(number), second(number + 9));
            assert_eq!(ended, second(4), "{number}");
        }
        assert_eq!(ends.note(second(40), second(51)), second(51), "it ran well");
        assert_eq!(ends.note(second(52), second(53)), second(53));
    }
}
