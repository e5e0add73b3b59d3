//! The grammar of the command line. Nouns, verbs and flags are Contiv's where Contiv had them.

use clap::{Args, Parser, Subcommand};

use crate::bus_url::BusUrl;
use crate::command::{
    apply, cluster, context, dns, doctor, endpoint, events, group, network, node, policy, status,
    tenant, trace, version, wait,
};
use crate::contexts::Contexts;
use crate::failure::Failure;

const BUS_URL_VARIABLE: &str = "CONTIV_NATS_URL";
const DEFAULT_BUS_URL: &str = "nats://127.0.0.1:4222";

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
    /// Address of the bus: nats://TOKEN@HOST:PORT, or several separated by commas [default:
    /// $CONTIV_NATS_URL, then the current context, then nats://127.0.0.1:4222]
    #[arg(long, global = true, value_name = "URL")]
    netmaster: Option<BusUrl>,
    /// Use the cluster of this context; see `netctl context`
    #[arg(long, global = true, value_name = "NAME")]
    context: Option<String>,
    /// Read everything that any netmaster has acknowledged: netmaster proves the end of the log before
    /// it answers (for changes it always does)
    #[arg(long, global = true)]
    pub(crate) linearizable: bool,
    /// Accepted for scripts written for Contiv; has no effect
    #[arg(long, global = true)]
    pub(crate) insecure: bool,
}

impl Globals {
    /// The address of the bus. clap doesn't read the variable, since its value would appear in error
    /// texts as if it had been typed.
    pub(crate) fn bus(&self) -> Result<BusUrl, Failure> {
        if let Some(typed) = &self.netmaster {
            return Ok(typed.clone());
        }
        if let Some(name) = &self.context {
            return Contexts::load()?.url(name);
        }
        default_bus()
    }
}

/// The bus when no flag names one: of the variable, of the current context, or of this machine.
pub(crate) fn default_bus() -> Result<BusUrl, Failure> {
    let set = std::env::var(BUS_URL_VARIABLE)
        .ok()
        .filter(|it| !it.is_empty());
    if let Some(set) = set {
        let url = set.parse();
        return url.map_err(|error| Failure::Usage(format!("{BUS_URL_VARIABLE}: {error}")));
    }
    let contexts = Contexts::load()?;
    match contexts.current() {
        Some(name) => contexts.url(name),
        None => DEFAULT_BUS_URL
            .parse()
            .map_err(|error| Failure::Usage(format!("{DEFAULT_BUS_URL}: {error}"))),
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Networks: subnets whose containers can reach each other
    #[command(subcommand, name = "net", visible_alias = "network")]
    Network(network::NetworkVerb),
    /// Groups: containers of a network that share policies
    #[command(subcommand)]
    Group(group::GroupVerb),
    /// Policies: rules that allow or deny connections
    #[command(subcommand)]
    Policy(policy::PolicyVerb),
    /// Tenants: each has its own addresses and names
    #[command(subcommand)]
    Tenant(tenant::TenantVerb),
    /// Endpoints: containers' interfaces in networks
    #[command(subcommand)]
    Endpoint(endpoint::EndpointVerb),
    /// Nodes: the machines that run containers
    #[command(subcommand)]
    Node(node::NodeVerb),
    /// Cluster: its settings and its log
    #[command(subcommand)]
    Cluster(cluster::ClusterVerb),
    /// Commands: the progress of one command
    #[command(subcommand)]
    Command(events::journey::CommandVerb),
    /// List events, or follow them
    Events(events::EventsOptions),
    /// Names: list them, or query one as a container does
    #[command(subcommand)]
    Dns(dns::DnsVerb),
    /// Show whether a connection is allowed, by which rule, and its route
    Trace(trace::TraceOptions),
    /// Wait until the nodes have applied a revision
    Wait(wait::WaitOptions),
    /// Bring the cluster to the state that a file describes
    Apply(apply::ApplyOptions),
    /// Show what `apply` would change
    Diff(apply::DiffOptions),
    /// Write the whole configuration as a file for `apply`
    Export,
    /// Show whether the cluster has converged, and what lags behind
    Status(status::StatusOptions),
    /// Find problems, with their remedies
    Doctor(doctor::DoctorOptions),
    /// Show the versions of netctl, the netmasters and the bus
    Version(version::VersionOptions),
    /// Contexts: names for clusters, private to this user
    #[command(subcommand)]
    Context(context::ContextVerb),
    /// Write man pages
    #[command(hide = true)]
    Man { folder: std::path::PathBuf },
}

/// The answer to a noun of Contiv that this version lacks, so that it doesn't look like a typing error.
pub(crate) fn unsupported_noun(noun: &str) -> Option<String> {
    let instead = match noun {
        "global" => "see `netctl cluster info`",
        "netprofile" | "service" | "app-profile" | "app-profiles" | "external-contracts"
        | "bgp" => "this version has networks, groups, policies, tenants, nodes and endpoints",
        _ => return None,
    };
    Some(format!("`netctl {noun}` isn't supported: {instead}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn aliases_and_short_flags_of_contiv_parse() {
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
    fn contradictory_or_malformed_arguments_are_refused() {
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
