//! Names: one server per domain, and a plain forwarder in the host's namespace.
//!
//! ```text
//! socket (in the domain) ─▶ udp, tcp ─▶ front: hickory ─▶ handler ─▶ zone [pure]: the asker's network knows the name
//!       ▲                    └▶ recent [pure]: said just now   └────▶ cache [pure] ─▶ upstream: everything else, from the host
//!       └───────────────────────────────── flight: the reply of another resolver ◀─── pool
//! ```
//!
//! The asker is known by its source address, so a server answers the askers of its own domain
//! only. One thread serves all domains; dropping the handle ends it, and every server. The daemon
//! calls `serve_domain` when a domain is in the kernel and `drop_domain` before it goes.

mod cache;
mod counters;
mod datagrams;
mod explain;
mod flight;
mod front;
mod handler;
mod message;
mod pool;
mod recent;
mod relay;
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
use self::handler::{Handler, Shared};
use self::socket::{Identity, Sockets};
pub use self::socket::{SocketError, SocketPlace};
use self::upstream::Upstream;
pub use self::zone::SUFFIX;
use node_core::projection::EndpointsView;
use runtime::lock;

/// Seconds.
const TTL: u32 = 5;
/// Between two attempts to open a server's sockets.
const AGAIN: Duration = Duration::from_millis(300);

#[derive(Debug, Clone)]
pub struct Config {
    /// The host's resolvers; read again when it changes. Usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// May stand behind every name of ours, in lower case.
    pub suffix: String,
    /// Seconds that an answer may be remembered, also that there is nothing: containers come and
    /// go.
    pub ttl: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            suffix: SUFFIX.to_owned(),
            ttl: TTL,
        }
    }
}

/// The servers. Cheap to clone; they stop with the last handle.
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
    servers: Mutex<BTreeMap<Key, Server>>,
    troubles: Arc<Mutex<BTreeMap<Key, String>>>,
}

/// Whose server; the host's forwarder belongs to no tenant.
type Key = Option<TenantName>;

#[derive(Debug)]
struct Server {
    place: SocketPlace,
    identity: Option<Identity>,
    /// Stops the server when dropped.
    _stop: DropGuard,
}

/// Starts without a server. Must be called in the host's namespace: what is forwarded is sent from
/// there.
///
/// Servers have a thread of their own. Among the daemon's workers each query woke a second one,
/// which found nothing to do, and waited behind whatever else the daemon did.
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
    /// Serves a tenant's domain. Called again, it changes nothing, unless the domain is another
    /// one than before (its namespace was made anew). Sockets that can't be opened yet are tried
    /// again; see [`DnsHandle::troubles`].
    pub fn serve_domain(&self, tenant: &TenantName, place: SocketPlace) {
        self.serve(Some(tenant.clone()), place);
    }

    /// Stops serving a tenant's domain.
    pub fn drop_domain(&self, tenant: &TenantName) {
        self.stop(&Some(tenant.clone()));
    }

    /// Serves the host itself: a plain forwarder, for engines whose `dns` setting is
    /// [`node_core::resource::DNS_ADDRESS`].
    pub fn serve_host(&self) {
        self.serve(None, SocketPlace::Host);
    }

    /// What became of the messages so far.
    pub fn counters(&self) -> DnsCounters {
        self.running.answers.counters.read()
    }

    /// What a container of this node is told about a name, and why.
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

    /// Servers that can't be opened now, and why; the host's under `host`.
    pub fn troubles(&self) -> BTreeMap<String, String> {
        lock(&self.running.troubles)
            .iter()
            .map(|(key, reason)| (shown(key), reason.clone()))
            .collect()
    }

    fn serve(&self, key: Key, place: SocketPlace) {
        let identity = place.identity();
        let mut servers = lock(&self.running.servers);
        if servers
            .get(&key)
            .is_some_and(|it| it.place == place && it.identity == identity)
        {
            return;
        }
        // The old one gives its port back first, when it is the same namespace.
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

    fn stop(&self, key: &Key) {
        lock(&self.running.servers).remove(key);
        lock(&self.running.troubles).remove(key);
    }
}

/// One server; the task that owns it ends with its token.
struct Serving {
    key: Key,
    place: SocketPlace,
    handler: Arc<Handler>,
    troubles: Arc<Mutex<BTreeMap<Key, String>>>,
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
            let pause = tokio::time::sleep(AGAIN);
            tokio::select! {
                () = pause => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Serves until told to stop, or until a socket fails; returns why.
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
            tracing::warn!(domain = shown(&self.key), %reason, "no DNS here for now");
            troubles.insert(self.key.clone(), reason);
        }
    }
}

fn shown(key: &Key) -> String {
    key.as_ref()
        .map_or_else(|| "host".to_owned(), ToString::to_string)
}
