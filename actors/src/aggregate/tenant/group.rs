//! Groups: each has a network and policies, and is removed in steps.

use std::collections::BTreeSet;

use bus_schema::command::{GroupCreate, GroupRemove, GroupUpdate, Removal};
use bus_schema::event::{GroupClosing, GroupCreated, GroupRemoved, GroupReopened, GroupUpdated};
use bus_schema::mark_rule::MarkRule;
use bus_schema::policy::Peer;
use bus_schema::{
    Event, GroupId, GroupName, GroupSpec, NetworkSpec, PolicyName, Rejection, TenantName, subnet,
};

use super::update::first_difference;
use super::{Tenant, TenantFacts, pool};

/// A group as its tenant wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupIntent {
    pub spec: GroupSpec,
    pub closing: bool,
    /// How often its removal began.
    pub closings: u32,
}

impl GroupIntent {
    pub(super) fn new(spec: GroupSpec) -> Self {
        Self {
            spec,
            closing: false,
            closings: 0,
        }
    }

    /// Checks that all nodes answered since the group was closed last that they hold none of it: opened
    /// and closed again, it may have members again.
    fn must_be_free(&self, facts: &TenantFacts) -> Result<(), Rejection> {
        let (tenant, group) = (self.spec.tenant.clone(), self.spec.name.clone());
        if facts.drained != Some(self.closings) {
            return Err(Rejection::Unsupported {
                what: "finishing a group's removal without its nodes' answers".to_owned(),
                instead: format!("ask again with `netctl group rm {group} -t {tenant}`"),
            });
        }
        let nodes = pool::key(&self.spec).map_or(vec![], |key| facts.holders(&key));
        match nodes.is_empty() {
            true => Ok(()),
            false => Err(Rejection::GroupHeld {
                tenant,
                group,
                nodes,
            }),
        }
    }

    pub(super) fn close(&mut self) {
        self.closing = true;
        self.closings = self.closings.saturating_add(1);
    }
}

impl Tenant {
    pub(super) fn group_create(
        &self,
        c: &GroupCreate,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        subnet::docker_name(c.docker_name.as_deref())?;
        let policies = self.attachable(&c.tenant, &c.policies)?;
        if let Some(existing) = self.groups.get(&c.group) {
            return same_again(existing, c, &policies).map(|()| vec![]);
        }
        self.must_be_no_network(&c.tenant, &c.group)?;
        let network = self.must_take_groups(c)?;
        let pool = match c.ip_pool {
            None => None,
            Some(range) => Some(self.pool(range, network, facts)?),
        };
        let spec = GroupSpec {
            tenant: c.tenant.clone(),
            network: c.network.clone(),
            name: c.group.clone(),
            id: self.free_id(&c.tenant, &facts.mark_rules)?,
            policies,
            docker_name: c.docker_name.clone(),
            pool: c.ip_pool,
        };
        self.must_not_share_docker_name(&c.tenant, &spec.docker_network(), "--epg-tag")?;
        let opened = pool.map_or(vec![], |pool| pool::opened(&spec, pool));
        let created = Event::GroupCreated(GroupCreated { group: spec });
        Ok(std::iter::once(created).chain(opened).collect())
    }

    pub(super) fn group_update(&self, c: &GroupUpdate) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        let (tenant, group) = (c.tenant.clone(), c.group.clone());
        let Some(intent) = self.groups.get(&group) else {
            return Err(Rejection::GroupUnknown { tenant, group });
        };
        if intent.closing {
            return Err(Rejection::GroupClosing { tenant, group });
        }
        let policies = self.attachable(&tenant, &c.policies)?;
        if intent.spec.policies == policies {
            return Ok(vec![]);
        }
        Ok(vec![Event::GroupUpdated(GroupUpdated {
            tenant,
            group,
            policies,
        })])
    }

    pub(super) fn group_remove(
        &self,
        c: &GroupRemove,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        let (tenant, group) = (c.tenant.clone(), c.group.clone());
        let Some(intent) = self.groups.get(&group) else {
            // A removal is finished: it is gone already.
            return match c.mode {
                Removal::Finish => Ok(vec![]),
                Removal::Close | Removal::Abort | Removal::Force => {
                    Err(Rejection::GroupUnknown { tenant, group })
                }
            };
        };
        if matches!(c.mode, Removal::Close | Removal::Force) {
            let what = format!("group {group} of tenant {tenant}");
            let peer = Peer::Group {
                group: group.clone(),
            };
            self.must_not_be_named(what, &peer)?;
        }
        let spec = &intent.spec;
        match c.mode {
            Removal::Close if intent.closing => Ok(vec![]),
            Removal::Close => Ok(closing(spec)),
            Removal::Abort | Removal::Finish if !intent.closing => {
                Err(Rejection::GroupNotClosing { tenant, group })
            }
            Removal::Abort => Ok(reopened(spec)),
            Removal::Finish => intent.must_be_free(facts).map(|()| removed(spec, false)),
            Removal::Force => Ok(removed(spec, true)),
        }
    }

    fn must_be_no_network(&self, tenant: &TenantName, group: &GroupName) -> Result<(), Rejection> {
        if !self.networks.keys().any(|n| n.as_str() == group.as_str()) {
            return Ok(());
        }
        Err(Rejection::NameTaken {
            tenant: tenant.clone(),
            name: group.to_string(),
        })
    }

    fn must_take_groups(&self, c: &GroupCreate) -> Result<&NetworkSpec, Rejection> {
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        match self.networks.get(&c.network) {
            None => Err(Rejection::NetworkUnknown { tenant, network }),
            Some(intent) if intent.closing => Err(Rejection::NetworkClosing { tenant, network }),
            Some(intent) => Ok(&intent.spec),
        }
    }

    /// The policies in the order of their names, each once, if all exist.
    fn attachable(
        &self,
        tenant: &TenantName,
        policies: &[PolicyName],
    ) -> Result<Vec<PolicyName>, Rejection> {
        if let Some(unknown) = policies.iter().find(|p| !self.policies.contains_key(*p)) {
            return Err(Rejection::PolicyUnknown {
                tenant: tenant.clone(),
                policy: unknown.clone(),
            });
        }
        let mut policies = policies.to_vec();
        policies.sort();
        policies.dedup();
        Ok(policies)
    }

    /// An id that no group had, as long as there is one: a node without the bus still has the rules of an
    /// id's former group, and must not apply them to another. An id that a routing rule of a node matches
    /// is taken only if there is no other.
    fn free_id(&self, tenant: &TenantName, rules: &[MarkRule]) -> Result<GroupId, Rejection> {
        let used = self.groups.values().map(|group| group.spec.id);
        let taken: BTreeSet<GroupId> = used.chain(self.retired.iter().copied()).collect();
        let (first, last) = (GroupId::FIRST.0, GroupId::LAST.0);
        let fresh = (first..=last).filter(|id| *id > self.last_group);
        // In a log of an older build the last group may have an id that isn't given any more.
        let older = first..=self.last_group.min(last);
        let all = fresh.chain(older).map(GroupId);
        let mut free = all.filter(|id| !taken.contains(id));
        let unmatched = |id: &GroupId| !rules.iter().any(|rule| rule.concerns(*id));
        free.clone()
            .find(unmatched)
            .or_else(|| free.next())
            .ok_or_else(|| Rejection::GroupIdsExhausted {
                tenant: tenant.clone(),
            })
    }
}

fn closing(spec: &GroupSpec) -> Vec<Event> {
    let closing = Event::GroupClosing(GroupClosing {
        tenant: spec.tenant.clone(),
        group: spec.name.clone(),
    });
    [closing].into_iter().chain(pool::closing(spec)).collect()
}

fn reopened(spec: &GroupSpec) -> Vec<Event> {
    let reopened = Event::GroupReopened(GroupReopened {
        tenant: spec.tenant.clone(),
        group: spec.name.clone(),
    });
    [reopened].into_iter().chain(pool::reopened(spec)).collect()
}

fn removed(spec: &GroupSpec, forced: bool) -> Vec<Event> {
    let removed = Event::GroupRemoved(GroupRemoved {
        tenant: spec.tenant.clone(),
        group: spec.name.clone(),
        id: spec.id,
        forced,
    });
    [removed].into_iter().chain(pool::closed(spec)).collect()
}

/// Checks that an existing group is as the command asks; a rejection names the difference.
fn same_again(
    existing: &GroupIntent,
    c: &GroupCreate,
    policies: &[PolicyName],
) -> Result<(), Rejection> {
    let (tenant, group) = (c.tenant.clone(), c.group.clone());
    if existing.closing {
        return Err(Rejection::GroupClosing { tenant, group });
    }
    let spec = &existing.spec;
    let differences = [
        (spec.network != c.network, "network"),
        (spec.policies != policies, "list of policies"),
        (spec.docker_name != c.docker_name, "Docker name"),
        (spec.pool != c.ip_pool, "pool"),
    ];
    match first_difference(&differences) {
        None => Ok(()),
        Some(differs) => Err(Rejection::GroupDiffers {
            tenant,
            group,
            differs,
        }),
    }
}

#[cfg(test)]
mod tests;
