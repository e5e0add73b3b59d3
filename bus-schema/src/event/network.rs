use serde::{Deserialize, Serialize};

use crate::{Egress, NetworkName, NetworkSpec, TenantName, Vni, update_limit};

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_metadata: Option<bool>,
}

impl NetworkUpdated {
    /// Changes the settings that are given, and only to others than those that hold.
    pub fn apply(&self, spec: &mut NetworkSpec) {
        update_limit(&mut spec.max_connections, self.max_connections);
        if let Some(egress) = self.egress.filter(|it| *it != spec.egress()) {
            spec.egress = Some(egress);
        }
        if let Some(allowed) = self.allow_metadata {
            spec.allow_metadata = allowed;
        }
    }
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
