//! The compiled programs and the facts that they were compiled of.
//!
//! An event costs what it changed: the difference between the rules of before and now, which skips
//! all that both share, is applied to the existing program.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus_schema::policy::{Direction, Peer, Rule};
use bus_schema::{GroupName, NetworkName, PolicyName, RuleId, TenantName};
use imbl::OrdMap;

use super::Program;
use super::compiled::Changes;
use crate::maps;
use crate::projection::{GroupFact, NetworkFact, TenantFact};

type CacheKey = (TenantName, Vec<PolicyName>, Direction);
type Rules = OrdMap<RuleId, Rule>;

/// Programs by tenant, policies and direction.
#[derive(Debug, Clone, Default)]
pub struct Cache(BTreeMap<CacheKey, CachedProgram>);

#[derive(Debug, Clone)]
struct CachedProgram {
    policies: Vec<(PolicyName, Rules)>,
    /// The groups and networks to which peers were resolved.
    groups: OrdMap<GroupName, GroupFact>,
    networks: OrdMap<NetworkName, NetworkFact>,
    program: Arc<Program>,
    used: bool,
}

impl Cache {
    /// The program of a group with these policies.
    pub fn program(
        &mut self,
        tenant: (&TenantName, &TenantFact),
        names: &[PolicyName],
        direction: Direction,
    ) -> Arc<Program> {
        let (name, fact) = tenant;
        let key = (name.clone(), names.to_vec(), direction);
        let entry = self.0.entry(key);
        let entry = entry.or_insert_with(|| CachedProgram::new(names, direction));
        entry.follow(fact, direction);
        entry.used = true;
        Arc::clone(&entry.program)
    }

    /// Drops the tenant's programs that weren't used since the last call.
    pub fn sweep(&mut self, tenant: &TenantName) {
        self.0
            .retain(|(of, ..), entry| of != tenant || std::mem::take(&mut entry.used));
    }
}

impl CachedProgram {
    fn new(names: &[PolicyName], direction: Direction) -> Self {
        let policies: Vec<_> = names.iter().map(|it| (it.clone(), Rules::new())).collect();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let name = format!("{} {}", direction, names.join(","));
        Self {
            policies,
            groups: OrdMap::new(),
            networks: OrdMap::new(),
            program: Program::named(name).into(),
            used: true,
        }
    }

    /// Updates the program to the facts of now.
    fn follow(&mut self, tenant: &TenantFact, direction: Direction) {
        let mut now: Vec<(PolicyName, Rules)> = Vec::new();
        for (name, _) in &self.policies {
            let again = now.iter().any(|(it, _)| it == name);
            let policy = tenant.policies.get(name).filter(|_| !again);
            let rules = policy.map(|it| it.rules.clone()).unwrap_or_default();
            now.push((name.clone(), rules));
        }
        let mut changes = Changes::default();
        for ((name, before), (_, now)) in self.policies.iter().zip(&now) {
            if before.ptr_eq(now) {
                continue;
            }
            for (old, new) in maps::differing(before, now) {
                changes.removed.extend(old.map(|(_, rule)| (name, rule)));
                changes.added.extend(new.map(|(_, rule)| (name, rule)));
            }
        }
        if !self.groups.ptr_eq(&tenant.groups) {
            for (group, _) in maps::changed(&self.groups, &tenant.groups) {
                let group = group.clone();
                changes.repointed.push(Peer::Group { group });
            }
        }
        if !self.networks.ptr_eq(&tenant.networks) {
            for (network, _) in maps::changed(&self.networks, &tenant.networks) {
                let network = network.clone();
                changes.repointed.push(Peer::Network { network });
            }
        }
        if let Some(program) = self.program.changed(tenant, direction, changes) {
            self.program = program.into();
        }
        self.policies = now;
        self.groups = tenant.groups.clone();
        self.networks = tenant.networks.clone();
    }
}
