//! The cluster as a whole.

use bus_schema::command::LogAccept;
use bus_schema::{Answer, Command, Query};
use clap::Subcommand;
use serde_json::json;

use super::COMMAND;
use crate::cli::{Asking, Listing};
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
    /// Go on with the log as it is, although nodes have applied more than it holds
    #[command(
        after_help = "While two nodes that live, or the only one, have applied more than the log holds,\nnetmaster decides nothing: the log may be a damaged or an older copy. After a restore from\na backup this tells it that the log is right. What was newer is lost; each node then\nfollows the log when it is told so: `netctl node accept-log NODE --yes`.\n\nExample:\n  netctl cluster accept-log --yes"
    )]
    AcceptLog {
        /// Yes: what nodes have applied and the log doesn't hold is lost
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        asking: Asking,
    },
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Info { listing } => info(session, listing).await,
        Verb::AcceptLog { yes, asking } => accept_log(session, yes, asking).await,
    }
}

async fn accept_log(session: &mut Session, yes: bool, asking: Asking) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::Usage(
            "what nodes have applied and the log doesn't hold is lost by this: say --yes when the log is right"
                .to_owned(),
        ));
    }
    session.take_any_revision();
    let command = Command::LogAccept(LogAccept {});
    let done = session.command(command, asking.command_id, COMMAND).await?;
    output::print(&done.to_string())
}

async fn info(session: &mut Session, listing: Listing) -> Result<(), Failure> {
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
