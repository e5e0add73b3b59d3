//! Docker: the network and IPAM drivers, and the engine's networks, which follow the log.
//!
//! ```text
//! engine ── plugins' sockets ─▶ sockets ─▶ server ─▶ driver, ipam ──▶ endpoints
//!    ▲  └───── events, lists ─▶ client ─▶ engine ────────▶ (names, leftovers)
//!    └──────── networks ◀────── plan ◀── projection
//! ```
//!
//! The sockets answer before the engine and the bus are available, and no call of the engine waits
//! for the engine. `sockets` is a process of its own, which outlives netplugin. The daemon starts the
//! rest; dropping the handle ends it.

mod client;
mod details;
mod driver;
mod driver_error;
mod endpoints;
mod engine;
mod fallback;
mod ipam;
mod leftovers;
mod meaning;
mod networks;
mod plan;
mod pool_id;
mod protocol;
mod refused;
mod resolver;
mod sandbox;
mod sandboxes;
mod server;
mod signals;
pub mod sockets;
pub mod swarm;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bus_schema::node::{Alarm, EngineStatus, LogState};
use bus_schema::surroundings::EngineSubnet;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::client::EngineError;
pub use self::endpoints::Endpoints;
pub use self::sandbox::sandbox_of;
pub use self::server::ServerError;

use self::driver::Driver;
use self::engine::Engine;
use self::networks::Networks;
use self::server::Scope;
use crate::cleanup::CleanupReply;
use crate::healing::Healings;
use crate::surroundings::ResolverFiles;
use node_core::projection::Projection;

#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// The engine's folder of plugin sockets: `/run/docker/plugins`.
    pub plugin_dir: PathBuf,
    /// The folder with the socket for the swarm plugin: `/run/contiv`.
    pub run_dir: PathBuf,
    /// The engine's own socket; without one no engine is served, and there is no plugin.
    pub engine: Option<PathBuf>,
    pub state_dir: PathBuf,
    pub files: ResolverFiles,
    pub healings: Healings,
}

type Senders = (
    watch::Sender<Option<EngineStatus>>,
    watch::Sender<Vec<Alarm>>,
    watch::Sender<Vec<EngineSubnet>>,
);

/// Docker's tasks; they end when this is dropped.
#[derive(Debug)]
pub struct DockerHandle {
    /// `None` if no engine is served.
    pub status: watch::Receiver<Option<EngineStatus>>,
    pub alarms: watch::Receiver<Vec<Alarm>>,
    /// The subnets of the engine's networks that aren't Contiv's.
    pub subnets: watch::Receiver<Vec<EngineSubnet>>,
    /// Requests to release leftovers at once; `None` if no engine is served.
    pub cleanups: Option<mpsc::Sender<CleanupReply>>,
    /// Kept for the case without an engine: a receiver without its sender fails.
    _senders: Senders,
    tasks: JoinSet<()>,
}

/// Starts Docker's tasks. The sockets listen when this returns.
pub fn start<E: Endpoints>(
    config: DockerConfig,
    endpoints: E,
    projection: watch::Receiver<Projection>,
    log: watch::Receiver<LogState>,
) -> Result<DockerHandle, ServerError> {
    let (status, status_rx) = watch::channel(config.engine.as_ref().map(|_| EngineStatus {
        answers: false,
        applied: bus_schema::Revision::default(),
        version: None,
    }));
    let (alarms, alarms_rx) = watch::channel(Vec::new());
    let (subnets, subnets_rx) = watch::channel(Vec::new());
    let mut handle = DockerHandle {
        status: status_rx,
        alarms: alarms_rx,
        subnets: subnets_rx,
        cleanups: None,
        _senders: (status.clone(), alarms.clone(), subnets.clone()),
        tasks: JoinSet::new(),
    };
    let Some(socket) = config.engine.clone() else {
        return Ok(handle);
    };
    let sockets = listen(&config)?;
    let networks = Networks::open(config.state_dir.join("docker-networks.json"));
    let driver = Arc::new(Driver::new(
        endpoints,
        projection.clone(),
        networks,
        config.files.clone(),
    ));
    let (cleanups, asked) = mpsc::channel(1);
    handle.cleanups = Some(cleanups);
    let engine = Engine {
        cleanups: asked,
        socket,
        files: config.files,
        driver: Arc::clone(&driver),
        projection,
        log,
        status,
        alarms,
        subnets,
        in_sync: false,
        seen_networks: BTreeSet::new(),
        healings: config.healings,
        signals: Arc::default(),
    };
    for (listener, scope) in sockets {
        let serve = server::serve(listener, Arc::clone(&driver), scope);
        handle.tasks.spawn(serve);
    }
    handle.tasks.spawn(engine.run());
    Ok(handle)
}

/// netplugin's own sockets, and the engine's sockets unless a process holds them.
fn listen(config: &DockerConfig) -> Result<Vec<(UnixListener, Scope)>, ServerError> {
    let run_dir = &config.run_dir;
    let local = server::listen(run_dir.join(sockets::LOCAL_NAME))?;
    let swarm = server::listen(run_dir.join(sockets::SWARM_NAME))?;
    let mut listeners = vec![(local, Scope::Local), (swarm, Scope::Swarm)];
    for (path, scope) in [
        (config.plugin_dir.join("contiv.sock"), Scope::Local),
        (run_dir.join(swarm::SOCKET_NAME), Scope::Swarm),
    ] {
        let listener = sockets::listen_unless_held(path, run_dir)?;
        listeners.extend(listener.map(|it| (it, scope)));
    }
    Ok(listeners)
}
