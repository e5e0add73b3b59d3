//! Changes of a tenant's or a network's settings: those that a command gives, and no others.

use bus_schema::command::{NetworkUpdate, TenantCreate, TenantUpdate};
use bus_schema::event::{NetworkUpdated, TenantUpdated};
use bus_schema::{Event, Rejection, TenantName, update_limit};

use super::Tenant;

impl Tenant {
    /// Accepts a second creation that asks for what there is.
    pub(super) fn same_again(&self, c: &TenantCreate) -> Result<(), Rejection> {
        let is = self.max_connections.unwrap_or_default();
        match c.max_connections.is_some_and(|max| max != is) {
            false => Ok(()),
            true => Err(Rejection::TenantDiffers {
                tenant: c.tenant.clone(),
                differs: "limit of connections".to_owned(),
            }),
        }
    }

    pub(super) fn update(&self, c: &TenantUpdate) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        let updated = tenant_updated(c.tenant.clone(), c.max_connections);
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
        };
        let mut limit = intent.spec.max_connections;
        update_limit(&mut limit, c.max_connections);
        Ok(match limit == intent.spec.max_connections {
            true => vec![],
            false => vec![Event::NetworkUpdated(updated)],
        })
    }
}

/// The event that changes a tenant's settings.
pub(super) fn tenant_updated(tenant: TenantName, max_connections: Option<u32>) -> Event {
    Event::TenantUpdated(TenantUpdated {
        tenant,
        max_connections,
    })
}
