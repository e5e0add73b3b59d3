//! A group's own pool: a range of its network with leases of its own.

use bus_schema::event::{
    LeasesClosed, LeasesClosing, LeasesOpened, LeasesReopened, PoolReleased, PoolReserved,
};
use bus_schema::{
    AddressRange, Event, GroupName, GroupSpec, NetworkSpec, Pool, PoolKey, Rejection, TenantName,
    subnet,
};

use super::{Tenant, TenantFacts};

impl Tenant {
    /// The pool of this range, if a group can have it. A group being removed still counts: its addresses
    /// are in use until it is gone.
    pub(super) fn pool(
        &self,
        range: AddressRange,
        network: &NetworkSpec,
        facts: &TenantFacts,
    ) -> Result<Pool, Rejection> {
        let pool = subnet::group_pool(range, &network.name, &network.v4)?;
        self.must_not_overlap_pools(range, network)?;
        let mut leased = facts.blocks(&PoolKey::of_network(&network.tenant, &network.name));
        leased.retain(|it| range.overlaps(&it.block.into()));
        if !leased.is_empty() {
            return Err(Rejection::PoolLeased {
                pool: range,
                network: network.name.clone(),
                blocks: leased,
            });
        }
        Ok(pool)
    }

    fn must_not_overlap_pools(
        &self,
        range: AddressRange,
        network: &NetworkSpec,
    ) -> Result<(), Rejection> {
        let groups = self.groups.values().map(|group| &group.spec);
        let mut others = groups
            .filter(|spec| spec.network == network.name)
            .filter_map(|spec| Some((&spec.name, spec.pool?)));
        match others.find(|(_, other)| other.overlaps(&range)) {
            None => Ok(()),
            Some((group, other)) => Err(Rejection::PoolOverlaps {
                pool: range,
                group: group.clone(),
                other,
            }),
        }
    }

    /// The pools that a group's removal changes: none, if it has no addresses of its own.
    pub(super) fn pools_of_group(&self, tenant: &TenantName, group: &GroupName) -> Vec<PoolKey> {
        let spec = self.groups.get(group).map(|group| &group.spec);
        let Some(own) = spec.and_then(key) else {
            return vec![];
        };
        vec![PoolKey::of_network(tenant, &own.network), own]
    }
}

/// The group's own pool, from whose blocks its members get their addresses.
pub(super) fn key(spec: &GroupSpec) -> Option<PoolKey> {
    spec.pool?;
    Some(PoolKey::of_group(&spec.tenant, &spec.network, &spec.name))
}

/// The events that come with the group's creation.
pub(super) fn opened(spec: &GroupSpec, pool: Pool) -> Vec<Event> {
    let range = pool.span();
    vec![
        Event::PoolReserved(PoolReserved {
            tenant: spec.tenant.clone(),
            network: spec.network.clone(),
            group: spec.name.clone(),
            range,
        }),
        Event::LeasesOpened(LeasesOpened {
            tenant: spec.tenant.clone(),
            network: spec.network.clone(),
            group: Some(spec.name.clone()),
            v4: pool,
            v6: None,
        }),
    ]
}

/// The event that comes with the beginning of its removal.
pub(super) fn closing(spec: &GroupSpec) -> Option<Event> {
    let key = key(spec)?;
    Some(Event::LeasesClosing(LeasesClosing {
        tenant: key.tenant,
        network: key.network,
        group: key.group,
    }))
}

/// The event that comes when its removal is aborted.
pub(super) fn reopened(spec: &GroupSpec) -> Option<Event> {
    let key = key(spec)?;
    Some(Event::LeasesReopened(LeasesReopened {
        tenant: key.tenant,
        network: key.network,
        group: key.group,
    }))
}

/// The events that come with its removal.
pub(super) fn closed(spec: &GroupSpec) -> Vec<Event> {
    let Some(key) = key(spec) else {
        return vec![];
    };
    vec![
        Event::LeasesClosed(LeasesClosed {
            tenant: key.tenant.clone(),
            network: key.network.clone(),
            group: key.group,
        }),
        Event::PoolReleased(PoolReleased {
            tenant: key.tenant,
            network: key.network,
            group: spec.name.clone(),
        }),
    ]
}
