//! Other nodes' endpoints on disk, so that their names resolve after a start without the bus.

use std::path::{Path, PathBuf};

use bus_schema::{NodeName, codec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Changes, checked};
use node_core::projection::{EndpointsView, Remembered};

/// Loads other nodes' endpoints; none, if the file can't be read: the bus has them all.
pub fn load(path: &Path) -> Remembered {
    let bytes = std::fs::read(path).unwrap_or_default();
    let known = checked::body(&bytes).and_then(|body| codec::from_bytes(body).ok());
    known.unwrap_or_default()
}

/// Saves other nodes' endpoints after changes, until it is stopped.
pub async fn keep(
    path: PathBuf,
    me: NodeName,
    view: watch::Receiver<EndpointsView>,
    stop: CancellationToken,
) {
    let mut changes = Changes::new(view, stop);
    let mut saved = Remembered::default();
    while let Some(view) = changes.next().await {
        let known = view.of_others(&me);
        if known != saved {
            let (path, known) = (path.clone(), known.clone());
            let write = move || checked::write(&path, codec::to_bytes(&known));
            if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                tracing::error!(%error, "can't save other nodes' endpoints; after a restart without the bus their names don't resolve");
            }
        }
        saved = known;
    }
}
