//! Policies and their rules: a rule's peer must exist, and can't be removed before the rule.

use std::collections::BTreeMap;

use bus_schema::command::{PolicyApply, PolicyCreate, PolicyRemove, RuleAdd, RuleRemove};
use bus_schema::event::{PolicyApplied, PolicyCreated, PolicyRemoved, RuleAdded, RuleRemoved};
use bus_schema::policy::{Peer, PortRange, Protocol};
use bus_schema::rejection::RuleUse;
use bus_schema::{
    AddressRange, Event, GroupName, PolicyName, Rejection, Rule, RuleId, RuleSpec, TenantName,
};

use super::Tenant;
use super::update::first_difference;

/// A policy as its tenant wants it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PolicyIntent {
    pub rules: BTreeMap<RuleId, Rule>,
}

impl Tenant {
    pub(super) fn policy_create(&self, c: &PolicyCreate) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        if self.policies.contains_key(&c.policy) {
            return Ok(vec![]);
        }
        Ok(vec![Event::PolicyCreated(PolicyCreated {
            tenant: c.tenant.clone(),
            policy: c.policy.clone(),
        })])
    }

    pub(super) fn policy_remove(&self, c: &PolicyRemove) -> Result<Vec<Event>, Rejection> {
        self.policy(&c.tenant, &c.policy)?;
        let (tenant, policy) = (c.tenant.clone(), c.policy.clone());
        let groups: Vec<GroupName> = self
            .groups
            .values()
            .filter(|group| group.spec.policies.contains(&policy))
            .map(|group| group.spec.name.clone())
            .collect();
        if !groups.is_empty() {
            return Err(Rejection::PolicyInUse {
                tenant,
                policy,
                groups,
            });
        }
        Ok(vec![Event::PolicyRemoved(PolicyRemoved { tenant, policy })])
    }

    pub(super) fn policy_apply(&self, c: &PolicyApply) -> Result<Vec<Event>, Rejection> {
        self.policy(&c.tenant, &c.policy)?;
        Ok(vec![applied(&c.tenant, &c.policy)])
    }

    pub(super) fn rule_add(&self, c: &RuleAdd) -> Result<Vec<Event>, Rejection> {
        let policy = self.policy(&c.tenant, &c.policy)?;
        let spec = checked(&c.spec)?;
        if let Some(existing) = policy.rules.get(&c.rule) {
            must_be_equal(c, &existing.spec, &spec)?;
            return Ok(behind(c.immediate, &c.tenant, &c.policy, vec![]));
        }
        self.must_be_there(&c.tenant, spec.peer.as_ref())?;
        let added = RuleAdded {
            tenant: c.tenant.clone(),
            policy: c.policy.clone(),
            rule: Rule {
                id: c.rule.clone(),
                number: self.next_rule(&c.tenant)?,
                spec,
            },
        };
        let added = vec![Event::RuleAdded(added)];
        Ok(behind(c.immediate, &c.tenant, &c.policy, added))
    }

    pub(super) fn rule_remove(&self, c: &RuleRemove) -> Result<Vec<Event>, Rejection> {
        let policy = self.policy(&c.tenant, &c.policy)?;
        let (tenant, name, rule) = (c.tenant.clone(), c.policy.clone(), c.rule.clone());
        if !policy.rules.contains_key(&rule) {
            return Err(Rejection::RuleUnknown {
                tenant,
                policy: name,
                rule,
            });
        }
        let removed = vec![Event::RuleRemoved(RuleRemoved {
            tenant,
            policy: name,
            rule,
        })];
        Ok(behind(c.immediate, &c.tenant, &c.policy, removed))
    }

    fn policy(&self, tenant: &TenantName, policy: &PolicyName) -> Result<&PolicyIntent, Rejection> {
        self.must_be_open(tenant)?;
        self.policies
            .get(policy)
            .ok_or_else(|| Rejection::PolicyUnknown {
                tenant: tenant.clone(),
                policy: policy.clone(),
            })
    }

    /// Checks that the peer exists. One that is being removed can't be named any more.
    fn must_be_there(&self, tenant: &TenantName, peer: Option<&Peer>) -> Result<(), Rejection> {
        let tenant = tenant.clone();
        match peer {
            Some(Peer::Group { group }) => match self.groups.get(group) {
                Some(intent) if !intent.closing => Ok(()),
                Some(_) => Err(Rejection::GroupClosing {
                    tenant,
                    group: group.clone(),
                }),
                None => Err(Rejection::GroupUnknown {
                    tenant,
                    group: group.clone(),
                }),
            },
            Some(Peer::Network { network }) => match self.networks.get(network) {
                Some(intent) if !intent.closing => Ok(()),
                Some(_) => Err(Rejection::NetworkClosing {
                    tenant,
                    network: network.clone(),
                }),
                None => Err(Rejection::NetworkUnknown {
                    tenant,
                    network: network.clone(),
                }),
            },
            Some(Peer::Addresses { .. } | Peer::World) | None => Ok(()),
        }
    }

    /// Checks that no rule names `peer`, which is `what`.
    pub(super) fn must_not_be_named(&self, what: String, peer: &Peer) -> Result<(), Rejection> {
        let policies = self.policies.iter();
        let rules: Vec<RuleUse> = policies
            .flat_map(|(policy, intent)| {
                let naming = intent.rules.values();
                naming
                    .filter(|rule| rule.spec.peer.as_ref() == Some(peer))
                    .map(|rule| RuleUse {
                        policy: policy.clone(),
                        rule: rule.id.clone(),
                    })
            })
            .collect();
        if rules.is_empty() {
            return Ok(());
        }
        Err(Rejection::PeerInUse { what, rules })
    }

    fn next_rule(&self, tenant: &TenantName) -> Result<u32, Rejection> {
        if self.last_rule >= Rule::MAX_NUMBER {
            return Err(Rejection::RuleNumbersExhausted {
                tenant: tenant.clone(),
            });
        }
        Ok(self.last_rule + 1)
    }
}

fn applied(tenant: &TenantName, policy: &PolicyName) -> Event {
    Event::PolicyApplied(PolicyApplied {
        tenant: tenant.clone(),
        policy: policy.clone(),
    })
}

fn behind(
    immediate: bool,
    tenant: &TenantName,
    policy: &PolicyName,
    mut events: Vec<Event>,
) -> Vec<Event> {
    events.extend(immediate.then(|| applied(tenant, policy)));
    events
}

/// The same rule with its ports in order, if a packet can match it.
fn checked(spec: &RuleSpec) -> Result<RuleSpec, Rejection> {
    if let Some(range) = spec.ports.iter().find(|range| range.first > range.last) {
        return Err(Rejection::PortsReversed { ports: *range });
    }
    if !spec.ports.is_empty() && !spec.protocol.is_some_and(Protocol::has_ports) {
        return Err(Rejection::PortsWithoutProtocol);
    }
    if let Some(Peer::Addresses { range }) = &spec.peer {
        must_be_a_range(*range)?;
    }
    Ok(RuleSpec {
        ports: PortRange::normalise(spec.ports.clone()),
        ..spec.clone()
    })
}

fn must_be_a_range(range: AddressRange) -> Result<(), Rejection> {
    if range.first.is_ipv6() || range.last.is_ipv6() {
        return Err(Rejection::Unsupported {
            what: "an IPv6 address in a rule".to_owned(),
            instead: "endpoints have IPv4 addresses only, name those".to_owned(),
        });
    }
    if range.first > range.last {
        return Err(Rejection::AddressesReversed { addresses: range });
    }
    Ok(())
}

fn must_be_equal(c: &RuleAdd, existing: &RuleSpec, asked: &RuleSpec) -> Result<(), Rejection> {
    let differences = [
        (existing.direction != asked.direction, "direction"),
        (existing.priority != asked.priority, "priority"),
        (existing.action != asked.action, "action"),
        (existing.protocol != asked.protocol, "protocol"),
        (existing.ports != asked.ports, "list of ports"),
        (existing.peer != asked.peer, "peer"),
    ];
    match first_difference(&differences) {
        None => Ok(()),
        Some(differs) => Err(Rejection::RuleDiffers {
            policy: c.policy.clone(),
            rule: c.rule.clone(),
            differs,
        }),
    }
}

#[cfg(test)]
mod tests;
