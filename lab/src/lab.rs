//! A cluster from `up` to `down`: hosts, underlay, bus, netmasters, nodes.
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

use crate::host::{self, CTL, Output, Plan, UNDERLAY, ctl_names, node_name};
use crate::namespace::{self, STOPPING};
use crate::spec::{Daemons, Spec};
use crate::state::{self, HostState, Pid, State, disk_dir, make_dir, remove_dir, run_dir};
use crate::{Error, Result, address, cgroup, process, tools, underlay, wait, workload};

pub(crate) const START: Duration = Duration::from_secs(30);

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
    /// Brings a cluster up; returns when every daemon that `spec` asks for answers. A failure
    /// leaves nothing behind. Leftovers of a dead lab of that name are removed first.
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

    /// A lab that another invocation has brought up.
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

    /// Ends a lab, or removes what a dead one has left. That there is none is fine.
    pub fn remove(name: &str) -> Result<()> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        // A state that can't be read names no process; the folders go all the same.
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

    /// For a command that was interrupted: from now on this process starts nothing in any lab.
    pub fn refuse_starts() {
        STOPPING.store(true, Ordering::SeqCst);
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

    /// The host's address in the underlay: of a node, its VTEP.
    pub fn address(&self, host: &str) -> Result<Ipv4Addr> {
        self.host(host).map(|h| h.address)
    }

    /// What every command in a lab finds in its environment.
    pub fn environment(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("PATH".to_owned(), host::search_path()),
            ("CONTIV_NATS_URL".to_owned(), self.nats_url()),
            ("HOME".to_owned(), "/run".to_owned()),
        ])
    }

    /// Runs a command on a host and returns what it printed, whatever its exit status.
    pub fn exec(&self, host: &str, argv: &[&str]) -> Result<Output> {
        let command = host::command(argv, &self.environment());
        self.host(host)?.output(host, command)
    }

    /// [`Lab::exec`] of a command that must succeed.
    pub fn run(&self, host: &str, argv: &[&str]) -> Result<Output> {
        let output = self.exec(host, argv)?;
        self.check(host, &argv.join(" "), output)
    }

    /// Runs a command on a host, or in a workload, with this process's own terminal; returns its
    /// exit status.
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

    /// `netctl` on the ctl host, with the cluster's address in its environment.
    pub fn netctl(&self, arguments: &[&str]) -> Result<Output> {
        self.netctl_from(CTL, arguments)
    }

    pub fn netctl_from(&self, host: &str, arguments: &[&str]) -> Result<Output> {
        let argv: Vec<&str> = std::iter::once("netctl")
            .chain(arguments.iter().copied())
            .collect();
        self.exec(host, &argv)
    }

    /// `netctl` that must succeed; returns its standard output.
    pub fn netctl_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.netctl(arguments)?;
        self.check(CTL, &format!("netctl {}", arguments.join(" ")), output)
            .map(|o| o.stdout)
    }

    /// Cuts every packet between the two groups of hosts, until [`Lab::repair`].
    pub fn partition(&self, these: &[&str], those: &[&str]) -> Result<()> {
        self.cut(these, those)?;
        self.cut(those, these)
    }

    /// Cuts every packet that the first hosts send to the second ones, until [`Lab::repair`].
    pub fn cut(&self, from: &[&str], to: &[&str]) -> Result<()> {
        let from: Vec<Ipv4Addr> = from
            .iter()
            .map(|h| self.address(h))
            .collect::<Result<_>>()?;
        to.iter()
            .try_for_each(|name| underlay::cut(self.host(name)?, &from))
    }

    /// Cuts a host off from all others.
    pub fn isolate(&self, host: &str) -> Result<()> {
        let all = self.host_names();
        let others: Vec<&str> = all
            .iter()
            .map(String::as_str)
            .filter(|h| *h != host)
            .collect();
        self.partition(&[host], &others)
    }

    /// Ends all partitions.
    pub fn repair(&self) -> Result<()> {
        let hosts = self
            .state
            .hosts
            .iter()
            .filter(|(name, _)| *name != UNDERLAY);
        hosts.map(|(_, host)| host).try_for_each(underlay::mend)
    }

    /// Pulls a host's cable, or plugs it in again.
    pub fn set_link(&self, host: &str, up: bool) -> Result<()> {
        self.host(host)?;
        underlay::set_link(self.host(UNDERLAY)?.holder.pid, host, up)
    }

    /// Waits until some netmaster answers.
    pub fn await_netmaster(&self, name: &str) -> Result<()> {
        self.await_process(name, "netmaster answers", START, || {
            self.netctl(&["cluster", "info"]).is_ok_and(|o| o.success())
        })
    }

    /// Waits until the node's netplugin follows the log and the cluster knows the node.
    pub fn await_node(&self, node: &str) -> Result<()> {
        let name = format!("netplugin@{node}");
        self.await_process(&name, "netplugin follows the log", START, || {
            self.log_state(node).is_ok_and(|state| state == "in-sync")
        })?;
        self.await_process(&name, "the cluster knows the node", START, || {
            let node = self.netctl(&["node", "inspect", node]);
            node.is_ok_and(|o| o.success())
        })
    }

    /// What the node's netplugin says of itself (`netplugin status`).
    pub fn status(&self, node: &str) -> Result<serde_json::Value> {
        let text = self.run(node, &["netplugin", "status"])?.stdout;
        serde_json::from_str(&text).map_err(|source| Error::Answer {
            program: "netplugin status",
            text,
            source,
        })
    }

    /// `in-sync`, `disconnected`, `foreign`, `refused`…
    pub fn log_state(&self, node: &str) -> Result<String> {
        let status = self.status(node)?;
        Ok(status["log"]["type"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    /// The kind of the node's domains: `vrf` or `netns`.
    pub fn domain(&self, node: &str) -> Result<String> {
        let status = self.status(node)?;
        Ok(status["domain"].as_str().unwrap_or_default().to_owned())
    }

    /// The codes of the node's alarms.
    pub fn alarms(&self, node: &str) -> Result<Vec<String>> {
        let status = self.status(node)?;
        let alarms = status["alarms"].as_array().cloned().unwrap_or_default();
        let code = |alarm: &serde_json::Value| alarm["code"].as_str().map(str::to_owned);
        Ok(alarms.iter().filter_map(code).collect())
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

    /// From here on, a failure or the value's end takes everything down.
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

    fn bring_up(&mut self, spec: &Spec) -> Result<()> {
        self.make_hosts(spec)?;
        if spec.daemons == Daemons::None {
            return Ok(());
        }
        self.start_resolvers(spec)?;
        self.start_bus()?;
        if spec.docker {
            for node in self.nodes() {
                self.start_engine(&node, spec.docker_bridge)?;
            }
        }
        if spec.daemons != Daemons::Bus {
            self.start_netmasters(spec.netmasters)?;
        }
        if spec.daemons == Daemons::All {
            for node in self.nodes() {
                self.start_netplugin(&node, &node, "eth0", spec.docker)?;
            }
            for node in self.nodes() {
                self.await_node(&node)?;
            }
        }
        if spec.docker {
            for node in self.nodes() {
                self.await_engine(&node)?;
            }
        }
        Ok(())
    }

    fn make_hosts(&mut self, spec: &Spec) -> Result<()> {
        let holder = namespace::spawn_holder(
            self.state.keeper.pid,
            "hostname underlay\nip link set lo up",
        )?;
        let bridge = Pid::of(holder.id());
        self.children
            .insert(format!("holder of {UNDERLAY}"), holder);
        let subnet = underlay::claim_subnet(bridge.pid)?;
        self.state.subnet = subnet;
        let underlay = HostState {
            holder: bridge,
            address: Ipv4Addr::UNSPECIFIED,
        };
        self.state.hosts.insert(UNDERLAY.to_owned(), underlay);
        self.state.save()?;

        let resolver = address::ctl(subnet, 1);
        for (name, number) in ctl_names(spec.servers).zip(1..) {
            self.make_host(&name, address::ctl(subnet, number), resolver, "{}")?;
        }
        for number in 1..=spec.nodes {
            // Docker forwards what it doesn't know past us when the host's resolver is a
            // loopback address, unless its own setting names another.
            let (nameserver, json) = if spec.loopback_resolver.contains(&number) {
                (LOOPBACK_RESOLVER, r#"{"dns": ["169.254.53.53"]}"#)
            } else {
                (resolver, "{}")
            };
            self.make_host(
                &node_name(number),
                address::node(subnet, number),
                nameserver,
                json,
            )?;
        }
        let hosts = self
            .state
            .hosts
            .iter()
            .filter(|(name, _)| *name != UNDERLAY);
        let hosts: Vec<(&str, &HostState)> = hosts.map(|(n, h)| (n.as_str(), h)).collect();
        underlay::connect(bridge.pid, subnet, &hosts)?;
        self.state.save()
    }

    fn make_host(
        &mut self,
        name: &str,
        address: Ipv4Addr,
        nameserver: Ipv4Addr,
        json: &str,
    ) -> Result<()> {
        let disk = disk_dir(&self.state.name).join(name);
        make_dir(&disk)?;
        let plan = Plan {
            name,
            disk: &disk,
            machine_id: random_hex()?,
            nameserver,
            daemon_json: json.to_owned(),
        };
        let holder = namespace::spawn_holder(self.state.keeper.pid, &host::script(&plan))?;
        let state = HostState {
            holder: Pid::of(holder.id()),
            address,
        };
        self.children.insert(format!("holder of {name}"), holder);
        self.state.hosts.insert(name.to_owned(), state);
        Ok(())
    }

    fn start_resolvers(&mut self, spec: &Spec) -> Result<()> {
        let ctl = address::ctl(self.state.subnet, 1);
        let machine = address::machine(self.state.subnet);
        // What it doesn't know doesn't exist, as the Internet's resolvers say of most names.
        let known = format!("--host-record=machine.lab,{machine}");
        let upstream = resolver(ctl, &[&known, "--local=/#/"]);
        self.launch("resolver@ctl", CTL, upstream, BTreeMap::new())?;
        for number in &spec.loopback_resolver {
            let node = node_name(*number);
            let argv = resolver(LOOPBACK_RESOLVER, &[&format!("--server={ctl}")]);
            self.launch(&format!("resolver@{node}"), &node, argv, BTreeMap::new())?;
        }
        Ok(())
    }

    fn start_netmasters(&mut self, number: u8) -> Result<()> {
        tools::binary("netctl")?;
        let binary = tools::binary("netmaster")?;
        self.init_cluster()?;
        let hosts: Vec<String> = ctl_names(self.state.servers).collect();
        for (i, host) in (1..=number).zip(hosts.iter().cycle()) {
            let name = format!("netmaster-{i}");
            let argv = [&binary, "run", "--name", &name].map(str::to_owned);
            self.launch(&name, host, argv.into(), BTreeMap::new())?;
        }
        (1..=number).try_for_each(|i| self.await_netmaster(&format!("netmaster-{i}")))
    }

    /// Starts a netplugin on `host` that calls itself `node` and has its VTEP at `underlay`. The
    /// process is `netplugin@HOST`.
    pub fn start_netplugin(
        &mut self,
        host: &str,
        node: &str,
        underlay: &str,
        docker: bool,
    ) -> Result<()> {
        let binary = tools::binary("netplugin")?;
        let mut argv = vec![binary, "run".to_owned()];
        argv.extend(["--name", node, "--underlay", underlay].map(str::to_owned));
        argv.extend(["--domain".to_owned(), self.state.domain.clone()]);
        argv.extend(self.state.node_flags.iter().cloned());
        if !docker {
            argv.extend(["--engine", "none"].map(str::to_owned));
        }
        self.launch(&format!("netplugin@{host}"), host, argv, BTreeMap::new())
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
        // Nobody is left to tell; the next `up` or `down` of this name tries again.
        let _ = self.end();
    }
}

const LOOPBACK_RESOLVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// dnsmasq at an address of a host, for [`Lab::launch`]; `more` says what it answers.
pub fn resolver(listen: Ipv4Addr, more: &[&str]) -> Vec<String> {
    let listen = format!("--listen-address={listen}");
    let fixed = [
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--bind-interfaces",
        "--user=root",
        "--pid-file=",
        "--log-facility=-",
        &listen,
    ];
    fixed.iter().chain(more).map(|a| (*a).to_owned()).collect()
}

fn end_keeper(keeper: Pid) -> Result<()> {
    if !keeper.exists() {
        return Ok(());
    }
    process::send(keeper, Signal::SIGKILL)?;
    // The first process of a PID namespace ends last: when it's gone, so are all the others.
    wait::wait_until("the lab's processes end", Duration::from_secs(20), || {
        if STOPPING.load(Ordering::SeqCst) {
            reap_all();
        }
        !keeper.is_alive()
    })
}

/// Interrupted, the main thread no longer reaps what it has started.
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

/// The configuration's syntax takes what begins with a letter for a word, never for a number.
fn token() -> Result<String> {
    random_hex().map(|hex| format!("t{hex}"))
}

fn random_hex() -> Result<String> {
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(Error::file("read", "/dev/urandom"))?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
