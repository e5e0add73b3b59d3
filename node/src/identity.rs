use std::net::IpAddr;

use bus_schema::{MachineId, NodeName};

/// This node's name, machine and outer address.
#[derive(Debug, Clone)]
pub struct Identity {
    pub node: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
}
