//! What this node keeps on disk of the log and of other nodes, so that it starts with its last facts
//! when the bus is away.
//!
//! The projection is saved as a whole, now and then; the events behind it are appended to files
//! beside it, each before anybody acts on it ([`events`]). Other nodes' endpoints are saved so that
//! their names go on resolving. A projection that can't be read is kept aside, and the node starts
//! from the log's first event and says so. Of what an older build folded only the cluster's id is
//! read: that build skipped what this one knows, and closed the tenants concerned.

mod events;

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bus_schema::node::{Alarm, Grade};
use bus_schema::{NodeName, Revision, SCHEMA, codec};
use nix::sys::statvfs::{FsFlags, statvfs};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::endpoint::{LocalEndpoint, Snapshot};
use crate::frames::replace;
use events::Events;
pub use events::Message;
use node_core::projection::{EndpointsView, Projection, Remembered};
use runtime::pause;

/// Between two saves of the projection.
const EVERY: Duration = Duration::from_secs(3);

/// How far the facts are on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// A restart knows the log up to here.
    pub revision: Revision,
    /// Why the disk took no writes when there was something to write.
    pub trouble: Option<String>,
    /// What the file system says of itself: that it is full or read-only.
    pub state: Option<String>,
}

/// The facts on disk: the saved projection and the events behind it.
#[derive(Debug)]
pub struct Disk {
    projection: PathBuf,
    events: Arc<Mutex<Events>>,
    /// Held while the projection is saved or removed.
    saving: Mutex<()>,
    saved: watch::Sender<Saved>,
}

impl Disk {
    /// Reads what is there. The alarms say what of it is damaged.
    pub fn open(folder: &Path) -> io::Result<(Self, Projection, Vec<Alarm>)> {
        let projection = folder.join("projection");
        let (mut facts, damage) = load(&projection)?;
        let mut alarms: Vec<Alarm> = damage.into_iter().collect();
        let (events, found) = Events::open(&folder.join("events"), &mut facts)?;
        if found.folded > 0 {
            tracing::info!(count = found.folded, applied = %facts.applied, "read events behind the saved facts");
        }
        if found.damaged {
            let text = format!(
                "a file in {} is damaged; this node starts with revision {} and reads the rest from the log",
                folder.join("events").display(),
                facts.applied
            );
            alarms.push(damage_alarm(text));
        }
        let saved = watch::Sender::new(Saved {
            revision: facts.applied,
            ..Saved::default()
        });
        let disk = Self {
            projection,
            events: Arc::new(Mutex::new(events)),
            saving: Mutex::default(),
            saved,
        };
        Ok((disk, facts, alarms))
    }

    pub fn saved(&self) -> watch::Receiver<Saved> {
        self.saved.subscribe()
    }

    /// Returns when the messages are on disk, or when it is known that the disk refuses them: they
    /// are tried again then, and [`Saved`] says so.
    pub async fn append(&self, messages: Vec<Message>) {
        self.work(|events| events.append(messages)).await.ok();
    }

    /// Saves the facts as they are now; events behind them go on to be written meanwhile.
    async fn save(&self, facts: &watch::Receiver<Projection>) {
        let _saving = self.saving.lock().await;
        self.events.lock().await.rotate();
        let facts = facts.borrow().clone();
        let (path, applied) = (self.projection.clone(), facts.applied);
        let written = tokio::task::spawn_blocking(move || save(&path, &facts)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => {
                self.work(move |events| events.saved(applied)).await.ok();
            }
            Err(error) => self.tell(|saved| saved.trouble = Some(error.to_string())),
        }
    }

    /// Forgets the facts on disk, then those in memory: the log to follow is another one.
    pub async fn reset(&self, forget: impl FnOnce()) -> io::Result<()> {
        let _saving = self.saving.lock().await;
        let path = self.projection.clone();
        self.work(move |events| {
            remove(&path)?;
            events.reset()
        })
        .await?;
        forget();
        Ok(())
    }

    /// Whoever stops waiting doesn't stop the work, and the next work waits for it.
    async fn work(
        &self,
        work: impl FnOnce(&mut Events) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let mut events = Arc::clone(&self.events).lock_owned().await;
        let worked = tokio::task::spawn_blocking(move || (work(&mut events), events.end()));
        let (done, revision) = worked.await.map_err(io::Error::other)?;
        self.tell(|saved| {
            saved.revision = revision;
            saved.trouble = done.as_ref().err().map(ToString::to_string);
        });
        done
    }

    fn tell(&self, change: impl FnOnce(&mut Saved)) {
        self.saved.send_if_modified(|saved| {
            let before = saved.clone();
            change(saved);
            if let (None, Some(trouble)) = (&before.trouble, &saved.trouble) {
                tracing::error!(trouble, on_disk = %saved.revision, "can't write the facts to disk");
            }
            *saved != before
        });
    }
}

/// What was saved, or nothing. The alarm tells of a file that can't be read.
fn load(path: &Path) -> io::Result<(Projection, Option<Alarm>)> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Projection::default(), None));
        }
        Err(error) => return Err(error),
    };
    if let Some(projection) = decode(&bytes) {
        return Ok((projection, None));
    }
    let kept = path.with_extension("damaged");
    // On a disk that takes no writes it stays where it is.
    let kept = match std::fs::rename(path, &kept) {
        Ok(()) => kept,
        Err(_) => path.to_owned(),
    };
    let text = format!(
        "the saved facts were unreadable and are kept in {}; this node started from the log's first event",
        kept.display()
    );
    Ok((Projection::default(), Some(damage_alarm(text))))
}

/// All that was lost is read from the log.
fn damage_alarm(text: String) -> Alarm {
    Alarm::new(Grade::Warning, "state-damaged", text)
}

/// The outer address that the saved facts have for this node.
pub fn logged_vtep(state_dir: &Path, me: &NodeName) -> Option<IpAddr> {
    let saved = decode(&std::fs::read(state_dir.join("projection")).ok()?)?;
    saved.nodes.get(me).map(|it| it.vtep)
}

fn save(path: &Path, projection: &Projection) -> io::Result<()> {
    write(path, codec::to_bytes(&(SCHEMA, projection)))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => crate::frames::sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
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

/// Saves what changed until it is stopped: the first change at once, further ones now and then. What
/// the disk refused is tried again, changed or not.
pub async fn keep(disk: Arc<Disk>, facts: watch::Receiver<Projection>, stop: CancellationToken) {
    let mut changes = Changes::new(facts.clone(), stop);
    let saved = disk.saved();
    loop {
        let refused = saved.borrow().trouble.is_some();
        let again = async {
            match refused {
                true => pause(EVERY).await,
                false => std::future::pending().await,
            }
        };
        let is_more = tokio::select! {
            changed = changes.next() => changed.is_some(),
            () = again => true,
        };
        if !is_more {
            return;
        }
        disk.save(&facts).await;
    }
}

/// Asks the file system now and then whether it takes writes, since there may be nothing to write
/// for hours; never ends.
pub async fn watch_state(disk: Arc<Disk>, folder: PathBuf) {
    loop {
        let folder = folder.clone();
        let state = tokio::task::spawn_blocking(move || state_of(&folder)).await;
        disk.tell(|saved| saved.state = state.unwrap_or_default());
        pause(EVERY).await;
    }
}

fn state_of(folder: &Path) -> Option<String> {
    let found = statvfs(folder).ok()?;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Some("it is mounted read-only".to_owned());
    }
    let is_full = found.blocks() > 0 && found.blocks_available() == 0;
    is_full.then(|| "it has no space left".to_owned())
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

/// A copy of the journal's endpoints, for the day when that is damaged; none if it can't be read.
pub fn load_copy(path: &Path) -> Vec<LocalEndpoint> {
    let bytes = std::fs::read(path).unwrap_or_default();
    let copy = whole(&bytes).and_then(|body| codec::from_bytes(body).ok());
    copy.unwrap_or_default()
}

/// Keeps that copy, now and then, until it is stopped. While the journal lacks endpoints the copy
/// stays as it is.
pub async fn keep_copy(
    path: PathBuf,
    snapshots: watch::Receiver<Snapshot>,
    stop: CancellationToken,
) {
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
            write(&path, codec::to_bytes(&copy))
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Err(error)) => tracing::error!(%error, "can't save a copy of the endpoints"),
            Ok(Ok(())) | Err(_) => saved = Some(endpoints),
        }
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
        let newer = node_core::projection::TenantFact {
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
        let (disk, ..) = Disk::open(folder.path()).unwrap();
        let (facts, kept) = watch::channel(Projection::default());
        let stop = CancellationToken::new();
        let keeping = tokio::spawn(keep(Arc::new(disk), kept, stop.clone()));
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
