//! `netplugin run`: every task of the node and what lies between them.
//!
//! ```text
//!                  Facts ─────────────┬──────────────┬───────────┐
//! bus (session) ───┘                  ▼              ▼           ▼
//!   ▲  ▲   └────▶ EndpointsView ▶   core ──▶ kernel  docker      dns
//!   │  └─ status ◀── everybody       ▲  └── Kernel ─┐  │
//!   ├─ questions ─▶ inquiry: counters, traces
//!   └─ asks ◀── EndpointsHandle ─────┴─ Snapshot ◀──┴──┴─ local socket
//!                  └▶ manager's thread ▶ journal      settle: gives blocks back
//!                                             vanished: detaches what lost its namespace
//! ```
//!
//! All tasks are owned by one set, which ends them when it is dropped; channels between them are
//! watches, of which the newest value counts, or bounded. The sockets answer before the bus and
//! the engine are there.

use std::future::Future;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bus_schema::node::{Alarm, DomainKind, Grade, LogState};
use bus_schema::{MachineId, NodeName};
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::bus::{self, BusHandle, Facts, Farewell, Identity, Published};
use crate::cleanup::Cleaner;
use crate::cni::Cni;
use crate::core::{Core, Ending, Progress, Tells, Watching, underlay_mtu};
use crate::datapath::{Datapath, DatapathError, Options};
use crate::desired::Params;
use crate::endpoint::{AttachError, Damage, EndpointsHandle, Kernel, Parts, settle, vanished};
use crate::healing::Healings;
use crate::inquiry::{self, Inquiry};
use crate::local::{self, Api};
use crate::metrics;
use crate::outer_drops::OuterDrops;
use crate::projection::{EndpointsView, Projection};
use crate::status::Sources;
use crate::store::{self, Disk};
use crate::{dns, docker, underlay, viewer};

/// How a run ended that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop, or one of its tasks ended.
    Stopped,
    /// The underlay has another address: it is to be started again.
    Moved,
}

/// What `netplugin run` was told.
#[derive(Debug, Clone)]
pub struct Config {
    pub name: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// `--underlay`, which meant `vtep`.
    pub underlay: String,
    /// Absent: VRF when the kernel has it, else netns.
    pub domain: Option<DomainKind>,
    pub nats: String,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub netns_dir: PathBuf,
    /// Absent: no engine is served.
    pub engine: Option<PathBuf>,
    pub plugin_dir: PathBuf,
    /// Where Prometheus may read metrics; absent: nowhere.
    pub metrics: Option<SocketAddr>,
    pub dns: dns::Config,
    pub watching: Watching,
}

/// Why the daemon can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error("can't use {what} {path}: {reason}")]
    File {
        what: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error(transparent)]
    Journal(#[from] AttachError),
    #[error("can't start the name servers' thread: {0}")]
    Dns(std::io::Error),
    #[error(transparent)]
    Docker(#[from] docker::ServerError),
}

/// Runs until `shutdown` resolves. Forwarding goes on after it.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<Ended, StartError> {
    let datapath = Datapath::open(Options {
        host: None,
        netns_dir: config.netns_dir.clone(),
        kind: config.domain,
    })
    .await?;
    let params = Params {
        node: config.name.clone(),
        kind: datapath.kind(),
        vtep: config.vtep,
        underlay_mtu: underlay_mtu(&datapath, config.vtep).await?,
    };
    let me = Identity {
        node: config.name.clone(),
        machine: config.machine.clone(),
        vtep: config.vtep,
    };
    let (disk, projection, mut alarms) = load(&config)?;
    let disk = Arc::new(disk);
    let facts = Facts::new(projection, Arc::clone(&disk));
    let (bus, asks) = BusHandle::new();
    let (kernel, kernel_rx) = watch::channel(Kernel::default());
    let journal = config.state_dir.join("endpoints.journal");
    let (endpoints, damage) = EndpointsHandle::start(Parts {
        me: config.name.clone(),
        journal: &journal,
        mtu: params.mtu(),
        facts: facts.subscribe(),
        kernel: kernel_rx,
        bus: bus.clone(),
    })?;
    alarms.extend(damage.map(|damage| truncated(&damage)));

    let connecting = LogState::Disconnected {
        reason: "connecting to the bus".to_owned(),
    };
    let (log, log_rx) = watch::channel(connecting);
    let (progress, progress_rx) = watch::channel(Progress::default());
    let neighbors = config.state_dir.join("neighbors");
    let mut known = EndpointsView::default();
    known.await_stream(true);
    known.recall(store::load_endpoints(&neighbors));
    let (view, view_rx) = watch::channel(known);
    let farewell = Farewell::default();
    let ending = Ending::open(config.state_dir.join("enforced"), view_rx.clone());
    let healings = Healings::default();
    let docker = docker::start(
        docker::Config {
            plugin_dir: config.plugin_dir,
            run_dir: config.run_dir.clone(),
            engine: config.engine,
            state_dir: config.state_dir,
            files: docker::ResolverFiles::default(),
            healings: healings.clone(),
        },
        endpoints.clone(),
        facts.subscribe(),
        log_rx.clone(),
    )?;
    let suffix = config.dns.suffix.clone();
    let dns = dns::start(config.dns, view_rx.clone()).map_err(StartError::Dns)?;
    let (cleanups, cleaned) = mpsc::channel(1);
    let outer_drops = OuterDrops::new(datapath.clone());
    let inquiry = Inquiry {
        params: params.clone(),
        datapath: datapath.clone(),
        facts: facts.subscribe(),
        view: view_rx,
        dns: dns.clone(),
        cleaner: Cleaner {
            endpoints: endpoints.clone(),
            engine: docker.cleanups.clone(),
            core: cleanups,
        },
        outer_drops: outer_drops.clone(),
    };
    let address = watch::Sender::new(underlay::Change::None);
    let published = watch::Sender::new(Published::default());
    let sources = Sources {
        dns: dns.clone(),
        healing: healings.subscribe(),
        me: me.clone(),
        domain: params.kind,
        log: log_rx.clone(),
        progress: progress_rx,
        facts: facts.subscribe(),
        saved: facts.saved(),
        snapshots: endpoints.snapshots(),
        kernel: endpoints.kernel(),
        published: published.subscribe(),
        address: address.subscribe(),
        engine: docker.status.clone(),
        engine_alarms: docker.alarms.clone(),
        alarms,
    };
    let (status, status_rx) = watch::channel(sources.status());
    let listener = local::listen(&config.run_dir).map_err(|error| StartError::File {
        what: "the run directory",
        path: config.run_dir.clone(),
        reason: error.to_string(),
    })?;
    let api = Api {
        endpoints: endpoints.clone(),
        farewell: farewell.clone(),
        status: status_rx.clone(),
        cni: Cni {
            endpoints: endpoints.clone(),
            datapath: datapath.clone(),
            facts: facts.subscribe(),
            log: log_rx.clone(),
            suffix,
        },
    };

    if let Some(at) = config.metrics {
        telemetry::serve(at, metrics::describe);
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(local::serve(listener, api));
    let (questions, asked) = mpsc::channel(inquiry::WAITING);
    tasks.spawn(inquiry.run(asked));
    tasks.spawn(outer_drops.run());
    tasks.spawn(sources.keep(status));
    let (stop, mut keepers) = (CancellationToken::new(), JoinSet::new());
    keepers.spawn(store::keep(disk, facts.subscribe(), stop.clone()));
    tasks.spawn(viewer::keep(
        me.clone(),
        view.clone(),
        facts.subscribe(),
        endpoints.snapshots(),
        endpoints.kernel(),
        log_rx.clone(),
    ));
    keepers.spawn(store::keep_endpoints(
        neighbors,
        me.node.clone(),
        view.subscribe(),
        stop.clone(),
    ));
    let core = Core::new(
        params,
        datapath,
        facts.clone(),
        Tells {
            kernel,
            progress,
            healings: healings.clone(),
        },
        dns,
        ending,
        config.watching,
    );
    tasks.spawn(core.run(endpoints.clone(), log_rx.clone(), cleaned, view.subscribe()));
    tasks.spawn(vanished::run(endpoints.clone(), vanished::LOOK));
    tasks.spawn(settle::run(
        endpoints.clone(),
        bus,
        me.node.clone(),
        facts.subscribe(),
        facts.saved(),
        log_rx,
    ));
    tasks.spawn(bus::run(bus::Parts {
        url: config.nats,
        me: me.clone(),
        facts: facts.clone(),
        view: view.clone(),
        log,
        endpoints,
        farewell,
        healings,
        questions,
        status: status_rx,
        asks,
        published,
    }));
    // The sockets answer: an engine may start now (`Before=docker.service`). Without systemd's
    // Type=notify nobody listens.
    sd_notify::notify(&[NotifyState::Ready]).ok();
    let moved = underlay::watch(config.underlay, me.vtep, address);
    let mut ended_as = Ended::Stopped;
    tokio::select! {
        () = shutdown => tracing::info!("stopping; forwarding goes on"),
        () = moved => {
            ended_as = Ended::Moved;
            tracing::warn!("the underlay has another address: starting again with it");
        }
        ended = tasks.join_next() => {
            tracing::error!(?ended, "a task of netplugin ended; stopping, forwarding goes on");
        }
    }
    // A busy disk may take seconds: names are answered meanwhile.
    stop.cancel();
    while keepers.join_next().await.is_some() {}
    // Not before: a channel that is closed has nothing to save.
    drop((view, facts));
    drop(docker);
    drop(tasks);
    Ok(ended_as)
}

fn load(config: &Config) -> Result<(Disk, Projection, Vec<Alarm>), StartError> {
    let unusable = |error: std::io::Error| StartError::File {
        what: "the state directory",
        path: config.state_dir.clone(),
        reason: error.to_string(),
    };
    // A disk that takes no writes holds nothing, then, and is reported by who writes to it.
    std::fs::create_dir_all(&config.state_dir)
        .or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull => Ok(()),
            _ => Err(error),
        })
        .map_err(unusable)?;
    Disk::open(&config.state_dir).map_err(unusable)
}

fn truncated(damage: &Damage) -> Alarm {
    let (grade, kept) = match &damage.kept {
        Some(path) => (Grade::Warning, format!("it is kept in {}", path.display())),
        None => (
            Grade::Wrong,
            "there is no room for a new one: make some, until then nothing is attached".to_owned(),
        ),
    };
    Alarm::new(
        grade,
        "journal-truncated",
        format!(
            "{} bytes of the endpoint journal were no whole record, every whole record was recovered; {kept}. Endpoints that are missing: start their containers again",
            damage.bytes
        ),
    )
}
