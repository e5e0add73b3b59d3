//! One file for each noun: its verbs, their flags, their requests and the text of their answers.
//! `flags` and `change` hold the parts that several nouns share.

pub(crate) mod apply;
mod change;
pub(crate) mod cluster;
pub(crate) mod context;
mod counters;
mod covered;
pub(crate) mod dns;
pub(crate) mod doctor;
mod egress;
pub(crate) mod endpoint;
pub(crate) mod events;
mod flags;
pub(crate) mod global;
pub(crate) mod group;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod rule;
mod settings;
pub(crate) mod status;
pub(crate) mod tenant;
mod time;
pub(crate) mod trace;
mod usage;
pub(crate) mod version;
pub(crate) mod wait;

use clap::CommandFactory;

use crate::cli::{Cli, Noun};
use crate::client::Session;
use crate::failure::Failure;
use crate::output;

pub(crate) async fn run(cli: Cli) -> Result<(), Failure> {
    let noun = match cli.noun {
        // These two need no bus.
        Noun::Context(verb) => return context::run(cli.globals.url_in_file()?, verb),
        Noun::Man { folder } => return write_man_pages(&folder),
        noun => noun,
    };
    if cli.globals.read_stdin() && noun.reads_stdin() {
        let text = "--netmaster-file and --file can't both be standard input: name a file";
        return Err(Failure::Usage(text.to_owned()));
    }
    let url = cli.globals.bus()?;
    let linearizable = cli.globals.linearizable;
    if cli.globals.insecure {
        output::note("note: --insecure has no effect here");
    }
    noun.check()?;
    let open = |url| Session::open(url, linearizable);
    match noun {
        // `events` reads streams only, so it works without a netmaster; the other three report which
        // daemons don't answer.
        Noun::Events(options) => Box::pin(events::run(&url, options)).await,
        Noun::Status(options) => Box::pin(status::run(url, linearizable, options)).await,
        Noun::Version(options) => version::run(&url, options).await,
        Noun::Doctor(options) => Box::pin(doctor::run(url, linearizable, options)).await,
        Noun::Network(verb) => Box::pin(network::run(&mut open(url).await?, verb)).await,
        Noun::Group(verb) => Box::pin(group::run(&mut open(url).await?, verb)).await,
        Noun::Policy(verb) => Box::pin(policy::run(&mut open(url).await?, verb)).await,
        Noun::Dns(verb) => Box::pin(dns::run(&mut open(url).await?, verb)).await,
        Noun::Trace(options) => Box::pin(trace::run(&mut open(url).await?, options)).await,
        Noun::Tenant(verb) => tenant::run(&mut open(url).await?, verb).await,
        Noun::Endpoint(verb) => endpoint::run(&mut open(url).await?, verb).await,
        Noun::Node(verb) => Box::pin(node::run(&mut open(url).await?, verb)).await,
        Noun::Global(verb) => global::run(&mut open(url).await?, verb).await,
        Noun::Cluster(verb) => cluster::run(&mut open(url).await?, verb).await,
        Noun::Command(verb) => Box::pin(events::journey::run(&mut open(url).await?, verb)).await,
        Noun::Wait(options) => Box::pin(wait::run(&url, linearizable, options)).await,
        Noun::Apply(options) => Box::pin(apply::apply(&mut open(url).await?, options)).await,
        Noun::Diff(options) => Box::pin(apply::diff(&mut open(url).await?, options)).await,
        Noun::Export(options) => apply::export(&mut open(url).await?, options).await,
        Noun::Context(_) | Noun::Man { .. } => Ok(()),
    }
}

/// Writes one man page for each verb; the packages ship them.
fn write_man_pages(folder: &std::path::Path) -> Result<(), Failure> {
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    let shown = folder.display();
    written.map_err(|error| Failure::Local(format!("can't write man pages to {shown}: {error}")))
}

impl Noun {
    fn reads_stdin(&self) -> bool {
        match self {
            Self::Apply(options) => options.source.is_stdin(),
            Self::Diff(options) => options.source.is_stdin(),
            _ => false,
        }
    }

    /// Checks that clap can't express, so that a usage error needs no bus.
    fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Policy(verb) => verb.check(),
            Self::Global(verb) => verb.check(),
            Self::Trace(options) => options.check(),
            Self::Apply(options) => options.source.check(),
            Self::Diff(options) => options.source.check(),
            _ => Ok(()),
        }
    }
}
