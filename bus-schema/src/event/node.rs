use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{MachineId, NodeName};

/// A node belongs to the cluster: for the first time, with another VTEP address than before, or
/// again after it had left.
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

/// The node takes no new endpoints (`netctl node drain`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDrained {
    pub node: NodeName,
}

/// The node takes new endpoints again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUncordoned {
    pub node: NodeName,
}

/// The node takes no new endpoints and has withdrawn its names (`netplugin leave`). It is a member
/// still, and the next [`NodeJoined`] ends this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLeft {
    pub node: NodeName,
}
