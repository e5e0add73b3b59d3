//! `netctl dns`: lists names, and answers a query as a container's name server would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::lookup::{EngineAnswer, Lookup, Outcome, RecordKind, Resolution};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::query::{GroupInfo, NodeInfo};
use bus_schema::{Endpoint, NetworkName, NodeName};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::flags::{ListFlags, OutputFlags, TenantFlag, TenantsFlags};
use super::{endpoint, group, node};
use crate::client::{Session, node_refusal};
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum DnsVerb {
    /// List the names of containers, their aliases, and groups
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  netctl dns ls\n  netctl dns ls --network contiv-net -o json"
    )]
    Ls {
        /// Only names of this network
        #[arg(long)]
        network: Option<NetworkName>,
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show the answer that a container would get for a name, with the reasons
    Query(DnsQueryOptions),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The container's node computes the answer with the code of its name server, without a packet. A container\nof Docker asks Docker's own resolver first; the node asks it from inside the container, and the first line\nis its answer.\nExit code 0: there is an answer, or the query is forwarded to the host's resolvers, 1: the name\ndoesn't exist, or the answer is REFUSED: the `out` rules of the container's group deny a connection to\nport 53 of the host's resolvers.\n\nExamples:\n  netctl dns query db --from web\n  netctl dns query web.contiv-net --from 20.1.1.1 --type AAAA\n  netctl dns query 20.1.1.1 --from web"
)]
pub(crate) struct DnsQueryOptions {
    /// A name, or an address for a reverse lookup
    name: String,
    /// The querying container: its name, the start of its id, or its endpoint's address
    #[arg(long, value_name = "CONTAINER|IP")]
    from: String,
    /// The record type
    #[arg(long = "type", value_enum, default_value_t = RecordFlag::A, ignore_case = true)]
    kind: RecordFlag,
    #[command(flatten)]
    of: TenantFlag,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "UPPER")]
enum RecordFlag {
    A,
    Aaaa,
    Ptr,
}

/// A name with the endpoints that have it.
#[derive(Debug, PartialEq, Eq)]
struct NameEntry {
    tenant: String,
    network: String,
    name: String,
    kind: &'static str,
    addresses: BTreeSet<IpAddr>,
    nodes: BTreeSet<NodeName>,
    silent: BTreeSet<NodeName>,
}

pub(crate) async fn run(session: &mut Session, verb: DnsVerb) -> Result<(), Failure> {
    match verb {
        DnsVerb::Ls { network, of, flags } => {
            let of_tenant = of.tenant();
            let mut endpoints = endpoint::list(session, of_tenant.clone()).await?;
            endpoints.retain(|it| network.as_ref().is_none_or(|of| it.network == *of));
            let nodes = node::list(session, None).await?;
            let groups = group::list(session, of_tenant, None).await?;
            let names = names(&endpoints, &nodes, &groups);
            let text = flags.show(
                &names,
                |it| format!("{}.{}", it.name, it.network),
                table,
                value,
            )?;
            output::print(&text)
        }
        DnsVerb::Query(options) => query(session, options).await,
    }
}

/// The names in order. Endpoints of removed nodes are left out, and names that are a group's.
fn names(endpoints: &[Endpoint], nodes: &[NodeInfo], groups: &[GroupInfo]) -> Vec<NameEntry> {
    let groups = groups.iter().map(|it| &it.spec);
    let groups: BTreeSet<_> = groups
        .map(|it| (&it.tenant, &it.network, it.name.as_str().to_lowercase()))
        .collect();
    let is_group = |it: &Endpoint, name: &str| {
        groups.contains(&(&it.tenant, &it.network, name.to_lowercase()))
    };
    let members: BTreeMap<&NodeName, bool> = nodes.iter().map(|it| (&it.node, it.alive)).collect();
    let mut names: BTreeMap<(String, String, String, &str), NameEntry> = BTreeMap::new();
    for it in endpoints {
        let Some(alive) = members.get(&it.node) else {
            continue;
        };
        let own = it.name.iter().map(|name| (name.as_str(), "container"));
        let aliases = it.aliases.iter().map(|name| (name.as_str(), "alias"));
        let group = it.group.iter().map(|name| (name.as_str(), "group"));
        let free = own.chain(aliases).filter(|(name, _)| !is_group(it, name));
        for (name, kind) in free.chain(group) {
            let (tenant, network) = (it.tenant.to_string(), it.network.to_string());
            let name = name.to_lowercase();
            let key = (tenant.clone(), network.clone(), name.clone(), kind);
            let named = names.entry(key).or_insert_with(|| NameEntry {
                tenant,
                network,
                name,
                kind,
                addresses: BTreeSet::new(),
                nodes: BTreeSet::new(),
                silent: BTreeSet::new(),
            });
            // The name servers leave out closed endpoints.
            let open = it.addresses().filter(|_| it.closed.is_none());
            named.addresses.extend(open);
            named.nodes.insert(it.node.clone());
            if !alive {
                named.silent.insert(it.node.clone());
            }
        }
    }
    names.into_values().collect()
}

fn table(names: &[NameEntry]) -> Table {
    let mut table = Table::new(
        &["Tenant", "Network", "Name", "Kind", "Addresses", "Nodes"],
        &["Silent nodes"],
    );
    for it in names {
        table.row(vec![
            it.tenant.clone(),
            it.network.clone(),
            it.name.clone(),
            it.kind.to_owned(),
            joined(&it.addresses),
            joined(&it.nodes),
            joined(&it.silent),
        ]);
    }
    table
}

fn joined<T: ToString>(all: &BTreeSet<T>) -> String {
    let words: Vec<String> = all.iter().map(ToString::to_string).collect();
    words.join(",")
}

fn value(it: &NameEntry) -> Value {
    json!({
        "tenantName": it.tenant,
        "networkName": it.network,
        "name": it.name,
        "kind": it.kind,
        "addresses": it.addresses,
        "nodes": it.nodes,
        "silentNodes": it.silent,
    })
}

async fn query(session: &mut Session, options: DnsQueryOptions) -> Result<(), Failure> {
    let tenant = options.of.tenant;
    let endpoints = endpoint::list(session, Some(tenant.clone())).await?;
    let asker = match options.from.parse::<IpAddr>() {
        Ok(address) => endpoints
            .iter()
            .find(|it| it.addresses().any(|a| a == address))
            .ok_or_else(|| {
                Failure::Refused(format!(
                    "no endpoint of tenant {tenant} has the address {address}: see `netctl endpoint ls -t {tenant}`"
                ))
            })?,
        Err(_) => asker(&endpoints, &options.from)?,
    };
    let from = asker.addresses().next();
    let from = from.ok_or_else(|| Failure::Refused(format!("{} has no address", options.from)))?;
    let (name, record) = match (options.name.parse::<IpAddr>(), options.kind) {
        (Ok(address), _) => (reverse(address), RecordKind::Ptr),
        (Err(_), RecordFlag::A) => (options.name, RecordKind::A),
        (Err(_), RecordFlag::Aaaa) => (options.name, RecordKind::Aaaa),
        (Err(_), RecordFlag::Ptr) => (options.name, RecordKind::Ptr),
    };
    let lookup = Lookup {
        tenant,
        from,
        name,
        record,
    };
    let node = &asker.node;
    let resolution = match session
        .node(node, &NodeRequest::Resolve(lookup.clone()))
        .await?
    {
        NodeReply::Resolved(resolution) => resolution,
        reply => return Err(node_refusal(node, "can't resolve", reply)),
    };
    let text = match options.output.format() {
        format if format.is_text() => text(&lookup, node, &resolution),
        format => {
            let value = json!({ "lookup": lookup, "node": node, "resolution": resolution });
            output::document(&value, format)?
        }
    };
    output::print(&text)?;
    if let Some(answer) = &resolution.engine {
        return match answer.code.as_str() {
            "NOERROR" => Ok(()),
            _ => Err(Failure::Negative),
        };
    }
    match resolution.outcome {
        Outcome::NotThere | Outcome::Later => Err(Failure::Negative),
        Outcome::Forwarded { .. } if resolution.refused => Err(Failure::Negative),
        Outcome::Found | Outcome::Forwarded { .. } => Ok(()),
    }
}

/// Finds the querying container. One in several networks gets the same answers at each of its endpoints.
fn asker<'a>(endpoints: &'a [Endpoint], text: &str) -> Result<&'a Endpoint, Failure> {
    let named: Vec<&Endpoint> = endpoints
        .iter()
        .filter(|it| it.name.as_deref() == Some(text) && it.container.is_some())
        .collect();
    match named.split_first() {
        Some((first, rest)) if rest.iter().all(|it| it.container == first.container) => Ok(first),
        _ => endpoint::find(endpoints, text),
    }
}

/// The name of a PTR query for an address (RFC 1035 §3.5, RFC 3596 §2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles = address.octets().into_iter().rev();
            let nibbles = nibbles.map(|byte| format!("{:x}.{:x}.", byte & 15, byte >> 4));
            nibbles.collect::<String>() + "ip6.arpa"
        }
    }
}

fn text(lookup: &Lookup, node: &NodeName, it: &Resolution) -> String {
    let (name, record) = (output::printable(&lookup.name), lookup.record);
    let what = match &it.outcome {
        Outcome::Found if it.records.is_empty() => format!("exists, without {record} records"),
        Outcome::Found => format!("found, TTL {} s", it.ttl),
        Outcome::NotThere => format!("doesn't exist (NXDOMAIN, TTL {} s)", it.ttl),
        Outcome::Forwarded { .. } if it.refused => "refused (REFUSED)".to_owned(),
        Outcome::Forwarded { resolvers } if resolvers.is_empty() => {
            "forwarded, but the node's host has no resolver".to_owned()
        }
        Outcome::Forwarded { resolvers } => {
            let all: Vec<String> = resolvers.iter().map(ToString::to_string).collect();
            format!("forwarded to {}", all.join(", "))
        }
        Outcome::Later => "not known yet".to_owned(),
    };
    let mut text = match &it.engine {
        Some(answer) => told_by_engine(&name, lookup, node, answer),
        None => String::new(),
    };
    text += &format!(
        "{name} {record}, answer of node {node} to {}: {what}\n",
        lookup.from
    );
    for record in &it.records {
        let silent = if record.silent {
            ", silent: listed last"
        } else {
            ""
        };
        let data = output::printable(&record.data);
        text += &format!(
            "  {data}  endpoint {} on node {}{silent}\n",
            record.endpoint, record.node
        );
    }
    for line in &it.because {
        text += &format!("  because {}\n", output::printable(line));
    }
    text
}

/// The answer that a container of an engine is told.
fn told_by_engine(name: &str, lookup: &Lookup, node: &NodeName, answer: &EngineAnswer) -> String {
    let data: Vec<String> = answer
        .records
        .iter()
        .map(|it| output::printable(it))
        .collect();
    let told = match data.is_empty() {
        true => answer.code.clone(),
        false => format!("{}, TTL {} s", data.join(", "), answer.ttl),
    };
    let mut text = format!(
        "{name} {}, told to {} by Docker's resolver on node {node}: {told}\n",
        lookup.record, lookup.from
    );
    if answer.first {
        text += "  because Docker answers this one first, with the containers of its own engine only;\n  NAME.NETWORK.contiv.local gets the answer below\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use bus_schema::MachineId;
    use bus_schema::lookup::Resolved;

    use super::*;

    fn node_info(name: &str, alive: bool) -> NodeInfo {
        NodeInfo {
            node: name.parse().unwrap(),
            machine: MachineId("m".to_owned()),
            vtep: "198.18.0.1".parse().unwrap(),
            status: None,
            age: None,
            alive,
            drained: false,
            left: false,
            usage: vec![],
        }
    }

    #[test]
    fn names_are_listed_with_all_their_endpoints() {
        let member = |id: &str, name: &str, node: &str, address: &str| Endpoint {
            group: Some("pool".parse().unwrap()),
            node: node.parse().unwrap(),
            v4: Some(address.parse().unwrap()),
            aliases: vec!["Any".to_owned()],
            ..endpoint::tests::endpoint(id, name)
        };
        let endpoints = [
            member("e1", "one", "n1", "20.1.1.1"),
            member("e2", "two", "n2", "20.1.1.2"),
            member("e3", "gone", "removed", "20.1.1.3"),
        ];
        let names = names(
            &endpoints,
            &[node_info("n1", true), node_info("n2", false)],
            &[],
        );
        assert_eq!(
            table(&names)
                .render(output::Format::Wide)
                .lines()
                .skip(2)
                .collect::<Vec<_>>(),
            [
                "default  net      any   alias      20.1.1.1,20.1.1.2  n1,n2  n2",
                "default  net      one   container  20.1.1.1           n1",
                "default  net      pool  group      20.1.1.1,20.1.1.2  n1,n2  n2",
                "default  net      two   container  20.1.1.2           n2     n2",
            ]
        );
    }

    #[test]
    fn name_of_a_group_is_listed_for_its_members_only() {
        let member = |id: &str, name: &str, group: Option<&str>| Endpoint {
            group: group.map(|it| it.parse().unwrap()),
            node: "n1".parse().unwrap(),
            aliases: Vec::new(),
            ..endpoint::tests::endpoint(id, name)
        };
        let endpoints = [
            member("e1", "pool", None),
            member("e2", "Pool", Some("pool")),
            member("e3", "free", None),
        ];
        let nodes = [node_info("n1", true)];
        let groups = [group::tests::of("net", "pool")];
        let names = names(&endpoints, &nodes, &groups);
        let names: Vec<_> = names.iter().map(|it| (&*it.name, it.kind)).collect();
        assert_eq!(names, [("free", "container"), ("pool", "group")]);
    }

    #[test]
    fn answer_has_its_reasons() {
        let lookup = Lookup {
            tenant: "default".parse().unwrap(),
            from: "20.1.1.9".parse().unwrap(),
            name: "db".to_owned(),
            record: RecordKind::A,
        };
        let resolution = Resolution {
            outcome: Outcome::Found,
            records: vec![Resolved {
                data: "20.1.1.1".to_owned(),
                endpoint: "e1".parse().unwrap(),
                node: "n2".parse().unwrap(),
                silent: true,
            }],
            ttl: 5,
            because: vec!["20.1.1.9 is in net".to_owned()],
            refused: false,
            engine: None,
        };
        assert_eq!(
            text(&lookup, &"n1".parse().unwrap(), &resolution),
            "\
db A, answer of node n1 to 20.1.1.9: found, TTL 5 s
  20.1.1.1  endpoint e1 on node n2, silent: listed last
  because 20.1.1.9 is in net
"
        );
        let engine = EngineAnswer {
            code: "NOERROR".to_owned(),
            records: vec!["20.1.1.7".to_owned()],
            ttl: 600,
            first: true,
        };
        let with_engine = Resolution {
            engine: Some(engine),
            ..resolution
        };
        let shown = text(&lookup, &"n1".parse().unwrap(), &with_engine);
        let told = "db A, told to 20.1.1.9 by Docker's resolver on node n1: 20.1.1.7, TTL 600 s\n";
        assert!(shown.starts_with(told), "{shown}");
        assert!(shown.contains("Docker answers this one first"), "{shown}");
        assert!(shown.contains("20.1.1.1  endpoint e1"), "{shown}");
    }

    #[test]
    fn reverse_names_follow_the_rfcs() {
        assert_eq!(
            reverse("20.1.1.9".parse().unwrap()),
            "9.1.1.20.in-addr.arpa"
        );
        let v6 = reverse("fd00::2".parse().unwrap());
        assert!(
            v6.starts_with("2.0.0.0.") && v6.ends_with("0.0.d.f.ip6.arpa"),
            "{v6}"
        );
    }
}
