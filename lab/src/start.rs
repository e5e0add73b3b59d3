//! Brings a lab up: makes its hosts, and starts resolvers, bus, engines, netmasters and netplugins.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::host::{self, CTL, Plan, UNDERLAY, ctl_names, node_name};
use crate::lab::{Lab, START_TIMEOUT, random_hex};
use crate::spec::{Daemons, Spec};
use crate::state::{HostState, Pid, disk_dir, make_dir};
use crate::{Result, address, namespace, tools, underlay};

const LOOPBACK_RESOLVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

impl Lab {
    pub(crate) fn bring_up(&mut self, spec: &Spec) -> Result<()> {
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
            for node in self.nodes().iter().filter(|_| spec.docker) {
                self.start_docker_sockets(node)?;
            }
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
            // If the host's resolver is a loopback address, Docker forwards unknown names past us, unless
            // its own setting names another resolver.
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
        // Other names don't exist, as resolvers of the Internet answer for most names.
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

    /// Starts the process that holds the engine's plugin sockets: `docker-sockets@NODE`.
    fn start_docker_sockets(&mut self, node: &str) -> Result<()> {
        let argv = [tools::binary("netplugin")?, "docker-sockets".to_owned()];
        let name = format!("docker-sockets@{node}");
        self.launch(&name, node, argv.into(), BTreeMap::new())
    }

    /// Starts a netplugin on `host` as node `node`, with its VTEP on the interface `underlay`. The
    /// process is named `netplugin@HOST`.
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

    /// Waits until this netmaster answers, and any answers a query.
    pub fn await_netmaster(&self, name: &str) -> Result<()> {
        let is_other = |it: &String| it.starts_with("netmaster-") && it != name;
        let has_others = self.process_names().iter().any(is_other);
        self.await_process(name, "netmaster answers", START_TIMEOUT, || {
            (!has_others || self.answering_netmasters().iter().any(|it| it == name))
                && self.netctl(&["cluster", "info"]).is_ok_and(|o| o.success())
        })
    }

    /// The names of the netmasters that answer the bus.
    pub fn answering_netmasters(&self) -> Vec<String> {
        let version = self.netctl(&["version", "-o", "json"]);
        let stdout = version.map(|it| it.stdout).unwrap_or_default();
        let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_default();
        let netmasters = answer["netmasters"].as_array().into_iter().flatten();
        let names = netmasters.filter_map(|it| it["name"].as_str());
        names.map(str::to_owned).collect()
    }

    /// Waits until the node's netplugin follows the log and netmaster lists the node.
    pub fn await_node(&self, node: &str) -> Result<()> {
        let name = format!("netplugin@{node}");
        self.await_process(&name, "netplugin follows the log", START_TIMEOUT, || {
            self.log_state(node).is_ok_and(|state| state == "in-sync")
        })?;
        self.await_process(&name, "netmaster lists the node", START_TIMEOUT, || {
            let node = self.netctl(&["node", "inspect", node]);
            node.is_ok_and(|o| o.success())
        })
    }
}

/// The arguments of dnsmasq at an address of a host, for [`Lab::launch`]; `more` sets its answers.
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
