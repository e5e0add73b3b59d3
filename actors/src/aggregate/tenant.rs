//! A tenant's intent: its networks, and whether they may be what they are asked to be.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus_schema::command::{NetworkCreate, NetworkRemove, Removal, TenantCreate, TenantRemove};
use bus_schema::event::{
    LeasesClosed, LeasesClosing, LeasesOpened, LeasesReopened, NetworkClosing, NetworkCreated,
    NetworkRemoved, NetworkReopened, TenantClosed, TenantCreated, TenantOpened, TenantRemoved,
    VniAssigned, VniReleased,
};
use bus_schema::{Event, NetworkName, NetworkSpec, Rejection, TenantName};

use super::{Aggregate, Cluster, Network};

mod subnet;

/// The fold of `contiv.log.<tenant>.intent.>`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tenant {
    pub open: bool,
    pub networks: BTreeMap<NetworkName, NetworkIntent>,
}

/// A network as its tenant wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkIntent {
    pub spec: NetworkSpec,
    pub closing: bool,
}

#[derive(Debug, Clone)]
pub enum TenantCommand {
    Create(TenantCreate),
    Remove(TenantRemove),
    NetworkCreate(NetworkCreate),
    NetworkRemove(NetworkRemove),
}

impl TenantCommand {
    /// The network that the command is about, if one.
    pub fn network(&self) -> Option<(&TenantName, &NetworkName)> {
        match self {
            Self::Create(_) | Self::Remove(_) => None,
            Self::NetworkCreate(c) => Some((&c.tenant, &c.network)),
            Self::NetworkRemove(c) => Some((&c.tenant, &c.network)),
        }
    }
}

#[derive(Debug, Clone, Default)]
pub struct TenantFacts {
    pub cluster: Arc<Cluster>,
    /// The leases of the network that the command is about.
    pub network: Arc<Network>,
}

impl Tenant {
    fn create(&self, c: &TenantCreate) -> Vec<Event> {
        if self.open {
            return vec![];
        }
        let tenant = c.tenant.clone();
        vec![
            Event::TenantCreated(TenantCreated {
                tenant: tenant.clone(),
            }),
            Event::TenantOpened(TenantOpened { tenant }),
        ]
    }

    fn remove(&self, c: &TenantRemove) -> Result<Vec<Event>, Rejection> {
        let tenant = c.tenant.clone();
        if tenant == TenantName::default_tenant() {
            return Err(Rejection::TenantIsDefault);
        }
        self.must_be_open(&tenant)?;
        if !self.networks.is_empty() {
            let networks = self.networks.keys().cloned().collect();
            return Err(Rejection::TenantInUse { tenant, networks });
        }
        Ok(vec![
            Event::TenantRemoved(TenantRemoved {
                tenant: tenant.clone(),
            }),
            Event::TenantClosed(TenantClosed { tenant }),
        ])
    }

    fn network_create(
        &self,
        c: &NetworkCreate,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        let pool = subnet::pool(c)?;
        if let Some(existing) = self.networks.get(&c.network) {
            return subnet::same_again(existing, c, &pool).map(|()| vec![]);
        }
        self.must_not_overlap(c, pool.subnet)?;
        let vni = facts.cluster.free_vni(c.vni)?;
        let spec = NetworkSpec {
            tenant: c.tenant.clone(),
            name: c.network.clone(),
            vni,
            v4: pool.clone(),
            v6: None,
            docker_name: c.docker_name.clone(),
        };
        self.must_not_share_docker_name(&spec)?;
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        Ok(vec![
            Event::NetworkCreated(NetworkCreated { network: spec }),
            Event::VniAssigned(VniAssigned {
                vni,
                tenant: tenant.clone(),
                network: network.clone(),
            }),
            Event::LeasesOpened(LeasesOpened {
                tenant,
                network,
                v4: pool,
                v6: None,
            }),
        ])
    }

    fn network_remove(
        &self,
        c: &NetworkRemove,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        self.must_be_open(&tenant)?;
        let Some(intent) = self.networks.get(&network) else {
            // Whoever finishes a removal wants it gone: so it is.
            return match c.mode {
                Removal::Finish => Ok(vec![]),
                Removal::Close | Removal::Abort | Removal::Force => {
                    Err(Rejection::NetworkUnknown { tenant, network })
                }
            };
        };
        match c.mode {
            Removal::Close if intent.closing => Ok(vec![]),
            Removal::Close => Ok(closing(tenant, network)),
            Removal::Abort | Removal::Finish if !intent.closing => {
                Err(Rejection::NetworkNotClosing { tenant, network })
            }
            Removal::Abort => Ok(reopened(tenant, network)),
            Removal::Finish if !facts.network.blocks.is_empty() => Err(Rejection::NetworkHeld {
                tenant,
                network,
                nodes: facts.network.holders(),
            }),
            Removal::Finish | Removal::Force => {
                Ok(removed(&intent.spec, !facts.network.blocks.is_empty()))
            }
        }
    }

    fn must_be_open(&self, tenant: &TenantName) -> Result<(), Rejection> {
        if self.open {
            return Ok(());
        }
        Err(Rejection::TenantUnknown {
            tenant: tenant.clone(),
        })
    }

    /// A network being removed still counts: its addresses are in use until it is gone.
    fn must_not_overlap(&self, c: &NetworkCreate, subnet: ipnet::IpNet) -> Result<(), Rejection> {
        let overlapping = self.networks.values().find(|other| {
            let theirs = other.spec.v4.subnet;
            theirs.contains(&subnet) || subnet.contains(&theirs)
        });
        match overlapping {
            None => Ok(()),
            Some(other) => Err(Rejection::SubnetOverlaps {
                subnet,
                tenant: c.tenant.clone(),
                network: other.spec.name.clone(),
                other_subnet: other.spec.v4.subnet,
            }),
        }
    }

    fn must_not_share_docker_name(&self, spec: &NetworkSpec) -> Result<(), Rejection> {
        let name = spec.docker_network();
        let taken = |other: &&NetworkIntent| other.spec.docker_network() == name;
        match self.networks.values().find(taken) {
            None => Ok(()),
            Some(other) => Err(Rejection::Malformed {
                reason: format!(
                    "network {} of tenant {} is Docker network `{name}` already: choose another --nw-tag",
                    other.spec.name, spec.tenant
                ),
            }),
        }
    }
}

fn closing(tenant: TenantName, network: NetworkName) -> Vec<Event> {
    vec![
        Event::NetworkClosing(NetworkClosing {
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::LeasesClosing(LeasesClosing { tenant, network }),
    ]
}

fn reopened(tenant: TenantName, network: NetworkName) -> Vec<Event> {
    vec![
        Event::NetworkReopened(NetworkReopened {
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::LeasesReopened(LeasesReopened { tenant, network }),
    ]
}

fn removed(spec: &NetworkSpec, forced: bool) -> Vec<Event> {
    let (tenant, network, vni) = (spec.tenant.clone(), spec.name.clone(), spec.vni);
    vec![
        Event::NetworkRemoved(NetworkRemoved {
            tenant: tenant.clone(),
            network: network.clone(),
            vni,
            forced,
        }),
        Event::VniReleased(VniReleased {
            vni,
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::LeasesClosed(LeasesClosed { tenant, network }),
    ]
}

impl Aggregate for Tenant {
    type Command = TenantCommand;
    type Facts = TenantFacts;

    fn decide(
        &self,
        command: &TenantCommand,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        match command {
            TenantCommand::Create(c) => Ok(self.create(c)),
            TenantCommand::Remove(c) => self.remove(c),
            TenantCommand::NetworkCreate(c) => self.network_create(c, facts),
            TenantCommand::NetworkRemove(c) => self.network_remove(c, facts),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::TenantOpened(_) => self.open = true,
            Event::TenantClosed(_) => *self = Self::default(),
            Event::NetworkCreated(e) => {
                let intent = NetworkIntent {
                    spec: e.network.clone(),
                    closing: false,
                };
                self.networks.insert(e.network.name.clone(), intent);
            }
            Event::NetworkClosing(e) => self.set_closing(&e.network, true),
            Event::NetworkReopened(e) => self.set_closing(&e.network, false),
            Event::NetworkRemoved(e) => {
                self.networks.remove(&e.network);
            }
            _ => {}
        }
    }
}

impl Tenant {
    fn set_closing(&mut self, network: &NetworkName, closing: bool) {
        if let Some(intent) = self.networks.get_mut(network) {
            intent.closing = closing;
        }
    }
}

#[cfg(test)]
mod tests;
