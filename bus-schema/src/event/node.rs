use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{MachineId, NodeName};

/// A node belongs to the cluster, or does so with another VTEP address than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeJoined {
    pub node: NodeName,
    pub machine: MachineId,
    /// The outer address of its VXLAN packets.
    pub vtep: IpAddr,
}

/// A node no longer belongs to the cluster; its blocks are revoked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRemoved {
    pub node: NodeName,
    /// Removed without its consent (`netctl node rm --lost`).
    pub lost: bool,
}
