use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{AddressRange, GroupName, NetworkName, NodeName, Pool, TenantName};

/// Blocks may be leased from these pools.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesOpened {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub v4: Pool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Pool>,
}

/// No block is leased any more; nodes return what they hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesClosing {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
}

/// The removal was given up: blocks are leased again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesReopened {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
}

/// The network or the group is gone; the last event of these leases, and a fence against late ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeasesClosed {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
}

/// The node alone gives out the addresses of this block, less those ceded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLeased {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub block: IpNet,
    pub node: NodeName,
}

/// The node gave the block back, and uses no address of it. A ceded address (a /32 or a /128
/// inside another block) belongs to that block again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockReturned {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub block: IpNet,
    pub node: NodeName,
}

/// The holder of a block let another node have one address of it, as a block of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCeded {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub address: IpAddr,
    pub from: NodeName,
    pub to: NodeName,
}

/// The block was taken from a node that was removed as lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRevoked {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub block: IpNet,
    pub node: NodeName,
}

/// A group's pool begins: its addresses aren't the network's to give out any more, and no block of
/// the network holds one of them that an endpoint could have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReserved {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub group: GroupName,
    pub range: AddressRange,
}

/// The group is gone: its addresses are the network's again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolReleased {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub group: GroupName,
}
