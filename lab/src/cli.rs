//! What may be typed, and what each verb does.

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};
use lab::{Daemons, Lab, Signal, Spec};

use crate::{demo, interrupt, say};

/// Clusters on this machine: hosts are network namespaces, the processes are the real ones.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Bring a cluster up.
    Up {
        #[arg(default_value = "lab")]
        name: String,
        /// How many nodes: node-1, node-2…
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
        nodes: u8,
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=9))]
        netmasters: u8,
        /// A Docker Engine on every node, with the image contiv/busybox.
        #[arg(long)]
        docker: bool,
        /// The engines also have Docker's default bridge.
        #[arg(long, requires = "docker")]
        docker_bridge: bool,
        /// Numbers of the nodes whose resolver is 127.0.0.53.
        #[arg(long, value_delimiter = ',')]
        loopback_resolver: Vec<u8>,
        #[arg(long, value_enum, default_value = "all")]
        daemons: DaemonsArg,
    },
    /// End a cluster, or remove what a dead one has left.
    Down {
        name: String,
    },
    /// The clusters on this machine.
    List,
    /// The environment for netctl on this machine: eval "$(lab env NAME)".
    Env {
        name: String,
    },
    /// Run a command on a host: lab exec NAME node-1 -- ip route.
    Exec {
        name: String,
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// A shell on a host.
    Shell {
        name: String,
        host: String,
    },
    /// The processes of a cluster and whether they run.
    Ps {
        name: String,
    },
    Start {
        name: String,
        process: String,
    },
    /// Stop a process: SIGTERM, or SIGKILL with --kill.
    Stop {
        name: String,
        process: String,
        #[arg(long)]
        kill: bool,
    },
    /// Stop a process with SIGTERM and start it again.
    Restart {
        name: String,
        process: String,
    },
    /// What a process has logged.
    Logs {
        name: String,
        process: String,
    },
    /// Cut a host off from the others.
    Isolate {
        name: String,
        host: String,
    },
    /// End all cuts.
    Repair {
        name: String,
    },
    /// The quick start on a cluster of its own, which stays up.
    Demo {
        #[arg(default_value = "demo")]
        name: String,
    },
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
    match cli.verb {
        Verb::Up {
            name,
            nodes,
            netmasters,
            docker,
            docker_bridge,
            loopback_resolver,
            daemons,
        } => {
            let spec = Spec::named(name, nodes)
                .netmasters(netmasters)
                .docker(docker)
                .docker_bridge(docker_bridge)
                .daemons(daemons.into());
            let spec = loopback_resolver
                .into_iter()
                .fold(spec, Spec::loopback_resolver_on);
            up(&spec, docker)?;
        }
        Verb::Down { name } => Lab::remove(&name)?,
        Verb::List => list()?,
        Verb::Env { name } => say::say(&format!(
            "export CONTIV_NATS_URL={}",
            Lab::open(&name)?.nats_url()
        )),
        Verb::Exec {
            name,
            host,
            command,
        } => return here(&name, &host, &command),
        Verb::Shell { name, host } => return here(&name, &host, &["bash".to_owned()]),
        Verb::Ps { name } => ps(&Lab::open(&name)?)?,
        Verb::Start { name, process } => Lab::open(&name)?.start(&process)?,
        Verb::Stop {
            name,
            process,
            kill,
        } => {
            let how = if kill { Signal::Kill } else { Signal::Term };
            Lab::open(&name)?.stop(&process, how)?;
        }
        Verb::Restart { name, process } => Lab::open(&name)?.restart(&process, Signal::Term)?,
        Verb::Logs { name, process } => say::say(&Lab::open(&name)?.log(&process)?),
        Verb::Isolate { name, host } => Lab::open(&name)?.isolate(&host)?,
        Verb::Repair { name } => Lab::open(&name)?.repair()?,
        Verb::Demo { name } => demo::run(&name)?,
    }
    Ok(0)
}

fn up(spec: &Spec, docker: bool) -> anyhow::Result<()> {
    // An `up` that another lab of the name refuses must not remove that lab when interrupted.
    if let Ok(lab) = Lab::open(spec.name()) {
        anyhow::bail!("lab `{0}` is up; `lab down {0}` ends it", lab.name());
    }
    interrupt::removes(spec.name())?;
    let lab = Lab::up(spec)?;
    if docker {
        let imported = lab.nodes().iter().try_for_each(|n| lab.import_image(n));
        if imported.is_err() {
            lab.down()?;
        }
        imported.context("make the containers' image")?;
    }
    say::say(&format!("lab `{}` is up", spec.name()));
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

fn ps(lab: &Lab) -> anyhow::Result<()> {
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

fn here(name: &str, host: &str, command: &[String]) -> anyhow::Result<u8> {
    let lab = Lab::open(name)?;
    interrupt::ignored()?;
    let status = lab.exec_here(host, command)?;
    Ok(u8::try_from(status).unwrap_or(1))
}
