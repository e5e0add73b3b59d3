//! The settings of networks and tenants that `create` and `update` have in common.

use bus_schema::Egress;
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct NetworkSettings {
    /// The connections that each endpoint may open on a node at a time; a new one beyond them is
    /// refused. From 128 on up to 11/8 of it may pass. 0: as many as --max-connections of the tenant
    /// [default: 0]
    #[arg(long, value_name = "N")]
    pub(super) max_connections: Option<u32>,
    /// The way to addresses that aren't the tenant's: the Internet, the LAN, other networks
    /// [default of a new network: --egress of the tenant, else nat]
    #[arg(long, value_enum, value_name = "WAY")]
    pub(super) egress: Option<EgressFlag>,
    /// With --egress=nat, also reach the metadata services of clouds: 169.254.0.0/16, 100.100.100.200
    /// and 168.63.129.16, which may hand out credentials of the machine [default of a new network: false]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub(super) allow_metadata: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct TenantSettings {
    /// The connections that each endpoint may open on a node at a time, if its network has no number of
    /// its own. From 128 on up to 11/8 of it may pass. 0: a quarter of the node's conntrack table
    /// [default: 0]
    #[arg(long, value_name = "N")]
    pub(super) max_connections: Option<u32>,
    /// The way out of the tenant's new networks, if they are created without --egress. Those that there
    /// are keep theirs [default: nat]
    #[arg(long, value_enum, value_name = "WAY")]
    pub(super) egress: Option<EgressFlag>,
}

/// The value of `--egress`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EgressFlag {
    /// Containers reach what their node reaches, in the name of the node
    Nat,
    /// A connection out is refused at once
    None,
}

impl From<EgressFlag> for Egress {
    fn from(flag: EgressFlag) -> Self {
        match flag {
            EgressFlag::Nat => Self::Nat,
            EgressFlag::None => Self::None,
        }
    }
}
