//! This node's endpoints in the form in which it publishes them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::{Endpoint, EndpointId, NodeName};

use super::{Kernel, LocalEndpoint, Locals, Snapshot};
use crate::identity::Identity;
use node_core::maps;

/// This node's endpoints, and the reasons why some of them can't be reached.
#[derive(Debug, Clone, Default)]
pub struct OwnEndpoints {
    endpoints: Locals,
    closed: BTreeMap<EndpointId, String>,
}

impl OwnEndpoints {
    pub fn of(snapshot: &Snapshot, kernel: &Kernel) -> Self {
        Self {
            endpoints: snapshot.endpoints.clone(),
            closed: kernel.closed.clone(),
        }
    }

    pub fn is_closed_as(&self, kernel: &Kernel) -> bool {
        self.closed == kernel.closed
    }

    /// The endpoints whose published form changes from `self` to `now`.
    pub fn changes(&self, now: &Self) -> BTreeSet<EndpointId> {
        let changed = maps::changed(&self.endpoints, &now.endpoints).map(|(id, _)| id);
        let closed = self.closed.keys().chain(now.closed.keys());
        let closed = closed.filter(|id| self.closed.get(*id) != now.closed.get(*id));
        changed.chain(closed).cloned().collect()
    }

    /// The published form of an endpoint.
    pub fn published(&self, id: &EndpointId, me: &Identity) -> Option<Endpoint> {
        let endpoint = self.endpoints.get(id)?;
        Some(Endpoint {
            closed: self.closed.get(id).cloned(),
            ..to_published(endpoint, &me.node, me.vtep)
        })
    }
}

/// This node's endpoints as the bus has acknowledged them.
#[derive(Debug, Clone, Default)]
pub struct Published {
    own: OwnEndpoints,
    /// The node withdrew its endpoints and publishes nothing more.
    left: bool,
    /// Why the bus refuses them, and what to do.
    pub trouble: Option<String>,
    /// Endpoints whose message is longer than the stream takes, with the server's reason.
    pub too_long: BTreeMap<EndpointId, String>,
}

impl Published {
    pub fn all(own: OwnEndpoints, left: bool) -> Self {
        Self {
            own,
            left,
            ..Self::default()
        }
    }

    /// Before the stream is read it isn't known which endpoints the bus has.
    pub fn unknown(trouble: Option<String>) -> Self {
        Self {
            trouble,
            ..Self::default()
        }
    }

    /// The number of endpoints whose published form isn't the one in `now`.
    pub fn missing_count(&self, now: &OwnEndpoints) -> u64 {
        match self.left {
            true => 0,
            false => {
                let mut missing = self.own.changes(now);
                missing.extend(self.too_long.keys().cloned());
                missing.len() as u64
            }
        }
    }
}

/// The published form of an endpoint that is open.
pub(crate) fn to_published(endpoint: &LocalEndpoint, node: &NodeName, vtep: IpAddr) -> Endpoint {
    let (mut v4, mut v6) = (None, None);
    for address in &endpoint.addresses {
        match address {
            IpAddr::V4(address) => v4 = Some(*address),
            IpAddr::V6(address) => v6 = Some(*address),
        }
    }
    Endpoint {
        id: endpoint.id.clone(),
        tenant: endpoint.tenant.clone(),
        network: endpoint.network.clone(),
        group: endpoint.group.clone(),
        node: node.clone(),
        v4,
        v6,
        mac: endpoint.mac,
        name: endpoint.name.clone(),
        aliases: endpoint.aliases.clone(),
        container: endpoint.container.clone(),
        interface: endpoint.host_interface.clone(),
        closed: None,
        vtep,
    }
}
