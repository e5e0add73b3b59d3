//! The state folder at the start: the facts, and alarms of damaged files.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use bus_schema::node::{Alarm, Grade};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{DaemonConfig, StartError};
use crate::endpoint::{Damage, EndpointsHandle, Record};
use crate::store::Disk;
use node_core::projection::Projection;
use runtime::pause;

/// The pause before a refused record of the cluster is written again.
const RETRY_PAUSE: Duration = Duration::from_secs(3);

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

/// Journals the cluster whose log the node follows, until it is stopped.
pub(super) async fn remember_cluster(
    endpoints: EndpointsHandle,
    mut facts: watch::Receiver<Projection>,
    stop: CancellationToken,
) {
    let known = || endpoints.snapshots().borrow().ledger.cluster();
    let remember = async {
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
