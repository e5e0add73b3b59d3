//! The plan of a step: the difference between known and desired resources, as far as it may be
//! executed now. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::TenantName;

use super::allowed::Allowed;
use super::{Inputs, Memory};
use crate::desired::{closed, desired, desired_domain, desired_host, domain_name, tenants, uplink};
use crate::projection::Projection;
use crate::reconcile::{Op, diff, is_same_way, lost_routes, order};
use crate::resource::{Kind, Place, State, Uplink};

/// The part of the kernel's state that was read for a plan.
#[derive(Debug)]
pub enum Observed {
    /// Nothing; the known state holds.
    Nothing,
    /// Our table in one netfilter.
    Rules(Place, State),
    All(State),
}

/// The ops that are due now.
#[derive(Debug)]
pub struct Plan {
    /// In the order in which they are safe.
    pub ops: Vec<Op>,
    /// The domains that were considered, for their name servers.
    pub domains: BTreeMap<Place, TenantName>,
    /// Known and desired state of the considered places, if the ops lead from one to the other.
    pub(super) complete: Option<(State, State)>,
}

/// The places that a plan considers.
#[derive(Debug)]
struct Scope {
    host: bool,
    tenants: BTreeSet<TenantName>,
}

/// Plans a step, or the repair of one table.
pub fn plan(memory: &mut Memory, inputs: &Inputs<'_>, observed: Observed) -> Plan {
    match observed {
        Observed::All(state) => memory.plan_everything(inputs, state),
        Observed::Rules(place, rules) => {
            memory.replace_rules(&place, &rules);
            let scope = memory.scope_of(&place, inputs.facts);
            memory.plan_scope(inputs, scope)
        }
        Observed::Nothing => {
            let scope = memory.changed_scope(inputs);
            memory.plan_scope(inputs, scope)
        }
    }
}

impl Memory {
    fn plan_everything(&mut self, inputs: &Inputs<'_>, observed: State) -> Plan {
        let facts = inputs.facts;
        let before = std::mem::replace(&mut self.known, observed);
        self.protection.begin(&self.known, self.was_in_sync);
        let locals = &self.endpoints.locals;
        let want = desired(facts, locals, &self.params, &mut self.programs);
        let lost = lost_routes(&before, &self.known);
        self.pending.lost_routes.extend(lost);
        self.before = Some(before);
        let tenants = tenants(facts, locals, &self.params);
        self.endpoints.failed.clear();
        self.resync.has_read();
        let domains = self.domains(tenants);
        self.flush_lost_domains(&domains);
        let have = self.known.clone();
        self.ops(inputs, (have, want), domains)
    }

    fn plan_scope(&mut self, inputs: &Inputs<'_>, scope: Scope) -> Plan {
        let facts = inputs.facts;
        let (mut have, mut want) = (State::default(), State::default());
        self.close(facts, |tenant| scope.tenants.contains(tenant));
        if scope.host {
            have.merge(&self.known.of(&Place::Host));
            want.merge(&desired_host(facts, &self.params));
        }
        let domains = self.domains(scope.tenants);
        for (place, tenant) in &domains {
            have.merge(&self.known.of(place));
            want.merge(&desired_domain(
                facts,
                tenant,
                &self.endpoints.locals,
                &self.params,
                &mut self.programs,
            ));
        }
        self.ops(inputs, (have, want), domains)
    }

    fn ops(
        &mut self,
        inputs: &Inputs<'_>,
        (have, want): (State, State),
        domains: BTreeMap<Place, TenantName>,
    ) -> Plan {
        let allowed = Allowed {
            changes: !inputs.is_replaying(),
            deletes_of_others: self.own.is_swept() || inputs.is_in_sync(),
        };
        let all = diff(&have, &want);
        let count = all.len();
        let mut ops = allowed.of(self.protect(all, &want), (&have, &want), &self.own);
        let is_complete = ops.len() == count;
        if allowed.changes {
            self.flush_lost_routes(&domains, &want);
            self.add_pending_flushes(&mut ops);
        }
        if !is_complete {
            self.resync.want_in_sync();
        }
        if allowed.changes {
            self.own.remember(&want);
        }
        Plan {
            ops,
            domains,
            complete: is_complete.then_some((have, want)),
        }
    }

    /// Flushes the addresses whose routes were lost with domains that aren't desired any more.
    fn flush_lost_domains(&mut self, domains: &BTreeMap<Place, TenantName>) {
        let flushes = &mut self.pending.flushes;
        self.pending.lost_routes.retain(|(route, flush)| {
            let is_desired = domains.contains_key(&route.place);
            flushes.extend((!is_desired).then(|| flush.clone()));
            is_desired
        });
    }

    /// Flushes the addresses whose routes were lost, if their endpoints aren't desired any more.
    /// Places that aren't considered wait.
    fn flush_lost_routes(&mut self, domains: &BTreeMap<Place, TenantName>, want: &State) {
        let (known, flushes) = (&self.known, &mut self.pending.flushes);
        self.pending.lost_routes.retain(|(route, flush)| {
            let key = route.key();
            let is_restored = known.get(&key) == Some(route);
            let is_wanted = want.get(&key).is_some_and(|it| is_same_way(it, route));
            if is_restored || is_wanted || !domains.contains_key(&key.place) {
                return !is_restored;
            }
            flushes.push(flush.clone());
            false
        });
    }

    fn add_pending_flushes(&mut self, ops: &mut Vec<Op>) {
        if self.pending.flushes.is_empty() {
            return;
        }
        for flush in std::mem::take(&mut self.pending.flushes) {
            ops.retain(|op| !is_same_flush(op, &flush));
            ops.push(flush);
        }
        order(ops);
    }

    /// Takes in the rules that were read in one netfilter.
    fn replace_rules(&mut self, place: &Place, rules: &State) {
        let before = self.known.clone();
        let keys = before.iter().map(|(key, _)| key);
        let gone = keys.filter(|key| key.kind.is_of_table() && key.place.netfilter() == *place);
        gone.for_each(|key| self.known.remove(key));
        self.known.extend(rules.resources().cloned());
        self.before = Some(before);
    }

    /// The tenants whose rules are in this netfilter.
    pub fn tenants_in(&self, place: &Place, facts: &Projection) -> BTreeSet<TenantName> {
        let mut tenants = tenants(facts, &self.endpoints.locals, &self.params);
        let place_of = |tenant: &TenantName| Place::Domain(domain_name(self.params.kind, tenant));
        tenants.retain(|it| place_of(it).netfilter() == *place);
        tenants
    }

    fn scope_of(&self, place: &Place, facts: &Projection) -> Scope {
        Scope {
            host: *place == Place::Host,
            tenants: self.tenants_in(place, facts),
        }
    }

    /// The places that events and endpoints changed since the last plan. While the log is replayed,
    /// events wait.
    fn changed_scope(&mut self, inputs: &Inputs<'_>) -> Scope {
        let (touched, host) = match inputs.is_replaying() {
            true => Default::default(),
            false => (
                std::mem::take(&mut self.pending.touched),
                std::mem::take(&mut self.pending.host),
            ),
        };
        let everywhere = touched.cluster || !touched.nodes.is_empty();
        let mut concerned = touched.tenants;
        concerned.extend(touched.networks.into_iter().map(|(tenant, _)| tenant));
        let changed = self.endpoints.changed.iter();
        concerned.extend(changed.map(|endpoint| endpoint.tenant.clone()));
        if everywhere {
            let all = tenants(inputs.facts, &self.endpoints.locals, &self.params);
            concerned.extend(all);
        }
        let uplinks = || {
            let mut tenants = concerned.iter();
            tenants.any(|it| self.changes_uplink(it, inputs.facts))
        };
        Scope {
            host: everywhere || host || uplinks(),
            tenants: concerned,
        }
    }

    /// Whether the host's end of a tenant's uplink comes or goes.
    fn changes_uplink(&self, tenant: &TenantName, facts: &Projection) -> bool {
        let fact = facts.tenants.get(tenant);
        let wanted = fact.and_then(|fact| uplink(fact, &self.params));
        let wanted = wanted.map(|it| it.host_device);
        let place = Place::Domain(domain_name(self.params.kind, tenant));
        let mut devices = self.known.of_kind(&place, Kind::Device);
        let known = devices.find_map(|(key, _)| Uplink::other_end(&key.id));
        wanted != known
    }

    fn domains(&self, tenants: BTreeSet<TenantName>) -> BTreeMap<Place, TenantName> {
        let kind = self.params.kind;
        let place = |tenant: &TenantName| Place::Domain(domain_name(kind, tenant));
        tenants.into_iter().map(|it| (place(&it), it)).collect()
    }

    /// Finds the endpoints of these tenants that the log closes now. What it closed is known once
    /// the node was in sync.
    pub(super) fn close(&mut self, facts: &Projection, of: impl Fn(&TenantName) -> bool) {
        if !self.was_in_sync {
            return;
        }
        let locals = &self.endpoints.locals;
        let concerned = locals.values().filter(|it| of(&it.tenant));
        let found = closed(facts, concerned.map(|it| &**it), &self.params);
        self.endpoints.close(of, found);
    }
}

fn is_same_flush(one: &Op, other: &Op) -> bool {
    let address = |op: &Op| match op {
        Op::FlushConntrack { place, address, .. } => Some((place.clone(), *address)),
        _ => None,
    };
    address(other).is_some_and(|it| address(one) == Some(it))
}
