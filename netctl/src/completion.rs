//! Shell completion with the names of existing objects: `source <(COMPLETE=bash netctl)`.
//!
//! The kind of a name follows from the argument's id, so a new verb needs no code here. A bus that
//! doesn't answer in time yields no names.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_schema::{Answer, Query};
use clap::{Command, CommandFactory};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;

use crate::cli::{Cli, default_bus};
use crate::client::Session;
use crate::contexts::Contexts;

/// Timeout of the request for names; a user waits no longer for them.
const COMPLETION_TIMEOUT: Duration = Duration::from_millis(800);

/// Answers a shell and ends the process; returns at once if no shell asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(|| named(Cli::command(), ""))
        .completer("netctl")
        .complete();
}

/// The kinds of objects that arguments name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Group,
    Policy,
    Tenant,
    Node,
    Endpoint,
    Context,
}

impl Kind {
    /// The kind that a noun of the command line, or an argument's id, stands for.
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "net" | "network" | "from_network" | "to_network" => Self::Network,
            "group" | "from_group" | "to_group" => Self::Group,
            "policy" => Self::Policy,
            "tenant" => Self::Tenant,
            "node" => Self::Node,
            "endpoint" | "from" | "to" => Self::Endpoint,
            "context" => Self::Context,
            _ => return None,
        })
    }

    fn candidates(self) -> Vec<CompletionCandidate> {
        let names = match self.query() {
            None => contexts(),
            Some(query) => names_on_bus(query).unwrap_or_default(),
        };
        let names: BTreeSet<String> = names.into_iter().collect();
        names.into_iter().map(CompletionCandidate::new).collect()
    }

    /// The query for the names; `None`: they aren't on the bus.
    fn query(self) -> Option<Query> {
        let (tenant, network, group, policy, node) = Default::default();
        Some(match self {
            Self::Network => Query::NetworkList { tenant, network },
            Self::Group => Query::GroupList { tenant, group },
            Self::Policy => Query::PolicyList { tenant, policy },
            Self::Tenant => Query::TenantList,
            Self::Node => Query::NodeList { node },
            Self::Endpoint => Query::EndpointList { tenant },
            Self::Context => return None,
        })
    }
}

/// Adds completion to every argument that takes an existing name. `create` and `add` take a new one for
/// their own noun.
fn named(command: Command, noun: &str) -> Command {
    let new = match command.get_name() {
        "create" | "add" => Kind::of(noun),
        _ => None,
    };
    let name = command.get_name().to_owned();
    command
        .mut_args(|arg| match Kind::of(arg.get_id().as_str()) {
            Some(kind) if Some(kind) != new => {
                arg.add(ArgValueCandidates::new(move || kind.candidates()))
            }
            _ => arg,
        })
        .mut_subcommands(|verb| named(verb, &name))
}

fn contexts() -> Vec<String> {
    let contexts = Contexts::load().ok();
    let names = contexts.iter().flat_map(Contexts::names);
    names.map(str::to_owned).collect()
}

fn names_on_bus(query: Query) -> Option<Vec<String>> {
    let url = default_bus().ok()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let asking = async {
        let mut session = Session::open(url, false).await.ok()?;
        session.ask(query).await.ok()
    };
    let answer = runtime.block_on(async { tokio::time::timeout(COMPLETION_TIMEOUT, asking).await });
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
