//! Netmaster stores intent and distributes it. Any number of them run side by side; none keeps state.
//!
//! ```text
//! contiv.api.v1.* ─▶ gateway::command ─▶ actors::shell::Registry ─▶ log
//!                    gateway::query ◀─ view::View ◀─ feed ◀─ log, endpoints, statuses
//!                                          └─▶ process::due ─▶ Registry
//! ```
//!
//! Arguments → tracing → run → drain → exit code: 0 drained, 1 failed, 64 usage, 70 can't go on.

mod bus;
mod daemon;
mod feed;
mod gateway;
mod init;
mod metrics;
mod process;
mod soundness;
mod stream;
mod view;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bus_schema::url::AddressSource;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use runtime::log::LogFormat;
use runtime::{bus_address, exit};

#[derive(Debug, Parser)]
#[command(
    name = "netmaster",
    version,
    about = "Stores the cluster's intent and distributes it"
)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
    /// How a line of the log looks
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "text",
        env = "CONTIV_LOG_FORMAT"
    )]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Create the cluster's streams and its first facts; again changes nothing
    Init(InitArgs),
    /// Serve commands and queries
    Run(RunArgs),
}

impl Verb {
    fn bus(&self) -> &BusArgs {
        match self {
            Self::Init(args) => &args.bus,
            Self::Run(args) => &args.bus,
        }
    }
}

#[derive(Debug, Clone, Args)]
struct BusArgs {
    /// Where the bus is, comma-separated when it is several servers [default: $CONTIV_NATS_FILE, then
    /// $CONTIV_NATS_URL]
    #[arg(long, value_name = "nats://TOKEN@HOST:PORT")]
    nats: Option<String>,
    /// A file with that address, or with a line CONTIV_NATS_URL=…: the token then stands on no command
    /// line and in no environment [default: $CONTIV_NATS_FILE]
    #[arg(long, value_name = "FILE")]
    nats_file: Option<PathBuf>,
}

impl BusArgs {
    fn source(&self) -> Result<AddressSource, clap::Error> {
        bus_address::source(self.nats.clone(), self.nats_file.clone()).ok_or_else(|| {
            Cli::command().error(
                ErrorKind::MissingRequiredArgument,
                "nothing names the bus: give --nats nats://TOKEN@HOST:PORT or --nats-file FILE",
            )
        })
    }

    fn address(&self) -> anyhow::Result<String> {
        bus_address::read(self.source()?)
    }
}

#[derive(Debug, Args)]
struct InitArgs {
    #[command(flatten)]
    bus: BusArgs,
    /// How many servers keep the log: 1, or 3 in a cluster of three servers or more
    #[arg(long, default_value_t = 1, value_parser = replicas)]
    replicas: usize,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    bus: BusArgs,
    /// This netmaster's name in events and logs [default: netmaster-PID]
    #[arg(long)]
    name: Option<String>,
    /// Where Prometheus may read metrics, or none
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9467", value_parser = metrics_at)]
    metrics: MetricsAt,
    /// For tests: milliseconds between an append and its reply
    #[arg(long, env = "CONTIV_TEST_PAUSE_AFTER_APPEND", hide = true)]
    pause_after_append: Option<u64>,
}

/// Absent: nowhere.
type MetricsAt = Option<std::net::SocketAddr>;

fn metrics_at(text: &str) -> Result<MetricsAt, String> {
    runtime::metrics::address(text, "127.0.0.1:9467")
}

fn replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("it must be 1 or 3".to_owned()),
    }
}

fn main() -> ExitCode {
    let parsed = Cli::try_parse();
    let cli = match parsed.and_then(|cli| cli.command.bus().source().map(|_| cli)) {
        Ok(cli) => cli,
        Err(e) => return ExitCode::from(exit::report(&e)),
    };
    runtime::log::init(cli.log_format, "info,async_nats=off");
    runtime::raise_open_files();
    let system = actix::System::new();
    let result = system.block_on(async move {
        match cli.command {
            Verb::Init(args) => init(args).await,
            Verb::Run(args) => run(args).await,
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is::<daemon::GaveUp>() => {
            tracing::error!("{e:#}");
            ExitCode::from(exit::SOFTWARE)
        }
        Err(e) => {
            tracing::error!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn init(args: InitArgs) -> anyhow::Result<()> {
    let client = bus::connect_once(&args.bus.address()?, "netmaster init").await?;
    let cluster = init::init(&client, args.replicas).await?;
    announce(&cluster.to_string());
    Ok(())
}

#[expect(
    clippy::print_stdout,
    reason = "the cluster's id is what `init` answers"
)]
fn announce(text: &str) {
    println!("{text}");
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let name = args
        .name
        .unwrap_or_else(|| format!("netmaster-{}", std::process::id()));
    let config = daemon::Config {
        nats: args.bus.address()?,
        name,
        metrics: args.metrics,
        pause_after_append: args.pause_after_append.map(Duration::from_millis),
    };
    Box::pin(daemon::run(config)).await
}
