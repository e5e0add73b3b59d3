//! The state folder at the start: the facts, and alarms of damaged files.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bus_schema::node::{Alarm, Grade};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DaemonConfig, StartError};
use crate::endpoint::{self, Damage, EndpointsHandle, Record, restore};
use crate::identity::Identity;
use crate::store::Disk;
use node_core::projection::Projection;
use node_datapath::Datapath;
use runtime::pause;

/// The pause before a refused record of the cluster is written again.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

/// The file name of the copy of the journal's endpoints.
pub(super) const COPY_FILE: &str = "endpoints.copy";

pub(super) fn load(config: &DaemonConfig) -> Result<(Disk, Projection, Vec<Alarm>), StartError> {
    let unusable = |error: std::io::Error| StartError::File {
        what: "the state directory",
        path: config.state_dir.clone(),
        error,
    };
    // A disk that refuses writes may hold no folder yet; the parts that write to it report it.
    std::fs::create_dir_all(&config.state_dir)
        .or_else(|error| match error.kind() {
            ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull => Ok(()),
            _ => Err(error),
        })
        .map_err(unusable)?;
    Disk::open(&config.state_dir).map_err(unusable)
}

/// Moves a journal aside that another node wrote: this machine is a clone of that node's, or has its
/// backup, and none of the endpoints. If the kernel has endpoints, this is the same machine under a new
/// name, and keeps them.
pub(super) async fn set_aside_foreign(
    config: &DaemonConfig,
    journal: &Path,
    datapath: &Datapath,
) -> Result<Option<Alarm>, StartError> {
    let writer = endpoint::writer_of(journal);
    let Some((node, machine)) = writer.filter(|(node, _)| *node != config.name) else {
        return Ok(None);
    };
    if restore::any_in_kernel(datapath).await? {
        return Ok(None);
    }
    let copy = config.state_dir.join(COPY_FILE);
    let aside = endpoint::set_aside(journal, &copy, &node);
    let aside = aside.map_err(|error| StartError::File {
        what: "the endpoint journal",
        path: journal.to_owned(),
        error,
    })?;
    let text = format!(
        "node {node} on machine {machine} wrote the endpoint journal in {}: this machine is its clone or has its backup, so it starts without endpoints. The journal is kept in {}; remove it, and this alarm ends with netplugin's next start",
        config.state_dir.display(),
        aside.display()
    );
    tracing::warn!("{text}");
    Ok(Some(Alarm::new(Grade::Warning, "journal-foreign", text)))
}

/// Journals who writes the journal, and the cluster whose log the node follows, until it is stopped.
pub(super) async fn remember_cluster(
    me: Identity,
    endpoints: EndpointsHandle,
    mut facts: watch::Receiver<Projection>,
    stop: CancellationToken,
) {
    let known = || endpoints.snapshots().borrow().ledger.cluster();
    let writer = (me.node, me.machine);
    let is_known = || endpoints.snapshots().borrow().ledger.writer() == Some(&writer);
    let remember = async {
        while !is_known() {
            let (node, machine) = writer.clone();
            let written = endpoints.write_records(vec![Record::Writer { node, machine }]);
            if written.await.is_err() {
                pause(RETRY_PAUSE).await;
            }
        }
        loop {
            let is_new = |facts: &Projection| facts.cluster.is_some() && facts.cluster != known();
            let Ok(cluster) = facts.wait_for(is_new).await.map(|it| it.cluster) else {
                return;
            };
            let record = cluster.map(|cluster| Record::Cluster { cluster });
            let written = endpoints.write_records(record.into_iter().collect());
            // A disk that refuses writes may take them later.
            if written.await.is_err() {
                pause(RETRY_PAUSE).await;
            }
        }
    };
    stop.run_until_cancelled(remember).await;
}

pub(super) fn journal_missing(journal: &Path) -> Alarm {
    Alarm::new(
        Grade::Warning,
        "journal-missing",
        format!(
            "the endpoint journal {} was missing or empty, although the kernel holds endpoints; they are restored from its copy, from the bus and from the kernel. Compare `netctl endpoint ls` with this node's containers, and restart each container that isn't listed",
            journal.display()
        ),
    )
}

pub(super) fn journal_truncated(damage: &Damage) -> Alarm {
    let (grade, kept) = match &damage.kept {
        Some(path) => (
            Grade::Warning,
            format!("the damaged file is kept in {}", path.display()),
        ),
        None => (
            Grade::Wrong,
            "the disk has no room for a new journal: free some; until then no endpoint is attached"
                .to_owned(),
        ),
    };
    Alarm::new(
        grade,
        "journal-truncated",
        format!(
            "{} bytes of the endpoint journal belong to no whole record; every whole record was recovered; {kept}. Lost endpoints are restored if the kernel holds their devices. Restart each container that `netctl endpoint ls` doesn't list",
            damage.bytes
        ),
    )
}
