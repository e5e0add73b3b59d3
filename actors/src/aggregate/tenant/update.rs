//! Changes of a tenant's or a network's settings: those that a command gives, and no others.

use bus_schema::command::{NetworkUpdate, TenantCreate, TenantUpdate};
use bus_schema::event::{NetworkUpdated, TenantUpdated};
use bus_schema::{Egress, Event, Rejection};

use super::Tenant;

impl Tenant {
    /// Accepts a second creation that asks for what there is.
    pub(super) fn same_again(&self, c: &TenantCreate) -> Result<(), Rejection> {
        let max = self.max_connections.unwrap_or_default();
        let egress = self.egress.unwrap_or(Egress::OF_NEW_NETWORKS);
        let differences = [
            (
                c.max_connections.is_some_and(|it| it != max),
                "limit of connections",
            ),
            (
                c.egress.is_some_and(|it| it != egress),
                "way out of new networks",
            ),
        ];
        match first_difference(&differences) {
            None => Ok(()),
            Some(differs) => Err(Rejection::TenantDiffers {
                tenant: c.tenant.clone(),
                differs,
            }),
        }
    }

    pub(super) fn update(&self, c: &TenantUpdate) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        let updated = Event::TenantUpdated(TenantUpdated {
            tenant: c.tenant.clone(),
            max_connections: c.max_connections,
            egress: c.egress,
        });
        let mut changed = self.clone();
        super::Aggregate::evolve(&mut changed, &updated);
        Ok(match changed == *self {
            true => vec![],
            false => vec![updated],
        })
    }

    pub(super) fn network_update(&self, c: &NetworkUpdate) -> Result<Vec<Event>, Rejection> {
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        self.must_be_open(&tenant)?;
        let Some(intent) = self.networks.get(&network) else {
            return Err(Rejection::NetworkUnknown { tenant, network });
        };
        if intent.closing {
            return Err(Rejection::NetworkClosing { tenant, network });
        }
        let updated = NetworkUpdated {
            tenant,
            network,
            max_connections: c.max_connections,
            egress: c.egress,
            allow_metadata: c.allow_metadata,
        };
        let mut changed = intent.spec.clone();
        updated.apply(&mut changed);
        Ok(match changed == intent.spec {
            true => vec![],
            false => vec![Event::NetworkUpdated(updated)],
        })
    }
}

/// The event with the settings of a new tenant, unless all are the defaults.
pub(super) fn settings(c: &TenantCreate) -> Option<Event> {
    let max_connections = c.max_connections.filter(|it| *it > 0);
    let egress = c.egress.filter(|it| *it != Egress::OF_NEW_NETWORKS);
    (max_connections.is_some() || egress.is_some()).then(|| {
        Event::TenantUpdated(TenantUpdated {
            tenant: c.tenant.clone(),
            max_connections,
            egress,
        })
    })
}

/// The name of the first setting that differs.
pub(super) fn first_difference(differences: &[(bool, &str)]) -> Option<String> {
    let mut differences = differences.iter();
    let (_, setting) = differences.find(|(differs, _)| *differs)?;
    Some((*setting).to_owned())
}
