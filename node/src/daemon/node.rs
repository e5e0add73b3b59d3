use std::path::Path;
use std::sync::Arc;

use bus_schema::node::{Alarm, LogState};
use bus_schema::surroundings::Surroundings;
use tokio::sync::{mpsc, watch};

use super::{DaemonConfig, StartError, state};
use crate::bus::{Facts, Leave};
use crate::endpoint::{
    self, EndpointsConfig, EndpointsHandle, JournalState, Kernel, Published, Record, restore,
};
use crate::healing::Healings;
use crate::identity::Identity;
use crate::reconciler::{Progress, underlay_mtu};
use crate::requests::{BusHandle, BusRequest};
use crate::store::{Disk, peers};
use crate::surroundings;
use crate::underlay::{Change, interface_of};
use node_core::desired::{self, Params};
use node_core::projection::{EndpointsView, Projection};
use node_core::resource::Place;
use node_datapath::{Datapath, DatapathError, Options};

/// The opened state of the node, and the channels that several tasks use.
pub(super) struct Node {
    pub me: Identity,
    pub params: Params,
    pub datapath: Datapath,
    pub disk: Arc<Disk>,
    pub facts: Facts,
    pub bus: BusHandle,
    pub endpoints: EndpointsHandle,
    pub log: watch::Sender<LogState>,
    pub view: watch::Sender<EndpointsView>,
    pub progress: watch::Sender<Progress>,
    pub published: watch::Sender<Published>,
    pub address: watch::Sender<Change>,
    pub surroundings: watch::Sender<Surroundings>,
    /// The alarms of conntrack's tables.
    pub connection_alarms: watch::Sender<Vec<Alarm>>,
    pub uplink_alarms: watch::Sender<Vec<Alarm>>,
    pub healings: Healings,
    pub leave: Leave,
    /// Alarms of damaged files.
    pub alarms: Vec<Alarm>,
}

/// The channel ends that belong to one task each.
pub(super) struct Ends {
    /// For the reconciler.
    pub kernel: watch::Sender<Kernel>,
    /// For the bus.
    pub requests: mpsc::Receiver<BusRequest>,
}

impl Node {
    pub(super) async fn open(config: &DaemonConfig) -> Result<(Self, Ends), StartError> {
        let datapath = Datapath::open(Options {
            host: None,
            netns_dir: config.netns_dir.clone(),
            kind: config.domain,
        })
        .await?;
        let params = params(config, &datapath).await?;
        let journal = config.state_dir.join("endpoints.journal");
        let (disk, mut projection, mut alarms) = state::load(config)?;
        alarms.extend(state::set_aside_foreign(config, &journal, &datapath).await?);
        if projection.cluster.is_none() {
            // Else a node that lost its facts would follow any log.
            projection.cluster = endpoint::cluster_in(&journal);
        }
        learn_rules(&datapath, &projection, &params).await;
        let disk = Arc::new(disk);
        let facts = Facts::new(projection, Arc::clone(&disk));
        let (bus, requests) = BusHandle::new();
        let (kernel, kernel_rx) = watch::channel(Kernel::default());
        let (endpoints, found) = EndpointsHandle::start(EndpointsConfig {
            me: config.name.clone(),
            journal: &journal,
            mtu: params.mtu(),
            facts: facts.subscribe(),
            kernel: kernel_rx,
            bus: bus.clone(),
        })?;
        alarms.extend(check_journal(found, &journal, &endpoints, &datapath).await?);
        let connecting = LogState::Disconnected {
            reason: "connecting to the bus".to_owned(),
        };
        let mut view = EndpointsView::default();
        view.await_stream(true);
        view.recall(peers::load(&config.state_dir.join("neighbors")));
        let around = surroundings::first(&datapath).await;
        let node = Self {
            me: identity(config),
            params,
            datapath,
            disk,
            facts,
            bus,
            endpoints,
            log: watch::Sender::new(connecting),
            view: watch::Sender::new(view),
            progress: watch::Sender::default(),
            published: watch::Sender::default(),
            address: watch::Sender::new(Change::None),
            surroundings: watch::Sender::new(around),
            connection_alarms: watch::Sender::default(),
            uplink_alarms: watch::Sender::default(),
            healings: Healings::default(),
            leave: Leave::default(),
            alarms,
        };
        Ok((node, Ends { kernel, requests }))
    }
}

async fn params(config: &DaemonConfig, datapath: &Datapath) -> Result<Params, StartError> {
    Ok(Params {
        node: config.name.clone(),
        kind: datapath.kind(),
        vtep: config.vtep,
        underlay_mtu: underlay_mtu(datapath, config.vtep).await?,
        underlay_interface: interface_of(config.vtep).unwrap_or_default(),
        uplink_pool: config.uplink_pool,
        resolvers: Default::default(),
        max_connections: max_connections(datapath).await?,
        outer_mark: config.outer_mark,
    })
}

/// The alarm of a damaged journal, or of a missing one while the kernel holds endpoints: then they are
/// to be restored.
async fn check_journal(
    found: JournalState,
    journal: &Path,
    endpoints: &EndpointsHandle,
    datapath: &Datapath,
) -> Result<Option<Alarm>, DatapathError> {
    match found {
        JournalState::Damaged(damage) => Ok(Some(state::journal_truncated(&damage))),
        JournalState::Empty if restore::any_in_kernel(datapath).await? => {
            endpoints.restore_records(vec![Record::Incomplete]).await;
            Ok(Some(state::journal_missing(journal)))
        }
        JournalState::Empty | JournalState::Whole => Ok(None),
    }
}

/// A quarter of the host's conntrack table.
async fn max_connections(datapath: &Datapath) -> Result<u32, StartError> {
    let usage = datapath.conntrack_usage(&Place::Host).await?;
    Ok(quarter(usage.max))
}

/// A quarter of a table's size, of which 0 means no limit (`nf_conntrack_max` in the kernel's
/// nf_conntrack-sysctl.rst).
fn quarter(table: u32) -> u32 {
    match table {
        0 => u32::MAX,
        table => (table / 4).max(1),
    }
}

/// Reads the fixed rules back as the kernel stores them. Without it a resync still finds rules that are
/// missing.
async fn learn_rules(datapath: &Datapath, facts: &Projection, params: &Params) {
    for rules in desired::fixed_rules(facts, params) {
        if let Err(error) = datapath.learn(&rules).await {
            tracing::warn!(%error, "can't notice rules that others replace under our comments");
        }
    }
}

fn identity(config: &DaemonConfig) -> Identity {
    Identity {
        node: config.name.clone(),
        machine: config.machine.clone(),
        vtep: config.vtep,
    }
}

#[cfg(test)]
mod tests {
    use super::quarter;

    #[test]
    fn table_without_a_limit_gives_endpoints_none() {
        assert_eq!(quarter(262_144), 65_536);
        assert_eq!(quarter(3), 1);
        assert_eq!(quarter(0), u32::MAX);
    }
}
