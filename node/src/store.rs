//! The log and other nodes' endpoints on disk, so that a node starts with its last facts without the
//! bus.
//!
//! The projection is saved as a whole, at most once in [`SAVE_INTERVAL`]; the events behind it are
//! appended to files beside it before any part of the node uses them ([`events`]). A projection that
//! can't be read is kept under another name; the node reads the log from its first event then, and an
//! alarm says so. Of a projection of an older build only the cluster's id is read: that build skipped
//! events that this one knows, and closed the tenants concerned.

mod changes;
pub(crate) mod checked;
mod events;
pub mod peers;

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

pub(crate) use changes::Changes;
use events::Events;
pub use events::LogMessage;
use node_core::projection::Projection;
use runtime::pause;

/// The pause between two saves, and between two checks of the file system.
const SAVE_INTERVAL: Duration = Duration::from_secs(3);

/// The state of the facts on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Saved {
    /// After a restart the node has the log up to here.
    pub revision: Revision,
    /// The reason why the last write failed.
    pub trouble: Option<String>,
    /// The reason why writes would fail: the file system is full or read-only.
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
    /// Opens the folder and reads the facts. The alarms name damaged files.
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

    /// Returns when the messages are on disk, or when the disk has refused them: then they are tried
    /// again, and [`Saved`] has the reason.
    pub async fn append(&self, messages: Vec<LogMessage>) {
        self.write(|events| events.append(messages)).await.ok();
    }

    /// Saves the current facts; events behind them can be written meanwhile.
    async fn save(&self, facts: &watch::Receiver<Projection>) {
        let _saving = self.saving.lock().await;
        self.events.lock().await.rotate();
        let facts = facts.borrow().clone();
        let (path, applied) = (self.projection.clone(), facts.applied);
        let written = tokio::task::spawn_blocking(move || save(&path, &facts)).await;
        match written.map_err(io::Error::other).flatten() {
            Ok(()) => {
                self.write(move |events| events.saved(applied)).await.ok();
            }
            Err(error) => self.update(|saved| saved.trouble = Some(error.to_string())),
        }
    }

    /// Forgets the facts on disk, then those in memory: the log to follow is another one.
    pub async fn reset(&self, forget: impl FnOnce()) -> io::Result<()> {
        let _saving = self.saving.lock().await;
        let path = self.projection.clone();
        self.write(move |events| {
            remove(&path)?;
            events.reset()
        })
        .await?;
        forget();
        Ok(())
    }

    /// Runs blocking work on the files. It continues if the caller stops waiting, and the next work waits
    /// for it.
    async fn write(
        &self,
        work: impl FnOnce(&mut Events) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let mut events = Arc::clone(&self.events).lock_owned().await;
        let worked = tokio::task::spawn_blocking(move || (work(&mut events), events.end()));
        let (done, revision) = worked.await.map_err(io::Error::other)?;
        self.update(|saved| {
            saved.revision = revision;
            saved.trouble = done.as_ref().err().map(ToString::to_string);
        });
        done
    }

    fn update(&self, change: impl FnOnce(&mut Saved)) {
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

/// Loads the saved projection, if there is one. The alarm names a file that can't be read.
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
    // On a disk that refuses writes it stays where it is.
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

/// An alarm of a damaged file, whose content is read from the log again.
fn damage_alarm(text: String) -> Alarm {
    Alarm::new(Grade::Warning, "state-damaged", text)
}

/// This node's outer address in the saved facts.
pub fn logged_vtep(state_dir: &Path, me: &NodeName) -> Option<IpAddr> {
    let saved = decode(&std::fs::read(state_dir.join("projection")).ok()?)?;
    saved.nodes.get(me).map(|it| it.vtep)
}

fn save(path: &Path, projection: &Projection) -> io::Result<()> {
    checked::write(path, codec::to_bytes(&(SCHEMA, projection)))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => crate::frames::sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn decode(bytes: &[u8]) -> Option<Projection> {
    let body = checked::body(bytes)?;
    let older = match codec::from_bytes::<(u16, Projection)>(body) {
        Ok((schema, projection)) if schema >= SCHEMA => return Some(projection),
        Ok((_, projection)) => projection,
        // Schema 1 didn't write its number.
        Err(_) => codec::from_bytes(body).ok()?,
    };
    Some(Projection {
        cluster: older.cluster,
        ..Projection::default()
    })
}

/// Saves the facts after changes until it is stopped: the first change at once, further ones once in
/// [`SAVE_INTERVAL`]. A failed save is tried again, also without a change.
pub async fn keep(disk: Arc<Disk>, facts: watch::Receiver<Projection>, stop: CancellationToken) {
    let mut changes = Changes::new(facts.clone(), stop);
    let saved = disk.saved();
    loop {
        let refused = saved.borrow().trouble.is_some();
        let retry = async {
            match refused {
                true => pause(SAVE_INTERVAL).await,
                false => std::future::pending().await,
            }
        };
        let is_more = tokio::select! {
            changed = changes.next() => changed.is_some(),
            () = retry => true,
        };
        if !is_more {
            return;
        }
        disk.save(&facts).await;
    }
}

/// Checks in each [`SAVE_INTERVAL`] whether the file system takes writes, since there may be nothing to
/// write for hours; never ends.
pub async fn watch_file_system(disk: Arc<Disk>, folder: PathBuf) {
    loop {
        let folder = folder.clone();
        let state = tokio::task::spawn_blocking(move || trouble_of(&folder)).await;
        disk.update(|saved| saved.state = state.unwrap_or_default());
        pause(SAVE_INTERVAL).await;
    }
}

fn trouble_of(folder: &Path) -> Option<String> {
    let found = statvfs(folder).ok()?;
    if found.flags().contains(FsFlags::ST_RDONLY) {
        return Some("it is mounted read-only".to_owned());
    }
    let is_full = found.blocks() > 0 && found.blocks_available() == 0;
    is_full.then(|| "it has no space left".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schema::{ClusterId, Revision};
    use uuid::Uuid;

    #[test]
    fn saved_projection_is_loaded_and_a_damaged_one_is_kept_aside() {
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
    fn projection_of_an_older_build_is_folded_again() {
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
    async fn first_change_is_saved_at_once_and_the_last_before_a_stop() {
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
        let waited = tokio::time::timeout(SAVE_INTERVAL / 2, saved).await;
        waited.expect("saved before the next save is due");
        assert_eq!(load(&path).unwrap().0, *facts.borrow());

        facts.send_modify(|facts| facts.applied = Revision(9));
        stop.cancel();
        let stopped = tokio::time::timeout(SAVE_INTERVAL / 2, keeping).await;
        stopped.expect("a stop doesn't wait").unwrap();
        assert_eq!(load(&path).unwrap().0, *facts.borrow());
    }
}
