use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{GroupName, NetworkName, NodeName, PoolKey, TenantName};

/// A node asks for a block of a network or of a group's pool, or for one address of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLease {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub node: NodeName,
    /// The block that holds this address (`docker run --ip`); rejected with
    /// [`crate::Rejection::AddressHeld`] when another node holds it, who can cede it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Of this family; ignored when `address` is given.
    #[serde(default)]
    pub v6: bool,
    /// Nobody waits for it: rejected when no block is free, and no holder is asked to give up
    /// addresses. An older netmaster never asks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead: bool,
    /// Endpoints of the node that wait for an address. Where no block is free, a holder cedes an
    /// address for each of them, as far as it has so many. 0 and absent: one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waiting: u16,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u16) -> bool {
    *count == 0
}

/// The node has journaled that it gives out no address of the block any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockReturn {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub block: IpNet,
    pub node: NodeName,
}

/// Asked by the holder `from`, who has journaled that it doesn't give out the address any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockCede {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub address: IpAddr,
    pub from: NodeName,
    pub to: NodeName,
}

/// Takes every block of the pool from a node that was removed as lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRevoke {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The group whose own pool it is; absent: the network's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    pub node: NodeName,
}

macro_rules! keyed {
    ($($command:ident),*) => {$(
        impl $command {
            /// Whose blocks it is about.
            pub fn pool(&self) -> PoolKey {
                PoolKey {
                    tenant: self.tenant.clone(),
                    network: self.network.clone(),
                    group: self.group.clone(),
                }
            }
        }
    )*};
}

keyed!(BlockLease, BlockReturn, BlockCede, BlockRevoke);
