//! `netplugin`: the daemon of every node, and the commands that ask it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bus_schema::node::DomainKind;
use bus_schema::{EndpointId, GroupName, MachineId, NetworkName, NodeName, TenantName};
use clap::{Args, Parser, Subcommand, ValueEnum};
use node::core::Watching;
use node::daemon::{self, Config, Ended, StartError};
use node::docker::swarm::{self, InstallError};
use node::endpoint::{Attach, Owner};
use node::local::client::{ClientError, ask};
use node::local::{Detach, Left};
use node::{store, underlay};
use node_datapath::DatapathError;
use node_dns as dns;
use runtime::exit::{UNREACHABLE, USAGE};
use runtime::log::LogFormat;

#[derive(Debug, Parser)]
#[command(
    name = "netplugin",
    version,
    about = "Policy networking for containers: the node"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of this node
    Run(Run),
    /// Try out, with the same flags as `run`, whether this machine can be a node; changes nothing
    Check(Run),
    /// Put a network namespace into a network; prints what it got as JSON
    Attach(AttachArgs),
    /// Take an endpoint away
    Detach(DetachArgs),
    /// Leave the cluster before this node is taken away, until netplugin starts again: it takes no
    /// new endpoints, returns the addresses that nobody uses, and its containers' names are
    /// forgotten at once. What runs and what is forwarded goes on.
    Leave(Where),
    /// Say how the daemon is, as JSON
    Status(Where),
    /// Make the engine's plug-in contiv-swarm:latest and enable it, for networks of a swarm's
    /// services; on each node of the swarm, once
    SwarmPlugin(SwarmPlugin),
}

#[derive(Debug, Args)]
struct Run {
    /// This node's name, unique in the cluster
    #[arg(long)]
    name: NodeName,
    /// The outer address of this node's packets: an interface, a network or an address
    #[arg(long, value_name = "IF|CIDR|ADDR")]
    underlay: String,
    /// How tenants are kept apart; auto takes VRF devices where the kernel has them
    #[arg(long, value_enum, default_value = "auto")]
    domain: Domain,
    /// The bus
    #[arg(
        long,
        env = "CONTIV_NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true
    )]
    nats: String,
    #[arg(long, default_value = "/var/lib/contiv")]
    state_dir: PathBuf,
    #[arg(long, default_value = "/run/contiv")]
    run_dir: PathBuf,
    /// The Docker Engine's socket, or none
    #[arg(long, default_value = "/var/run/docker.sock")]
    engine: String,
    /// Where the engine looks for plugins
    #[arg(long, default_value = "/run/docker/plugins")]
    plugin_dir: PathBuf,
    /// Seconds that a name's answer may be remembered, also that there is none; the same on all
    /// nodes
    #[arg(long, default_value_t = dns::Config::default().ttl, value_parser = clap::value_parser!(u32).range(0..=3600))]
    dns_ttl: u32,
    /// What may stand behind every name; the same on all nodes
    #[arg(long, default_value = dns::zone::DEFAULT_SUFFIX, value_parser = dns::zone::suffix)]
    dns_suffix: String,
    #[arg(long, default_value = "/etc/machine-id")]
    machine_id_file: PathBuf,
    /// Where Prometheus may read metrics, or none
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9466", value_parser = metrics_at)]
    metrics: MetricsAt,
    /// How a line of the log looks
    #[arg(long, value_enum, default_value = "text", env = "CONTIV_LOG_FORMAT")]
    log_format: LogFormat,
    /// Where network namespaces are bound
    #[arg(long, default_value = "/run/netns", hide = true)]
    netns_dir: PathBuf,
    /// Seconds between two looks at all of the kernel
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    resync: u64,
    /// Seconds after which a block of addresses that this node doesn't use goes back to its network,
    /// so that other nodes can have it. The last block stays as long as no other node has one
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    block_idle: u64,
    /// Don't listen to what others change in the kernel: only looks find it then
    #[arg(long, hide = true)]
    no_monitor: bool,
}

/// Absent: nowhere.
type MetricsAt = Option<std::net::SocketAddr>;

fn metrics_at(text: &str) -> Result<MetricsAt, String> {
    runtime::metrics::address(text, "127.0.0.1:9466")
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Domain {
    Auto,
    Vrf,
    Netns,
}

#[derive(Debug, Args)]
struct Where {
    #[arg(long, default_value = "/run/contiv")]
    run_dir: PathBuf,
}

#[derive(Debug, Args)]
struct SwarmPlugin {
    #[command(flatten)]
    at: Where,
    /// The Docker Engine's socket
    #[arg(long, default_value = "/var/run/docker.sock")]
    engine: PathBuf,
}

#[derive(Debug, Args)]
struct AttachArgs {
    #[command(flatten)]
    at: Where,
    /// The namespace, for example /run/netns/web
    #[arg(long)]
    netns: PathBuf,
    #[arg(long)]
    network: NetworkName,
    #[arg(long, default_value = "default")]
    tenant: TenantName,
    /// A group of the network; without it the endpoint is in none
    #[arg(long)]
    group: Option<GroupName>,
    /// The name it answers to in its network
    #[arg(long)]
    name: Option<String>,
    /// This very address
    #[arg(long)]
    ip: Option<std::net::IpAddr>,
    /// What the interface is called inside
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// The endpoint's id; without it one is made from the namespace's path and the network
    #[arg(long)]
    id: Option<EndpointId>,
}

#[derive(Debug, Args)]
struct DetachArgs {
    #[command(flatten)]
    at: Where,
    /// As `attach` printed it
    id: EndpointId,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            error.print().ok();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Run(run) => in_runtime(Box::pin(start(run))),
        Command::Check(run) => in_runtime(check(run)),
        Command::Attach(args) => attach(args),
        Command::Detach(args) => {
            let body = Detach { id: args.id };
            client(&args.at, "POST", "/v1/detach", Some(&body))
        }
        Command::Leave(at) => leave(&at),
        Command::SwarmPlugin(args) => in_runtime(swarm_plugin(args)),
        Command::Status(at) => client::<Detach>(&at, "GET", "/v1/status", None),
    }
}

fn in_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(1, &format!("can't start: {error}")),
    };
    let code = runtime.block_on(work);
    // Whoever still waits for a blocking call doesn't keep a stopped daemon alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn start(run: Run) -> ExitCode {
    runtime::log::init(run.log_format, "info,async_nats=warn");
    let config = match config(run) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &format!("{error:#}")),
    };
    let shutdown = match runtime::shutdown() {
        Ok(shutdown) => shutdown,
        Err(error) => return fail(1, &format!("can't listen for signals: {error}")),
    };
    match daemon::run(config, shutdown).await {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Moved) => restart(),
        Err(error) => fail(code_of(&error), &error.to_string()),
    }
}

/// Becomes a new netplugin in the same process, with the same arguments: so it takes over as after
/// any restart, whoever supervises it.
fn restart() -> ExitCode {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "netplugin".into());
    let mut command = std::process::Command::new("/proc/self/exe");
    let error = command.arg0(name).args(arguments).exec();
    fail(
        1,
        &format!("can't start again with the underlay's new address: {error}"),
    )
}

async fn check(run: Run) -> ExitCode {
    // Beside the namespaces that a running netplugin has: there they can be bound.
    let folder = run
        .netns_dir
        .join(format!(".contiv-check-{}", std::process::id()));
    let config = match config(run) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &format!("{error:#}")),
    };
    match node::check::check(&folder, config.domain).await {
        Ok(kind) => {
            let Config { name, vtep, .. } = config;
            say(&format!(
                "{name} can be a node: packets from {vtep}, domain={kind}; a network, a policy and an endpoint were programmed and taken away"
            ));
            ExitCode::SUCCESS
        }
        Err(error) => fail(USAGE, &error.to_string()),
    }
}

async fn swarm_plugin(args: SwarmPlugin) -> ExitCode {
    match swarm::install(&args.engine, &args.at.run_dir).await {
        Ok(()) => {
            say(&format!("plugin {} is enabled", swarm::PLUGIN_NAME));
            ExitCode::SUCCESS
        }
        Err(error @ InstallError::Away(_)) => fail(UNREACHABLE, &error.to_string()),
        Err(error) => fail(1, &error.to_string()),
    }
}

/// What an operator must put right before another start makes sense is a usage error.
fn code_of(error: &StartError) -> u8 {
    match error {
        StartError::Datapath(DatapathError::NotPermitted | DatapathError::NoVrf)
        | StartError::File { .. } => USAGE,
        StartError::Datapath(_)
        | StartError::Journal(_)
        | StartError::Dns(_)
        | StartError::Docker(_) => 1,
    }
}

fn config(run: Run) -> anyhow::Result<Config> {
    use anyhow::Context;
    let machine = std::fs::read_to_string(&run.machine_id_file).with_context(|| {
        format!(
            "can't read this machine's id from {}: create it with systemd-machine-id-setup, or name another file with --machine-id-file",
            run.machine_id_file.display()
        )
    })?;
    let machine = machine.trim();
    anyhow::ensure!(
        !machine.is_empty(),
        "{} is empty: create it with systemd-machine-id-setup",
        run.machine_id_file.display()
    );
    let logged = store::logged_vtep(&run.state_dir, &run.name);
    Ok(Config {
        name: run.name,
        machine: MachineId(machine.to_owned()),
        vtep: underlay::resolve(&run.underlay, logged)?,
        underlay: run.underlay,
        domain: match run.domain {
            Domain::Auto => None,
            Domain::Vrf => Some(DomainKind::Vrf),
            Domain::Netns => Some(DomainKind::Netns),
        },
        nats: run.nats,
        state_dir: run.state_dir,
        run_dir: run.run_dir,
        netns_dir: run.netns_dir,
        engine: (run.engine != "none").then(|| run.engine.into()),
        plugin_dir: run.plugin_dir,
        metrics: run.metrics,
        dns: dns::Config {
            suffix: run.dns_suffix,
            ttl: run.dns_ttl,
            ..dns::Config::default()
        },
        watching: Watching {
            listens: !run.no_monitor,
            resync: Duration::from_secs(run.resync),
        },
        block_idle: Duration::from_secs(run.block_idle),
    })
}

fn attach(args: AttachArgs) -> ExitCode {
    let path = match std::path::absolute(&args.netns) {
        Ok(path) => path.display().to_string(),
        Err(error) => return fail(USAGE, &format!("--netns: {error}")),
    };
    let id = match args.id {
        Some(id) => id,
        None => {
            let text = format!("{path} {} {}", args.tenant, args.network);
            let hash = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, text.as_bytes());
            match EndpointId::new(hash.to_string()) {
                Ok(id) => id,
                Err(error) => return fail(1, &error.to_string()),
            }
        }
    };
    let body = Attach {
        id,
        tenant: args.tenant,
        network: args.network,
        group: args.group,
        addresses: args.ip.into_iter().collect(),
        owner: Owner::Namespace {
            path: path.clone(),
            interface: args.interface,
            cni: None,
        },
        name: args.name,
        aliases: Vec::new(),
        // One namespace is one container, also with endpoints in several networks.
        container: Some(path),
    };
    client(&args.at, "POST", "/v1/attach", Some(&body))
}

/// Prints what the node still has after it left.
fn leave(at: &Where) -> ExitCode {
    match ask::<Detach>(&at.run_dir, "POST", "/v1/leave", None) {
        Ok(text) => {
            let left = serde_json::from_str::<Left>(&text);
            // A netplugin that wasn't restarted after an upgrade answers nothing.
            say(&left.map_or(text, |left| left.to_string()));
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

fn client<T: serde::Serialize>(at: &Where, method: &str, path: &str, body: Option<&T>) -> ExitCode {
    match ask(&at.run_dir, method, path, body) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

fn refused(error: &ClientError) -> ExitCode {
    let code = match error {
        ClientError::Unreachable { .. } => UNREACHABLE,
        ClientError::Refused(_) => 1,
    };
    fail(code, &error.to_string())
}

fn say(text: &str) {
    // A reader that has gone, as `head` does, is no failure of ours.
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

fn fail(code: u8, text: &str) -> ExitCode {
    writeln!(std::io::stderr().lock(), "netplugin: {text}").ok();
    ExitCode::from(code)
}
