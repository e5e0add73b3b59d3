//! The grammar of the command line. Nouns, verbs and flags are Contiv's where Contiv had them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::bus_url::{self, BusUrl};
use crate::command::{
    apply, cluster, context, dns, doctor, endpoint, events, global, group, network, node, policy,
    status, tenant, trace, version, wait,
};
use crate::contexts::Contexts;
use crate::failure::Failure;
use crate::input;

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
    netmaster: Option<String>,
    /// A file with the address of the bus, so that its token stands on no command line; `-`: standard
    /// input
    #[arg(long, global = true, value_name = "FILE")]
    netmaster_file: Option<PathBuf>,
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
    /// The address of the bus. clap doesn't parse it, and reads no variable, since its errors repeat the
    /// value, which has the token. It compares flags of one level only, so that `--netmaster` before a
    /// noun and `--netmaster-file` behind it are compared here.
    pub(crate) fn bus(&self) -> Result<BusUrl, Failure> {
        match (&self.netmaster, &self.netmaster_file) {
            (Some(_), Some(_)) => {
                let text = "--netmaster and --netmaster-file name the bus twice: leave one out";
                return Err(Failure::Usage(text.to_owned()));
            }
            (Some(typed), None) => return bus_url::parse("--netmaster", typed),
            (None, _) => {}
        }
        if let Some(url) = self.url_in_file()? {
            return bus_url::parse("--netmaster-file", &url);
        }
        if let Some(name) = &self.context {
            return Contexts::load()?.url(name);
        }
        default_bus()
    }
}

impl Globals {
    pub(crate) fn read_stdin(&self) -> bool {
        self.netmaster_file.as_deref().is_some_and(input::is_stdin)
    }

    /// The address in the file of `--netmaster-file`, unchecked.
    pub(crate) fn url_in_file(&self) -> Result<Option<String>, Failure> {
        let Some(path) = &self.netmaster_file else {
            return Ok(None);
        };
        let shown = path.display();
        let text = input::read(path)
            .map_err(|error| Failure::Usage(format!("can't read {shown}: {error}")))?;
        let url = bus_schema::url::in_file(&text).ok_or_else(|| {
            Failure::Usage(format!(
                "{shown} has no address: write nats://TOKEN@HOST:PORT into it"
            ))
        })?;
        Ok(Some(url.to_owned()))
    }
}

/// The bus when no flag names one: of the variable, of the current context, or of this machine.
pub(crate) fn default_bus() -> Result<BusUrl, Failure> {
    if let Some(set) = bus_url::of_environment() {
        return bus_url::parse(bus_schema::url::VARIABLE, &set);
    }
    let contexts = Contexts::load()?;
    match contexts.current() {
        Some(name) => contexts.url(name),
        None => bus_url::parse("the default", DEFAULT_BUS_URL),
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
    /// Settings of the cluster, such as the range of packet tags
    #[command(subcommand)]
    Global(global::GlobalVerb),
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
    Export(apply::ExportOptions),
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
    Man { folder: PathBuf },
}

/// The answer to a noun of Contiv that this version lacks, so that it doesn't look like a typing error.
pub(crate) fn unsupported_noun(noun: &str) -> Option<String> {
    let instead = match noun {
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
            "netctl --netmaster-file /etc/contiv/contiv.env net ls",
            "netctl policy rule-add p 1 -d out -o net -j deny --json",
            "netctl global info",
            "netctl global set --vxlan-range 1-10000",
            "netctl global set -x 5000-5999 -o json",
            "netctl --insecure --netmaster nats://t@h:4 cluster info",
        ] {
            if let Err(error) = Cli::try_parse_from(typed.split(' ')) {
                panic!("{typed}: {error}");
            }
        }
    }

    /// The subcommands without subcommands of their own.
    fn leaves(command: &clap::Command, path: &str, all: &mut Vec<(String, clap::Command)>) {
        for verb in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let path = format!("{path} {}", verb.get_name());
            match verb.has_subcommands() {
                true => leaves(verb, &path, all),
                false => all.push((path, verb.clone())),
            }
        }
    }

    #[test]
    fn every_verb_has_an_output_format() {
        let mut all = Vec::new();
        leaves(&Cli::command(), "netctl", &mut all);
        assert!(all.len() > 40, "{}", all.len());
        for (path, verb) in all {
            let output = verb.get_arguments().find(|it| it.get_id() == "output");
            let output = output.unwrap_or_else(|| panic!("{path} has no --output"));
            assert_eq!(output.get_long(), Some("output"), "{path}");
            let short = (path != "netctl policy rule-add").then_some('o');
            assert_eq!(output.get_short(), short, "{path}");
        }
    }

    #[test]
    fn help_lists_no_flag_that_is_always_refused() {
        for (typed, refused) in [
            (
                "net create",
                &["subnetv6", "gatewayv6", "infra", "vlan"][..],
            ),
            ("group create", &["networkprofile", "external-contract"]),
        ] {
            let mut command = Cli::command();
            command.build();
            let verb = typed
                .split(' ')
                .try_fold(&mut command, |it, word| it.find_subcommand_mut(word));
            let help = verb.expect("a verb").render_long_help().to_string();
            for flag in refused {
                let words = help.split(|c: char| !(c.is_alphanumeric() || c == '-'));
                let mut words = words.map(|word| word.trim_start_matches('-'));
                assert!(!words.any(|it| it == *flag), "{typed} --help: {flag}");
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
            "netctl global set",
            "netctl global set --vxlan-range 10-1",
            "netctl global set --vxlan-range 0-1",
            "netctl global set --vxlan-range 1-16777216",
            "netctl wait --converged --revision 4",
            "netctl events --since never",
        ] {
            assert!(Cli::try_parse_from(typed.split(' ')).is_err(), "{typed}");
        }
    }
}
