//! What may be typed. Nouns, verbs and flags are Contiv's where Contiv had them.

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::bus_url::BusUrl;
use crate::command::{
    apply, cluster, context, dns, doctor, endpoint, events, group, network, node, policy, status,
    tenant, trace, version, wait,
};
use crate::contexts::Contexts;
use crate::failure::Failure;
use crate::output::{self, Format, Table};

const BUS_VARIABLE: &str = "CONTIV_NATS_URL";
const DEFAULT_BUS: &str = "nats://127.0.0.1:4222";

/// The command line of a contiv cluster.
#[derive(Debug, Parser)]
#[command(
    name = "netctl",
    version,
    about,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  netctl net create contiv-net --subnet=20.1.1.0/24 --gateway=20.1.1.254
  netctl policy create prod_web
  netctl policy rule-add prod_web 1 --direction=in --protocol=tcp --action=deny
  netctl group create contiv-net web --policy=prod_web
  netctl endpoint ls
  netctl trace --from web --to db --protocol tcp --port 443
  netctl events --follow

Long flags may be written with one dash. Exit codes: 0 done, 1 rejected (trace: denied;
status: not converged, or an alarm of grade wrong), 2 unreachable, 3 outcome unknown, 64 usage."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Address of the bus: nats://TOKEN@HOST:PORT, several joined by commas [default:
    /// $CONTIV_NATS_URL, the current context's, or nats://127.0.0.1:4222]
    #[arg(long, global = true, value_name = "URL")]
    netmaster: Option<BusUrl>,
    /// The cluster of this context; see `netctl context`
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Read everything that was acknowledged before, by whichever netmaster: it proves first where
    /// the log ends (for changes it always does)
    #[arg(long, global = true)]
    pub(crate) linearizable: bool,
    /// Accepted for scripts written for Contiv; has no effect
    #[arg(long, global = true)]
    pub(crate) insecure: bool,
}

impl Globals {
    /// The variable isn't clap's to read: what it set would look typed, also where nothing was.
    pub(crate) fn bus(&self) -> Result<BusUrl, Failure> {
        if let Some(typed) = &self.netmaster {
            return Ok(typed.clone());
        }
        if let Some(name) = &self.context {
            return Contexts::load()?.url(name);
        }
        bus_by_default()
    }
}

/// The bus when no flag names one: the variable's, the current context's, or this machine's.
pub(crate) fn bus_by_default() -> Result<BusUrl, Failure> {
    let set = std::env::var(BUS_VARIABLE).ok().filter(|it| !it.is_empty());
    if let Some(set) = set {
        let url = set.parse();
        return url.map_err(|error| Failure::Usage(format!("{BUS_VARIABLE}: {error}")));
    }
    let contexts = Contexts::load()?;
    match contexts.current() {
        Some(name) => contexts.url(name),
        None => DEFAULT_BUS
            .parse()
            .map_err(|error| Failure::Usage(format!("{DEFAULT_BUS}: {error}"))),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Networks: subnets whose containers reach each other
    #[command(subcommand, name = "net", visible_alias = "network")]
    Network(network::Verb),
    /// Groups: the containers of a network that policies hold for
    #[command(subcommand)]
    Group(group::Verb),
    /// Policies: rules that say who may open a connection to whom
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Tenants: each has its own addresses and names
    #[command(subcommand)]
    Tenant(tenant::Verb),
    /// Endpoints: a container's membership in a network
    #[command(subcommand)]
    Endpoint(endpoint::Verb),
    /// Nodes: the machines that run containers
    #[command(subcommand)]
    Node(node::Verb),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::Verb),
    /// Commands: what became of one
    #[command(subcommand)]
    Command(events::journey::Verb),
    /// What happened, and what happens
    Events(events::Options),
    /// Names: what there is, and what a container is told
    #[command(subcommand)]
    Dns(dns::Verb),
    /// What becomes of a connection, which rule says so, and the way it takes
    Trace(trace::Options),
    /// Wait until nodes have applied what was asked
    Wait(wait::Options),
    /// Make everything as a file says
    Apply(apply::Apply),
    /// What `apply` would do
    Diff(apply::Diff),
    /// Write everything down, for `apply`
    Export,
    /// Whether all is converged, and what lags
    Status(status::Options),
    /// Find what is wrong, and what to do about it
    Doctor(doctor::Options),
    /// The versions of what runs
    Version(version::Options),
    /// Contexts: the clusters of this user, by name
    #[command(subcommand)]
    Context(context::Verb),
    /// Write man pages
    #[command(hide = true)]
    Man { folder: std::path::PathBuf },
}

/// How `ls` prints.
#[derive(Debug, Clone, Args)]
pub(crate) struct Listing {
    /// Names only, one a line
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// The same as -o json
    #[arg(long, short, conflicts_with = "output")]
    json: bool,
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl Listing {
    #[cfg(test)]
    pub(crate) fn quiet() -> Self {
        Self {
            quiet: true,
            json: false,
            output: Format::Table,
        }
    }

    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.output }
    }

    /// The names of what is listed, a table of it, or its documents.
    pub(crate) fn show<T, N: std::fmt::Display>(
        &self,
        all: &[T],
        name: impl Fn(&T) -> N,
        table: impl FnOnce(&[T]) -> Table,
        value: impl Fn(&T) -> Value,
    ) -> Result<String, Failure> {
        if self.quiet {
            return Ok(all.iter().map(|it| format!("{}\n", name(it))).collect());
        }
        match self.format() {
            format @ (Format::Table | Format::Wide) => Ok(table(all).render(format)),
            format => {
                let values = all.iter().map(value).collect();
                output::document(&Value::Array(values), format)
            }
        }
    }
}

/// How `inspect` prints.
#[derive(Debug, Clone, Args)]
pub(crate) struct Inspecting {
    /// Accepted for scripts: JSON is the default
    #[arg(long, short)]
    json: bool,
    /// json or yaml
    #[arg(long, short, value_enum, default_value_t = Format::Json)]
    output: Format,
}

impl Inspecting {
    pub(crate) fn format(&self) -> Format {
        match self.output {
            Format::Yaml if !self.json => Format::Yaml,
            _ => Format::Json,
        }
    }
}

/// How `create` and `rm` ask.
#[derive(Debug, Clone, Args)]
pub(crate) struct Asking {
    /// The id of an earlier attempt whose outcome is unknown: it is done once at most
    #[arg(long, value_name = "ID")]
    pub(crate) command_id: Option<bus_schema::CommandId>,
}

/// What Contiv's nouns say until they are there, so that nobody takes them for a typing error.
pub(crate) fn not_there_yet(noun: &str) -> Option<String> {
    let instead = match noun {
        "global" => "see `netctl cluster info`",
        "netprofile" | "service" | "app-profile" | "app-profiles" | "external-contracts"
        | "bgp" => "this version has networks, groups, policies, tenants, nodes and endpoints",
        _ => return None,
    };
    Some(format!("`netctl {noun}` isn't there yet: {instead}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn contivs_aliases_and_short_flags_parse() {
        for typed in [
            "netctl network list",
            "netctl net ls -a -j",
            "netctl net ls -q -t blue",
            "netctl net create n -s 10.1.1.0/24 -g 10.1.1.1 -p 7 -n data -e vxlan -t blue",
            "netctl net create n --subnet=10.1.1.10-10.1.1.20/24 --s6 fd00::/64 --g6 fd00::1 --tag x",
            "netctl net delete n --force",
            "netctl group create contiv-net web -p prod_web --policy=other -t blue",
            "netctl group create contiv-net web -r 10.1.1.10-10.1.1.20 --tag x -n prof -e ext",
            "netctl group ls -a -j",
            "netctl group inspect web -t blue",
            "netctl group update web --policy=a,b",
            "netctl group update web --no-policy",
            "netctl group rm web --abort",
            "netctl group delete web",
            "netctl policy create p -t blue",
            "netctl policy ls -q",
            "netctl policy inspect p",
            "netctl policy rm p",
            "netctl policy rule-add p 1 --direction=in --protocol=tcp --port=80 --action=allow",
            "netctl policy rule-add p 1 -d out -e g -l udp -P 53 -j deny -p 100 -t blue",
            "netctl policy rule-add p 1 -i 10.1.1.1-20 --immediate --no-wait",
            "netctl policy rule-rm p 1 -t blue",
            "netctl policy rule-ls p -j",
            "netctl policy apply --immediate p",
            "netctl trace --from web --to 20.1.1.3 --protocol tcp --port 443 -t blue",
            "netctl tenant create t",
            "netctl endpoint inspect abc -j",
            "netctl node rm n1 --lost",
            "netctl node drain n1 --wait --timeout 10m -o json",
            "netctl node uncordon n1",
            "netctl events --follow --since 10m -o json",
            "netctl wait --converged --timeout 5s",
            "netctl --insecure --netmaster nats://t@h:4 cluster info",
        ] {
            if let Err(error) = Cli::try_parse_from(typed.split(' ')) {
                panic!("{typed}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for typed in [
            "netctl net create n",
            "netctl net create a.b -s 10.1.1.0/24",
            "netctl net create n -s 10.1.1.0/33",
            "netctl net create n -s 10.1.1.0",
            "netctl net create n -s 10.1.1.20-10.1.1.10/24",
            "netctl net create n -s fd00::/64",
            "netctl net create n -s 10.1.1.0/24 -g nowhere",
            "netctl net create n -s 10.1.1.0/24 -p many",
            "netctl net create n -s 10.1.1.0/24 --no-such-flag",
            "netctl net rm n --force --abort",
            "netctl group create web",
            "netctl group create contiv-net a.b",
            "netctl group create contiv-net web -r 10.1.1.20-10.1.1.10",
            "netctl group update web",
            "netctl group update web --policy=a --no-policy",
            "netctl policy rule-add p",
            "netctl policy rule-add p 1 -p 101",
            "netctl policy rule-add p 1 -l tcp -P 70000",
            "netctl policy apply p",
            "netctl trace --from web",
            "netctl wait",
            "netctl wait --converged --revision 4",
            "netctl events --since never",
        ] {
            assert!(Cli::try_parse_from(typed.split(' ')).is_err(), "{typed}");
        }
    }
}
