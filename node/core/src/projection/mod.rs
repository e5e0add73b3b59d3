//! A node's fold of the log's events.
//!
//! Pure. A snapshot is a clone, which is cheap: the maps share structure. Folding an event returns
//! the nouns that it touched, so that the work that follows is proportional to the event, not to the
//! cluster. An event that was folded in before changes nothing. The bus feeds it; the core, the
//! endpoints, Docker and DNS read snapshots.

mod facts;
mod pulse;
mod touched;
mod view;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;

pub use facts::{GroupFact, NetworkFact, NodeFact, PolicyFact, TenantFact};
pub use pulse::Pulse;
pub use touched::Touched;
pub use view::{EndpointsView, Remembered, full_name};

use bus_schema::event::Settings;
use bus_schema::subject::Concerned;
use bus_schema::{
    ClusterId, Event, EventId, GroupName, GroupSpec, NetworkName, NetworkSpec, NodeName,
    PolicyName, Revision, TenantName, subject, update_limit,
};
use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// All facts that this node has read from the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// The cluster of the log's first event.
    pub cluster: Option<ClusterId>,
    pub settings: Settings,
    /// The last revision that was folded in, and that event's id: a node recognises its log by both.
    /// The id is absent when that message held none that this build could read.
    pub applied: Revision,
    pub applied_event: Option<EventId>,
    /// The last revision that changed nodes or settings.
    #[serde(default)]
    pub changed: Revision,
    pub nodes: OrdMap<NodeName, NodeFact>,
    pub tenants: OrdMap<TenantName, TenantFact>,
    /// The conntrack zone that was assigned last.
    pub last_zone: u16,
}

impl Projection {
    /// Whether the node is drained or has left.
    pub fn takes_no_endpoints(&self, node: &NodeName) -> bool {
        let node = self.nodes.get(node);
        node.is_some_and(|it| it.drained || it.left)
    }

    /// Folds one event in and returns the nouns that it touched. Events come in the order of their
    /// revisions; one that was folded in before changes nothing.
    pub fn apply(&mut self, revision: Revision, id: EventId, event: &Event) -> Touched {
        if !self.advance(revision, Some(id)) {
            return Touched::default();
        }
        let touched = self.fold(revision, event);
        self.mark(&touched);
        touched
    }

    /// Records the revision in the facts that it changed; groups and policies record their own.
    fn mark(&mut self, touched: &Touched) {
        if touched.cluster || !touched.nodes.is_empty() {
            self.changed = self.applied;
        }
        for (tenant, _) in &touched.networks {
            if let Some(tenant) = self.tenants.get_mut(tenant) {
                tenant.changed = self.applied;
            }
        }
    }

    fn fold(&mut self, revision: Revision, event: &Event) -> Touched {
        match event {
            Event::ClusterCreated(e) => {
                self.cluster = Some(e.cluster);
                self.settings = e.settings.clone();
                Touched::cluster()
            }
            Event::NodeJoined(e) => {
                let drained = self.nodes.get(&e.node).is_some_and(|it| it.drained);
                let fact = NodeFact {
                    drained,
                    ..NodeFact::new(e.machine.clone(), e.vtep)
                };
                self.nodes.insert(e.node.clone(), fact);
                Touched::node(&e.node)
            }
            Event::NodeDrained(e) => self.change_node(&e.node, |node| node.drained = true),
            Event::NodeUncordoned(e) => self.change_node(&e.node, |node| node.drained = false),
            Event::NodeLeft(e) => self.change_node(&e.node, |node| node.left = true),
            Event::NodeRemoved(e) => {
                self.nodes.remove(&e.node);
                Touched::node(&e.node)
            }
            Event::TenantCreated(e) => {
                self.open(&e.tenant);
                Touched::tenant(&e.tenant)
            }
            Event::TenantUpdated(e) => {
                let tenant = self.open(&e.tenant);
                update_limit(&mut tenant.max_connections, e.max_connections);
                tenant.changed = revision;
                Touched::tenant(&e.tenant)
            }
            Event::TenantRemoved(e) => {
                self.tenants.remove(&e.tenant);
                Touched::tenant(&e.tenant)
            }
            Event::NetworkCreated(e) => self.create_network(&e.network),
            Event::NetworkRemoved(e) => {
                if let Some(tenant) = self.tenants.get_mut(&e.tenant) {
                    tenant.networks.remove(&e.network);
                }
                Touched::network(&e.tenant, &e.network)
            }
            Event::GroupCreated(e) => self.create_group(&e.group),
            Event::GroupUpdated(e) => self.change_group(&e.tenant, &e.group, |group| {
                group.spec.policies.clone_from(&e.policies);
            }),
            Event::GroupClosing(e) => self.change_group(&e.tenant, &e.group, |g| g.closing = true),
            Event::GroupReopened(e) => {
                self.change_group(&e.tenant, &e.group, |g| g.closing = false)
            }
            Event::GroupRemoved(e) => self.change_tenant(&e.tenant, |tenant| {
                tenant.groups.remove(&e.group);
                tenant.release_pool(&e.group);
            }),
            Event::PolicyCreated(e) => self.change_tenant(&e.tenant, |tenant| {
                let fresh = PolicyFact::default();
                tenant.policies.insert(e.policy.clone(), fresh);
            }),
            Event::PolicyRemoved(e) => self.change_tenant(&e.tenant, |tenant| {
                tenant.policies.remove(&e.policy);
            }),
            Event::PolicyApplied(e) => self.change_policy(&e.tenant, &e.policy, |policy| {
                policy.enforced = Some(revision);
            }),
            Event::RuleAdded(e) => self.change_policy(&e.tenant, &e.policy, |policy| {
                policy.rules.insert(e.rule.id.clone(), e.rule.clone());
            }),
            Event::RuleRemoved(e) => self.change_policy(&e.tenant, &e.policy, |policy| {
                policy.rules.remove(&e.rule);
            }),
            Event::NetworkUpdated(e) => self.change_network(&e.tenant, &e.network, |n| {
                e.apply(&mut n.spec);
            }),
            Event::NetworkClosing(e) => {
                self.change_network(&e.tenant, &e.network, |n| n.closing = true)
            }
            Event::NetworkReopened(e) => {
                self.change_network(&e.tenant, &e.network, |n| n.closing = false)
            }
            Event::BlockLeased(e) => self.change_network(&e.tenant, &e.network, |n| {
                n.blocks.insert(e.block, e.node.clone());
            }),
            Event::BlockReturned(e) => self.change_network(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::BlockRevoked(e) => self.change_network(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::BlockCeded(e) => self.change_network(&e.tenant, &e.network, |n| {
                n.blocks.insert(IpNet::from(e.address), e.to.clone());
            }),
            // The event of the intent in the same batch has been folded in.
            Event::TenantOpened(_)
            | Event::TenantClosed(_)
            | Event::VniAssigned(_)
            | Event::VniReleased(_)
            | Event::LeasesOpened(_)
            | Event::LeasesClosing(_)
            | Event::LeasesReopened(_)
            | Event::LeasesClosed(_)
            | Event::PoolReserved(_)
            | Event::PoolReleased(_) => Touched::default(),
            // Nodes take packet tags from the networks, and the port can't change.
            Event::ClusterChanged(_) => Touched::default(),
            Event::Barrier | Event::LogAccepted(_) | Event::Unknown => Touched::default(),
        }
    }

    /// Folds in an event that was written for newer readers only. Its content isn't guessed; the noun
    /// in its subject is closed: a group, the groups of a policy, else a tenant; an event that spans
    /// tenants closes them all.
    pub fn apply_newer(&mut self, revision: Revision, id: EventId, of: &str) -> Touched {
        if !self.advance(revision, Some(id)) {
            return Touched::default();
        }
        let touched = self.close_newer(of);
        for tenant in &touched.tenants {
            self.open(tenant).changed = revision;
        }
        touched
    }

    fn close_newer(&mut self, of: &str) -> Touched {
        match subject::concerned(of) {
            // Members of a group that isn't known here are closed anyway.
            Concerned::Group(tenant, group) => {
                self.change_group(&tenant, &group, |it| it.newer = true)
            }
            Concerned::Policy(tenant, policy) => {
                let policies = &mut self.open(&tenant).policies;
                policies.entry(policy.clone()).or_default();
                self.change_policy(&tenant, &policy, |it| it.newer = true)
            }
            Concerned::Tenant(tenant) => {
                self.open(&tenant).newer = true;
                Touched::tenant(&tenant)
            }
            Concerned::All => {
                let mut touched = Touched::default();
                for name in self.tenants.keys().cloned().collect::<Vec<_>>() {
                    self.open(&name).newer = true;
                    touched.tenants.insert(name);
                }
                touched
            }
        }
    }

    /// Skips a message that holds no event; no netmaster wrote it.
    pub fn skip(&mut self, revision: Revision) {
        self.advance(revision, None);
    }

    pub fn network(&self, tenant: &TenantName, network: &NetworkName) -> Option<&NetworkFact> {
        self.tenants.get(tenant)?.networks.get(network)
    }

    pub fn group_fact(&self, tenant: &TenantName, group: &GroupName) -> Option<&GroupFact> {
        self.tenants.get(tenant)?.groups.get(group)
    }

    /// Every network with its tenant.
    pub fn networks(&self) -> impl Iterator<Item = (&TenantName, &NetworkFact)> {
        self.tenants
            .iter()
            .flat_map(|(name, tenant)| tenant.networks.values().map(move |network| (name, network)))
    }

    /// The number of blocks that are leased to `node`.
    pub fn blocks_of(&self, node: &NodeName) -> usize {
        self.networks()
            .map(|(_, network)| network.blocks_of(node).count())
            .sum()
    }

    /// A tenant's facts, created if there are none.
    pub fn open(&mut self, name: &TenantName) -> &mut TenantFact {
        if !self.tenants.contains_key(name) {
            self.last_zone = self.free_zone();
        }
        let zone = self.last_zone;
        let new = || TenantFact {
            zone,
            ..TenantFact::default()
        };
        self.tenants.entry(name.clone()).or_insert_with(new)
    }

    /// The next zone that no tenant has. A new tenant doesn't get the zone of one that was just removed,
    /// whose connections may not be flushed on every node yet. Beyond 65,535 tenants zones are shared.
    fn free_zone(&self) -> u16 {
        let next = |zone: u16| zone % u16::MAX + 1;
        let taken = |zone: u16| self.tenants.values().any(|tenant| tenant.zone == zone);
        let mut zone = next(self.last_zone);
        while zone != self.last_zone && taken(zone) {
            zone = next(zone);
        }
        zone
    }

    /// Advances to a revision; false: it was folded in before.
    fn advance(&mut self, revision: Revision, id: Option<EventId>) -> bool {
        if revision <= self.applied {
            return false;
        }
        self.applied = revision;
        self.applied_event = id;
        true
    }

    fn change_node(&mut self, name: &NodeName, change: impl FnOnce(&mut NodeFact)) -> Touched {
        if let Some(node) = self.nodes.get_mut(name) {
            change(node);
        }
        Touched::node(name)
    }

    fn create_network(&mut self, spec: &NetworkSpec) -> Touched {
        let tenant = self.open(&spec.tenant);
        let fact = NetworkFact {
            spec: spec.clone(),
            closing: false,
            blocks: OrdMap::new(),
            pools: OrdMap::new(),
        };
        tenant.networks.insert(spec.name.clone(), fact);
        Touched::network(&spec.tenant, &spec.name)
    }

    fn create_group(&mut self, spec: &GroupSpec) -> Touched {
        let fact = GroupFact {
            spec: spec.clone(),
            closing: false,
            newer: false,
        };
        let ruled = self.applied;
        let tenant = self.open(&spec.tenant);
        tenant.groups.insert(spec.name.clone(), fact);
        let network = tenant.networks.get_mut(&spec.network);
        if let (Some(pool), Some(network)) = (spec.pool, network) {
            network.pools.insert(spec.name.clone(), pool);
        }
        tenant.ruled = ruled;
        Touched::tenant(&spec.tenant)
    }

    fn change_tenant(
        &mut self,
        name: &TenantName,
        change: impl FnOnce(&mut TenantFact),
    ) -> Touched {
        match self.tenants.get_mut(name) {
            Some(tenant) => {
                change(tenant);
                tenant.ruled = self.applied;
                Touched::tenant(name)
            }
            None => Touched::default(),
        }
    }

    fn change_group(
        &mut self,
        tenant: &TenantName,
        group: &GroupName,
        change: impl FnOnce(&mut GroupFact),
    ) -> Touched {
        self.change_tenant(tenant, |tenant| {
            if let Some(group) = tenant.groups.get_mut(group) {
                change(group);
            }
        })
    }

    fn change_policy(
        &mut self,
        tenant: &TenantName,
        policy: &PolicyName,
        change: impl FnOnce(&mut PolicyFact),
    ) -> Touched {
        let fact = self
            .tenants
            .get_mut(tenant)
            .and_then(|tenant| tenant.policies.get_mut(policy));
        match fact {
            Some(fact) => {
                change(fact);
                fact.ruled = self.applied;
                Touched::tenant(tenant)
            }
            None => Touched::default(),
        }
    }

    fn change_network(
        &mut self,
        tenant: &TenantName,
        network: &NetworkName,
        change: impl FnOnce(&mut NetworkFact),
    ) -> Touched {
        let fact = self
            .tenants
            .get_mut(tenant)
            .and_then(|tenant| tenant.networks.get_mut(network));
        match fact {
            Some(fact) => {
                change(fact);
                Touched::network(tenant, network)
            }
            None => Touched::default(),
        }
    }
}
