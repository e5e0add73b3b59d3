//! The cluster as a whole.

use bus_schema::{Answer, Query};
use clap::Subcommand;
use serde_json::json;

use crate::cli::Listing;
use crate::client::{Session, unexpected};
use crate::failure::Failure;
use crate::output::{self, Format};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the cluster's id, settings and revision
    #[command(visible_alias = "inspect")]
    Info {
        #[command(flatten)]
        listing: Listing,
    },
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    let Verb::Info { listing } = verb;
    let (revision, info) = match session.ask(Query::ClusterInfo).await? {
        Answer::Cluster { revision, cluster } => (revision, cluster),
        answer => return Err(unexpected(&answer)),
    };
    if listing.quiet {
        return output::print(&format!("{}\n", info.cluster));
    }
    let (first, last) = info.settings.vni_range;
    match listing.format() {
        Format::Table | Format::Wide => output::print(&format!(
            "Cluster            {}\nRevision           {revision}\nNetmaster version  {}\nVXLAN port         {}\nPacket tags        {first}-{last}\n",
            info.cluster, info.version, info.settings.vxlan_port
        )),
        format => {
            let value = json!({
                "cluster": info.cluster,
                "revision": revision,
                "netmasterVersion": info.version,
                "vxlanPort": info.settings.vxlan_port,
                "vxlanRange": format!("{first}-{last}"),
            });
            output::print(&output::document(&value, format)?)
        }
    }
}
