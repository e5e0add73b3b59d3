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

/// Without `lost` it is refused while the node holds blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRemove {
    pub node: NodeName,
    pub lost: bool,
}
