//! Programs that were compiled before, and what they were compiled of.
//!
//! An event costs what it changed: the difference between the rules then and now, which skips what
//! both share, is applied to the program that stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus_schema::policy::{Direction, Peer, Rule};
use bus_schema::{GroupName, NetworkName, PolicyName, RuleId, TenantName};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::Program;
use super::program::Changes;
use crate::projection::{GroupFact, NetworkFact, TenantFact};

type Key = (TenantName, Vec<PolicyName>, Direction);
type Rules = OrdMap<RuleId, Rule>;

/// Programs by tenant, policies and direction.
#[derive(Debug, Clone, Default)]
pub struct Cache(BTreeMap<Key, Entry>);

#[derive(Debug, Clone)]
struct Entry {
    policies: Vec<(PolicyName, Rules)>,
    /// Whom peers were found among.
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
        let entry = entry.or_insert_with(|| Entry::new(names, direction));
        entry.follow(fact, direction);
        entry.used = true;
        Arc::clone(&entry.program)
    }

    /// Forgets what the tenant hasn't used since the last call.
    pub fn sweep(&mut self, tenant: &TenantName) {
        self.0
            .retain(|(of, ..), entry| of != tenant || std::mem::take(&mut entry.used));
    }
}

impl Entry {
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

    /// Makes the program what the facts say now.
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
            for item in before.diff(now) {
                let (gone, came) = match item {
                    DiffItem::Add(_, came) => (None, Some(came)),
                    DiffItem::Remove(_, gone) => (Some(gone), None),
                    DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
                };
                changes.gone.extend(gone.map(|rule| (name, rule)));
                changes.came.extend(came.map(|rule| (name, rule)));
            }
        }
        if !self.groups.ptr_eq(&tenant.groups) {
            let names = self.groups.diff(&tenant.groups).map(|it| key(&it));
            let peers = names.map(|group| Peer::Group { group });
            changes.moved.extend(peers);
        }
        if !self.networks.ptr_eq(&tenant.networks) {
            let names = self.networks.diff(&tenant.networks).map(|it| key(&it));
            let peers = names.map(|network| Peer::Network { network });
            changes.moved.extend(peers);
        }
        if let Some(program) = self.program.changed(tenant, direction, changes) {
            self.program = program.into();
        }
        self.policies = now;
        self.groups = tenant.groups.clone();
        self.networks = tenant.networks.clone();
    }
}

fn key<K: Clone, V>(item: &DiffItem<'_, '_, K, V>) -> K {
    let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) =
        item;
    K::clone(key)
}
