use serde::{Deserialize, Serialize};

use crate::{NetworkName, NetworkSpec, TenantName, Vni};

/// In one batch with [`super::VniAssigned`] and [`super::LeasesOpened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreated {
    pub network: NetworkSpec,
}

/// The settings that are given changed, no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkUpdated {
    pub tenant: TenantName,
    pub network: NetworkName,
    /// The connections that each endpoint may open; 0: its tenant's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
}

/// No more attaches; in one batch with [`super::LeasesClosing`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkClosing {
    pub tenant: TenantName,
    pub network: NetworkName,
}

/// The removal was given up; in one batch with [`super::LeasesReopened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkReopened {
    pub tenant: TenantName,
    pub network: NetworkName,
}

/// No node holds a block of it any more, or the operator forced it; in one batch with
/// [`super::VniReleased`] and [`super::LeasesClosed`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRemoved {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub vni: Vni,
    /// Blocks were still leased: endpoints on them are closed, never open.
    pub forced: bool,
}
