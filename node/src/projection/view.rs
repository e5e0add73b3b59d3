//! The endpoints of the whole cluster, for who looks names and addresses up.
//!
//! Pure; a snapshot is a cheap clone. Holds what other nodes published and what this node's own
//! journal knows. An endpoint that says more than the log has told us yet is held back until the
//! log gets there. The bus and the endpoints' manager feed it; DNS, Docker and `status` read it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bus_schema::{
    Endpoint, EndpointEvent, EndpointId, NetworkName, NodeName, Revision, TenantName,
};
use imbl::{OrdMap, OrdSet};

/// A name in a network, or `NAME.NETWORK` in the whole tenant.
type NameKey = (TenantName, Option<NetworkName>, String);

/// Endpoints by id, by name in their network, and by address in their tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointsView {
    applied: Revision,
    shown: OrdMap<EndpointId, Arc<Endpoint>>,
    held: OrdMap<EndpointId, (Revision, Arc<Endpoint>)>,
    /// Names in lower case: DNS compares without case (RFC 4343).
    names: OrdMap<NameKey, OrdSet<(IpAddr, EndpointId)>>,
    addresses: OrdMap<(TenantName, IpAddr), EndpointId>,
    /// Endpoints of one container, which lives on one node.
    containers: OrdMap<(NodeName, String), OrdSet<EndpointId>>,
}

impl EndpointsView {
    /// The addresses behind a name, an alias or a group of a network, or, without a network,
    /// behind `NAME.NETWORK`; no item: nobody bears it.
    pub fn resolve(
        &self,
        tenant: &TenantName,
        network: Option<&NetworkName>,
        name: &str,
    ) -> impl Iterator<Item = IpAddr> {
        let key = (tenant.clone(), network.cloned(), name.to_lowercase());
        self.names
            .get(&key)
            .into_iter()
            .flat_map(|found| found.iter().map(|(address, _)| *address))
    }

    /// Who bears an address: the asker of a question, or what a PTR question is about.
    pub fn at(&self, tenant: &TenantName, address: IpAddr) -> Option<&Endpoint> {
        let id = self.addresses.get(&(tenant.clone(), address))?;
        self.shown.get(id).map(AsRef::as_ref)
    }

    /// The endpoint itself and the others of its container.
    pub fn beside<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a Endpoint> {
        let others = container_of(endpoint).and_then(|key| self.containers.get(&key));
        let others = others.into_iter().flatten().filter_map(|id| self.get(id));
        std::iter::once(endpoint).chain(others.filter(|other| other.id != endpoint.id))
    }

    pub fn get(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.shown.get(id).map(AsRef::as_ref)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.shown.values().map(AsRef::as_ref)
    }

    pub fn len(&self) -> usize {
        self.shown.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Takes in what a node says of one of its endpoints.
    pub fn hear(&mut self, event: EndpointEvent) {
        match event {
            EndpointEvent::Up { endpoint, applied } if applied > self.applied => {
                self.held
                    .insert(endpoint.id.clone(), (applied, Arc::new(endpoint)));
            }
            EndpointEvent::Up { endpoint, .. } => self.show(Arc::new(endpoint)),
            EndpointEvent::Down { id, node, .. } => self.remove(&id, &node),
            EndpointEvent::Unknown => {}
        }
    }

    /// Shows an endpoint at once.
    pub fn show(&mut self, endpoint: Arc<Endpoint>) {
        self.hide(&endpoint.id);
        self.held.remove(&endpoint.id);
        for key in names_of(&endpoint) {
            let bearers = self.names.entry(key).or_default();
            for address in endpoint.addresses() {
                bearers.insert((address, endpoint.id.clone()));
            }
        }
        for address in endpoint.addresses() {
            self.addresses
                .insert((endpoint.tenant.clone(), address), endpoint.id.clone());
        }
        if let Some(key) = container_of(&endpoint) {
            let endpoints = self.containers.entry(key).or_default();
            endpoints.insert(endpoint.id.clone());
        }
        self.shown.insert(endpoint.id.clone(), endpoint);
    }

    /// Removes an endpoint, when it is that node's.
    pub fn remove(&mut self, id: &EndpointId, node: &NodeName) {
        if self.held.get(id).is_some_and(|(_, e)| e.node == *node) {
            self.held.remove(id);
        }
        if self.shown.get(id).is_some_and(|e| e.node == *node) {
            self.hide(id);
        }
    }

    /// The log has got here: shows what was held back for it.
    pub fn advance(&mut self, applied: Revision) {
        self.applied = applied;
        let due: Vec<Arc<Endpoint>> = self
            .held
            .values()
            .filter(|(needs, _)| *needs <= applied)
            .map(|(_, endpoint)| endpoint.clone())
            .collect();
        for endpoint in due {
            self.show(endpoint);
        }
    }

    /// After hearing the stream from its start: removes what other nodes don't publish any more.
    pub fn prune(&mut self, heard: &BTreeSet<EndpointId>, me: &NodeName) {
        let gone: Vec<(EndpointId, NodeName)> = self
            .shown
            .values()
            .chain(self.held.values().map(|(_, endpoint)| endpoint))
            .filter(|endpoint| endpoint.node != *me && !heard.contains(&endpoint.id))
            .map(|endpoint| (endpoint.id.clone(), endpoint.node.clone()))
            .collect();
        for (id, node) in gone {
            self.remove(&id, &node);
        }
    }

    fn hide(&mut self, id: &EndpointId) {
        let Some(endpoint) = self.shown.remove(id) else {
            return;
        };
        for key in names_of(&endpoint) {
            if let Some(bearers) = self.names.get_mut(&key) {
                for address in endpoint.addresses() {
                    bearers.remove(&(address, id.clone()));
                }
                if bearers.is_empty() {
                    self.names.remove(&key);
                }
            }
        }
        for address in endpoint.addresses() {
            let key = (endpoint.tenant.clone(), address);
            if self.addresses.get(&key) == Some(id) {
                self.addresses.remove(&key);
            }
        }
        if let Some(key) = container_of(&endpoint)
            && let Some(endpoints) = self.containers.get_mut(&key)
        {
            endpoints.remove(id);
            if endpoints.is_empty() {
                self.containers.remove(&key);
            }
        }
    }
}

fn container_of(endpoint: &Endpoint) -> Option<(NodeName, String)> {
    let container = endpoint.container.clone()?;
    Some((endpoint.node.clone(), container))
}

fn names_of(endpoint: &Endpoint) -> BTreeSet<NameKey> {
    let names = endpoint.name.iter().chain(&endpoint.aliases);
    let group = endpoint.group.iter().map(|group| group.as_str());
    let (tenant, network) = (&endpoint.tenant, &endpoint.network);
    let in_lower_case = names
        .map(String::as_str)
        .chain(group)
        .map(str::to_lowercase);
    in_lower_case
        .flat_map(|name| {
            let everywhere = format!("{name}.{}", network.as_str().to_lowercase());
            [
                (tenant.clone(), Some(network.clone()), name),
                (tenant.clone(), None, everywhere),
            ]
        })
        .collect()
}
