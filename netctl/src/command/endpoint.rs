//! Endpoints, as their nodes published them.

use bus_schema::{Answer, Endpoint, Query, TenantName};
use clap::Subcommand;
use serde_json::{Value, json};

use super::OfTenants;
use crate::cli::{Inspecting, Listing};
use crate::client::{Session, unexpected};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List endpoints
    #[command(
        visible_alias = "list",
        after_help = "Example:\n  netctl endpoint ls -a -o wide"
    )]
    Ls {
        #[command(flatten)]
        of: OfTenants,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show an endpoint
    #[command(
        after_help = "Examples:\n  netctl endpoint inspect web\n  netctl endpoint inspect 3f2a9c"
    )]
    Inspect {
        /// Its id or its container's, the start of one, or the container's name
        #[arg(value_name = "EPID")]
        endpoint: String,
        #[command(flatten)]
        of: OfTenants,
        #[command(flatten)]
        inspecting: Inspecting,
    },
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls { of, listing } => {
            let endpoints = list(session, of.tenant()).await?;
            output::print(&listed(&endpoints, &listing)?)
        }
        Verb::Inspect {
            endpoint,
            inspecting,
            ..
        } => {
            // Ids are unique in the cluster, so a tenant needn't be named.
            let endpoints = list(session, None).await?;
            let found = find(&endpoints, &endpoint)?;
            output::print(&output::document(&inspected(found), inspecting.format())?)
        }
    }
}

pub(crate) async fn list(
    session: &mut Session,
    tenant: Option<TenantName>,
) -> Result<Vec<Endpoint>, Failure> {
    match session.ask(Query::EndpointList { tenant }).await? {
        Answer::Endpoints { endpoints, .. } => Ok(endpoints),
        answer => Err(unexpected(&answer)),
    }
}

/// The endpoint that is meant: an exact id or name before the start of an id.
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
                "{text} may be each of these, name one by its id: {}",
                ids.join(", ")
            )))
        }
    }
}

pub(super) fn listed(endpoints: &[Endpoint], listing: &Listing) -> Result<String, Failure> {
    if listing.quiet {
        return Ok(endpoints.iter().map(|e| format!("{}\n", e.id)).collect());
    }
    match listing.format() {
        format @ (Format::Table | Format::Wide) => {
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
                table.row(vec![
                    e.tenant.to_string(),
                    e.network.to_string(),
                    e.group
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
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
            Ok(table.render(format))
        }
        format => {
            let all = endpoints
                .iter()
                .map(|e| super::flat(&inspected(e)))
                .collect();
            output::document(&Value::Array(all), format)
        }
    }
}

/// The engine's ids are 64 hex digits; people use the first twelve.
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

/// An endpoint's state with Contiv's keys.
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
    fn an_endpoint_is_found_by_name_id_or_start() {
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
    fn contivs_keys_are_there() {
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
