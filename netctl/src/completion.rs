//! Completion with the names of what is there: `source <(COMPLETE=bash netctl)`.
//!
//! What a name is of follows from the argument's id, so that a new verb need not think of it. A
//! bus that doesn't answer at once has no names.

use std::time::Duration;

use bus_schema::Answer;
use bus_schema::Query;
use clap::{Arg, Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

use crate::cli::{Cli, bus_by_default};
use crate::client::Session;
use crate::contexts::Contexts;

/// Nobody waits longer for a name.
const PATIENCE: Duration = Duration::from_millis(800);

/// Answers a shell and ends the process, or returns at once.
pub(crate) fn answer() {
    CompleteEnv::with_factory(|| named(Cli::command(), ""))
        .completer("netctl")
        .complete();
}

/// Gives every argument that takes a name the names that there are. Who creates something gives
/// it a new one.
fn named(command: Command, noun: &str) -> Command {
    let creates = matches!(command.get_name(), "create" | "add");
    let own = noun.to_owned();
    let name = command.get_name().to_owned();
    command
        .mut_args(|arg| match of(&arg) {
            Some(kind) if !(creates && kind == own) => {
                arg.add(ArgValueCandidates::new(move || candidates(kind)))
            }
            _ => arg,
        })
        .mut_subcommands(|verb| named(verb, if name == "net" { "network" } else { &name }))
}

/// What an argument names, by its id.
fn of(arg: &Arg) -> Option<&'static str> {
    Some(match arg.get_id().as_str() {
        "network" | "from_network" | "to_network" => "network",
        "group" | "from_group" | "to_group" => "group",
        "policy" => "policy",
        "tenant" => "tenant",
        "node" => "node",
        "endpoint" | "from" | "to" => "endpoint",
        "context" => "context",
        _ => return None,
    })
}

fn candidates(kind: &str) -> Vec<CompletionCandidate> {
    let mut names = match kind {
        "context" => contexts(),
        kind => on_the_bus(kind).unwrap_or_default(),
    };
    names.sort();
    names.dedup();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn contexts() -> Vec<String> {
    let contexts = Contexts::load().ok();
    let names = contexts.iter().flat_map(Contexts::names);
    names.map(str::to_owned).collect()
}

fn on_the_bus(kind: &str) -> Option<Vec<String>> {
    let query = match kind {
        "network" => Query::NetworkList {
            tenant: None,
            network: None,
        },
        "group" => Query::GroupList {
            tenant: None,
            group: None,
        },
        "policy" => Query::PolicyList {
            tenant: None,
            policy: None,
        },
        "tenant" => Query::TenantList,
        "node" => Query::NodeList { node: None },
        _ => Query::EndpointList { tenant: None },
    };
    let url = bus_by_default().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let asking = async {
        let mut session = Session::open(url, false).await.ok()?;
        session.ask(query).await.ok()
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, asking).await });
    runtime.shutdown_background();
    Some(match answer.ok()?? {
        Answer::Networks { networks, .. } => texts(&networks, |it| it.spec.name.to_string()),
        Answer::Groups { groups, .. } => texts(&groups, |it| it.spec.name.to_string()),
        Answer::Policies { policies, .. } => texts(&policies, |it| it.policy.to_string()),
        Answer::Tenants { tenants, .. } => texts(&tenants, |it| it.tenant.to_string()),
        Answer::Nodes { nodes, .. } => texts(&nodes, |it| it.node.to_string()),
        Answer::Endpoints { endpoints, .. } => endpoints
            .into_iter()
            .map(|it| it.name.unwrap_or_else(|| it.id.to_string()))
            .collect(),
        _ => return None,
    })
}

fn texts<T>(all: &[T], name: impl Fn(&T) -> String) -> Vec<String> {
    all.iter().map(name).collect()
}
