//! The projection on disk, so that a node starts with its last facts when the bus is away, and
//! others' endpoints, so that their names go on resolving.
//!
//! Replaced as a whole, never changed in place. A file that can't be read is kept aside, and the
//! node starts from the log's first event, saying so. What an older build folded is read for the
//! cluster's id alone: it skipped what this build knows, and closed the tenants concerned.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus_schema::node::{Alarm, Grade};
use bus_schema::{NodeName, SCHEMA, codec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bus::pause;
use crate::endpoint::replace;
use crate::projection::{EndpointsView, Projection, Remembered};

/// Between two saves; what a crash costs is replayed from the log.
const EVERY: Duration = Duration::from_secs(3);

/// What was saved, or nothing. The alarm tells of a file that can't be read.
pub fn load(path: &Path) -> io::Result<(Projection, Option<Alarm>)> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Projection::default(), None));
        }
        Err(error) => return Err(error),
    };
    match decode(&bytes) {
        Some(projection) => Ok((projection, None)),
        None => {
            let kept = path.with_extension("damaged");
            std::fs::rename(path, &kept)?;
            let text = format!(
                "the saved facts were unreadable and are kept in {}; this node started from the log's first event",
                kept.display()
            );
            let alarm = Alarm::new(Grade::Warning, "state-damaged", text);
            Ok((Projection::default(), Some(alarm)))
        }
    }
}

fn save(path: &Path, projection: &Projection) -> io::Result<()> {
    write(path, codec::to_bytes(&(SCHEMA, projection)))
}

/// What other nodes published; nothing, when it can't be read: the bus tells it anew.
pub fn load_endpoints(path: &Path) -> Remembered {
    let bytes = std::fs::read(path).unwrap_or_default();
    let known = whole(&bytes).and_then(|body| codec::from_bytes(body).ok());
    known.unwrap_or_default()
}

fn save_endpoints(path: &Path, known: &Remembered) -> io::Result<()> {
    write(path, codec::to_bytes(known))
}

fn write(path: &Path, body: Vec<u8>) -> io::Result<()> {
    let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
    bytes.extend(body);
    replace(path, &bytes)?;
    Ok(())
}

fn whole(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, body) = bytes.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == crc32fast::hash(body)).then_some(body)
}

fn decode(bytes: &[u8]) -> Option<Projection> {
    let body = whole(bytes)?;
    let older = match codec::from_bytes::<(u16, Projection)>(body) {
        Ok((schema, projection)) if schema >= SCHEMA => return Some(projection),
        Ok((_, projection)) => projection,
        // Schema 1 didn't say so.
        Err(_) => codec::from_bytes(body).ok()?,
    };
    Some(Projection {
        cluster: older.cluster,
        ..Projection::default()
    })
}

/// Saves what changed until it is stopped: the first change at once, since without the cluster's id
/// on disk a node would follow any log after a crash, further ones now and then.
pub async fn keep(path: PathBuf, facts: watch::Receiver<Projection>, stop: CancellationToken) {
    let mut changes = Changes::new(facts, stop);
    while let Some(projection) = changes.next().await {
        let path = path.clone();
        let saved = tokio::task::spawn_blocking(move || save(&path, &projection)).await;
        if let Ok(Err(error)) = saved {
            tracing::error!(%error, "can't save the facts; after a restart the log is replayed");
        }
    }
}

/// Saves what others published, now and then, until it is stopped.
pub async fn keep_endpoints(
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
            let done = tokio::task::spawn_blocking(move || save_endpoints(&path, &known)).await;
            if let Ok(Err(error)) = done {
                tracing::error!(%error, "can't save the endpoints; without the bus a restart forgets names");
            }
        }
        saved = known;
    }
}

/// What there is to save, [`EVERY`] so often, and at the end what changed since.
struct Changes<T> {
    of: watch::Receiver<T>,
    stop: CancellationToken,
    begun: bool,
}

impl<T: Clone> Changes<T> {
    fn new(of: watch::Receiver<T>, stop: CancellationToken) -> Self {
        let begun = false;
        Self { of, stop, begun }
    }

    async fn next(&mut self) -> Option<T> {
        if std::mem::replace(&mut self.begun, true) {
            self.stop.run_until_cancelled(pause(EVERY)).await;
        }
        let changed = self.stop.run_until_cancelled(self.of.changed()).await;
        let is_more = match changed {
            Some(changed) => changed.is_ok(),
            None => self.of.has_changed().unwrap_or_default(),
        };
        is_more.then(|| self.of.borrow_and_update().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schema::{ClusterId, Revision};
    use uuid::Uuid;

    #[test]
    fn what_was_saved_is_loaded_and_damage_is_kept_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("projection");
        let (nothing, alarm) = load(&path).unwrap();
        assert_eq!((nothing, alarm), (Projection::default(), None));

        let projection = Projection {
            cluster: Some(ClusterId(Uuid::from_u128(1))),
            applied: Revision(9),
            ..Projection::default()
        };
        save(&path, &projection).unwrap();
        assert_eq!(load(&path).unwrap(), (projection, None));

        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (loaded, alarm) = load(&path).unwrap();
            assert_eq!(loaded, Projection::default());
            assert_eq!(alarm.unwrap().code, "state-damaged");
        }
    }

    #[test]
    fn what_an_older_build_folded_is_folded_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("projection");
        let id = Some(ClusterId(Uuid::from_u128(1)));
        let mut projection = Projection {
            cluster: id,
            applied: Revision(9),
            ..Projection::default()
        };
        let newer = crate::projection::TenantFact {
            newer: true,
            ..Default::default()
        };
        projection.tenants.insert("blue".parse().unwrap(), newer);
        for body in [
            codec::to_bytes(&projection),
            codec::to_bytes(&(SCHEMA - 1, &projection)),
        ] {
            let sum = crc32fast::hash(&body).to_le_bytes();
            std::fs::write(&path, [&sum[..], &body].concat()).unwrap();
            let (loaded, alarm) = load(&path).unwrap();
            assert_eq!((loaded.cluster, alarm), (id, None));
            assert_eq!((loaded.applied, loaded.tenants.len()), (Revision(0), 0));
        }
    }

    #[tokio::test]
    async fn the_clusters_id_is_on_disk_at_once_and_the_last_before_a_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("projection");
        let (facts, kept) = watch::channel(Projection::default());
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep(path.clone(), kept, stop.clone()));
        facts.send_modify(|facts| facts.cluster = Some(ClusterId(Uuid::from_u128(1))));
        let saved = async {
            while !path.exists() {
                pause(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(EVERY / 2, saved).await;
        waited.expect("saved before the next save is due");
        assert_eq!(load(&path).unwrap().0, *facts.borrow());

        facts.send_modify(|facts| facts.applied = Revision(9));
        stop.cancel();
        let stopped = tokio::time::timeout(EVERY / 2, keeping).await;
        stopped.expect("a stop doesn't wait").unwrap();
        assert_eq!(load(&path).unwrap().0, *facts.borrow());
    }
}
