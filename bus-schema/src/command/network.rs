use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{AddressRange, Egress, NetworkName, TenantName, Vni};

/// The same network with the same settings again is accepted and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreate {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// Host bits are masked away.
    pub subnet: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<AddressRange>,
    /// Absent: the subnet's first usable address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway6: Option<IpAddr>,
    /// Absent: the lowest free one of the cluster's range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_name: Option<String>,
    /// The connections that each endpoint may open; absent: its tenant's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Absent: the tenant's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_metadata: Option<bool>,
}

/// Changes the settings that are given, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUpdate {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// 0: its tenant's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_metadata: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRemove {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub mode: Removal,
}

/// How a removal goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removal {
    /// Close it: no attaches and no leases from here on.
    Close,
    /// Remove what is closed; refused while blocks are leased. Netmaster asks this itself when
    /// the last block came back.
    Finish,
    /// Open it again.
    Abort,
    /// Remove it although nodes hold blocks that can't be asked.
    Force,
}
