//! Contexts: which cluster is meant.

use bus_schema::InvalidName;
use clap::Subcommand;
use serde_json::json;

use crate::bus_url::BusUrl;
use crate::cli::Listing;
use crate::contexts::Contexts;
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Name a cluster; the first one is the current one
    #[command(after_help = "Example:\n  netctl context add lab nats://TOKEN@10.0.0.1:4222")]
    Add {
        #[arg(value_parser = name)]
        context: String,
        /// nats://TOKEN@HOST:PORT, several joined by commas
        url: String,
    },
    /// Mean this cluster from here on
    #[command(
        after_help = "--netmaster, --context and CONTIV_NATS_URL come before it.\n\nExample:\n  netctl context use lab"
    )]
    Use { context: String },
    /// List contexts, without their tokens
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        listing: Listing,
    },
    /// Forget a cluster's name
    #[command(visible_alias = "delete")]
    Rm { context: String },
}

fn name(text: &str) -> Result<String, InvalidName> {
    bus_schema::Name::new(text).map(Into::into)
}

pub(crate) fn run(verb: Verb) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match verb {
        Verb::Ls { listing } => return output::print(&listed(&contexts, &listing)?),
        Verb::Add { context, url } => {
            let parsed = url.parse::<BusUrl>();
            parsed.map_err(|error| Failure::Usage(format!("<URL>: {error}")))?;
            contexts.add(&context, &url);
        }
        Verb::Use { context } => contexts.choose(&context)?,
        Verb::Rm { context } => contexts.remove(&context)?,
    }
    contexts.save()?;
    let current = contexts.current().unwrap_or("none");
    output::print(&format!("current context: {current}\n"))
}

fn listed(contexts: &Contexts, listing: &Listing) -> Result<String, Failure> {
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
    listing.show(&all, |it| it.0.to_owned(), table, value)
}
