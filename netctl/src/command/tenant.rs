//! `netctl tenant`.

use bus_schema::command::{TenantCreate, TenantRemove, TenantUpdate};
use bus_schema::query::{NetworkInfo, TenantInfo};
use bus_schema::{Answer, Command, Endpoint, Query, Rejection, TenantName};
use clap::Subcommand;
use serde_json::{Value, json};

use super::flags::{ChangeFlags, InspectFlags, ListFlags};
use super::settings::TenantSettings;
use super::usage::Usage;
use super::wait::WaitFlag;
use super::{change, endpoint, group, network, policy};
use crate::client::{Session, unexpected_answer};
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum TenantVerb {
    /// Create a tenant
    #[command(
        after_help = "Examples:\n  netctl tenant create blue\n  netctl tenant create blue --egress=none   # its new networks have no way out"
    )]
    Create {
        tenant: TenantName,
        #[command(flatten)]
        settings: TenantSettings,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// Change a tenant's settings; those that aren't given stay
    #[command(
        group(
            clap::ArgGroup::new("changed")
                .required(true)
                .multiple(true)
                .args(["max_connections", "egress"]),
        ),
        after_help = "Examples:\n  netctl tenant update blue --max-connections 20000\n  netctl tenant update blue --egress=none"
    )]
    Update {
        tenant: TenantName,
        #[command(flatten)]
        settings: TenantSettings,
        #[command(flatten)]
        wait: WaitFlag,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// Remove a tenant that has no networks
    #[command(visible_alias = "delete")]
    Rm {
        tenant: TenantName,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// List tenants
    #[command(visible_alias = "list")]
    Ls {
        /// Accepted for scripts: all tenants are listed anyway
        #[arg(long, short)]
        all: bool,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show a tenant with the addresses that its networks use
    #[command(after_help = "Example:\n  netctl tenant inspect blue")]
    Inspect {
        tenant: TenantName,
        #[command(flatten)]
        flags: InspectFlags,
    },
}

pub(crate) async fn run(session: &mut Session, verb: TenantVerb) -> Result<(), Failure> {
    match verb {
        TenantVerb::Create {
            tenant,
            settings,
            flags,
        } => {
            let announcement = format!("Creating tenant: {tenant}");
            let command = Command::TenantCreate(TenantCreate {
                tenant,
                max_connections: settings.max_connections,
                egress: settings.egress.map(Into::into),
            });
            change::send(session, &announcement, command, &flags)
                .await
                .map(drop)
        }
        TenantVerb::Update {
            tenant,
            settings,
            wait,
            flags,
        } => {
            let announcement = format!("Updating tenant: {tenant}");
            let command = Command::TenantUpdate(TenantUpdate {
                tenant,
                max_connections: settings.max_connections,
                egress: settings.egress.map(Into::into),
            });
            change::send_and_wait(session, &announcement, command, &flags, wait).await
        }
        TenantVerb::Rm { tenant, flags } => {
            let announcement = format!("Deleting tenant: {tenant}");
            let command = Command::TenantRemove(TenantRemove { tenant });
            change::send(session, &announcement, command, &flags)
                .await
                .map(drop)
        }
        TenantVerb::Ls { flags, .. } => {
            let tenants = list(session).await?;
            output::print(&listed(&tenants, &flags)?)
        }
        TenantVerb::Inspect { tenant, flags } => {
            let tenants = list(session).await?;
            let Some(info) = tenants.iter().find(|info| info.tenant == tenant) else {
                return Err(session.rejected(&Rejection::TenantUnknown { tenant }));
            };
            let value = inspect(session, info).await?;
            output::print(&output::document(&value, flags.format())?)
        }
    }
}

pub(crate) async fn list(session: &mut Session) -> Result<Vec<TenantInfo>, Failure> {
    match session.ask(Query::TenantList).await? {
        Answer::Tenants { tenants, .. } => Ok(tenants),
        answer => Err(unexpected_answer(&answer)),
    }
}

fn listed(tenants: &[TenantInfo], flags: &ListFlags) -> Result<String, Failure> {
    let value = |info: &TenantInfo| output::flattened(&inspected(info));
    flags.show(tenants, |info| info.tenant.clone(), table, value)
}

fn table(tenants: &[TenantInfo]) -> Table {
    let mut table = Table::new(&["Name", "Networks"], &["Egress"]);
    for info in tenants {
        let networks = info.networks.len().to_string();
        table.row(vec![
            info.tenant.to_string(),
            networks,
            info.egress().to_string(),
        ]);
    }
    table
}

/// A tenant's JSON with counts of its networks, groups, policies and endpoints.
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

/// The usage of all networks of a tenant together.
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
        "Config": {
            "key": info.tenant,
            "tenantName": info.tenant,
            "maxConnections": info.max_connections.unwrap_or_default(),
            "egress": info.egress(),
        },
        "Oper": { "totalNetworks": info.networks.len(), "networks": info.networks },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenant_counts_addresses_of_all_its_networks() {
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
