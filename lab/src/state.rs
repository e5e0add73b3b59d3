//! The state of a lab, saved in `/run/contiv-lab/NAME/state.json` for other invocations. A process is
//! identified by PID and start time, since the kernel reuses PIDs.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const RUN_FOLDER: &str = "/run/contiv-lab";
const DISK_FOLDER: &str = "/var/lib/contiv-lab";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) keeper: Pid,
    pub(crate) subnet: u8,
    pub(crate) token: String,
    /// The kind of every node's domains.
    pub(crate) domain: String,
    /// The number of nats-servers.
    pub(crate) servers: u8,
    /// Further flags of every netplugin.
    pub(crate) node_flags: Vec<String>,
    pub(crate) hosts: BTreeMap<String, HostState>,
    pub(crate) processes: BTreeMap<String, ProcessState>,
    pub(crate) workloads: BTreeMap<String, WorkloadState>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct HostState {
    pub(crate) holder: Pid,
    pub(crate) address: Ipv4Addr,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessState {
    pub(crate) host: String,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    /// Absent: stopped.
    pub(crate) pid: Option<Pid>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WorkloadState {
    pub(crate) node: String,
    pub(crate) network: String,
    pub(crate) tenant: Option<String>,
    pub(crate) id: String,
    pub(crate) address: Ipv4Addr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pid {
    pub(crate) pid: i32,
    /// The start time in clock ticks after boot: field 22 of proc(5)'s stat.
    started: u64,
}

impl Pid {
    pub(crate) fn of(pid: u32) -> Self {
        let pid = pid.cast_signed();
        let started = stat(pid).map_or(0, |(_, started)| started);
        Self { pid, started }
    }

    /// Whether the process runs. A zombie doesn't: only its parent hasn't waited for it yet.
    pub(crate) fn is_alive(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| state != "Z" && started == self.started)
    }

    pub(crate) fn exists(self) -> bool {
        stat(self.pid).is_some_and(|(_, started)| started == self.started)
    }
}

fn stat(pid: i32) -> Option<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in parentheses, and may itself contain spaces and parentheses.
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some((fields.first()?.to_string(), fields.get(19)?.parse().ok()?))
}

/// The folder of a lab's state and logs.
pub fn run_dir(name: &str) -> PathBuf {
    Path::new(RUN_FOLDER).join(name)
}

pub(crate) fn disk_dir(name: &str) -> PathBuf {
    Path::new(DISK_FOLDER).join(name)
}

impl State {
    pub(crate) fn load(name: &str) -> Result<Option<Self>> {
        let path = run_dir(name).join("state.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| Error::State { path, source })
    }

    pub(crate) fn save(&self) -> Result<()> {
        let dir = run_dir(&self.name);
        let (new, path) = (dir.join("state.json.new"), dir.join("state.json"));
        let text = serde_json::to_string_pretty(self).map_err(|source| Error::State {
            path: path.clone(),
            source,
        })?;
        write_private(&new, &text).map_err(Error::file("write", &new))?;
        fs::rename(&new, &path).map_err(Error::file("write", &path))
    }
}

/// Writes a file that only its owner can read, since the state contains the cluster's token.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// Creates a folder. A lab that ends may remove the shared parent folder meanwhile; then this tries again.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    const RETRY_TIMEOUT: Duration = Duration::from_secs(10);
    let vanished = |made: &std::io::Result<()>| {
        let error = made.as_ref().err().map(std::io::Error::kind);
        // `AlreadyExists`: the folder existed, and was removed before it was checked.
        matches!(error, Some(ErrorKind::NotFound | ErrorKind::AlreadyExists))
    };
    let until = Instant::now() + RETRY_TIMEOUT;
    loop {
        let made = fs::create_dir_all(path);
        if !vanished(&made) || Instant::now() > until {
            return made.map_err(Error::file("make", path));
        }
        std::thread::yield_now();
    }
}

/// Removes a folder with its content; a missing folder is no error.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Removes the folders that all labs share, if this was the last one.
pub(crate) fn remove_shared_dirs() {
    for path in [RUN_FOLDER, DISK_FOLDER] {
        // Refused while another lab's folder is in it.
        let _ = fs::remove_dir(path);
    }
}

/// A lab on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// `false`: only leftovers exist; `lab down` removes them.
    pub up: bool,
    pub subnet: String,
    pub hosts: Vec<String>,
}

/// All labs of this machine, by name.
pub fn list() -> Result<Vec<Listed>> {
    let mut names = std::collections::BTreeSet::new();
    for dir in [RUN_FOLDER, DISK_FOLDER] {
        if let Ok(entries) = fs::read_dir(dir) {
            names.extend(
                entries
                    .flatten()
                    .filter_map(|e| e.file_name().into_string().ok()),
            );
        }
    }
    let listed = |name: String| {
        let state = State::load(&name)?;
        Ok(Listed {
            up: state.as_ref().is_some_and(|s| s.keeper.is_alive()),
            subnet: state
                .as_ref()
                .map_or_else(String::new, |s| format!("198.18.{}.0/24", s.subnet)),
            hosts: state.map_or_else(Vec::new, |s| s.hosts.into_keys().collect()),
            name,
        })
    };
    names.into_iter().map(listed).collect()
}

#[cfg(test)]
mod tests {
    use super::make_dir;

    #[test]
    fn shared_folder_that_is_removed_meanwhile_is_created_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let shared = folder.path().join("shared");
        let others = shared.clone();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = std::fs::remove_dir(&others);
                }
            });
            let made: Vec<_> = (0..300)
                .map(|_| {
                    let made = make_dir(&shared.join("lab"));
                    let _ = std::fs::remove_dir(shared.join("lab"));
                    made
                })
                .collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let failed = made.iter().find(|it| it.is_err());
            assert!(failed.is_none(), "{failed:?}");
        });
    }
}
