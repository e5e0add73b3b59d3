use std::path::PathBuf;

use bus_schema::node::NodeStatus;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use super::node::Node;
use super::{DaemonConfig, StartError};
use crate::cleanup::{Cleaner, CleanupReply};
use crate::cni::Cni;
use crate::connections::{ConnectionWatch, LastReading};
use crate::docker::{self, DockerHandle};
use crate::inquiry::Inquiry;
use crate::local::{self, Api, Leaving};
use crate::outer_drops::OuterDrops;
use crate::status::StatusSources;
use crate::surroundings::ResolverFiles;
use crate::uplinks::{UplinkCounters, UplinkWatch};
use node_dns::{self as dns, DnsHandle};

/// The servers on this machine: Docker's plugin socket, DNS, the local socket.
pub(super) struct Services {
    pub docker: DockerHandle,
    pub dns: DnsHandle,
    pub outer_drops: OuterDrops,
    listener: UnixListener,
    dns_suffix: String,
    engine: Option<PathBuf>,
}

impl Services {
    pub(super) fn start(config: &DaemonConfig, node: &Node) -> Result<Self, StartError> {
        let docker = docker::start(
            docker::DockerConfig {
                plugin_dir: config.plugin_dir.clone(),
                run_dir: config.run_dir.clone(),
                engine: config.engine.clone(),
                state_dir: config.state_dir.clone(),
                files: ResolverFiles::default(),
                healings: node.healings.clone(),
            },
            node.endpoints.clone(),
            node.facts.subscribe(),
            node.log.subscribe(),
        )?;
        let dns = dns::start(config.dns.clone(), node.view.subscribe()).map_err(StartError::Dns)?;
        let listener = local::listen(&config.run_dir).map_err(|error| StartError::File {
            what: "the run directory",
            path: config.run_dir.clone(),
            error,
        })?;
        Ok(Self {
            docker,
            dns,
            outer_drops: OuterDrops::new(node.datapath.clone()),
            listener,
            dns_suffix: config.dns.suffix.clone(),
            engine: config.engine.clone(),
        })
    }

    /// The answers to requests about this node; `cleanups` are the reconciler's.
    pub(super) fn inquiry(&self, node: &Node, cleanups: mpsc::Sender<CleanupReply>) -> Inquiry {
        Inquiry {
            params: node.params.clone(),
            datapath: node.datapath.clone(),
            facts: node.facts.subscribe(),
            view: node.view.subscribe(),
            dns: self.dns.clone(),
            cleaner: Cleaner {
                endpoints: node.endpoints.clone(),
                engine: self.docker.cleanups.clone(),
                core: cleanups,
            },
            outer_drops: self.outer_drops.clone(),
            snapshots: node.endpoints.snapshots(),
            engine: self.engine.clone(),
        }
    }

    pub(super) fn connections(&self, node: &Node) -> ConnectionWatch {
        ConnectionWatch {
            params: node.params.clone(),
            datapath: node.datapath.clone(),
            facts: node.facts.subscribe(),
            snapshots: node.endpoints.snapshots(),
            last: LastReading::default(),
        }
    }

    pub(super) fn uplinks(&self, node: &Node) -> UplinkWatch {
        UplinkWatch {
            params: node.params.clone(),
            datapath: node.datapath.clone(),
            facts: node.facts.subscribe(),
            surroundings: node.surroundings.subscribe(),
            last: UplinkCounters::default(),
        }
    }

    pub(super) fn status_sources(&self, node: &Node) -> StatusSources {
        StatusSources {
            dns: self.dns.clone(),
            healing: node.healings.subscribe(),
            me: node.me.clone(),
            domain: node.params.kind,
            log: node.log.subscribe(),
            progress: node.progress.subscribe(),
            facts: node.facts.subscribe(),
            saved: node.facts.saved(),
            view: node.view.subscribe(),
            snapshots: node.endpoints.snapshots(),
            kernel: node.endpoints.kernel(),
            published: node.published.subscribe(),
            address: node.address.subscribe(),
            surroundings: node.surroundings.subscribe(),
            engine: self.docker.status.clone(),
            engine_alarms: self.docker.alarms.clone(),
            connection_alarms: node.connection_alarms.subscribe(),
            uplink_alarms: node.uplink_alarms.subscribe(),
            alarms: node.alarms.clone(),
        }
    }

    /// The local socket with its API.
    pub(super) fn local(
        self,
        node: &Node,
        status: watch::Receiver<NodeStatus>,
    ) -> (UnixListener, Api, DockerHandle) {
        let api = Api {
            endpoints: node.endpoints.clone(),
            leaving: Leaving {
                me: node.me.node.clone(),
                leave: node.leave.clone(),
                endpoints: node.endpoints.clone(),
                facts: node.facts.subscribe(),
            },
            status,
            cni: Cni {
                endpoints: node.endpoints.clone(),
                datapath: node.datapath.clone(),
                facts: node.facts.subscribe(),
                log: node.log.subscribe(),
                suffix: self.dns_suffix,
            },
        };
        (self.listener, api, self.docker)
    }
}
