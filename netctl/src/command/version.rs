//! `netctl version`: this program's, the netmasters' and the bus's.

use clap::Args;
use serde_json::json;

use crate::bus_url::BusUrl;
use crate::cli::Listing;
use crate::client;
use crate::failure::Failure;
use crate::output::{self, Format, Table};
use crate::survey::{self, Master};

const OURS: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
#[command(after_help = "`netctl --version` asks nobody.\n\nExample:\n  netctl version -o json")]
pub(crate) struct Options {
    #[command(flatten)]
    listing: Listing,
}

/// What can't be asked is missing in the output, and the exit code says so.
pub(crate) async fn run(url: &BusUrl, options: Options) -> Result<(), Failure> {
    if options.listing.quiet {
        return output::print(&format!("{OURS}\n"));
    }
    let asked = async {
        let bus = client::connect(url).await?;
        let server = bus.server_info().version;
        Ok((server, survey::masters(&bus).await?))
    };
    let (asked, failure) = match asked.await {
        Ok((server, masters)) if masters.is_empty() => {
            (Some((server, masters)), Some(client::nobody(url)))
        }
        Ok(asked) => (Some(asked), None),
        Err(failure) => (None, Some(failure)),
    };
    output::print(&shown(asked.as_ref(), options.listing.format())?)?;
    failure.map_or(Ok(()), Err)
}

fn shown(asked: Option<&(String, Vec<Master>)>, format: Format) -> Result<String, Failure> {
    let masters = asked.map_or(&[][..], |(_, masters)| masters);
    match format {
        format @ (Format::Table | Format::Wide) => {
            let mut table = Table::new(&["Program", "Name", "Version"], &[]);
            let mut row = |program: &str, name: &str, version: &str| {
                table.row([program, name, version].map(str::to_owned).into());
            };
            row("netctl", "", OURS);
            for master in masters {
                row("netmaster", &master.name, &master.version);
            }
            if let Some((server, _)) = asked {
                row("nats-server", "", server);
            }
            Ok(table.render(format))
        }
        format => {
            let masters = masters
                .iter()
                .map(|it| json!({"name": it.name, "version": it.version}));
            let value = json!({
                "netctl": OURS,
                "netmasters": masters.collect::<Vec<_>>(),
                "natsServer": asked.map(|(server, _)| server),
            });
            output::document(&value, format)
        }
    }
}
