//! `netctl context`: named clusters.

use bus_schema::InvalidName;
use clap::Subcommand;
use serde_json::json;

use super::flags::{ListFlags, OutputFlags};
use crate::bus_url;
use crate::contexts::Contexts;
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum ContextVerb {
    /// Add a named cluster; the first one becomes the current one
    #[command(
        after_help = "A token on a command line is visible to all users of the machine (ps): --netmaster-file takes the\naddress from a file, or from standard input.\n\nExamples:\n  netctl context add lab --netmaster-file /etc/contiv/contiv.env\n  netctl context add lab --netmaster-file - <<<nats://TOKEN@10.0.0.1:4222\n  netctl context add lab nats://TOKEN@10.0.0.1:4222"
    )]
    Add {
        #[arg(value_parser = name)]
        context: String,
        /// nats://TOKEN@HOST:PORT, or several separated by commas
        url: Option<String>,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// Make a context the current one
    #[command(
        after_help = "--netmaster, --context and CONTIV_NATS_URL override the current context.\n\nExample:\n  netctl context use lab"
    )]
    Use {
        context: String,
        #[command(flatten)]
        output: OutputFlags,
    },
    /// List contexts, without their tokens
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Remove a context
    #[command(visible_alias = "delete")]
    Rm {
        context: String,
        #[command(flatten)]
        output: OutputFlags,
    },
}

fn name(text: &str) -> Result<String, InvalidName> {
    bus_schema::Name::new(text).map(Into::into)
}

/// `in_file`: the address of `--netmaster-file`.
pub(crate) fn run(in_file: Option<String>, verb: ContextVerb) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    let flags = match verb {
        ContextVerb::Ls { flags } => return output::print(&listed(&contexts, &flags)?),
        ContextVerb::Add {
            context,
            url,
            output,
        } => {
            // clap doesn't see `--netmaster-file` before the noun.
            let url = match (url, in_file) {
                (Some(_), Some(_)) => {
                    Err("<URL> and --netmaster-file name the bus twice: leave one out")
                }
                (None, None) => {
                    Err("the address is missing: write <URL>, or --netmaster-file FILE")
                }
                (url, in_file) => Ok(url.or(in_file).unwrap_or_default()),
            };
            let url = url.map_err(|text| Failure::Usage(text.to_owned()))?;
            bus_url::parse("<URL>", &url)?;
            contexts.add(&context, &url);
            output
        }
        ContextVerb::Use { context, output } => {
            contexts.choose(&context)?;
            output
        }
        ContextVerb::Rm { context, output } => {
            contexts.remove(&context)?;
            output
        }
    };
    contexts.save()?;
    let current = contexts.current();
    let text = format!("current context: {}", current.unwrap_or("none"));
    flags.outcome("done", &text, &json!({ "current": current }))?;
    if let (Some(current), Some(_)) = (current, bus_url::of_environment()) {
        let variable = bus_schema::url::VARIABLE;
        output::note(&format!(
            "warning: {variable} is set and overrides the context: unset {variable}, or add --context {current} to each command"
        ));
    }
    Ok(())
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
