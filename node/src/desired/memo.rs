//! What was thought before: of a domain only that is thought again whose facts are others.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::event::Settings;
use bus_schema::{GroupId, GroupName, NetworkName, NodeName, TenantName};
use imbl::OrdMap;

use super::rules::Ruled;
use super::{DomainBuilder, Params, zone};
use crate::endpoint::Locals;
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
    built: Built,
}

/// What [`Built`] depends on.
#[derive(Debug, Clone)]
struct Of {
    params: Params,
    settings: Settings,
    locals: Locals,
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
    /// The local endpoints' addresses, and the groups with members here.
    pub(super) members: Resources,
    pub(super) here: BTreeSet<GroupId>,
}

impl Of {
    fn new(facts: &Projection, tenant: &TenantName, locals: &Locals, params: &Params) -> Self {
        let fact = facts.tenants.get(tenant);
        Self {
            params: params.clone(),
            settings: facts.settings.clone(),
            locals: locals.clone(),
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
            && self.locals.ptr_eq(&other.locals)
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
        let of = Of::new(facts, tenant, locals, params);
        if let Some(things) = self.things.get(tenant).filter(|it| it.of.is(&of)) {
            return things.built.clone();
        }
        let built = DomainBuilder::new(facts, tenant, params).build(facts, tenant, locals);
        let things = Things {
            of,
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
        let members = (&built.members, &built.here);
        ruled.follow((tenant, fact), members, &mut self.compiled)
    }

    pub(super) fn forget(&mut self, tenant: &TenantName) {
        self.ruled.remove(tenant);
        self.things.remove(tenant);
        self.compiled.sweep(tenant);
        self.compiled.sweep(tenant);
    }
}
