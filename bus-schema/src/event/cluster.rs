use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{ClusterId, NetworkName, NodeName, Revision, TenantName, Vni};

/// The first event of every log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCreated {
    pub cluster: ClusterId,
    pub settings: Settings,
}

/// The settings are others from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterChanged {
    pub settings: Settings,
}

/// The settings of the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The outer UDP port of VXLAN. It isn't 4789, which Docker's overlay uses.
    pub vxlan_port: u16,
    /// VNIs of new networks, first and last.
    pub vni_range: (Vni, Vni),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            vxlan_port: 14789,
            vni_range: (Vni(1), Vni(10_000)),
        }
    }
}

/// A packet tag is taken, in the same batch as the network that bears it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VniAssigned {
    pub vni: Vni,
    pub tenant: TenantName,
    pub network: NetworkName,
}

/// A packet tag is free again, in the same batch as its network's removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VniReleased {
    pub vni: Vni,
    pub tenant: TenantName,
    pub network: NetworkName,
}

/// An operator accepted the log as it is, after a restore: the revisions of the former log that these
/// nodes have applied are ignored from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccepted {
    /// The log's last revision then.
    pub end: Revision,
    /// The nodes that had applied more, with their revisions.
    pub ahead: BTreeMap<NodeName, Revision>,
}
