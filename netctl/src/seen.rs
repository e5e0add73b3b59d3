//! The highest revision of each cluster that this user's commands have seen. A read after a write in
//! the next command is then never older, whichever netmaster answers.
//!
//! A convenience only: a torn, missing or read-only file has no other effect.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bus_schema::{ClusterId, Revision};

/// The number of clusters that are remembered; further ones replace any others.
const MAX_CLUSTERS: usize = 32;

#[derive(Debug)]
pub(crate) struct SeenRevisions {
    path: Option<PathBuf>,
    known: BTreeMap<String, u64>,
}

impl SeenRevisions {
    pub(crate) fn load() -> Self {
        let path = state_file();
        let known = path.as_deref().map(read).unwrap_or_default();
        Self { path, known }
    }

    pub(crate) fn of(&self, cluster: ClusterId) -> Revision {
        Revision(self.known.get(&cluster.to_string()).copied().unwrap_or(0))
    }

    /// Saves the revision if it is higher.
    pub(crate) fn note(&mut self, cluster: ClusterId, revision: Revision) {
        if self.of(cluster) < revision {
            self.change(cluster, |known| known.max(revision.0));
        }
    }

    /// Lowers the revision to the log's end.
    pub(crate) fn lower(&mut self, cluster: ClusterId, end: Revision) {
        self.change(cluster, |known| known.min(end.0));
    }

    fn change(&mut self, cluster: ClusterId, how: impl FnOnce(u64) -> u64) {
        // Another command may have written the file since.
        if let Some(path) = &self.path {
            self.known = read(path);
        }
        let name = cluster.to_string();
        while self.known.len() >= MAX_CLUSTERS && !self.known.contains_key(&name) {
            self.known.pop_first();
        }
        let entry = self.known.entry(name).or_default();
        *entry = how(*entry);
        if let Some(path) = &self.path {
            // A revision that can't be saved is harmless.
            let _ = write(path, &self.known);
        }
    }
}

fn state_file() -> Option<PathBuf> {
    xdg_folder("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("contiv/seen.json"))
}

/// A folder of the XDG base directory specification: of its variable, or the default below HOME.
pub(crate) fn xdg_folder(variable: &str, at_home: &str) -> Option<PathBuf> {
    match std::env::var_os(variable) {
        Some(dir) if Path::new(&dir).is_absolute() => Some(PathBuf::from(dir)),
        _ => Some(PathBuf::from(std::env::var_os("HOME")?).join(at_home)),
    }
}

fn read(path: &Path) -> BTreeMap<String, u64> {
    std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn write(path: &Path, known: &BTreeMap<String, u64>) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&temporary, serde_json::to_vec(known)?)?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(text: &str) -> ClusterId {
        ClusterId(uuid::Uuid::new_v5(&uuid::Uuid::nil(), text.as_bytes()))
    }

    #[test]
    fn torn_file_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("contiv/seen.json");
        let mut seen = SeenRevisions {
            path: Some(path.clone()),
            known: BTreeMap::new(),
        };
        seen.note(cluster("a"), Revision(7));
        seen.note(cluster("a"), Revision(5));
        assert_eq!(read(&path).values().copied().collect::<Vec<_>>(), [7]);
        seen.lower(cluster("a"), Revision(9));
        assert_eq!(seen.of(cluster("a")), Revision(7));
        seen.lower(cluster("a"), Revision(3));
        assert_eq!(read(&path).values().copied().collect::<Vec<_>>(), [3]);

        std::fs::write(&path, b"{\"0000").unwrap();
        assert!(read(&path).is_empty());
        seen.note(cluster("b"), Revision(1));
        assert_eq!(read(&path).len(), 1);
    }
}
