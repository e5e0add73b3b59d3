//! Programs that were compiled before, told by what they were compiled of.
//!
//! An event costs the programs whose rules it changed: the rules of a policy are the same map as
//! long as nobody changed them, which is one comparison of pointers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bus_schema::policy::{Direction, Peer, Rule};
use bus_schema::{GroupName, NetworkName, PolicyName, RuleId, TenantName};
use imbl::OrdMap;

use super::Program;
use super::program::{Resolved, resolve};
use crate::projection::{GroupFact, NetworkFact, TenantFact};

type Key = (TenantName, Vec<PolicyName>, Direction);

/// Programs by tenant, policies and direction.
#[derive(Debug, Clone, Default)]
pub struct Cache(BTreeMap<Key, Entry>);

#[derive(Debug, Clone)]
struct Entry {
    policies: Vec<(PolicyName, OrdMap<RuleId, Rule>)>,
    /// Whom peers were found among.
    groups: OrdMap<GroupName, GroupFact>,
    networks: OrdMap<NetworkName, NetworkFact>,
    peers: BTreeMap<Peer, Resolved>,
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
        if let Some(entry) = self.0.get_mut(&key).filter(|entry| entry.holds(fact)) {
            entry.used = true;
            return Arc::clone(&entry.program);
        }
        let entry = Entry::new(fact, names, direction);
        let program = Arc::clone(&entry.program);
        self.0.insert(key, entry);
        program
    }

    /// Forgets what the tenant hasn't used since the last call.
    pub fn sweep(&mut self, tenant: &TenantName) {
        self.0
            .retain(|(of, ..), entry| of != tenant || std::mem::take(&mut entry.used));
    }
}

impl Entry {
    fn new(tenant: &TenantFact, names: &[PolicyName], direction: Direction) -> Self {
        let rules = |name: &PolicyName| {
            let policy = tenant.policies.get(name);
            policy.map(|it| it.rules.clone()).unwrap_or_default()
        };
        let policies: Vec<_> = names.iter().map(|it| (it.clone(), rules(it))).collect();
        let rules = policies.iter().flat_map(|(_, rules)| rules.values());
        let peers = rules
            .filter(|rule| rule.spec.direction == direction)
            .filter_map(|rule| rule.spec.peer.as_ref())
            .map(|peer| (peer.clone(), resolve(tenant, peer)))
            .collect();
        Self {
            program: Program::new(&policies, direction, &peers).into(),
            policies,
            groups: tenant.groups.clone(),
            networks: tenant.networks.clone(),
            peers,
            used: true,
        }
    }

    fn holds(&self, tenant: &TenantFact) -> bool {
        let unchanged =
            |(name, rules): &(PolicyName, OrdMap<RuleId, Rule>)| match tenant.policies.get(name) {
                Some(policy) => policy.rules.ptr_eq(rules),
                None => rules.is_empty(),
            };
        let known = self.groups.ptr_eq(&tenant.groups) && self.networks.ptr_eq(&tenant.networks);
        let mut peers = self.peers.iter();
        self.policies.iter().all(unchanged)
            && (known || peers.all(|(peer, resolved)| resolve(tenant, peer) == *resolved))
    }
}
