//! The grammar of the `lab` command, and its verbs.

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::{Daemons, Lab, Signal, Spec};

use crate::{demo, interrupt, print};

/// Clusters on this machine: hosts are network namespaces, the processes are the real ones.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// The cluster's name; `demo` uses `demo` by default
    #[arg(long, global = true, env = "CONTIV_LAB", default_value = "lab")]
    lab: String,
    #[command(subcommand)]
    verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  eval \"$(lab up --nodes 3)\"              netctl on this machine talks to it
  lab up --name big --servers 3 --masters 3; export CONTIV_LAB=big
  lab run node-1 --net contiv-net --name web -- sleep 1000
  lab exec web -- ping -c 3 db
  lab kill nats-2; lab start nats-2
  lab partition node-1 node-2 / ctl ctl-2; lab repair";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start a cluster, and print the environment for netctl on this machine
    Up(Up),
    /// End the cluster, or remove the leftovers of a dead one
    Down,
    /// List the clusters on this machine
    List,
    /// Print the environment for netctl on this machine: eval "$(lab env)"
    Env,
    /// List the cluster's processes, and whether they run
    Status,
    /// Run a command on a host or in a workload: lab exec node-1 -- ip route
    Exec {
        #[arg(value_name = "HOST|WORKLOAD")]
        place: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Start a shell on a host or in a workload
    Shell {
        #[arg(value_name = "HOST|WORKLOAD")]
        place: String,
    },
    /// Attach a workload, a bare network namespace, to a network, and run a command in it
    Run {
        node: String,
        #[arg(long = "net", value_name = "NETWORK")]
        network: String,
        /// The workload's name, also in DNS
        #[arg(long = "name", value_name = "NAME")]
        workload: String,
        #[arg(long)]
        group: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Remove a workload
    Rm { workload: String },
    /// Start a stopped process; a node's name stands for its netplugin
    Start { process: String },
    /// Stop a process with SIGTERM
    Stop { process: String },
    /// Stop a process with SIGKILL
    Kill { process: String },
    /// Stop a process with SIGTERM and start it again
    Restart { process: String },
    /// Freeze a process: its sockets stay open, but it doesn't answer
    Pause { process: String },
    /// Continue a frozen process
    Resume { process: String },
    /// Print the log of a process
    Logs { process: String },
    /// Drop every packet between two groups of hosts: lab partition node-1 / node-2 ctl
    Partition {
        /// Drop only packets from the first group to the second
        #[arg(long)]
        one_way: bool,
        #[arg(value_name = "HOST… / HOST…", required = true, num_args = 3..)]
        hosts: Vec<String>,
    },
    /// Drop every packet between a host and all others
    Isolate { host: String },
    /// End all partitions
    Repair,
    /// Run the quick start on a cluster of its own, which stays up
    Demo,
}

#[derive(Debug, Args)]
struct Up {
    /// The cluster's name, like --lab
    #[arg(long)]
    name: Option<String>,
    /// The number of nodes: node-1, node-2…
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
    nodes: u8,
    /// The number of netmasters, which are distributed over the hosts of the bus
    #[arg(long, visible_alias = "netmasters", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    masters: u8,
    /// The number of nats-servers, each on a host of its own: ctl, ctl-2, ctl-3
    #[arg(long, default_value_t = 1, value_parser = servers)]
    servers: u8,
    /// Start a Docker Engine on every node, with the image contiv/busybox
    #[arg(long)]
    docker: bool,
    /// Give the engines Docker's default bridge, too
    #[arg(long, requires = "docker")]
    docker_bridge: bool,
    /// Numbers of the nodes whose resolver is 127.0.0.1
    #[arg(long, value_delimiter = ',')]
    loopback_resolver: Vec<u8>,
    #[arg(long, value_enum, default_value = "all")]
    daemons: DaemonsArg,
}

fn servers(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("it must be 1 or 3".to_owned()),
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DaemonsArg {
    All,
    Control,
    Bus,
    None,
}

impl From<DaemonsArg> for Daemons {
    fn from(arg: DaemonsArg) -> Self {
        match arg {
            DaemonsArg::All => Self::All,
            DaemonsArg::Control => Self::Control,
            DaemonsArg::Bus => Self::Bus,
            DaemonsArg::None => Self::None,
        }
    }
}

pub(crate) fn run(cli: Cli) -> anyhow::Result<u8> {
    let Cli { lab: name, verb } = cli;
    let open = || Lab::open(&name);
    match verb {
        Verb::Up(arguments) => up(name, arguments)?,
        Verb::Down => Lab::remove(&name)?,
        Verb::List => list()?,
        Verb::Env => print::line(&environment(&open()?)),
        Verb::Status => status(&open()?)?,
        Verb::Exec { place, command } => return exec_here(&open()?, &place, &command),
        Verb::Shell { place } => return exec_here(&open()?, &place, &["bash".to_owned()]),
        Verb::Run {
            node,
            network,
            workload,
            group,
            tenant,
            command,
        } => {
            let options = [("--group", group), ("--tenant", tenant)];
            let options = options
                .iter()
                .filter_map(|(flag, value)| Some([*flag, value.as_deref()?]));
            let options: Vec<&str> = options.flatten().collect();
            let mut lab = open()?;
            let it = lab.run_workload_with(&node, &network, &workload, &options)?;
            if !command.is_empty() {
                return exec_here(&lab, &workload, &command);
            }
            print::line(&format!("{workload}\t{}\t{node}", it.address));
        }
        Verb::Rm { workload } => open()?.remove_workload(&workload)?,
        Verb::Start { process } => with(open()?, &process, |lab, it| {
            lab.start(it)?;
            lab.await_start(it)
        })?,
        Verb::Stop { process } => with(open()?, &process, |lab, it| lab.stop(it, Signal::Term))?,
        Verb::Kill { process } => with(open()?, &process, Lab::kill)?,
        Verb::Restart { process } => {
            with(open()?, &process, |lab, it| {
                lab.restart(it, Signal::Term)?;
                lab.await_start(it)
            })?;
        }
        Verb::Pause { process } => with(open()?, &process, |lab, it| lab.pause(it))?,
        Verb::Resume { process } => with(open()?, &process, |lab, it| lab.resume(it))?,
        Verb::Logs { process } => with(open()?, &process, |lab, it| {
            lab.log(it).map(|text| print::line(text.trim_end()))
        })?,
        Verb::Partition { one_way, hosts } => partition(&open()?, &hosts, one_way)?,
        Verb::Isolate { host } => open()?.isolate(&host)?,
        Verb::Repair => open()?.repair()?,
        Verb::Demo if name == "lab" => demo::run("demo")?,
        Verb::Demo => demo::run(&name)?,
    }
    Ok(0)
}

fn up(name: String, arguments: Up) -> anyhow::Result<()> {
    let name = arguments.name.unwrap_or(name);
    let spec = Spec::named(name, arguments.nodes)
        .servers(arguments.servers)
        .netmasters(arguments.masters)
        .docker(arguments.docker)
        .docker_bridge(arguments.docker_bridge)
        .daemons(arguments.daemons.into());
    let spec = arguments
        .loopback_resolver
        .into_iter()
        .fold(spec, Spec::loopback_resolver_on);
    // If a lab of this name is up, an interruption must not remove it.
    if let Ok(lab) = Lab::open(spec.name()) {
        anyhow::bail!("lab `{0}` is up; `lab down --lab {0}` ends it", lab.name());
    }
    interrupt::remove_lab(spec.name())?;
    let lab = Lab::up(&spec)?;
    if arguments.docker {
        let imported = lab.nodes().iter().try_for_each(|n| lab.import_image(n));
        if let Err(error) = imported {
            lab.down()?;
            return Err(error).context("make the containers' image");
        }
    }
    print::line(&environment(&lab));
    Ok(())
}

/// The environment in a form that a shell evaluates.
fn environment(lab: &Lab) -> String {
    let name = lab.name();
    format!(
        "# lab `{name}`: {}\nexport CONTIV_LAB={name}\nexport CONTIV_NATS_URL={}",
        lab.host_names().join(", "),
        lab.nats_url()
    )
}

/// Applies `action` to a process; a node's name stands for its netplugin.
fn with(
    mut lab: Lab,
    process: &str,
    action: impl FnOnce(&mut Lab, &str) -> lab::Result<()>,
) -> anyhow::Result<()> {
    let netplugin = format!("netplugin@{process}");
    let names = lab.process_names();
    let process = if names.contains(&netplugin) {
        &netplugin
    } else {
        process
    };
    Ok(action(&mut lab, process)?)
}

fn partition(lab: &Lab, hosts: &[String], one_way: bool) -> anyhow::Result<()> {
    let mut sides = hosts.split(|word| word == "/");
    let (Some(these), Some(those), None) = (sides.next(), sides.next(), sides.next()) else {
        anyhow::bail!(
            "write two groups of hosts with one slash between them: lab partition node-1 / node-2 ctl"
        );
    };
    let [these, those] =
        [these, those].map(|side| side.iter().map(String::as_str).collect::<Vec<_>>());
    anyhow::ensure!(
        !these.is_empty() && !those.is_empty(),
        "write at least one host on each side of the slash; the hosts are {}",
        lab.host_names().join(", ")
    );
    if one_way {
        lab.cut(&these, &those)?;
    } else {
        lab.partition(&these, &those)?;
    }
    Ok(())
}

fn list() -> anyhow::Result<()> {
    for lab in lab::list()? {
        let state = if lab.up {
            "up"
        } else {
            "dead; `lab down` removes it"
        };
        print::line(&format!(
            "{}\t{}\t{}\t{state}",
            lab.name,
            lab.subnet,
            lab.hosts.join(",")
        ));
    }
    Ok(())
}

fn status(lab: &Lab) -> anyhow::Result<()> {
    for name in lab.process_names() {
        let state = if lab.is_running(&name)? {
            "running"
        } else {
            "stopped"
        };
        let pid = lab
            .pid(&name)?
            .map_or_else(|| "-".to_owned(), |p| p.to_string());
        print::line(&format!("{name}\t{pid}\t{state}"));
    }
    Ok(())
}

/// Runs a command on a host or in a workload, with this command's terminal.
fn exec_here(lab: &Lab, place: &str, command: &[String]) -> anyhow::Result<u8> {
    interrupt::ignore()?;
    let status = lab.exec_here(place, command)?;
    Ok(u8::try_from(status).unwrap_or(1))
}
