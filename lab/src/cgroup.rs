//! Removes control groups that a killed engine leaves behind. They are named after the lab's host, and
//! empty once the lab's processes are gone.

use std::fs;
use std::path::Path;

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

pub(crate) fn parent(lab: &str, host: &str) -> String {
    format!("/contiv-lab-{lab}.{host}")
}

/// Removes every control group of `lab`, in each hierarchy (v1) or in the only one (v2).
pub(crate) fn remove(lab: &str) {
    let prefix = format!("contiv-lab-{lab}.");
    let Ok(entries) = fs::read_dir(CGROUP_ROOT) else {
        return;
    };
    for entry in entries.flatten() {
        if is_ours(&entry.path(), &prefix) {
            remove_tree(&entry.path());
        } else if let Ok(below) = fs::read_dir(entry.path()) {
            let ours = below.flatten().map(|e| e.path());
            ours.filter(|path| is_ours(path, &prefix))
                .for_each(|path| remove_tree(&path));
        }
    }
}

fn is_ours(path: &Path, prefix: &str) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

fn remove_tree(path: &Path) {
    if let Ok(entries) = fs::read_dir(path) {
        let dirs = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir());
        dirs.for_each(|dir| remove_tree(&dir));
    }
    // The kernel removes the files of a control group with its folder.
    let _ = fs::remove_dir(path);
}
