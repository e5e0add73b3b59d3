use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{MachineId, NodeName};

/// Asked by a node at each start; changes nothing when all is as before. A second machine with
/// the name, or with a VTEP address in use, is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeJoin {
    pub node: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
}

/// A live node is drained first, and refused while it has endpoints. A node that can't be asked is
/// refused while it holds blocks, unless it is `lost`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRemove {
    pub node: NodeName,
    pub lost: bool,
}

/// The node takes no new endpoints and returns the blocks in which it uses no address, until it is
/// uncordoned. Endpoints that it has stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDrain {
    pub node: NodeName,
}

/// The node takes new endpoints again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUncordon {
    pub node: NodeName,
}

/// Asked by a node whose operator said `netplugin leave`. The machine is compared, so that nobody
/// says it for another machine of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLeave {
    pub node: NodeName,
    pub machine: MachineId,
}
