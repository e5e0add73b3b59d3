//! `netctl endpoint`: the endpoints that nodes have published.

use bus_schema::{Answer, Endpoint, Query, TenantName};
use clap::Subcommand;
use serde_json::{Value, json};

use super::flags::{InspectFlags, ListFlags, TenantsFlags};
use crate::client::{Session, unexpected_answer};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum EndpointVerb {
    /// List endpoints
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  netctl endpoint ls -a -o wide"
    )]
    Ls {
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show an endpoint
    #[command(
        after_help = "Examples:\n  netctl endpoint inspect web\n  netctl endpoint inspect 3f2a9c"
    )]
    Inspect {
        /// The id of the endpoint or its container, the start of one, or the container's name
        #[arg(value_name = "EPID")]
        endpoint: String,
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: InspectFlags,
    },
}

pub(crate) async fn run(session: &mut Session, verb: EndpointVerb) -> Result<(), Failure> {
    match verb {
        EndpointVerb::Ls { of, flags } => {
            let endpoints = list(session, of.tenant()).await?;
            output::print(&listed(&endpoints, &flags)?)
        }
        EndpointVerb::Inspect {
            endpoint, flags, ..
        } => {
            // Ids are unique in the cluster, so the tenant doesn't matter.
            let endpoints = list(session, None).await?;
            let found = find(&endpoints, &endpoint)?;
            output::print(&output::document(&inspected(found), flags.format())?)
        }
    }
}

pub(crate) async fn list(
    session: &mut Session,
    tenant: Option<TenantName>,
) -> Result<Vec<Endpoint>, Failure> {
    match session.ask(Query::EndpointList { tenant }).await? {
        Answer::Endpoints { endpoints, .. } => Ok(endpoints),
        answer => Err(unexpected_answer(&answer)),
    }
}

/// Finds an endpoint by its exact id or name, or else by the start of an id.
pub(crate) fn find<'a>(endpoints: &'a [Endpoint], text: &str) -> Result<&'a Endpoint, Failure> {
    let exact = |e: &&Endpoint| {
        e.id.as_str() == text
            || e.container.as_deref() == Some(text)
            || e.name.as_deref() == Some(text)
    };
    let start = |e: &&Endpoint| {
        e.id.as_str().starts_with(text)
            || e.container.as_deref().is_some_and(|c| c.starts_with(text))
    };
    let mut found: Vec<&Endpoint> = endpoints.iter().filter(exact).collect();
    if found.is_empty() && !text.is_empty() {
        found = endpoints.iter().filter(start).collect();
    }
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Failure::Refused(format!(
            "no endpoint has the id or the name {text}: see `netctl endpoint ls -a`"
        ))),
        several => {
            let ids: Vec<String> = several
                .iter()
                .map(|e| format!("{} ({}:{})", e.id, e.tenant, e.network))
                .collect();
            Err(Failure::Refused(format!(
                "{text} is ambiguous, use an id: {}",
                ids.join(", ")
            )))
        }
    }
}

pub(super) fn listed(endpoints: &[Endpoint], flags: &ListFlags) -> Result<String, Failure> {
    let table = |all: &[Endpoint]| table(all, flags.format());
    let value = |e: &Endpoint| output::flattened(&inspected(e));
    flags.show(endpoints, |e| e.id.clone(), table, value)
}

fn table(endpoints: &[Endpoint], format: Format) -> Table {
    let mut table = Table::new(
        &[
            "Tenant", "Network", "Group", "Name", "Address", "Node", "Endpoint", "State",
        ],
        &["Container", "MAC", "Interface", "VTEP", "Closed because"],
    );
    for e in endpoints {
        let addresses: Vec<String> = e.addresses().map(|a| a.to_string()).collect();
        let (id, container) = match format {
            Format::Wide => (e.id.as_str(), e.container.as_deref()),
            _ => (short(e.id.as_str()), e.container.as_deref().map(short)),
        };
        let group = e.group.as_ref().map(ToString::to_string);
        table.row(vec![
            e.tenant.to_string(),
            e.network.to_string(),
            group.unwrap_or_default(),
            e.name.clone().unwrap_or_default(),
            addresses.join(","),
            e.node.to_string(),
            id.to_owned(),
            if e.closed.is_some() { "closed" } else { "open" }.to_owned(),
            container.unwrap_or_default().to_owned(),
            e.mac.to_string(),
            e.interface.clone(),
            e.vtep.to_string(),
            e.closed.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// The first twelve of an engine's 64 hex digits, as Docker shows them; other ids are whole.
fn short(id: &str) -> &str {
    match id.char_indices().nth(12) {
        Some((end, _)) if id.len() >= 64 => &id[..end],
        _ => id,
    }
}

fn inspected(e: &Endpoint) -> Value {
    json!({
        "Config": { "key": e.id, "endpointID": e.id, "tenantName": e.tenant, "networkName": e.network },
        "Oper": oper(e),
    })
}

/// The JSON of an endpoint's state, with Contiv's keys.
pub(crate) fn oper(e: &Endpoint) -> Value {
    json!({
        "containerID": e.container.as_deref().unwrap_or_default(),
        "containerName": e.name.as_deref().unwrap_or_default(),
        "endpointGroupKey": e.group.as_ref().map(|g| format!("{}:{g}", e.tenant)).unwrap_or_default(),
        "endpointID": e.id,
        "homingHost": e.node,
        "intfName": e.interface,
        "ipAddress": e.addresses().collect::<Vec<_>>(),
        "macAddress": e.mac,
        "network": format!("{}.{}", e.network, e.tenant),
        "vtepIP": e.vtep,
        "aliases": e.aliases,
        "closed": e.closed.as_deref().unwrap_or_default(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn endpoint(id: &str, name: &str) -> Endpoint {
        let v4 = std::net::Ipv4Addr::new(20, 1, 1, 1);
        Endpoint {
            id: id.parse().unwrap(),
            tenant: TenantName::default_tenant(),
            network: "net".parse().unwrap(),
            group: None,
            node: "n1".parse().unwrap(),
            v4: Some(v4),
            v6: None,
            mac: bus_schema::MacAddr::of_endpoint(v4.into()),
            name: Some(name.to_owned()),
            aliases: Vec::new(),
            container: None,
            interface: "cv0123456789".to_owned(),
            closed: None,
            vtep: std::net::Ipv4Addr::new(10, 0, 0, 1).into(),
        }
    }

    #[test]
    fn endpoint_is_found_by_name_id_or_start() {
        let all = [
            endpoint("abc1", "web"),
            endpoint("abc2", "abc1x"),
            endpoint("d", "web2"),
        ];
        assert_eq!(find(&all, "web").unwrap().id.as_str(), "abc1");
        assert_eq!(find(&all, "abc2").unwrap().id.as_str(), "abc2");
        assert_eq!(find(&all, "d").unwrap().id.as_str(), "d");
        let both = find(&all, "abc").unwrap_err().to_string();
        assert!(both.contains("abc1") && both.contains("abc2"), "{both}");
        assert!(find(&all, "").is_err());
        assert!(find(&all, "nobody").is_err());
    }

    #[test]
    fn json_has_contivs_keys() {
        let value = inspected(&endpoint("abc1", "web"));
        for key in [
            "containerID",
            "containerName",
            "endpointGroupKey",
            "endpointID",
            "homingHost",
            "intfName",
            "ipAddress",
            "macAddress",
            "network",
            "vtepIP",
        ] {
            assert!(value["Oper"].get(key).is_some(), "{key}");
        }
        assert_eq!(value["Oper"]["macAddress"], "02:02:14:01:01:01");
    }
}
