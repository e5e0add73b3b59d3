//! Stores which network of ours each Docker network belongs to.
//!
//! After `CreateNetwork` the engine sends a network's id only. It doesn't repeat that call when
//! netplugin restarts, and no driver call may query the engine. So the map is on disk; a lost file is
//! rebuilt from the engine's list when it answers.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use super::meaning::Meaning;
use runtime::lock;

#[derive(Debug)]
pub(super) struct Networks {
    path: PathBuf,
    known: Mutex<BTreeMap<String, Meaning>>,
}

impl Networks {
    /// Reads the map. A missing or unreadable file is an empty map; an unreadable one is logged.
    pub(super) fn open(path: PathBuf) -> Self {
        let known = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the map of Docker networks is unreadable: rebuilding it from the engine's list");
                BTreeMap::new()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "can't read the map of Docker networks: rebuilding it from the engine's list");
                }
                BTreeMap::new()
            }
        };
        Self {
            path,
            known: Mutex::new(known),
        }
    }

    pub(super) fn get(&self, id: &str) -> Option<Meaning> {
        self.lock().get(id).cloned()
    }

    /// Adds a network; it is on disk when this returns. After an error nothing has changed.
    pub(super) fn insert(&self, id: &str, meaning: Meaning) -> io::Result<()> {
        let mut known = self.lock();
        if known.get(id) == Some(&meaning) {
            return Ok(());
        }
        let mut next = known.clone();
        next.insert(id.to_owned(), meaning);
        save(&self.path, &next)?;
        *known = next;
        Ok(())
    }

    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        let mut known = self.lock();
        if !known.contains_key(id) {
            return Ok(());
        }
        let mut next = known.clone();
        next.remove(id);
        save(&self.path, &next)?;
        *known = next;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Meaning>> {
        lock(&self.known)
    }
}

fn save(path: &Path, known: &BTreeMap<String, Meaning>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new)?;
    file.write_all(&serde_json::to_vec(known)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    fs::File::open(folder)?.sync_all()
}
