//! Tenants.

use bus_schema::command::{TenantCreate, TenantRemove};
use bus_schema::query::{NetworkInfo, TenantInfo};
use bus_schema::{Answer, Command, Endpoint, Query, Rejection, TenantName};
use clap::Subcommand;
use serde_json::{Value, json};

use super::usage::Usage;
use super::{COMMAND, endpoint, group, network, policy};
use crate::cli::{Asking, Inspecting, Listing};
use crate::client::{Session, unexpected};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a tenant
    #[command(after_help = "Example:\n  netctl tenant create blue")]
    Create {
        tenant: TenantName,
        #[command(flatten)]
        asking: Asking,
    },
    /// Remove a tenant that has no networks
    #[command(visible_alias = "delete")]
    Rm {
        tenant: TenantName,
        #[command(flatten)]
        asking: Asking,
    },
    /// List tenants
    #[command(visible_alias = "list")]
    Ls {
        /// Accepted for scripts: all tenants are listed anyway
        #[arg(long, short)]
        all: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show a tenant with what its networks have in use
    #[command(after_help = "Example:\n  netctl tenant inspect blue")]
    Inspect {
        tenant: TenantName,
        #[command(flatten)]
        inspecting: Inspecting,
    },
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { tenant, asking } => {
            output::print(&format!("Creating tenant: {tenant}\n"))?;
            let command = Command::TenantCreate(TenantCreate { tenant });
            let done = session.command(command, asking.command_id, COMMAND).await?;
            output::print(&done.to_string())
        }
        Verb::Rm { tenant, asking } => {
            output::print(&format!("Deleting tenant: {tenant}\n"))?;
            let command = Command::TenantRemove(TenantRemove { tenant });
            let done = session.command(command, asking.command_id, COMMAND).await?;
            output::print(&done.to_string())
        }
        Verb::Ls { listing, .. } => {
            let tenants = list(session).await?;
            output::print(&listed(&tenants, &listing)?)
        }
        Verb::Inspect { tenant, inspecting } => {
            let tenants = list(session).await?;
            let Some(info) = tenants.iter().find(|info| info.tenant == tenant) else {
                return Err(session.refuse(&Rejection::TenantUnknown { tenant }));
            };
            let value = inspect(session, info).await?;
            output::print(&output::document(&value, inspecting.format())?)
        }
    }
}

pub(crate) async fn list(session: &mut Session) -> Result<Vec<TenantInfo>, Failure> {
    match session.ask(Query::TenantList).await? {
        Answer::Tenants { tenants, .. } => Ok(tenants),
        answer => Err(unexpected(&answer)),
    }
}

fn listed(tenants: &[TenantInfo], listing: &Listing) -> Result<String, Failure> {
    if listing.quiet {
        return Ok(tenants.iter().map(|t| format!("{}\n", t.tenant)).collect());
    }
    match listing.format() {
        format @ (Format::Table | Format::Wide) => {
            let mut table = Table::new(&["Name", "Networks"], &[]);
            for info in tenants {
                table.row(vec![
                    info.tenant.to_string(),
                    info.networks.len().to_string(),
                ]);
            }
            Ok(table.render(format))
        }
        format => {
            let all = tenants
                .iter()
                .map(|info| super::flat(&inspected(info)))
                .collect();
            output::document(&Value::Array(all), format)
        }
    }
}

/// A tenant with what its networks, groups, policies and endpoints come to.
async fn inspect(session: &mut Session, info: &TenantInfo) -> Result<Value, Failure> {
    let tenant = Some(info.tenant.clone());
    let networks = network::list(session, tenant.clone(), None).await?;
    let groups = group::list(session, tenant.clone(), None).await?;
    let policies = policy::list(session, tenant.clone(), None).await?;
    let endpoints = endpoint::list(session, tenant).await?;
    let mut value = inspected(info);
    let oper = &mut value["Oper"];
    counted(&networks, &endpoints).show(oper);
    oper["totalEndpoints"] = json!(endpoints.len());
    oper["totalEPGs"] = json!(groups.len());
    oper["totalPolicies"] = json!(policies.len());
    oper["endpoints"] = endpoints.iter().map(endpoint::oper).collect();
    Ok(value)
}

/// All its networks together.
fn counted(networks: &[NetworkInfo], endpoints: &[Endpoint]) -> Usage {
    let mut all = Usage::default();
    for info in networks {
        let of_it = endpoints.iter().filter(|e| e.network == info.spec.name);
        all.add(network::usage(info, &of_it.collect::<Vec<_>>()));
    }
    all
}

fn inspected(info: &TenantInfo) -> Value {
    json!({
        "Config": { "key": info.tenant, "tenantName": info.tenant },
        "Oper": { "totalNetworks": info.networks.len(), "networks": info.networks },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_counts_what_all_its_networks_use() {
        let one = network::tests::info();
        let mut other = one.clone();
        other.spec.name = "other".parse().unwrap();
        let of = |id: &str, network: &str| Endpoint {
            network: network.parse().unwrap(),
            ..endpoint::tests::endpoint(id, id)
        };
        let endpoints = [of("a", "contiv-net"), of("b", "other")];
        let mut oper = json!({});
        counted(&[one, other], &endpoints).show(&mut oper);
        assert_eq!(oper["allocatedAddressesCount"], 2);
        assert_eq!(oper["availableAddressesCount"], 504);
        assert_eq!(oper["nodes"][0]["node"], "n1");
        assert_eq!(oper["nodes"][0]["endpoints"], 2);
        assert_eq!(oper["nodes"][0]["freeAddresses"], 28);
    }
}
