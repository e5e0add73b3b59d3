//! The name servers: one for each domain, and a plain forwarder in the host's namespace.
//!
//! ```text
//! socket (in the domain) ─▶ udp, tcp ─▶ front: hickory ─▶ handler ─▶ zone [pure]: names of endpoints
//!       ▲                    └▶ recent [pure]: repeated queries └──▶ cache [pure] ─▶ upstream: other names, from the host
//!       └───────────────────────────────── flight: another resolver's reply ◀─── pool
//! ```
//!
//! A client is identified by its source address, so a server answers clients of its own domain only.
//! One thread serves all domains; dropping the handle ends the thread and all servers. The daemon
//! calls `serve_domain` when a domain is in the kernel and `drop_domain` before its removal.

mod cache;
mod counters;
mod datagrams;
mod engine;
mod explain;
mod flight;
mod front;
mod handler;
mod health;
mod leaving;
mod message;
mod pool;
mod recent;
mod relay;
mod resolv_conf;
mod shared_questions;
mod shares;
mod socket;
mod tcp;
mod udp;
mod upstream;
pub mod zone;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::TenantName;
use bus_schema::lookup::{Lookup, Resolution};
use bus_schema::node::DnsCounters;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use self::counters::Counters;
pub use self::engine::ask_engine;
use self::handler::{Handler, Shared};
use self::socket::{PlaceIdentity, Sockets};
pub use self::socket::{SocketError, SocketPlace};
use self::upstream::Upstream;
pub use self::zone::DEFAULT_SUFFIX;
use node_core::projection::EndpointsView;
use runtime::lock;

/// A name's TTL unless the node is configured with another one.
const DEFAULT_TTL_SECONDS: u32 = 5;
/// Pause between two attempts to open a server's sockets.
const SOCKET_RETRY_DELAY: Duration = Duration::from_millis(300);

#[derive(Debug, Clone)]
pub struct Config {
    /// File with the host's resolvers, read again when it changes. Usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Suffix of all our names, in lower case.
    pub suffix: String,
    /// Seconds that an answer may be cached, also a negative one. Containers come and go, so it is
    /// short.
    pub ttl: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            suffix: DEFAULT_SUFFIX.to_owned(),
            ttl: DEFAULT_TTL_SECONDS,
        }
    }
}

/// A handle on the servers. It is cheap to clone; the servers stop with the last handle.
#[derive(Debug, Clone)]
pub struct DnsHandle {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    thread: Handle,
    /// Ends the thread when dropped.
    _stop: DropGuard,
    answers: Arc<Shared>,
    servers: Mutex<BTreeMap<ServerKey, Server>>,
    troubles: Arc<Mutex<BTreeMap<ServerKey, String>>>,
}

/// A server's tenant; `None` for the host's forwarder.
type ServerKey = Option<TenantName>;

#[derive(Debug)]
struct Server {
    place: SocketPlace,
    identity: Option<PlaceIdentity>,
    /// Stops the server when dropped.
    _stop: DropGuard,
}

/// Starts the thread, without a server. It must be called in the host's namespace: queries are
/// forwarded from there.
///
/// Servers have a thread of their own. On the daemon's workers each query woke a second worker for
/// nothing, and waited behind the daemon's other tasks.
pub fn start(config: Config, view: watch::Receiver<EndpointsView>) -> io::Result<DnsHandle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let thread = runtime.handle().clone();
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    std::thread::Builder::new()
        .name("dns".to_owned())
        .spawn(move || runtime.block_on(stopped))?;
    Ok(DnsHandle {
        running: Arc::new(Running {
            thread,
            _stop: stop.drop_guard(),
            answers: Arc::new(Shared {
                view,
                upstream: Upstream::new(config.resolv_conf, config.ttl),
                counters: Counters::default(),
                recent: Mutex::default(),
                views: AtomicU64::new(0),
                suffix: config.suffix,
                ttl: config.ttl,
            }),
            servers: Mutex::default(),
            troubles: Arc::default(),
        }),
    })
}

impl DnsHandle {
    /// Serves a tenant's domain. A second call changes nothing, unless the domain's namespace was
    /// created again. Sockets that can't be opened yet are tried again; see
    /// [`DnsHandle::troubles`].
    pub fn serve_domain(&self, tenant: &TenantName, place: SocketPlace) {
        self.serve(Some(tenant.clone()), place);
    }

    /// Stops serving a tenant's domain.
    pub fn drop_domain(&self, tenant: &TenantName) {
        self.stop(&Some(tenant.clone()));
    }

    /// Serves the host itself with a plain forwarder, for engines whose `dns` setting is
    /// [`node_core::resource::DNS_ADDRESS`].
    pub fn serve_host(&self) {
        self.serve(None, SocketPlace::Host);
    }

    /// Counts the messages so far by outcome.
    pub fn counters(&self) -> DnsCounters {
        self.running.answers.counters.read()
    }

    /// The answer to a container of this node about a name, with its reasons.
    pub fn explain(&self, lookup: &Lookup) -> Resolution {
        let Shared {
            view,
            suffix,
            upstream,
            ttl,
            ..
        } = &*self.running.answers;
        explain::resolution(&view.borrow(), lookup, suffix, &upstream.addresses(), *ttl)
    }

    /// Servers whose sockets can't be opened now, with the reason; `host` for the host's.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        lock(&self.running.troubles)
            .iter()
            .map(|(key, reason)| (key_text(key), reason.clone()))
            .collect()
    }

    fn serve(&self, key: ServerKey, place: SocketPlace) {
        let identity = place.identity();
        let mut servers = lock(&self.running.servers);
        if servers
            .get(&key)
            .is_some_and(|it| it.place == place && it.identity == identity)
        {
            return;
        }
        // Drop the old server first: in the same namespace it holds the port.
        servers.remove(&key);
        let stop = CancellationToken::new();
        let serving = Serving {
            key: key.clone(),
            place: place.clone(),
            handler: Arc::new(Handler::new(key.clone(), self.running.answers.clone())),
            troubles: self.running.troubles.clone(),
        };
        self.running.thread.spawn(serving.run(stop.clone()));
        let server = Server {
            place,
            identity,
            _stop: stop.drop_guard(),
        };
        servers.insert(key, server);
    }

    fn stop(&self, key: &ServerKey) {
        lock(&self.running.servers).remove(key);
        lock(&self.running.troubles).remove(key);
    }
}

/// The task of one server; it ends with its token.
struct Serving {
    key: ServerKey,
    place: SocketPlace,
    handler: Arc<Handler>,
    troubles: Arc<Mutex<BTreeMap<ServerKey, String>>>,
}

impl Serving {
    async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let ended = match socket::open(&self.place).await {
                Ok(sockets) => {
                    lock(&self.troubles).remove(&self.key);
                    self.serve(sockets, &stop).await
                }
                Err(error) => error.to_string(),
            };
            if stop.is_cancelled() {
                return;
            }
            self.trouble(ended);
            #[expect(
                clippy::disallowed_methods,
                reason = "the pause before the sockets are opened again"
            )]
            let pause = tokio::time::sleep(SOCKET_RETRY_DELAY);
            tokio::select! {
                () = pause => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Serves until `stop` or a socket's failure; returns the reason.
    async fn serve(&self, sockets: Sockets, stop: &CancellationToken) -> String {
        tokio::select! {
            error = udp::serve(sockets.udp, self.handler.clone()) => error.to_string(),
            () = tcp::serve(sockets.tcp, self.handler.clone()) => "its listener ended".to_owned(),
            () = stop.cancelled() => String::new(),
        }
    }

    fn trouble(&self, reason: String) {
        let mut troubles = lock(&self.troubles);
        if troubles.get(&self.key) != Some(&reason) {
            tracing::warn!(domain = key_text(&self.key), %reason, "DNS server not running");
            troubles.insert(self.key.clone(), reason);
        }
    }
}

fn key_text(key: &ServerKey) -> String {
    key.as_ref()
        .map_or_else(|| "host".to_owned(), ToString::to_string)
}
