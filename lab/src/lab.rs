//! A cluster from `up` to `down`: its handle, commands on its hosts, and its end.
//!
//! ```text
//! machine ──contivlabN── underlay (br0) ──eth0── ctl     nats · netmaster-1 · resolver@ctl
//!                                       ├─eth0── ctl-2   nats-2 · netmaster-2, of three servers
//!                                       ├─eth0── node-1  netplugin@node-1 · dockerd@node-1
//!                                       └─eth0── node-2  …
//! ```

use std::collections::BTreeMap;
use std::io::Read;
use std::net::Ipv4Addr;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::host::{self, CTL, Output, UNDERLAY};
use crate::namespace::{self, IS_STOPPING};
use crate::spec::Spec;
use crate::state::{self, HostState, Pid, State, disk_dir, make_dir, remove_dir, run_dir};
use crate::{Error, Result, cgroup, process, underlay, wait, workload};

/// Timeout of the start of a daemon.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running lab. One that isn't persistent ends with this value.
#[derive(Debug)]
pub struct Lab {
    pub(crate) state: State,
    pub(crate) children: BTreeMap<String, Child>,
    /// Held so that the keeper's standard input stays open, and to reap it.
    keeper: Option<Child>,
    owned: bool,
}

impl Lab {
    /// Brings a cluster up; returns when every daemon of `spec` answers. A failure leaves nothing
    /// behind. Leftovers of a dead lab of that name are removed first.
    pub fn up(spec: &Spec) -> Result<Self> {
        spec.check()?;
        require_root()?;
        if State::load(&spec.name)?.is_some_and(|s| s.keeper.is_alive()) {
            return Err(Error::IsUp {
                name: spec.name.clone(),
            });
        }
        Self::remove(&spec.name)?;
        let framed = make_dir(&run_dir(&spec.name).join("logs"))
            .and_then(|()| make_dir(&disk_dir(&spec.name)))
            .and_then(|()| namespace::spawn_keeper(spec.persistent))
            .and_then(|keeper| Self::frame(spec, keeper));
        let mut lab = framed.inspect_err(|_| {
            Self::remove(&spec.name).ok();
        })?;
        lab.bring_up(spec)?;
        lab.owned = !spec.persistent;
        Ok(lab)
    }

    /// Opens a lab that another invocation has brought up.
    pub fn open(name: &str) -> Result<Self> {
        require_root()?;
        let state = State::load(name)?.filter(|s| s.keeper.is_alive());
        let state = state.ok_or_else(|| Error::NotUp {
            name: name.to_owned(),
        })?;
        Ok(Self {
            state,
            children: BTreeMap::new(),
            keeper: None,
            owned: false,
        })
    }

    /// Ends a lab, or removes the leftovers of a dead one. A missing lab is no error.
    pub fn remove(name: &str) -> Result<()> {
        static REMOVAL_LOCK: Mutex<()> = Mutex::new(());
        let _guard = REMOVAL_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // The state may be unreadable; its folders are removed nevertheless.
        if let Ok(Some(state)) = State::load(name) {
            end_keeper(state.keeper)?;
            underlay::disconnect(state.subnet);
        }
        cgroup::remove(name);
        remove_dir(&disk_dir(name))?;
        remove_dir(&run_dir(name))?;
        state::remove_shared_dirs();
        Ok(())
    }

    /// From now on this process starts nothing in any lab; for an interrupted command.
    pub fn refuse_starts() {
        IS_STOPPING.store(true, Ordering::SeqCst);
    }

    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        self.end()
    }

    pub fn name(&self) -> &str {
        &self.state.name
    }

    pub fn host_names(&self) -> Vec<String> {
        let hosts = self.state.hosts.keys();
        hosts.filter(|h| *h != UNDERLAY).cloned().collect()
    }

    pub fn nodes(&self) -> Vec<String> {
        let hosts = self.state.hosts.keys();
        hosts.filter(|h| h.starts_with("node-")).cloned().collect()
    }

    /// The host's address in the underlay; for a node this is its VTEP.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr> {
        self.host(host).map(|h| h.address)
    }

    /// The environment of every command in the lab.
    pub fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("PATH".to_owned(), host::search_path()),
            ("CONTIV_NATS_URL".to_owned(), self.nats_url()),
            ("HOME".to_owned(), "/run".to_owned()),
        ])
    }

    /// Runs a command on a host and returns its output, also if it fails.
    pub fn exec(&self, host: &str, argv: &[&str]) -> Result<Output> {
        let command = host::command(argv, &self.environment());
        self.host(host)?.output(host, command)
    }

    /// Like [`Lab::exec`], but the command must succeed.
    pub fn run(&self, host: &str, argv: &[&str]) -> Result<Output> {
        let output = self.exec(host, argv)?;
        self.check(host, &argv.join(" "), output)
    }

    /// Runs a command on a host, or in a workload, with this process's terminal; returns its exit
    /// status.
    pub fn exec_here(&self, place: &str, argv: &[String]) -> Result<i32> {
        let (host, argv) = match self.workload_node(place) {
            Ok(node) if !self.state.hosts.contains_key(place) => {
                let enter = ["ip", "netns", "exec", &workload::netns(place)].map(str::to_owned);
                (node, enter.iter().chain(argv).cloned().collect())
            }
            _ => (place.to_owned(), argv.to_vec()),
        };
        let mut command = host::command(&argv, &self.environment());
        command.env("HOME", "/root");
        let mut child = self.host(&host)?.spawn(command)?;
        let status = child.wait().map_err(Error::system("wait for a command"))?;
        Ok(host::exit_code(status))
    }

    /// Runs `netctl` on the ctl host, with the bus's address in its environment.
    pub fn netctl(&self, arguments: &[&str]) -> Result<Output> {
        self.netctl_from(CTL, arguments)
    }

    pub fn netctl_from(&self, host: &str, arguments: &[&str]) -> Result<Output> {
        let argv: Vec<&str> = std::iter::once("netctl")
            .chain(arguments.iter().copied())
            .collect();
        self.exec(host, &argv)
    }

    /// Runs `netctl`, which must succeed; returns its standard output.
    pub fn netctl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.netctl(arguments)?;
        self.check(CTL, &format!("netctl {}", arguments.join(" ")), output)
            .map(|o| o.stdout)
    }

    pub(crate) fn host(&self, name: &str) -> Result<&HostState> {
        self.state.hosts.get(name).ok_or_else(|| Error::Unknown {
            kind: "host",
            name: name.to_owned(),
            known: self.host_names().join(", "),
        })
    }

    pub(crate) fn check(&self, host: &str, command: &str, output: Output) -> Result<Output> {
        if output.success() {
            return Ok(output);
        }
        Err(Error::Command {
            host: host.to_owned(),
            command: command.to_owned(),
            status: format!("exit status {}", output.status),
            output: output.text().trim().to_owned(),
        })
    }

    /// Creates the handle. From here on, a failure or the end of the handle takes everything down.
    fn frame(spec: &Spec, keeper: Child) -> Result<Self> {
        let state = State {
            name: spec.name.clone(),
            keeper: Pid::of(keeper.id()),
            subnet: 0,
            token: token()?,
            domain: spec.domain.clone(),
            servers: spec.servers,
            node_flags: spec.node_flags.clone(),
            hosts: BTreeMap::new(),
            processes: BTreeMap::new(),
            workloads: BTreeMap::new(),
        };
        let lab = Self {
            state,
            children: BTreeMap::new(),
            keeper: Some(keeper),
            owned: true,
        };
        lab.state.save()?;
        Ok(lab)
    }

    fn end(&mut self) -> Result<()> {
        // The namespace's first process can't end before our children in it have been reaped.
        process::send(self.state.keeper, Signal::SIGKILL)?;
        let children = std::mem::take(&mut self.children);
        let all = children.into_values().chain(self.keeper.take());
        all.for_each(process::reap);
        Self::remove(&self.state.name)
    }

    #[expect(
        clippy::print_stderr,
        reason = "a failing test shows what its cluster did"
    )]
    fn print_logs(&self) {
        for name in self.process_names() {
            eprintln!(
                "--- {}: end of the log of {name}\n{}",
                self.name(),
                self.log_tail(&name)
            );
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if std::thread::panicking() {
            self.print_logs();
        }
        // A drop can't report an error; the next `up` or `down` of this name tries again.
        let _ = self.end();
    }
}

fn end_keeper(keeper: Pid) -> Result<()> {
    if !keeper.exists() {
        return Ok(());
    }
    process::send(keeper, Signal::SIGKILL)?;
    // The first process of a PID namespace ends last: once it is gone, all the others are, too.
    wait::wait_until("the lab's processes end", Duration::from_secs(20), || {
        if IS_STOPPING.load(Ordering::SeqCst) {
            reap_all();
        }
        !keeper.is_alive()
    })
}

/// Reaps all children, since an interrupted main thread no longer does.
fn reap_all() {
    let next = || waitpid(None, Some(WaitPidFlag::WNOHANG));
    while next().is_ok_and(|status| status != WaitStatus::StillAlive) {}
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::NotRoot)
    }
}

/// A random token. It begins with a letter, since nats.conf may read other words as numbers.
fn token() -> Result<String> {
    random_hex().map(|hex| format!("t{hex}"))
}

pub(crate) fn random_hex() -> Result<String> {
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::file("read", "/dev/urandom"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
