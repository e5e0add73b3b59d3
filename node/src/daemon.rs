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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
use crate::endpoint::{
    self, AttachError, Damage, EndpointsHandle, Found, Kernel, Parts, Record, restore, settle,
    vanished,
};
use crate::healing::Healings;
use crate::inquiry::{self, Inquiry};
use crate::local::{self, Api, Leaving};
use crate::metrics;
use crate::outer_drops::OuterDrops;
use crate::status::Sources;
use crate::store::{self, Disk};
use crate::viewer::Viewer;
use crate::{docker, underlay, viewer};
use node_core::desired::{self, Params};
use node_core::projection::{EndpointsView, Projection};
use node_datapath::{Datapath, DatapathError, Options};
use node_dns as dns;
use runtime::pause;

/// How a run ended that went well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop, or one of its tasks ended.
    Stopped,
    /// The underlay has another address: it is to be started again.
    Moved,
}

/// Before the disk is tried again that took no writes.
const RETRY: Duration = Duration::from_secs(3);

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
    /// A block in which this node uses no address for so long is returned.
    pub block_idle: Duration,
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

/// Without it a resync still finds rules that are missing.
async fn learn_rules(datapath: &Datapath, facts: &Projection, params: &Params) {
    for rules in desired::fixed_rules(facts, params) {
        if let Err(error) = datapath.learn(&rules).await {
            tracing::warn!(%error, "can't notice rules that others replace under our comments");
        }
    }
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
    let journal = config.state_dir.join("endpoints.journal");
    let (disk, mut projection, mut alarms) = load(&config)?;
    if projection.cluster.is_none() {
        // Else a node that lost its facts would follow any log.
        projection.cluster = endpoint::cluster_in(&journal);
    }
    learn_rules(&datapath, &projection, &params).await;
    let disk = Arc::new(disk);
    let facts = Facts::new(projection, Arc::clone(&disk));
    let (bus, asks) = BusHandle::new();
    let (kernel, kernel_rx) = watch::channel(Kernel::default());
    let (endpoints, found) = EndpointsHandle::start(Parts {
        me: config.name.clone(),
        journal: &journal,
        mtu: params.mtu(),
        facts: facts.subscribe(),
        kernel: kernel_rx,
        bus: bus.clone(),
    })?;
    match found {
        Found::Damaged(damage) => alarms.push(truncated(&damage)),
        Found::Nothing if restore::any_in_kernel(&datapath).await? => {
            alarms.push(missing(&journal));
            endpoints.restored(vec![Record::Incomplete]).await;
        }
        Found::Nothing | Found::Whole => {}
    }

    let connecting = LogState::Disconnected {
        reason: "connecting to the bus".to_owned(),
    };
    let (log, log_rx) = watch::channel(connecting);
    let (progress, progress_rx) = watch::channel(Progress::default());
    let neighbors = config.state_dir.join("neighbors");
    let copy = config.state_dir.join("endpoints.copy");
    let mut known = EndpointsView::default();
    known.await_stream(true);
    known.recall(store::load_endpoints(&neighbors));
    let (view, view_rx) = watch::channel(known);
    let farewell = Farewell::default();
    let ending = Ending::open(config.state_dir.join("enforced"), view_rx.clone());
    let healings = Healings::default();
    let docker = docker::start(
        docker::DockerConfig {
            plugin_dir: config.plugin_dir,
            run_dir: config.run_dir.clone(),
            engine: config.engine,
            state_dir: config.state_dir.clone(),
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
        leaving: Leaving {
            me: me.node.clone(),
            farewell: farewell.clone(),
            endpoints: endpoints.clone(),
            facts: facts.subscribe(),
        },
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
        runtime::metrics::serve(at, metrics::describe, None);
    }
    let mut tasks = JoinSet::new();
    tasks.spawn(local::serve(listener, api));
    let (questions, asked) = mpsc::channel(inquiry::MAX_WAITING_QUESTIONS);
    tasks.spawn(inquiry.run(asked));
    tasks.spawn(outer_drops.run());
    tasks.spawn(sources.keep(status));
    let (stop, mut keepers) = (CancellationToken::new(), JoinSet::new());
    keepers.spawn(store::keep(
        Arc::clone(&disk),
        facts.subscribe(),
        stop.clone(),
    ));
    tasks.spawn(store::watch_state(
        Arc::clone(&disk),
        config.state_dir.clone(),
    ));
    tasks.spawn(viewer::keep(Viewer {
        me: me.clone(),
        view: view.clone(),
        facts: facts.subscribe(),
        snapshots: endpoints.snapshots(),
        kernel: endpoints.kernel(),
        log: log_rx.clone(),
    }));
    keepers.spawn(store::keep_endpoints(
        neighbors,
        me.node.clone(),
        view.subscribe(),
        stop.clone(),
    ));
    let core = Core::new(
        params,
        datapath.clone(),
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
    let restoring = restore::Sources {
        datapath,
        copy: store::load_copy(&copy),
        facts: facts.subscribe(),
        log: log_rx.clone(),
    };
    let incomplete = endpoints.snapshots().borrow().ledger.is_incomplete();
    keepers.spawn(store::keep_copy(copy, endpoints.snapshots(), stop.clone()));
    keepers.spawn(remember_cluster(
        endpoints.clone(),
        facts.subscribe(),
        stop.clone(),
    ));
    if incomplete {
        tasks.spawn(restore::run(endpoints.clone(), restoring));
    }
    tasks.spawn(vanished::run(endpoints.clone(), vanished::LOOK));
    tasks.spawn(settle::run(
        endpoints.clone(),
        bus,
        me.node.clone(),
        facts.subscribe(),
        facts.saved(),
        log_rx,
        config.block_idle,
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

/// Journals which cluster the node follows, until it is stopped.
async fn remember_cluster(
    endpoints: EndpointsHandle,
    mut facts: watch::Receiver<Projection>,
    stop: CancellationToken,
) {
    let known = || endpoints.snapshots().borrow().ledger.cluster();
    let remember = async {
        loop {
            let is_news = |facts: &Projection| facts.cluster.is_some() && facts.cluster != known();
            let Ok(cluster) = facts.wait_for(is_news).await.map(|it| it.cluster) else {
                return;
            };
            let record = cluster.map(|cluster| Record::Cluster { cluster });
            // A disk that takes no writes may take them later.
            if endpoints
                .settled(record.into_iter().collect())
                .await
                .is_err()
            {
                pause(RETRY).await;
            }
        }
    };
    stop.run_until_cancelled(remember).await;
}

fn missing(journal: &Path) -> Alarm {
    Alarm::new(
        Grade::Warning,
        "journal-missing",
        format!(
            "the endpoint journal {} was missing or empty, although the kernel holds endpoints; they are restored from its copy, from the bus and from the kernel. Compare `netctl endpoint ls` with this node's containers; a container that isn't listed: start it again",
            journal.display()
        ),
    )
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
            "{} bytes of the endpoint journal were no whole record, every whole record was recovered; {kept}. Endpoints that it lost are restored if the kernel holds their devices. A container that `netctl endpoint ls` doesn't list: start it again",
            damage.bytes
        ),
    )
}
