//! This node's own endpoints, as others see them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::{Endpoint, EndpointId, NodeName};

use super::Identity;
use crate::endpoint::{Kernel, LocalEndpoint, Locals, Snapshot};
use node_core::maps;

/// The endpoints, and which of them nobody can reach, and why.
#[derive(Debug, Clone, Default)]
pub struct Own {
    endpoints: Locals,
    closed: BTreeMap<EndpointId, String>,
}

impl Own {
    pub fn of(snapshot: &Snapshot, kernel: &Kernel) -> Self {
        Self {
            endpoints: snapshot.endpoints.clone(),
            closed: kernel.closed.clone(),
        }
    }

    pub fn is_closed_as(&self, kernel: &Kernel) -> bool {
        self.closed == kernel.closed
    }

    /// Those that others see otherwise than before.
    pub fn changes(&self, now: &Self) -> BTreeSet<EndpointId> {
        let changed = maps::changed(&self.endpoints, &now.endpoints).map(|(id, _)| id);
        let closed = self.closed.keys().chain(now.closed.keys());
        let closed = closed.filter(|id| self.closed.get(*id) != now.closed.get(*id));
        changed.chain(closed).cloned().collect()
    }

    pub fn shown(&self, id: &EndpointId, me: &Identity) -> Option<Endpoint> {
        let endpoint = self.endpoints.get(id)?;
        Some(Endpoint {
            closed: self.closed.get(id).cloned(),
            ..public(endpoint, &me.node, me.vtep)
        })
    }
}

/// What the bus acknowledged of this node's endpoints.
#[derive(Debug, Clone, Default)]
pub struct Published {
    own: Own,
    /// The node withdrew its endpoints and publishes nothing more.
    left: bool,
    /// Why the bus takes nothing, and what to do.
    pub trouble: Option<String>,
}

impl Published {
    pub fn all(own: Own, left: bool) -> Self {
        Self {
            own,
            left,
            trouble: None,
        }
    }

    /// It isn't known what the bus has.
    pub fn unknown(trouble: Option<String>) -> Self {
        Self {
            trouble,
            ..Self::default()
        }
    }

    /// How many endpoints others see otherwise than `now`.
    pub fn lacks(&self, now: &Own) -> u64 {
        match self.left {
            true => 0,
            false => self.own.changes(now).len() as u64,
        }
    }
}

/// Our own endpoint, as others see it.
pub fn public(endpoint: &LocalEndpoint, node: &NodeName, vtep: IpAddr) -> Endpoint {
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
