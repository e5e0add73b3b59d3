//! `netplugin run` starts every task of the node.
//!
//! ```text
//!                  Facts ─────────────┬──────────────┬───────────┐
//! bus (session) ───┘                  ▼              ▼           ▼
//!   ▲  ▲   └────▶ EndpointsView▶ reconciler ▶ kernel docker      dns
//!   │  └─ status ◀── all parts       ▲  └── Kernel ─┐  │
//!   ├─ questions ─▶ inquiry: counters, traces
//!   └─ requests ◀ EndpointsHandle ───┴─ Snapshot ◀──┴──┴─ local socket
//!                  └▶ manager's thread ▶ journal      settle: returns blocks
//!                                             vanished: detaches endpoints without a namespace
//! ```
//!
//! One set owns all tasks and ends them when it is dropped. The channels between them are watches, of
//! which the newest value counts, or bounded. The sockets answer before the bus and the engine are
//! there. The reconciler changes the kernel; `cni`, `inquiry`, `restore`, `doctor` and `check` use the
//! datapath, too, and so does `outer_drops`.

mod node;
mod services;
mod state;
mod tasks;

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bus_schema::node::DomainKind;
use bus_schema::{MachineId, NodeName};
use ipnet::Ipv4Net;
use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::endpoint::AttachError;
use crate::reconciler::Watching;
use crate::{docker, metrics, underlay};
use node::Node;
use node_datapath::DatapathError;
use node_dns as dns;
use services::Services;

/// The end of a run without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It received a signal, or one of its tasks ended.
    Stopped,
    /// The underlay has another address or MTU: the daemon has to start again.
    Moved,
}

/// The configuration of `netplugin run`.
#[derive(Debug, Clone)]
pub struct DaemonConfig {
    pub name: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// The value of `--underlay`, from which `vtep` follows.
    pub underlay: String,
    /// The mark of outer packets, 0: none. Absent: none, and they are routed by it only if a rule of the
    /// host looks at marks.
    pub outer_mark: Option<u32>,
    /// Absent: VRF when the kernel has it, else netns.
    pub domain: Option<DomainKind>,
    pub nats: String,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub netns_dir: PathBuf,
    /// Absent: no engine is served.
    pub engine: Option<PathBuf>,
    pub plugin_dir: PathBuf,
    /// The address at which Prometheus may read metrics; absent: none.
    pub metrics: Option<SocketAddr>,
    pub dns: dns::Config,
    pub watching: Watching,
    /// A block in which this node uses no address for so long is returned.
    pub block_idle: Duration,
    /// The addresses of the uplinks of this node's domains.
    pub uplink_pool: Ipv4Net,
}

/// The reason why the daemon can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error("can't use {what} {path}: {error}")]
    File {
        what: &'static str,
        path: PathBuf,
        error: std::io::Error,
    },
    #[error(transparent)]
    Journal(#[from] AttachError),
    #[error("can't start the name servers' thread: {0}")]
    Dns(std::io::Error),
    #[error(transparent)]
    Docker(#[from] docker::ServerError),
}

/// Runs until `shutdown` resolves. The kernel continues to forward packets afterwards.
pub async fn run(
    config: DaemonConfig,
    shutdown: impl Future<Output = ()>,
) -> Result<Ended, StartError> {
    let (node, ends) = Node::open(&config).await?;
    let services = Services::start(&config, &node)?;
    if let Some(at) = config.metrics {
        runtime::metrics::serve(at, metrics::describe, None);
    }
    let stop = CancellationToken::new();
    let (mut tasks, mut savers) = (JoinSet::new(), JoinSet::new());
    let docker = tasks::spawn(&config, &node, services, ends, &mut tasks);
    tasks::spawn_savers(&config, &node, &stop, &mut savers);
    // The sockets answer: an engine may start now (`Before=docker.service`). Without systemd's
    // Type=notify the notification has no receiver.
    sd_notify::notify(&[NotifyState::Ready]).ok();
    let moved = underlay::watch(config.underlay, node.me.vtep, node.address.clone());
    let mtu = node.params.underlay_mtu;
    let resized = underlay::watch_mtu(node.datapath.clone(), node.me.vtep, mtu);
    let mut ended = Ended::Stopped;
    tokio::select! {
        () = shutdown => tracing::info!("stopping; forwarding continues"),
        () = moved => {
            ended = Ended::Moved;
            tracing::warn!("the underlay has another address: starting again with it");
        }
        () = resized => {
            ended = Ended::Moved;
            tracing::warn!(before = mtu, "the underlay has another MTU: starting again with it");
        }
        task = tasks.join_next() => {
            tracing::error!(?task, "a task of netplugin ended; stopping, forwarding continues");
        }
    }
    // A busy disk may take seconds: names are answered meanwhile.
    stop.cancel();
    while savers.join_next().await.is_some() {}
    // Not before: the savers see no last change in a closed channel.
    drop(node);
    drop(docker);
    drop(tasks);
    Ok(ended)
}
