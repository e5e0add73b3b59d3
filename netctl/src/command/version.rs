//! `netctl version`: the versions of this program, the netmasters and the bus.

use clap::Args;
use serde_json::json;

use super::flags::ListFlags;
use crate::bus_url::BusUrl;
use crate::client;
use crate::connection;
use crate::failure::Failure;
use crate::output::{self, Format, Table};
use crate::survey::{self, Netmaster};

const NETCTL_VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
#[command(after_help = "`netctl --version` needs no bus.\n\nExample:\n  netctl version -o json")]
pub(crate) struct VersionOptions {
    #[command(flatten)]
    flags: ListFlags,
}

/// A program that doesn't answer is missing in the output, and the exit code is 2.
pub(crate) async fn run(url: &BusUrl, options: VersionOptions) -> Result<(), Failure> {
    if options.flags.quiet {
        return output::print(&format!("{NETCTL_VERSION}\n"));
    }
    let asked = async {
        let bus = connection::connect(url).await?;
        let server = bus.server_info().version;
        Ok((server, survey::netmasters(&bus).await?))
    };
    let (asked, failure) = match asked.await {
        Ok((server, netmasters)) if netmasters.is_empty() => {
            (Some((server, netmasters)), Some(client::no_netmaster(url)))
        }
        Ok(asked) => (Some(asked), None),
        Err(failure) => (None, Some(failure)),
    };
    output::print(&shown(asked.as_ref(), options.flags.format())?)?;
    failure.map_or(Ok(()), Err)
}

fn shown(asked: Option<&(String, Vec<Netmaster>)>, format: Format) -> Result<String, Failure> {
    let netmasters = asked.map_or(&[][..], |(_, netmasters)| netmasters);
    match format {
        format if format.is_text() => {
            let mut table = Table::new(&["Program", "Name", "Version"], &[]);
            let mut row = |program: &str, name: &str, version: &str| {
                table.row([program, name, version].map(str::to_owned).into());
            };
            row("netctl", "", NETCTL_VERSION);
            for netmaster in netmasters {
                row("netmaster", &netmaster.name, &netmaster.version);
            }
            if let Some((server, _)) = asked {
                row("nats-server", "", server);
            }
            Ok(table.render(format))
        }
        format => {
            let netmasters = netmasters
                .iter()
                .map(|it| json!({"name": it.name, "version": it.version}));
            let value = json!({
                "netctl": NETCTL_VERSION,
                "netmasters": netmasters.collect::<Vec<_>>(),
                "natsServer": asked.map(|(server, _)| server),
            });
            output::document(&value, format)
        }
    }
}
