use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::DaemonConfig;
use super::node::{Ends, Node};
use super::services::Services;
use super::state::{COPY_FILE, remember_cluster};
use crate::bus::{self, BusConfig};
use crate::docker::DockerHandle;
use crate::endpoint::restore::{self, RestoreSources};
use crate::endpoint::{Settler, copy, vanished};
use crate::inquiry;
use crate::local;
use crate::reconciler::{Enforcement, Reconciler, Reports, Start};
use crate::store::{self, peers};
use crate::surroundings::{self, ResolverFiles};
use crate::viewer::{self, Viewer};

/// Spawns all tasks but the savers. The Docker plugin stays up until its handle is dropped.
pub(super) fn spawn(
    config: &DaemonConfig,
    node: &Node,
    services: Services,
    ends: Ends,
    tasks: &mut JoinSet<()>,
) -> DockerHandle {
    let Ends { kernel, requests } = ends;
    let (cleanup, cleanups) = mpsc::channel(1);
    let (questions, asked) = mpsc::channel(inquiry::MAX_WAITING_QUESTIONS);
    tasks.spawn(services.inquiry(node, cleanup).run(asked));
    tasks.spawn(services.outer_drops.clone().run());
    let connections = services.connections(node);
    tasks.spawn(connections.run(node.connection_alarms.clone()));
    tasks.spawn(services.uplinks(node).run(node.uplink_alarms.clone()));
    let sources = services.status_sources(node);
    let (status, status_rx) = watch::channel(sources.status());
    tasks.spawn(sources.keep(status));
    let reconciler = Reconciler::new(Start {
        params: node.params.clone(),
        datapath: node.datapath.clone(),
        facts: node.facts.clone(),
        reports: Reports {
            kernel,
            progress: node.progress.clone(),
            healings: node.healings.clone(),
        },
        dns: services.dns.clone(),
        enforcement: Enforcement::open(config.state_dir.join("enforced"), node.view.subscribe()),
        watching: config.watching,
        surroundings: node.surroundings.subscribe(),
    });
    tasks.spawn(reconciler.run(
        node.endpoints.clone(),
        node.log.subscribe(),
        cleanups,
        node.view.subscribe(),
    ));
    let (listener, api, docker) = services.local(node, status_rx.clone());
    tasks.spawn(local::serve(listener, api));
    tasks.spawn(watch_surroundings(node, &docker));
    spawn_endpoints(config, node, tasks);
    tasks.spawn(bus::run(BusConfig {
        url: config.nats.clone(),
        me: node.me.clone(),
        facts: node.facts.clone(),
        view: node.view.clone(),
        log: node.log.clone(),
        endpoints: node.endpoints.clone(),
        leave: node.leave.clone(),
        healings: node.healings.clone(),
        questions,
        status: status_rx,
        requests,
        published: node.published.clone(),
    }));
    docker
}

fn watch_surroundings(
    node: &Node,
    docker: &DockerHandle,
) -> impl Future<Output = ()> + Send + 'static {
    let subnets = docker.subnets.clone();
    let (datapath, current) = (node.datapath.clone(), node.surroundings.clone());
    surroundings::watch(ResolverFiles::default(), subnets, datapath, current)
}

/// Spawns the tasks that show, restore, detach and give up endpoints and addresses.
fn spawn_endpoints(config: &DaemonConfig, node: &Node, tasks: &mut JoinSet<()>) {
    let endpoints = &node.endpoints;
    tasks.spawn(viewer::keep(Viewer {
        me: node.me.clone(),
        view: node.view.clone(),
        facts: node.facts.subscribe(),
        snapshots: endpoints.snapshots(),
        kernel: endpoints.kernel(),
        log: node.log.subscribe(),
    }));
    if endpoints.snapshots().borrow().ledger.is_incomplete() {
        let sources = RestoreSources {
            datapath: node.datapath.clone(),
            copy: copy::load(&config.state_dir.join(COPY_FILE)),
            facts: node.facts.subscribe(),
            log: node.log.subscribe(),
        };
        tasks.spawn(restore::run(endpoints.clone(), sources));
    }
    tasks.spawn(vanished::run(endpoints.clone(), vanished::CHECK_INTERVAL));
    let settler = Settler {
        endpoints: endpoints.clone(),
        bus: node.bus.clone(),
        me: node.me.node.clone(),
        facts: node.facts.subscribe(),
        saved: node.facts.saved(),
        log: node.log.subscribe(),
        block_idle: config.block_idle,
    };
    tasks.spawn(settler.run());
    tasks.spawn(store::watch_file_system(
        Arc::clone(&node.disk),
        config.state_dir.clone(),
    ));
}

/// Spawns the tasks that write to the state folder, which save the last change after `stop`.
pub(super) fn spawn_savers(
    config: &DaemonConfig,
    node: &Node,
    stop: &CancellationToken,
    savers: &mut JoinSet<()>,
) {
    savers.spawn(store::keep(
        Arc::clone(&node.disk),
        node.facts.subscribe(),
        stop.clone(),
    ));
    savers.spawn(peers::keep(
        config.state_dir.join("neighbors"),
        node.me.node.clone(),
        node.view.subscribe(),
        stop.clone(),
    ));
    savers.spawn(copy::keep(
        config.state_dir.join(COPY_FILE),
        node.endpoints.snapshots(),
        stop.clone(),
    ));
    savers.spawn(remember_cluster(
        node.me.clone(),
        node.endpoints.clone(),
        node.facts.subscribe(),
        stop.clone(),
    ));
}
