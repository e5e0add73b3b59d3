//! `netctl global`: the settings of the cluster, by Contiv's noun.

use std::str::FromStr;

use bus_schema::command::ClusterSet;
use bus_schema::{Command, Rejection, Vni};
use clap::{Args, Subcommand};

use super::flags::{ChangeFlags, ListFlags};
use super::{change, cluster};
use crate::client::Session;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum GlobalVerb {
    /// Show the settings; the same as `netctl cluster info`
    #[command(visible_alias = "inspect")]
    Info {
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Change settings
    Set(GlobalSetOptions),
}

#[derive(Debug, Args)]
#[command(
    after_help = "The range holds the packet tags of new networks, whether they are named (--pkt-tag) or given.\nNetworks that exist keep their tags.\n\nExample:\n  netctl global set --vxlan-range 5000-5999"
)]
pub(crate) struct GlobalSetOptions {
    /// The first and the last packet tag of new networks
    #[arg(long, short = 'x', value_name = "FIRST-LAST", required_unless_present_any = ["fabric_mode", "vlan_range", "fwd_mode", "arp_mode", "private_subnet"])]
    vxlan_range: Option<VxlanRange>,
    #[command(flatten)]
    unsupported: UnsupportedFlags,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Contiv's other settings, which are always refused.
#[derive(Debug, Args)]
struct UnsupportedFlags {
    #[arg(long, short, hide = true)]
    fabric_mode: Option<String>,
    #[arg(long, short = 'v', hide = true)]
    vlan_range: Option<String>,
    #[arg(long, short = 'b', hide = true)]
    fwd_mode: Option<String>,
    #[arg(long, short, hide = true)]
    arp_mode: Option<String>,
    #[arg(long, short = 's', hide = true)]
    private_subnet: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct VxlanRange(Vni, Vni);

impl FromStr for VxlanRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends = text.split_once('-');
        let ends = ends.and_then(|(first, last)| {
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        let range = ends.filter(|(first, last): &(u32, u32)| {
            first <= last && Vni(*first).is_valid() && Vni(*last).is_valid()
        });
        let (first, last) =
            range.ok_or_else(|| format!("write FIRST-LAST, from 1 to {}: 1-10000", Vni::MAX))?;
        Ok(Self(Vni(first), Vni(last)))
    }
}

impl GlobalVerb {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Info { .. } => Ok(()),
            Self::Set(options) => options.unsupported.check(),
        }
    }
}

impl UnsupportedFlags {
    fn check(&self) -> Result<(), Failure> {
        let flags = [
            ("--fabric-mode", &self.fabric_mode, "leave it out"),
            (
                "--vlan-range",
                &self.vlan_range,
                "networks use VXLAN: --vxlan-range",
            ),
            ("--fwd-mode", &self.fwd_mode, "nodes route, leave it out"),
            (
                "--arp-mode",
                &self.arp_mode,
                "no ARP crosses the nodes, leave it out",
            ),
            (
                "--private-subnet",
                &self.private_subnet,
                "published ports need none, leave it out",
            ),
        ];
        match flags.iter().find(|(_, value, _)| value.is_some()) {
            None => Ok(()),
            Some((flag, _, instead)) => Err(Rejection::Unsupported {
                what: (*flag).to_owned(),
                instead: (*instead).to_owned(),
            }
            .into()),
        }
    }
}

pub(crate) async fn run(session: &mut Session, verb: GlobalVerb) -> Result<(), Failure> {
    match verb {
        GlobalVerb::Info { flags } => cluster::info(session, flags).await,
        GlobalVerb::Set(options) => {
            let vni_range = options
                .vxlan_range
                .map(|VxlanRange(first, last)| (first, last));
            let command = Command::ClusterSet(ClusterSet { vni_range });
            change::send(session, "", command, &options.flags)
                .await
                .map(drop)
        }
    }
}
