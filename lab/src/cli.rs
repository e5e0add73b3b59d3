//! What may be typed, and what each verb does.

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use lab::{Daemons, Lab, Signal, Spec};

use crate::{demo, interrupt, say};

/// Clusters on this machine: hosts are network namespaces, the processes are the real ones.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Which cluster; `demo` takes `demo` when nothing is said
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
    /// Bring a cluster up; prints the environment for netctl on this machine
    Up(Up),
    /// End the cluster, or remove what a dead one has left
    Down,
    /// The clusters on this machine
    List,
    /// The environment for netctl on this machine: eval "$(lab env)"
    Env,
    /// The cluster's processes, and whether they run
    Status,
    /// Run a command on a host or in a workload: lab exec node-1 -- ip route
    Exec {
        #[arg(value_name = "HOST|WORKLOAD")]
        place: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// A shell on a host or in a workload
    Shell {
        #[arg(value_name = "HOST|WORKLOAD")]
        place: String,
    },
    /// Put a workload, a bare network namespace, into a network; runs a command in it
    Run {
        node: String,
        #[arg(long = "net", value_name = "NETWORK")]
        network: String,
        /// What the others call it
        #[arg(long = "name", value_name = "NAME")]
        workload: String,
        #[arg(long)]
        group: Option<String>,
        #[arg(long)]
        tenant: Option<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Take a workload away
    Rm { workload: String },
    /// Start a process that was stopped; a node's name means its netplugin
    Start { process: String },
    /// Stop a process with SIGTERM
    Stop { process: String },
    /// Stop a process with SIGKILL
    Kill { process: String },
    /// Stop a process with SIGTERM and start it again
    Restart { process: String },
    /// Freeze a process: its sockets stay open, and nobody answers
    Pause { process: String },
    /// Let a frozen process go on
    Resume { process: String },
    /// What a process has logged
    Logs { process: String },
    /// Cut every packet between two groups of hosts: lab partition node-1 / node-2 ctl
    Partition {
        /// Only what the first group sends to the second
        #[arg(long)]
        one_way: bool,
        #[arg(value_name = "HOST… / HOST…", required = true, num_args = 3..)]
        hosts: Vec<String>,
    },
    /// Cut a host off from all others
    Isolate { host: String },
    /// End all cuts
    Repair,
    /// The quick start on a cluster of its own, which stays up
    Demo,
}

#[derive(Debug, Args)]
struct Up {
    /// As the option --lab
    #[arg(long)]
    name: Option<String>,
    /// How many nodes: node-1, node-2…
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
    nodes: u8,
    /// How many netmasters, shared out over the hosts of the bus
    #[arg(long, visible_alias = "netmasters", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
    masters: u8,
    /// How many nats-servers keep the log, each on a host of its own: ctl, ctl-2, ctl-3
    #[arg(long, default_value_t = 1, value_parser = servers)]
    servers: u8,
    /// A Docker Engine on every node, with the image contiv/busybox
    #[arg(long)]
    docker: bool,
    /// The engines also have Docker's default bridge
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
        Verb::Env => say::say(&environment(&open()?)),
        Verb::Status => status(&open()?)?,
        Verb::Exec { place, command } => return here(&open()?, &place, &command),
        Verb::Shell { place } => return here(&open()?, &place, &["bash".to_owned()]),
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
                return here(&lab, &workload, &command);
            }
            say::say(&format!("{workload}\t{}\t{node}", it.address));
        }
        Verb::Rm { workload } => open()?.remove_workload(&workload)?,
        Verb::Start { process } => with(open()?, &process, Lab::start)?,
        Verb::Stop { process } => with(open()?, &process, |lab, it| lab.stop(it, Signal::Term))?,
        Verb::Kill { process } => with(open()?, &process, Lab::kill)?,
        Verb::Restart { process } => {
            with(open()?, &process, |lab, it| lab.restart(it, Signal::Term))?;
        }
        Verb::Pause { process } => with(open()?, &process, |lab, it| lab.pause(it))?,
        Verb::Resume { process } => with(open()?, &process, |lab, it| lab.resume(it))?,
        Verb::Logs { process } => with(open()?, &process, |lab, it| {
            lab.log(it).map(|text| say::say(text.trim_end()))
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
    // An `up` that another lab of the name refuses must not remove that lab when interrupted.
    if let Ok(lab) = Lab::open(spec.name()) {
        anyhow::bail!("lab `{0}` is up; `lab down --lab {0}` ends it", lab.name());
    }
    interrupt::removes(spec.name())?;
    let lab = Lab::up(&spec)?;
    if arguments.docker {
        let imported = lab.nodes().iter().try_for_each(|n| lab.import_image(n));
        if let Err(error) = imported {
            lab.down()?;
            return Err(error).context("make the containers' image");
        }
    }
    say::say(&environment(&lab));
    Ok(())
}

/// For a shell to evaluate.
fn environment(lab: &Lab) -> String {
    let name = lab.name();
    format!(
        "# lab `{name}`: {}\nexport CONTIV_LAB={name}\nexport CONTIV_NATS_URL={}",
        lab.host_names().join(", "),
        lab.nats_url()
    )
}

/// Does something to a process; a node's name stands for its netplugin.
fn with(
    mut lab: Lab,
    process: &str,
    what: impl FnOnce(&mut Lab, &str) -> lab::Result<()>,
) -> anyhow::Result<()> {
    let netplugin = format!("netplugin@{process}");
    let known = lab.process_names();
    let meant = if known.contains(&netplugin) {
        &netplugin
    } else {
        process
    };
    Ok(what(&mut lab, meant)?)
}

fn partition(lab: &Lab, hosts: &[String], one_way: bool) -> anyhow::Result<()> {
    let mut sides = hosts.split(|word| word == "/");
    let (Some(these), Some(those), None) = (sides.next(), sides.next(), sides.next()) else {
        anyhow::bail!(
            "two groups of hosts, one slash between them: lab partition node-1 / node-2 ctl"
        );
    };
    let [these, those] =
        [these, those].map(|side| side.iter().map(String::as_str).collect::<Vec<_>>());
    anyhow::ensure!(
        !these.is_empty() && !those.is_empty(),
        "on each side of the slash there must be a host; there are {}",
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
            "dead; lab down clears it"
        };
        say::say(&format!(
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
        say::say(&format!("{name}\t{pid}\t{state}"));
    }
    Ok(())
}

/// With this command's own terminal, on a host or in a workload.
fn here(lab: &Lab, place: &str, command: &[String]) -> anyhow::Result<u8> {
    interrupt::ignored()?;
    let status = lab.exec_here(place, command)?;
    Ok(u8::try_from(status).unwrap_or(1))
}
