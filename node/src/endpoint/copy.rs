//! A copy of the journal's endpoints, from which a damaged journal is restored.

use std::path::{Path, PathBuf};

use bus_schema::codec;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::journal::limit_names;
use super::{LocalEndpoint, Snapshot};
use crate::store::{Changes, checked};

/// Loads the copy; no endpoints, if it can't be read.
pub fn load(path: &Path) -> Vec<LocalEndpoint> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let copy = checked::body(&bytes).and_then(|body| codec::from_bytes(body).ok());
    let mut endpoints: Vec<LocalEndpoint> = copy.unwrap_or_default();
    endpoints.iter_mut().for_each(limit_names);
    endpoints
}

/// Saves the copy after changes, until it is stopped. While the journal lacks endpoints the copy stays
/// as it is.
pub async fn keep(path: PathBuf, snapshots: watch::Receiver<Snapshot>, stop: CancellationToken) {
    let mut changes = Changes::new(snapshots, stop);
    let mut saved = None;
    while let Some(Snapshot {
        endpoints, ledger, ..
    }) = changes.next().await
    {
        if ledger.is_incomplete() || saved.as_ref() == Some(&endpoints) {
            continue;
        }
        let (path, copy) = (path.clone(), endpoints.clone());
        let write = move || {
            let copy: Vec<&LocalEndpoint> = copy.values().map(AsRef::as_ref).collect();
            checked::write(&path, codec::to_bytes(&copy))
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Err(error)) => tracing::error!(%error, "can't save a copy of the endpoints"),
            Ok(Ok(())) | Err(_) => saved = Some(endpoints),
        }
    }
}
