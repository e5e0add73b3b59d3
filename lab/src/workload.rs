//! Workloads without an engine: a bare network namespace on a node, attached by `netplugin attach`.

use std::net::Ipv4Addr;
use std::process::Stdio;

use crate::lab::Lab;
use crate::ping::{self, Ping};
use crate::state::{WorkloadState, run_dir};
use crate::{Error, Output, Result, host, namespace, underlay};

/// A network namespace with an address on a node; for the network it is the same as a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    pub node: String,
    pub name: String,
    pub address: Ipv4Addr,
    /// The endpoint's id.
    pub id: String,
}

/// Names of workloads are unique in a lab.
impl Lab {
    /// Starts a workload in a network of tenant `default`.
    pub fn run_workload(&mut self, node: &str, network: &str, name: &str) -> Result<Workload> {
        self.run_workload_with(node, network, name, &[])
    }

    /// [`Lab::run_workload`] with further arguments of `netplugin attach`, such as `--ip` and
    /// `--tenant`.
    pub fn run_workload_with(
        &mut self,
        node: &str,
        network: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<Workload> {
        /// An attach that exceeds netplugin's timeout on a slow machine is repeated, as runtimes do.
        const MAX_TRIES: usize = 3;
        let mut attached = self.try_workload(node, network, name, arguments)?;
        for _ in 1..MAX_TRIES {
            if attached.success() || !attached.stderr.trim_end().ends_with("try again") {
                break;
            }
            attached = self.attach(node, network, name, arguments)?;
        }
        let done = self.check(node, "netplugin attach", attached);
        if let Err(error) = done {
            self.drop_namespace(node, name)?;
            return Err(error);
        }
        self.record(node, network, name, arguments)
    }

    /// Tries to attach, and returns the output of `netplugin attach`, for tests where it must fail. A
    /// success leaves an unrecorded workload.
    pub fn try_workload(
        &mut self,
        node: &str,
        network: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<Output> {
        let netns = netns(name);
        let prepare = format!(
            "ip netns add {netns} && ip -n {netns} link set lo up && mkdir -p /etc/netns/{netns} \
             && echo 'nameserver 169.254.53.53' >/etc/netns/{netns}/resolv.conf"
        );
        self.run(node, &["sh", "-c", &prepare])?;
        self.attach(node, network, name, arguments)
    }

    fn attach(&self, node: &str, network: &str, name: &str, arguments: &[&str]) -> Result<Output> {
        let path = format!("/run/netns/{}", netns(name));
        let mut attach = vec![
            "netplugin",
            "attach",
            "--netns",
            &path,
            "--network",
            network,
            "--name",
            name,
            "--id",
            name,
        ];
        attach.extend(arguments);
        self.exec(node, &attach)
    }

    /// Detaches a workload and removes its namespace.
    pub fn remove_workload(&mut self, name: &str) -> Result<()> {
        let WorkloadState { node, id, .. } = self.workload_state(name)?.clone();
        self.run(&node, &["netplugin", "detach", &id])?;
        self.vanish_workload(name)
    }

    /// Removes a workload's namespace without detaching it.
    pub fn vanish_workload(&mut self, name: &str) -> Result<()> {
        let node = self.workload_state(name)?.node.clone();
        self.drop_namespace(&node, name)?;
        self.state.workloads.remove(name);
        self.state.save()
    }

    /// Runs a command inside a workload.
    pub fn exec_in(&self, workload: &str, argv: &[&str]) -> Result<Output> {
        let node = self.workload_state(workload)?.node.clone();
        let netns = netns(workload);
        let mut all = vec!["ip", "netns", "exec", &netns];
        all.extend(argv);
        self.exec(&node, &all)
    }

    /// Sends three packets from `workload` to an address or a name. True if all were answered, or one on
    /// an underlay that loses packets.
    pub fn ping(&self, workload: &str, target: &str) -> Result<bool> {
        let output = self.exec_in(
            workload,
            &["ping", "-c", "3", "-i", "0.05", "-W", "1", target],
        )?;
        let all = output.stdout.contains(" 0% packet loss");
        Ok(ping::answers(&output) && (all || underlay::netem().is_some()))
    }

    /// Pings an address in the background.
    pub fn start_ping(&self, workload: &str, target: &str) -> Result<Ping> {
        let node = self.workload_state(workload)?.node.clone();
        let log = run_dir(self.name()).join(format!(
            "logs/ping-{workload}-{:06x}.log",
            fastrand::u32(..1 << 24)
        ));
        let file = std::fs::File::create(&log).map_err(Error::file("write", &log))?;
        let err = file.try_clone().map_err(Error::system("share a log"))?;
        let netns = netns(workload);
        let mut argv = vec!["ip", "netns", "exec", &netns];
        argv.extend(ping::PING_ARGV);
        argv.push(target);
        let mut command = host::command(&argv, &self.environment());
        command.stdin(Stdio::null()).stdout(file).stderr(err);
        namespace::detach(&mut command);
        Ping::started(self.host(&node)?.spawn(command)?, log)
    }

    /// The workload's address in its own namespace.
    pub fn address_of(&self, workload: &str) -> Result<Ipv4Addr> {
        self.workload_state(workload).map(|w| w.address)
    }

    fn record(
        &mut self,
        node: &str,
        network: &str,
        name: &str,
        arguments: &[&str],
    ) -> Result<Workload> {
        let netns = netns(name);
        let text = self.run(
            node,
            &[
                "ip", "-n", &netns, "-4", "-o", "addr", "show", "scope", "global",
            ],
        )?;
        let address = text
            .stdout
            .split_whitespace()
            .skip_while(|w| *w != "inet")
            .nth(1)
            .and_then(|cidr| cidr.split('/').next()?.parse().ok())
            .ok_or_else(|| Error::Command {
                host: node.to_owned(),
                command: "netplugin attach".to_owned(),
                status: "done".to_owned(),
                output: format!("but workload {name} has no IPv4 address: {}", text.stdout),
            })?;
        let tenant = arguments
            .iter()
            .position(|a| *a == "--tenant")
            .and_then(|at| arguments.get(at + 1))
            .map(|t| (*t).to_owned());
        let state = WorkloadState {
            node: node.to_owned(),
            network: network.to_owned(),
            tenant,
            id: name.to_owned(),
            address,
        };
        self.state.workloads.insert(name.to_owned(), state);
        self.state.save()?;
        Ok(Workload {
            node: node.to_owned(),
            name: name.to_owned(),
            address,
            id: name.to_owned(),
        })
    }

    fn drop_namespace(&self, node: &str, name: &str) -> Result<()> {
        self.run(node, &["ip", "netns", "delete", &netns(name)])
            .map(drop)
    }

    pub(crate) fn workload_node(&self, name: &str) -> Result<String> {
        self.workload_state(name).map(|state| state.node.clone())
    }

    fn workload_state(&self, name: &str) -> Result<&WorkloadState> {
        self.state
            .workloads
            .get(name)
            .ok_or_else(|| Error::Unknown {
                kind: "workload",
                name: name.to_owned(),
                known: self
                    .state
                    .workloads
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

/// The workload's namespace. The prefix keeps it apart from netplugin's namespaces in the same folder.
pub(crate) fn netns(workload: &str) -> String {
    format!("w-{workload}")
}
