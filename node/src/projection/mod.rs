//! What the log says, as this node needs it: the fold of its events.
//!
//! Pure. A snapshot is a clone, which is cheap: the maps share structure.

use bus_schema::event::Settings;
use bus_schema::{
    ClusterId, Event, EventId, MachineId, NetworkName, NetworkSpec, NodeName, Revision, TenantName,
};
use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Everything that the log has told this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// From the log's first event.
    pub cluster: Option<ClusterId>,
    pub settings: Settings,
    /// The last revision folded in, and that event's id: by both a node knows its log again.
    pub applied: Revision,
    pub applied_event: Option<EventId>,
    pub nodes: OrdMap<NodeName, NodeFact>,
    pub tenants: OrdMap<TenantName, TenantFact>,
}

/// Another node, or this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFact {
    pub machine: MachineId,
    pub vtep: IpAddr,
}

/// A tenant and its networks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantFact {
    pub networks: OrdMap<NetworkName, NetworkFact>,
    /// An event about this tenant was written for newer readers only: what it holds is closed for
    /// new connections.
    pub newer: bool,
}

/// A network and who gives out which of its addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFact {
    pub spec: NetworkSpec,
    /// It is being removed: no attaches, no leases.
    pub closing: bool,
    /// A ceded address is a /32 (or a /128) here, inside the block of its former holder.
    pub blocks: OrdMap<IpNet, NodeName>,
}

impl Projection {
    /// Folds one event in. Events come in the order of their revisions; one that was folded in
    /// before changes nothing.
    pub fn apply(&mut self, revision: Revision, id: EventId, event: &Event) {
        let _ = (revision, id, event);
        // to be written with its tests
    }

    pub fn network(&self, tenant: &TenantName, network: &NetworkName) -> Option<&NetworkFact> {
        self.tenants.get(tenant)?.networks.get(network)
    }
}
