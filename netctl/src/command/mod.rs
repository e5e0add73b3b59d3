//! One file per noun: its verbs, their flags, what they ask and how the answer looks.

pub(crate) mod apply;
pub(crate) mod cluster;
pub(crate) mod context;
pub(crate) mod dns;
pub(crate) mod doctor;
pub(crate) mod endpoint;
pub(crate) mod events;
pub(crate) mod group;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod rule;
pub(crate) mod status;
pub(crate) mod tenant;
mod time;
pub(crate) mod trace;
mod usage;
pub(crate) mod version;
pub(crate) mod wait;

use std::time::Duration;

use bus_schema::TenantName;
use bus_schema::command::Removal;
use clap::{Args, CommandFactory};

use crate::cli::{Cli, Noun};
use crate::client::Session;
use crate::failure::Failure;
use crate::output;

/// How long a command may take; longer than an election of the log's leader (4 to 8 s).
const COMMAND: Duration = Duration::from_secs(10);
/// A removal asks the nodes before it is answered.
const REMOVAL: Duration = Duration::from_secs(20);

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let noun = match cli.noun {
        // Neither asks any bus.
        Noun::Context(verb) => return context::run(verb),
        Noun::Man { folder } => return man(&folder),
        noun => noun,
    };
    let url = cli.globals.bus()?;
    let linearizable = cli.globals.linearizable;
    if cli.globals.insecure {
        output::note("note: --insecure has no effect here");
    }
    match noun {
        // Reads streams only, so it works without a netmaster.
        Noun::Events(options) => Box::pin(events::run(&url, options)).await,
        // They say themselves who isn't there.
        Noun::Status(options) => Box::pin(status::run(url, linearizable, options)).await,
        Noun::Version(options) => version::run(&url, options).await,
        Noun::Doctor(options) => Box::pin(doctor::run(url, linearizable, options)).await,
        noun => {
            noun.check()?;
            let mut session = Session::open(url, linearizable).await?;
            match noun {
                Noun::Network(verb) => Box::pin(network::run(&mut session, verb)).await,
                Noun::Group(verb) => Box::pin(group::run(&mut session, verb)).await,
                Noun::Policy(verb) => Box::pin(policy::run(&mut session, verb)).await,
                Noun::Dns(verb) => Box::pin(dns::run(&mut session, verb)).await,
                Noun::Trace(options) => Box::pin(trace::run(&mut session, options)).await,
                Noun::Tenant(verb) => tenant::run(&mut session, verb).await,
                Noun::Endpoint(verb) => endpoint::run(&mut session, verb).await,
                Noun::Node(verb) => node::run(&mut session, verb).await,
                Noun::Cluster(verb) => cluster::run(&mut session, verb).await,
                Noun::Command(verb) => Box::pin(events::journey::run(&mut session, verb)).await,
                Noun::Wait(options) => wait::run(&mut session, options).await,
                Noun::Apply(options) => Box::pin(apply::apply(&mut session, options)).await,
                Noun::Diff(options) => Box::pin(apply::diff(&mut session, options)).await,
                Noun::Export => apply::export(&mut session).await,
                Noun::Events(_)
                | Noun::Status(_)
                | Noun::Version(_)
                | Noun::Doctor(_)
                | Noun::Context(_)
                | Noun::Man { .. } => Ok(()),
            }
        }
    }
}

/// One page for each verb, for packages.
fn man(folder: &std::path::Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    let shown = folder.display();
    written.map_err(|error| Failure::Local(format!("can't write man pages to {shown}: {error}")))
}

impl Noun {
    /// What clap can't judge, so that a usage error needs no bus.
    fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Policy(verb) => verb.check(),
            Self::Trace(options) => options.check(),
            Self::Apply(options) => options.source.check(),
            Self::Diff(options) => options.source.check(),
            _ => Ok(()),
        }
    }
}

/// Whose things are meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfTenant {
    /// The tenant
    #[arg(long, short, value_name = "TENANT", default_value = "default")]
    pub(crate) tenant: TenantName,
}

/// Whose things are listed.
#[derive(Debug, Clone, Args)]
pub(crate) struct OfTenants {
    #[command(flatten)]
    of: OfTenant,
    /// Of all tenants
    #[arg(long, short)]
    all: bool,
}

impl OfTenants {
    pub(crate) fn tenant(&self) -> Option<TenantName> {
        (!self.all).then(|| self.of.tenant.clone())
    }
}

/// How a removal goes on.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Removing {
    /// Keep it after all
    #[arg(long, conflicts_with = "force")]
    abort: bool,
    /// Remove it although nodes can't be asked: what is left of it there is closed
    #[arg(long)]
    force: bool,
}

impl Removing {
    pub(crate) fn mode(self) -> Removal {
        match (self.abort, self.force) {
            (true, _) => Removal::Abort,
            (false, true) => Removal::Force,
            (false, false) => Removal::Close,
        }
    }

    pub(crate) fn verb(self) -> &'static str {
        if self.abort { "Keeping" } else { "Deleting" }
    }
}

/// What `ls -o json` prints of an object: the keys of its Config side by side, as Contiv did,
/// and its Oper beside them.
pub(crate) fn flat(inspected: &serde_json::Value) -> serde_json::Value {
    let mut flat = inspected["Config"].clone();
    flat["Oper"] = inspected["Oper"].clone();
    flat
}
