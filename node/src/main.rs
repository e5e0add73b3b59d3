//! `netplugin`: the daemon of each node, and the commands that call it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bus_schema::node::DomainKind;
use bus_schema::{EndpointId, GroupName, MachineId, NetworkName, NodeName, TenantName};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use node::daemon::{self, DaemonConfig, Ended, StartError};
use node::docker::sockets;
use node::docker::swarm::{self, InstallError};
use node::endpoint::{Attach, Owner};
use node::local::client::{ClientError, ask};
use node::local::{Detach, Left};
use node::neighbors::low_limit;
use node::reconciler::Watching;
use node::{store, underlay};
use node_core::resource::Uplink;
use node_datapath::{DatapathError, NeighborTable};
use node_dns as dns;
use runtime::bus_address;
use runtime::exit::{UNREACHABLE, USAGE};
use runtime::log::LogFormat;

const DEFAULT_BUS_URL: &str = "nats://127.0.0.1:4222";

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
    /// Test, with the same flags as `run`, whether this machine can be a node; changes nothing
    Check(Run),
    /// Attach a network namespace to a network and print the endpoint as JSON
    Attach(AttachArgs),
    /// Detach an endpoint
    Detach(DetachArgs),
    /// Leave the cluster before this node is removed, until netplugin starts again: the node takes no
    /// new endpoints, returns its unused addresses, and withdraws its containers' names at once.
    /// Running containers and their traffic continue.
    Leave(Where),
    /// Print the daemon's status as JSON
    Status(Where),
    /// Hold the Docker Engine's plugin sockets for the netplugin of this node, as a service of its own:
    /// calls wait while netplugin restarts, and are refused at once while it is away
    DockerSockets(DockerSockets),
    /// Create and enable the engine's plugin contiv-swarm:latest, for networks of a swarm's services;
    /// once on each node of the swarm
    SwarmPlugin(SwarmPlugin),
}

#[derive(Debug, Args)]
struct Run {
    /// This node's name, unique in the cluster
    #[arg(long)]
    name: NodeName,
    /// The outer address of this node's packets, by interface, network or address
    #[arg(long, value_name = "IF|CIDR|ADDR")]
    underlay: String,
    /// The mark of the packets between nodes, for the host's `ip rule fwmark N`, such as 51820 or 0xca6c
    /// [default: no mark]
    #[arg(long, value_name = "N", value_parser = mark)]
    outer_mark: Option<u32>,
    /// How tenants are isolated; auto uses VRF devices if the kernel has them
    #[arg(long, value_enum, default_value = "auto")]
    domain: Domain,
    /// The bus (NATS servers) [default: $CONTIV_NATS_FILE, then $CONTIV_NATS_URL, then
    /// nats://127.0.0.1:4222]
    #[arg(long, value_name = "nats://TOKEN@HOST:PORT")]
    nats: Option<String>,
    /// A file with that address, or with a line CONTIV_NATS_URL=…: the token then stands on no command
    /// line and in no environment [default: $CONTIV_NATS_FILE]
    #[arg(long, value_name = "FILE")]
    nats_file: Option<PathBuf>,
    #[arg(long, default_value = "/var/lib/contiv")]
    state_dir: PathBuf,
    #[arg(long, default_value = "/run/contiv")]
    run_dir: PathBuf,
    /// The Docker Engine's socket, or none
    #[arg(long, default_value = "/var/run/docker.sock")]
    engine: String,
    /// The engine's folder of plugin sockets
    #[arg(long, default_value = "/run/docker/plugins")]
    plugin_dir: PathBuf,
    /// TTL of answers about names, in seconds, also of negative ones; the same on all nodes
    #[arg(long, default_value_t = dns::Config::default().ttl, value_parser = clap::value_parser!(u32).range(0..=3600))]
    dns_ttl: u32,
    /// Suffix of all names; the same on all nodes
    #[arg(long, default_value = dns::zone::DEFAULT_SUFFIX, value_parser = dns::zone::suffix)]
    dns_suffix: String,
    #[arg(long, default_value = "/etc/machine-id")]
    machine_id_file: PathBuf,
    /// Address on which Prometheus reads metrics, or none
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9466", value_parser = metrics_at)]
    metrics: MetricsAt,
    /// Format of the log
    #[arg(long, value_enum, default_value = "text", env = "CONTIV_LOG_FORMAT")]
    log_format: LogFormat,
    /// Folder in which network namespaces are bound
    #[arg(long, default_value = "/run/netns", hide = true)]
    netns_dir: PathBuf,
    /// Seconds between two full resyncs with the kernel
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    resync: u64,
    /// Seconds after which an unused block of addresses is returned to its network, so that other
    /// nodes can lease it. The last block stays as long as no other node has one
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    block_idle: u64,
    /// The addresses by which domains send out of this node, a network of at least 131,072 (/15) that is
    /// used nowhere else: each node may have the same
    #[arg(long, value_name = "CIDR", default_value_t = Uplink::DEFAULT_POOL, value_parser = uplink_pool)]
    uplink_pool: Ipv4Net,
    /// Don't receive the kernel's notifications of changes: only resyncs find them then
    #[arg(long, hide = true)]
    no_monitor: bool,
}

/// The metrics' address; `None` to serve no metrics.
type MetricsAt = Option<std::net::SocketAddr>;

fn metrics_at(text: &str) -> Result<MetricsAt, String> {
    runtime::metrics::address(text, "127.0.0.1:9466")
}

fn uplink_pool(text: &str) -> Result<Ipv4Net, String> {
    let pool: Ipv4Net = text.parse().map_err(|_| {
        format!(
            "{text} is no IPv4 network: write it as {}",
            Uplink::DEFAULT_POOL
        )
    })?;
    let longest = Uplink::MAX_POOL_PREFIX;
    match pool.prefix_len() {
        length if length > longest => Err(format!(
            "{pool} is too small: it must hold two addresses for each tenant, so choose a network of /{longest} or larger"
        )),
        _ => Ok(pool.trunc()),
    }
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
struct DockerSockets {
    #[command(flatten)]
    at: Where,
    /// The engine's folder of plugin sockets
    #[arg(long, default_value = "/run/docker/plugins")]
    plugin_dir: PathBuf,
    /// Format of the log
    #[arg(long, value_enum, default_value = "text", env = "CONTIV_LOG_FORMAT")]
    log_format: LogFormat,
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
    /// A group of the network; without it the endpoint is in no group
    #[arg(long)]
    group: Option<GroupName>,
    /// The endpoint's name in its network
    #[arg(long)]
    name: Option<String>,
    /// The endpoint's address; without it a free one is assigned
    #[arg(long)]
    ip: Option<std::net::IpAddr>,
    /// The interface's name in the namespace
    #[arg(long, default_value = "eth0")]
    interface: String,
    /// The endpoint's id; without it the id is derived from the namespace's path and the network
    #[arg(long)]
    id: Option<EndpointId>,
}

#[derive(Debug, Args)]
struct DetachArgs {
    #[command(flatten)]
    at: Where,
    /// The endpoint's id, as `attach` printed it
    id: EndpointId,
}

/// Reads a mark as `ip rule` takes it: 51820 or 0xca6c.
fn mark(text: &str) -> Result<u32, String> {
    let mark = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    mark.map_err(|error| format!("a mark is a number such as 51820 or 0xca6c: {error}"))
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(runtime::exit::report(&error)),
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
        Command::DockerSockets(args) => in_runtime(docker_sockets(args)),
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
    // A blocking call that still runs must not keep a stopped daemon alive.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn start(run: Run) -> ExitCode {
    runtime::log::init(run.log_format, "info,async_nats=warn");
    runtime::raise_open_files();
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

/// Executes a new netplugin in the same process, with the same arguments: it takes over as after any
/// restart, under any supervisor.
fn restart() -> ExitCode {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "netplugin".into());
    let mut command = std::process::Command::new("/proc/self/exe");
    let error = command.arg0(name).args(arguments).exec();
    fail(
        1,
        &format!("can't restart with the underlay's new address or MTU: {error}"),
    )
}

async fn check(run: Run) -> ExitCode {
    // In the folder of a running netplugin's namespaces: there they can be bound.
    let folder = run
        .netns_dir
        .join(format!(".contiv-check-{}", std::process::id()));
    let config = match config(run) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &format!("{error:#}")),
    };
    match node::check::check(&folder, config.domain).await {
        Ok(kind) => {
            let warnings = node::check::warnings(folder, kind, config.uplink_pool).await;
            let DaemonConfig { name, vtep, .. } = config;
            print_line(&format!(
                "{name} can be a node: packets from {vtep}, domain={kind}; a network, a policy and an endpoint were created and removed for the test"
            ));
            if let Some(warning) = NeighborTable::read().await.as_ref().and_then(low_limit) {
                print_line(&format!("warning: {warning}"));
            }
            for warning in warnings {
                print_line(&format!("warning: {warning}"));
            }
            ExitCode::SUCCESS
        }
        Err(error) => fail(USAGE, &error.to_string()),
    }
}

async fn docker_sockets(args: DockerSockets) -> ExitCode {
    runtime::log::init(args.log_format, "info");
    match sockets::hold(&args.plugin_dir, &args.at.run_dir).await {
        Ok(()) => fail(1, "a plugin socket failed"),
        Err(error) => fail(1, &error.to_string()),
    }
}

async fn swarm_plugin(args: SwarmPlugin) -> ExitCode {
    match swarm::install(&args.engine, &args.at.run_dir).await {
        Ok(()) => {
            print_line(&format!("plugin {} is enabled", swarm::PLUGIN_NAME));
            ExitCode::SUCCESS
        }
        Err(error @ InstallError::Away(_)) => fail(UNREACHABLE, &error.to_string()),
        Err(error) => fail(1, &error.to_string()),
    }
}

/// Errors that an operator must correct before another start are usage errors.
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

fn config(run: Run) -> anyhow::Result<DaemonConfig> {
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
    let nats = match bus_address::source(run.nats, run.nats_file) {
        Some(source) => bus_address::read(source)?,
        None => DEFAULT_BUS_URL.to_owned(),
    };
    let logged = store::logged_vtep(&run.state_dir, &run.name);
    Ok(DaemonConfig {
        name: run.name,
        machine: MachineId(machine.to_owned()),
        vtep: underlay::resolve(&run.underlay, logged)?,
        underlay: run.underlay,
        outer_mark: run.outer_mark,
        domain: match run.domain {
            Domain::Auto => None,
            Domain::Vrf => Some(DomainKind::Vrf),
            Domain::Netns => Some(DomainKind::Netns),
        },
        nats,
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
        uplink_pool: run.uplink_pool,
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
        // A namespace counts as one container, also with endpoints in several networks.
        container: Some(path),
    };
    client(&args.at, "POST", "/v1/attach", Some(&body))
}

/// Leaves the cluster and prints the endpoints and blocks that the node still has.
fn leave(at: &Where) -> ExitCode {
    match ask::<Detach>(&at.run_dir, "POST", "/v1/leave", None) {
        Ok(text) => {
            let left = serde_json::from_str::<Left>(&text);
            // A netplugin of an older version, not restarted after an upgrade, answers nothing.
            print_line(&left.map_or(text, |left| left.to_string()));
            ExitCode::SUCCESS
        }
        Err(error) => refused(&error),
    }
}

fn client<T: serde::Serialize>(at: &Where, method: &str, path: &str, body: Option<&T>) -> ExitCode {
    match ask(&at.run_dir, method, path, body) {
        Ok(text) => {
            print_line(&text);
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

fn print_line(text: &str) {
    // A reader that is gone, such as `head`, is no failure.
    writeln!(std::io::stdout().lock(), "{text}").ok();
}

fn fail(code: u8, text: &str) -> ExitCode {
    writeln!(std::io::stderr().lock(), "netplugin: {text}").ok();
    ExitCode::from(code)
}
