//! The memo of each tenant: a domain is rebuilt only if its inputs changed, and in it only the
//! endpoints that were added, removed or changed.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::event::Settings;
use bus_schema::{EndpointId, GroupId, GroupName, NetworkName, NodeName, TenantName};
use imbl::OrdMap;

use super::domain::DomainBuilder;
use super::rules::DomainRules;
use super::{Params, zone};
use crate::endpoint::{LocalEndpoint, Locals};
use crate::maps;
use crate::policy::Cache;
use crate::projection::{GroupFact, NetworkFact, NodeFact, Projection, TenantFact};
use crate::resource::{Place, Resources, State};

/// Earlier results by tenant; they save work and change no result.
#[derive(Debug, Clone, Default)]
pub struct Programs {
    pub(super) compiled: Cache,
    rules: BTreeMap<TenantName, DomainRules>,
    domains: BTreeMap<TenantName, MemoizedDomain>,
}

/// A domain without its compiled rules, and the inputs of which it was made.
#[derive(Debug, Clone)]
struct MemoizedDomain {
    inputs: Inputs,
    locals: Locals,
    built: Built,
}

/// The inputs of [`Built`], besides the endpoints.
#[derive(Debug, Clone)]
struct Inputs {
    params: Params,
    settings: Settings,
    nodes: OrdMap<NodeName, NodeFact>,
    networks: OrdMap<NetworkName, NetworkFact>,
    groups: OrdMap<GroupName, GroupFact>,
    closed: BTreeSet<GroupId>,
    max_connections: Option<u32>,
    zone: u16,
}

/// The resources of a domain, or of some of its endpoints, without its compiled rules.
#[derive(Debug, Clone)]
pub(super) struct Built {
    pub(super) place: Place,
    pub(super) zone: u16,
    pub(super) state: State,
    /// The local endpoints' addresses, and the limits of their connections.
    pub(super) members: Resources,
    /// The groups with local members, and the number of their addresses.
    pub(super) here: BTreeMap<GroupId, usize>,
}

impl Built {
    fn remove(&mut self, part: &Self) {
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

    fn add(&mut self, part: Self) {
        self.state.extend(part.state.resources().cloned());
        self.members.extend(part.members);
        for (group, count) in part.here {
            *self.here.entry(group).or_default() += count;
        }
    }
}

impl Inputs {
    fn new(facts: &Projection, tenant: &TenantName, params: &Params) -> Self {
        let fact = facts.tenants.get(tenant);
        Self {
            params: params.clone(),
            settings: facts.settings.clone(),
            nodes: facts.nodes.clone(),
            networks: fact.map(|it| it.networks.clone()).unwrap_or_default(),
            groups: fact.map(|it| it.groups.clone()).unwrap_or_default(),
            closed: fact.map(TenantFact::closed_groups).unwrap_or_default(),
            max_connections: fact.and_then(|it| it.max_connections),
            zone: zone(facts, tenant, params.kind),
        }
    }

    /// Whether nothing changed; shared maps are compared by their pointers.
    fn is_same(&self, other: &Self) -> bool {
        (&self.params, &self.settings, self.zone) == (&other.params, &other.settings, other.zone)
            && self.nodes.ptr_eq(&other.nodes)
            && self.networks.ptr_eq(&other.networks)
            && self.groups.ptr_eq(&other.groups)
            && self.closed == other.closed
            && self.max_connections == other.max_connections
    }
}

impl Programs {
    /// The domain of these facts, without its compiled rules.
    pub(super) fn domain(
        &mut self,
        facts: &Projection,
        tenant: &TenantName,
        locals: &Locals,
        params: &Params,
    ) -> Built {
        let inputs = Inputs::new(facts, tenant, params);
        let builder = || DomainBuilder::new(facts, tenant, params);
        let before = self.domains.remove(tenant);
        let before = before.filter(|it| it.inputs.is_same(&inputs));
        let built = match before {
            Some(it) if it.locals.ptr_eq(locals) => it.built,
            Some(MemoizedDomain {
                mut built,
                locals: before,
                ..
            }) => {
                let touched = touched(tenant, &before, locals);
                let those = |locals| builder().endpoints(&of_tenant(tenant, locals, &touched));
                built.remove(&those(&before));
                built.add(those(locals));
                built
            }
            None => {
                let all = locals.values().map(|it| &**it);
                let all: Vec<_> = all.filter(|it| it.tenant == *tenant).collect();
                builder().build(&all)
            }
        };
        let domain = MemoizedDomain {
            inputs,
            locals: locals.clone(),
            built: built.clone(),
        };
        self.domains.insert(tenant.clone(), domain);
        built
    }

    /// The compiled rules of the domain.
    pub(super) fn rules(
        &mut self,
        tenant: &TenantName,
        fact: &TenantFact,
        built: &Built,
    ) -> Resources {
        let (place, zone) = (&built.place, built.zone);
        let new = || DomainRules::new(place.clone(), zone);
        let rules = self.rules.entry(tenant.clone()).or_insert_with(new);
        if !rules.is_of(place, zone) {
            *rules = new();
        }
        let here = built.here.keys().copied().collect();
        rules.update((tenant, fact), (&built.members, &here), &mut self.compiled)
    }

    /// Drops all results of a tenant.
    pub(super) fn drop_tenant(&mut self, tenant: &TenantName) {
        self.rules.remove(tenant);
        self.domains.remove(tenant);
        self.compiled.sweep(tenant);
        self.compiled.sweep(tenant);
    }
}

/// The endpoints that differ, and the others of their containers.
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
