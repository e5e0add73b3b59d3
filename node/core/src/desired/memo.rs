//! What was thought before: of a domain only that is thought again whose facts are others, and of
//! its endpoints only those that came, went or are known better.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::event::Settings;
use bus_schema::{EndpointId, GroupId, GroupName, NetworkName, NodeName, TenantName};
use imbl::OrdMap;

use super::rules::Ruled;
use super::{DomainBuilder, Params, zone};
use crate::endpoint::{LocalEndpoint, Locals};
use crate::maps;
use crate::policy::Cache;
use crate::projection::{GroupFact, NetworkFact, NodeFact, Projection, TenantFact};
use crate::resource::{Place, Resources, State};

/// What was thought before; it saves work and changes no result.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    pub(super) compiled: Cache,
    ruled: BTreeMap<TenantName, Ruled>,
    things: BTreeMap<TenantName, Things>,
}

/// A domain without what decides about connections, and what it was made of.
#[derive(Debug, Clone)]
struct Things {
    of: Of,
    locals: Locals,
    built: Built,
}

/// What [`Built`] depends on beside the endpoints.
#[derive(Debug, Clone)]
struct Of {
    params: Params,
    settings: Settings,
    nodes: OrdMap<NodeName, NodeFact>,
    networks: OrdMap<NetworkName, NetworkFact>,
    groups: OrdMap<GroupName, GroupFact>,
    closed: BTreeSet<GroupId>,
    zone: u16,
}

#[derive(Debug, Clone)]
pub(super) struct Built {
    pub(super) place: Place,
    pub(super) zone: u16,
    pub(super) state: State,
    /// The local endpoints' addresses.
    pub(super) members: Resources,
    /// The groups with members here, each with how many addresses.
    pub(super) here: BTreeMap<GroupId, usize>,
}

impl Built {
    fn without(&mut self, part: &Self) {
        for (key, _) in part.state.iter() {
            self.state.remove(key);
        }
        for key in part.members.keys() {
            self.members.remove(key);
        }
        for (group, count) in &part.here {
            if let Some(all) = self.here.get_mut(group) {
                *all -= count;
            }
        }
        self.here.retain(|_, count| *count > 0);
    }

    fn with(&mut self, part: Self) {
        self.state.extend(part.state.resources().cloned());
        self.members.extend(part.members);
        for (group, count) in part.here {
            *self.here.entry(group).or_default() += count;
        }
    }
}

impl Of {
    fn new(facts: &Projection, tenant: &TenantName, params: &Params) -> Self {
        let fact = facts.tenants.get(tenant);
        Self {
            params: params.clone(),
            settings: facts.settings.clone(),
            nodes: facts.nodes.clone(),
            networks: fact.map(|it| it.networks.clone()).unwrap_or_default(),
            groups: fact.map(|it| it.groups.clone()).unwrap_or_default(),
            closed: fact.map(TenantFact::closed_groups).unwrap_or_default(),
            zone: zone(facts, tenant, params.kind),
        }
    }

    /// Whether nothing changed; what is shared isn't compared.
    fn is(&self, other: &Self) -> bool {
        (&self.params, &self.settings, self.zone) == (&other.params, &other.settings, other.zone)
            && self.nodes.ptr_eq(&other.nodes)
            && self.networks.ptr_eq(&other.networks)
            && self.groups.ptr_eq(&other.groups)
            && self.closed == other.closed
    }
}

impl Programs {
    pub(super) fn things(
        &mut self,
        facts: &Projection,
        tenant: &TenantName,
        locals: &Locals,
        params: &Params,
    ) -> Built {
        let of = Of::new(facts, tenant, params);
        let builder = || DomainBuilder::new(facts, tenant, params);
        let before = self.things.remove(tenant).filter(|it| it.of.is(&of));
        let built = match before {
            Some(things) if things.locals.ptr_eq(locals) => things.built,
            Some(Things {
                mut built,
                locals: before,
                ..
            }) => {
                let touched = touched(tenant, &before, locals);
                let those = |locals| builder().endpoints(&of_tenant(tenant, locals, &touched));
                built.without(&those(&before));
                built.with(those(locals));
                built
            }
            None => {
                let all = locals.values().map(|it| &**it);
                let all: Vec<_> = all.filter(|it| it.tenant == *tenant).collect();
                builder().build(&all)
            }
        };
        let things = Things {
            of,
            locals: locals.clone(),
            built: built.clone(),
        };
        self.things.insert(tenant.clone(), things);
        built
    }

    pub(super) fn rules(
        &mut self,
        tenant: &TenantName,
        fact: &TenantFact,
        built: &Built,
    ) -> Resources {
        let (place, zone) = (&built.place, built.zone);
        let new = || Ruled::new(place.clone(), zone);
        let ruled = self.ruled.entry(tenant.clone()).or_insert_with(new);
        if !ruled.is_of(place, zone) {
            *ruled = new();
        }
        let here = built.here.keys().copied().collect();
        ruled.follow((tenant, fact), (&built.members, &here), &mut self.compiled)
    }

    pub(super) fn forget(&mut self, tenant: &TenantName) {
        self.ruled.remove(tenant);
        self.things.remove(tenant);
        self.compiled.sweep(tenant);
        self.compiled.sweep(tenant);
    }
}

/// The endpoints that differ, and those of their containers.
fn touched(tenant: &TenantName, before: &Locals, after: &Locals) -> BTreeSet<EndpointId> {
    let (mut touched, mut containers) = (BTreeSet::new(), BTreeSet::new());
    for (old, new) in maps::differing(before, after) {
        for (_, endpoint) in [old, new].into_iter().flatten() {
            if endpoint.tenant == *tenant {
                touched.insert(endpoint.id.clone());
                containers.extend(endpoint.container.as_deref());
            }
        }
    }
    let is_beside = |it: &LocalEndpoint| {
        let container = it.container.as_deref();
        container.is_some_and(|it| containers.contains(it))
    };
    let beside = after.values().filter(|it| is_beside(it));
    touched.extend(beside.map(|it| it.id.clone()));
    touched
}

fn of_tenant<'a>(
    tenant: &TenantName,
    locals: &'a Locals,
    ids: &BTreeSet<EndpointId>,
) -> Vec<&'a LocalEndpoint> {
    let those = ids.iter().filter_map(|id| locals.get(id));
    those
        .map(|it| &**it)
        .filter(|it| it.tenant == *tenant)
        .collect()
}
