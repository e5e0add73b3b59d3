//! `netctl context`: named clusters.

use bus_schema::InvalidName;
use clap::Subcommand;
use serde_json::json;

use super::flags::ListFlags;
use crate::bus_url::BusUrl;
use crate::contexts::Contexts;
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum ContextVerb {
    /// Add a named cluster; the first one becomes the current one
    #[command(after_help = "Example:\n  netctl context add lab nats://TOKEN@10.0.0.1:4222")]
    Add {
        #[arg(value_parser = name)]
        context: String,
        /// nats://TOKEN@HOST:PORT, or several separated by commas
        url: String,
    },
    /// Make a context the current one
    #[command(
        after_help = "--netmaster, --context and CONTIV_NATS_URL override the current context.\n\nExample:\n  netctl context use lab"
    )]
    Use { context: String },
    /// List contexts, without their tokens
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Remove a context
    #[command(visible_alias = "delete")]
    Rm { context: String },
}

fn name(text: &str) -> Result<String, InvalidName> {
    bus_schema::Name::new(text).map(Into::into)
}

pub(crate) fn run(verb: ContextVerb) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match verb {
        ContextVerb::Ls { flags } => return output::print(&listed(&contexts, &flags)?),
        ContextVerb::Add { context, url } => {
            let parsed = url.parse::<BusUrl>();
            parsed.map_err(|error| Failure::Usage(format!("<URL>: {error}")))?;
            contexts.add(&context, &url);
        }
        ContextVerb::Use { context } => contexts.choose(&context)?,
        ContextVerb::Rm { context } => contexts.remove(&context)?,
    }
    contexts.save()?;
    let current = contexts.current().unwrap_or("none");
    output::print(&format!("current context: {current}\n"))
}

fn listed(contexts: &Contexts, flags: &ListFlags) -> Result<String, Failure> {
    let all: Vec<(&str, bool, String)> = contexts
        .names()
        .map(|name| {
            let url = contexts.url(name);
            let shown = url.map_or_else(|error| error.to_string(), |url| url.to_string());
            (name, contexts.current() == Some(name), shown)
        })
        .collect();
    let table = |all: &[(&str, bool, String)]| {
        let mut table = Table::new(&["Current", "Name", "Bus"], &[]);
        for (name, current, bus) in all {
            let mark = if *current { "*" } else { "" };
            table.row(vec![mark.to_owned(), (*name).to_owned(), bus.clone()]);
        }
        table
    };
    let value = |(name, current, bus): &(&str, bool, String)| json!({"name": name, "current": current, "bus": bus});
    flags.show(&all, |it| it.0.to_owned(), table, value)
}
