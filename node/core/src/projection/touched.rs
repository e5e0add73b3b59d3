//! The nouns that an event touched, whose desired state has to be computed again. Pure.

use std::collections::BTreeSet;

use bus_schema::{NetworkName, NodeName, TenantName};

/// A set of nouns. A tenant stands for all its networks, `cluster` for everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    pub cluster: bool,
    pub nodes: BTreeSet<NodeName>,
    pub tenants: BTreeSet<TenantName>,
    pub networks: BTreeSet<(TenantName, NetworkName)>,
}

impl Touched {
    pub fn cluster() -> Self {
        Self {
            cluster: true,
            ..Self::default()
        }
    }

    pub fn node(node: &NodeName) -> Self {
        Self {
            nodes: BTreeSet::from([node.clone()]),
            ..Self::default()
        }
    }

    pub fn tenant(tenant: &TenantName) -> Self {
        Self {
            tenants: BTreeSet::from([tenant.clone()]),
            ..Self::default()
        }
    }

    pub fn network(tenant: &TenantName, network: &NetworkName) -> Self {
        Self {
            networks: BTreeSet::from([(tenant.clone(), network.clone())]),
            ..Self::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn merge(&mut self, other: Self) {
        self.cluster |= other.cluster;
        self.nodes.extend(other.nodes);
        self.tenants.extend(other.tenants);
        self.networks.extend(other.networks);
    }
}
