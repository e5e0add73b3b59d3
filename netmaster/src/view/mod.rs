//! What netmaster can tell of the cluster: the fold of the whole log, of what nodes publish
//! about endpoints, and of their statuses.
//!
//! Pure. Answers queries and feeds the reactions; no command is decided on it, except for what
//! isn't in the log (whether a node is alive).

mod answers;

use std::collections::BTreeMap;

use bus_schema::event::Settings;
use bus_schema::node::{ALIVE_MS, NodeStatus};
use bus_schema::{
    ClusterId, Endpoint, EndpointEvent, EndpointId, Event, MachineId, NetworkName, NetworkSpec,
    NodeName, Revision, TenantName,
};
use ipnet::IpNet;
use std::net::IpAddr;

/// Where an endpoint is published: its tenant, node and id.
pub(crate) type EndpointKey = (TenantName, NodeName, EndpointId);

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) settings: Settings,
    /// The last revision folded in.
    pub(crate) applied: Revision,
    pub(crate) tenants: BTreeMap<TenantName, BTreeMap<NetworkName, NetworkView>>,
    pub(crate) nodes: BTreeMap<NodeName, NodeView>,
    pub(crate) endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub(crate) statuses: BTreeMap<NodeName, Heard>,
    /// Tenants with events that this build mustn't guess at, and where the first lies.
    pub(crate) newer: BTreeMap<TenantName, Revision>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkView {
    pub(crate) spec: NetworkSpec,
    pub(crate) created: Revision,
    /// Where its removal began.
    pub(crate) closing: Option<Revision>,
    /// Who gives out which addresses, and since when.
    pub(crate) blocks: BTreeMap<IpNet, (NodeName, Revision)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeView {
    pub(crate) machine: MachineId,
    pub(crate) vtep: IpAddr,
}

/// A status, and when it was heard, in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub(crate) status: NodeStatus,
    pub(crate) at: u64,
}

impl View {
    /// Folds an event of the log in; `None`: one that this build can't read.
    pub(crate) fn apply(&mut self, revision: Revision, event: Option<&Event>) {
        if revision <= self.applied {
            return;
        }
        self.applied = revision;
        let Some(event) = event else { return };
        match event {
            Event::ClusterCreated(e) => {
                self.cluster = Some(e.cluster);
                self.settings = e.settings.clone();
            }
            Event::TenantCreated(e) => {
                self.tenants.entry(e.tenant.clone()).or_default();
            }
            Event::TenantRemoved(e) => {
                self.tenants.remove(&e.tenant);
            }
            Event::NodeJoined(e) => {
                let node = NodeView {
                    machine: e.machine.clone(),
                    vtep: e.vtep,
                };
                self.nodes.insert(e.node.clone(), node);
            }
            Event::NodeRemoved(e) => {
                self.nodes.remove(&e.node);
                self.statuses.remove(&e.node);
            }
            Event::NetworkCreated(e) => self.created(revision, &e.network),
            Event::NetworkRemoved(e) => {
                if let Some(networks) = self.tenants.get_mut(&e.tenant) {
                    networks.remove(&e.network);
                }
            }
            Event::NetworkClosing(e) => {
                self.change(&e.tenant, &e.network, |n| n.closing = Some(revision));
            }
            Event::NetworkReopened(e) => self.change(&e.tenant, &e.network, |n| n.closing = None),
            Event::BlockLeased(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.insert(e.block, (e.node.clone(), revision));
            }),
            Event::BlockCeded(e) => self.change(&e.tenant, &e.network, |n| {
                let block = IpNet::from(e.address);
                n.blocks.insert(block, (e.to.clone(), revision));
            }),
            Event::BlockReturned(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::BlockRevoked(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::Barrier
            | Event::TenantOpened(_)
            | Event::TenantClosed(_)
            | Event::VniAssigned(_)
            | Event::VniReleased(_)
            | Event::LeasesOpened(_)
            | Event::LeasesClosing(_)
            | Event::LeasesReopened(_)
            | Event::LeasesClosed(_)
            | Event::Unknown => {}
        }
    }

    /// An event of this tenant was written for newer netmasters only.
    pub(crate) fn is_older(&mut self, tenant: TenantName, revision: Revision) {
        self.newer.entry(tenant).or_insert(revision);
    }

    fn created(&mut self, revision: Revision, spec: &NetworkSpec) {
        let network = NetworkView {
            spec: spec.clone(),
            created: revision,
            closing: None,
            blocks: BTreeMap::new(),
        };
        let networks = self.tenants.entry(spec.tenant.clone()).or_default();
        networks.insert(spec.name.clone(), network);
    }

    fn change(
        &mut self,
        tenant: &TenantName,
        network: &NetworkName,
        how: impl FnOnce(&mut NetworkView),
    ) {
        let networks = self.tenants.get_mut(tenant);
        if let Some(network) = networks.and_then(|n| n.get_mut(network)) {
            how(network);
        }
    }

    /// A node says that it is as `status` says, at `now` in milliseconds since 1970.
    pub(crate) fn hear(&mut self, status: NodeStatus, now: u64) {
        let heard = Heard { status, at: now };
        self.statuses.insert(heard.status.node.clone(), heard);
    }

    /// Whether a member of the cluster was heard a moment ago.
    pub(crate) fn alive(&self, node: &NodeName, now: u64) -> bool {
        let heard = self.statuses.get(node);
        self.nodes.contains_key(node)
            && heard.is_some_and(|heard| now.saturating_sub(heard.at) <= ALIVE_MS)
    }

    pub(crate) fn network(
        &self,
        tenant: &TenantName,
        network: &NetworkName,
    ) -> Option<&NetworkView> {
        self.tenants.get(tenant)?.get(network)
    }

    /// Networks of which a node holds blocks.
    pub(crate) fn held_by(&self, node: &NodeName) -> Vec<NetworkName> {
        let networks = self.tenants.values().flat_map(BTreeMap::values);
        networks
            .filter(|network| network.blocks.values().any(|(holder, _)| holder == node))
            .map(|network| network.spec.name.clone())
            .collect()
    }
}

impl NetworkView {
    /// Who holds blocks, each once.
    pub(crate) fn holders(&self) -> Vec<NodeName> {
        let mut nodes: Vec<NodeName> = self.blocks.values().map(|(node, _)| node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }
}

/// Takes what a node published about one of its endpoints into `endpoints`.
pub(crate) fn publish(endpoints: &mut BTreeMap<EndpointKey, Endpoint>, event: &EndpointEvent) {
    match event {
        EndpointEvent::Up { endpoint, .. } => {
            let key = (
                endpoint.tenant.clone(),
                endpoint.node.clone(),
                endpoint.id.clone(),
            );
            endpoints.insert(key, endpoint.clone());
        }
        EndpointEvent::Down {
            tenant, node, id, ..
        } => {
            endpoints.remove(&(tenant.clone(), node.clone(), id.clone()));
        }
        EndpointEvent::Unknown => {}
    }
}

#[cfg(test)]
mod tests;
