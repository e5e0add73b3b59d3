//! `netctl cluster`.

use bus_schema::command::LogAccept;
use bus_schema::query::ClusterInfo;
use bus_schema::{Answer, Command, Query, Revision};
use clap::Subcommand;
use serde_json::json;

use super::change;
use super::flags::{ChangeFlags, ListFlags};
use crate::client::{Session, unexpected_answer};
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Show the cluster's id, settings and revision
    #[command(visible_alias = "inspect")]
    Info {
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Accept the log as it is, although nodes have applied more than it contains
    #[command(
        after_help = "If two live nodes, or the only one, have applied more than the log contains, netmaster decides\nnothing, since the log may be a damaged or an older copy. After a restore from a backup, this\ncommand confirms the log. Newer changes are lost. Each node then needs\n`netctl node accept-log NODE --yes` to follow the log.\n\nExample:\n  netctl cluster accept-log --yes"
    )]
    AcceptLog {
        /// Confirm that changes are lost which nodes have applied and the log doesn't contain
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        flags: ChangeFlags,
    },
}

pub(crate) async fn run(session: &mut Session, verb: ClusterVerb) -> Result<(), Failure> {
    match verb {
        ClusterVerb::Info { flags } => info(session, flags).await,
        ClusterVerb::AcceptLog { yes, flags } => accept_log(session, yes, &flags).await,
    }
}

async fn accept_log(session: &mut Session, yes: bool, flags: &ChangeFlags) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::Usage(
            "this loses the changes that nodes have applied and the log doesn't contain: add --yes if the log is right"
                .to_owned(),
        ));
    }
    session.accept_any_revision();
    let command = Command::LogAccept(LogAccept {});
    change::send(session, "", command, flags).await.map(drop)
}

/// The cluster's id, settings and revision.
pub(super) async fn ask(session: &mut Session) -> Result<(Revision, ClusterInfo), Failure> {
    match session.ask(Query::ClusterInfo).await? {
        Answer::Cluster { revision, cluster } => Ok((revision, cluster)),
        answer => Err(unexpected_answer(&answer)),
    }
}

pub(super) async fn info(session: &mut Session, flags: ListFlags) -> Result<(), Failure> {
    let (revision, info) = ask(session).await?;
    if flags.quiet {
        return output::print(&format!("{}\n", info.cluster));
    }
    let (first, last) = info.settings.vni_range;
    match flags.format() {
        format if format.is_text() => output::print(&format!(
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
