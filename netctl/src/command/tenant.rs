//! Tenants.

use bus_schema::command::{TenantCreate, TenantRemove};
use bus_schema::query::TenantInfo;
use bus_schema::{Answer, Command, Query, Rejection, TenantName};
use clap::Subcommand;
use serde_json::{Value, json};

use super::COMMAND;
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
    /// Show a tenant
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
                return Err(Rejection::TenantUnknown { tenant }.into());
            };
            output::print(&output::document(&inspected(info), inspecting.format())?)
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

fn inspected(info: &TenantInfo) -> Value {
    json!({
        "Config": { "key": info.tenant, "tenantName": info.tenant },
        "Oper": { "totalNetworks": info.networks.len(), "networks": info.networks },
    })
}
