//! What the log says, as this node needs it: the fold of its events.
//!
//! Pure. A snapshot is a clone, which is cheap: the maps share structure. Folding an event says
//! what it touched, so that the work that follows is proportional to the event, not to the
//! cluster. An event that was folded in before changes nothing. The bus feeds it; the core, the
//! endpoints, Docker and DNS read snapshots.

mod pulse;
mod touched;
mod view;

#[cfg(test)]
mod tests;

pub use pulse::Pulse;
pub use touched::Touched;
pub use view::{EndpointsView, Remembered, full_name};

use bus_schema::event::Settings;
use bus_schema::subject::Concerned;
use bus_schema::{
    AddressRange, ClusterId, Event, EventId, GroupId, GroupName, GroupSpec, MachineId, NetworkName,
    NetworkSpec, NodeName, PolicyName, Pool, Revision, Rule, RuleId, TenantName, subject,
};
use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Everything that the log has told this node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Projection {
    /// From the log's first event.
    pub cluster: Option<ClusterId>,
    pub settings: Settings,
    /// The last revision folded in, and that event's id: by both a node knows its log again.
    /// The id is absent when that message held none that this build could read.
    pub applied: Revision,
    pub applied_event: Option<EventId>,
    /// The last revision that changed nodes or settings.
    #[serde(default)]
    pub changed: Revision,
    pub nodes: OrdMap<NodeName, NodeFact>,
    pub tenants: OrdMap<TenantName, TenantFact>,
    /// The conntrack zone that was given last.
    pub last_zone: u16,
}

/// Another node, or this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFact {
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// It takes no new endpoints (`netctl node drain`).
    #[serde(default)]
    pub drained: bool,
    /// It takes no new endpoints and has withdrawn its names (`netplugin leave`).
    #[serde(default)]
    pub left: bool,
}

impl NodeFact {
    /// A node that takes endpoints.
    pub fn new(machine: MachineId, vtep: IpAddr) -> Self {
        Self {
            machine,
            vtep,
            drained: false,
            left: false,
        }
    }
}

/// A tenant's intent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TenantFact {
    pub networks: OrdMap<NetworkName, NetworkFact>,
    #[serde(default)]
    pub groups: OrdMap<GroupName, GroupFact>,
    #[serde(default)]
    pub policies: OrdMap<PolicyName, PolicyFact>,
    /// The last revision that changed groups, or which policies there are.
    #[serde(default)]
    pub ruled: Revision,
    /// The last revision that changed its networks, or closed all of it.
    #[serde(default)]
    pub changed: Revision,
    /// An event about anything of this tenant was written for newer readers only: what it holds is closed for
    /// new connections.
    pub newer: bool,
    /// Its conntrack zone on nodes that have VRFs; never 0, which is the host's. It is given when
    /// the tenant comes and stays with it: no other tenant's coming or going changes it.
    pub zone: u16,
}

/// An endpoint group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupFact {
    pub spec: GroupSpec,
    /// It is being removed: no attaches.
    pub closing: bool,
    /// An event about it was written for newer readers only.
    #[serde(default)]
    pub newer: bool,
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyFact {
    pub rules: OrdMap<RuleId, Rule>,
    /// The last revision that changed them.
    #[serde(default)]
    pub ruled: Revision,
    /// Where in the log it was last asked to end the connections that it doesn't allow.
    #[serde(default)]
    pub enforced: Option<Revision>,
    /// An event about it was written for newer readers only.
    #[serde(default)]
    pub newer: bool,
}

impl TenantFact {
    /// The last revision that changed who may open a connection to whom: rules of a policy that no
    /// group has don't.
    pub fn ruled(&self) -> Revision {
        let used = self.groups.values().flat_map(|it| &it.spec.policies);
        let used = used.filter_map(|policy| self.policies.get(policy));
        let ruled = used.map(|policy| policy.ruled).max();
        ruled.unwrap_or_default().max(self.ruled)
    }

    /// The last revision that changed anything of it that a kernel holds.
    pub fn last_changed(&self) -> Revision {
        self.changed.max(self.ruled())
    }

    /// The group's addresses are its network's again; what is leased of them isn't any more.
    fn release_pool(&mut self, group: &GroupName) {
        for (name, network) in self.networks.clone() {
            if !network.pools.contains_key(group) {
                continue;
            }
            let blocks = network.blocks.iter();
            let blocks = blocks.filter(|(block, _)| network.pool_around(**block) != Some(group));
            let mut released = NetworkFact {
                blocks: blocks.map(|(block, node)| (*block, node.clone())).collect(),
                ..network.clone()
            };
            released.pools.remove(group);
            self.networks.insert(name, released);
        }
    }

    /// The groups whose members open no connections and to whom none are opened: what newer events
    /// say of them, or of a policy of theirs, isn't guessed at.
    pub fn closed_groups(&self) -> BTreeSet<GroupId> {
        let any = self.policies.values().any(|policy| policy.newer);
        let groups = self.groups.values();
        let closed = groups.filter(|it| it.newer || any && self.has_newer_policy(it));
        closed.map(|group| group.spec.id).collect()
    }

    /// Why who is in this group, or in none, is closed for new connections, if newer events close
    /// it.
    pub fn closed_by_newer(&self, group: Option<&GroupName>) -> Option<String> {
        let needs = "needs a newer netplugin: upgrade this node";
        if self.newer {
            return Some(format!("an event about this tenant {needs}"));
        }
        let group = self.groups.get(group?)?;
        let closed = group.newer || self.has_newer_policy(group);
        let name = &group.spec.name;
        closed.then(|| format!("an event about group {name} or a policy of it {needs}"))
    }

    fn has_newer_policy(&self, group: &GroupFact) -> bool {
        let newer = |name| self.policies.get(name).is_some_and(|it| it.newer);
        group.spec.policies.iter().any(newer)
    }

    /// The group with this id.
    pub fn group_of(&self, id: GroupId) -> Option<&GroupFact> {
        self.groups.values().find(|group| group.spec.id == id)
    }
}

/// A network and who gives out which of its addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFact {
    pub spec: NetworkSpec,
    /// It is being removed: no attaches, no leases.
    pub closing: bool,
    /// A ceded address is a /32 (or a /128) here, inside the block of its former holder.
    pub blocks: OrdMap<IpNet, NodeName>,
    /// What its groups have for their members alone.
    #[serde(default)]
    pub pools: OrdMap<GroupName, AddressRange>,
}

impl NetworkFact {
    /// The group that has the address for its members alone.
    pub fn pool_of(&self, address: IpAddr) -> Option<(&GroupName, AddressRange)> {
        let mut pools = self.pools.iter().map(|(group, range)| (group, *range));
        pools.find(|(_, range)| range.contains(address))
    }

    /// The group whose pool the block is of; none: it is one of the network's, which may hold
    /// addresses of pools among others.
    pub fn pool_around(&self, block: IpNet) -> Option<&GroupName> {
        let inside =
            |it: &AddressRange| it.contains(block.network()) && it.contains(block.broadcast());
        let mut pools = self.pools.iter();
        pools.find(|(_, range)| inside(range)).map(|it| it.0)
    }

    /// What the members of the group get addresses of, or everybody else; of this family.
    pub fn pool(&self, group: Option<&GroupName>, v6: bool) -> Option<Pool> {
        let of_network = if v6 {
            self.spec.v6.as_ref()?
        } else {
            &self.spec.v4
        };
        let own = group.and_then(|group| self.pools.get(group));
        let own = own.filter(|range| range.first.is_ipv6() == v6);
        Some(Pool {
            range: own.copied().or(of_network.range),
            ..of_network.clone()
        })
    }

    /// The group whose blocks its members get addresses of; none: the network's.
    pub fn pool_group(&self, group: Option<&GroupName>) -> Option<GroupName> {
        group.filter(|it| self.pools.contains_key(*it)).cloned()
    }

    /// The block that `address` belongs to, and its holder: a ceded address, or a block of a
    /// group's pool, before the network's block around it.
    pub fn block_of(&self, address: IpAddr) -> Option<(IpNet, &NodeName)> {
        let pool = self
            .spec
            .pools()
            .find(|pool| pool.subnet.contains(&address))?;
        let longest = pool.subnet.max_prefix_len();
        (pool.subnet.prefix_len()..=longest)
            .rev()
            .filter_map(|length| IpNet::new(address, length).ok())
            .find_map(|net| self.blocks.get_key_value(&net.trunc()))
            .map(|(block, node)| (*block, node))
    }

    /// Whether `node` alone gives out `address`.
    pub fn is_held_by(&self, address: IpAddr, node: &NodeName) -> bool {
        self.block_of(address)
            .is_some_and(|(_, holder)| holder == node)
    }

    /// The blocks leased to `node`, ceded addresses included.
    pub fn blocks_of(&self, node: &NodeName) -> impl Iterator<Item = IpNet> {
        self.blocks
            .iter()
            .filter(move |(_, holder)| *holder == node)
            .map(|(block, _)| *block)
    }
}

impl Projection {
    /// Whether the node is drained or has left.
    pub fn takes_no_endpoints(&self, node: &NodeName) -> bool {
        let node = self.nodes.get(node);
        node.is_some_and(|it| it.drained || it.left)
    }

    /// Folds one event in and says what it touched. Events come in the order of their revisions;
    /// one that was folded in before changes nothing.
    pub fn apply(&mut self, revision: Revision, id: EventId, event: &Event) -> Touched {
        if !self.advance(revision, Some(id)) {
            return Touched::default();
        }
        let touched = self.fold(revision, event);
        self.mark(&touched);
        touched
    }

    /// Remembers what this revision changed; of groups and policies each remembers its own.
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
            Event::NodeDrained(e) => self.node(&e.node, |node| node.drained = true),
            Event::NodeUncordoned(e) => self.node(&e.node, |node| node.drained = false),
            Event::NodeLeft(e) => self.node(&e.node, |node| node.left = true),
            Event::NodeRemoved(e) => {
                self.nodes.remove(&e.node);
                Touched::node(&e.node)
            }
            Event::TenantCreated(e) => {
                self.open(&e.tenant);
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
            Event::GroupUpdated(e) => self.group(&e.tenant, &e.group, |group| {
                group.spec.policies.clone_from(&e.policies);
            }),
            Event::GroupClosing(e) => self.group(&e.tenant, &e.group, |g| g.closing = true),
            Event::GroupReopened(e) => self.group(&e.tenant, &e.group, |g| g.closing = false),
            Event::GroupRemoved(e) => self.tenant(&e.tenant, |tenant| {
                tenant.groups.remove(&e.group);
                tenant.release_pool(&e.group);
            }),
            Event::PolicyCreated(e) => self.tenant(&e.tenant, |tenant| {
                let fresh = PolicyFact::default();
                tenant.policies.insert(e.policy.clone(), fresh);
            }),
            Event::PolicyRemoved(e) => self.tenant(&e.tenant, |tenant| {
                tenant.policies.remove(&e.policy);
            }),
            Event::PolicyApplied(e) => self.policy(&e.tenant, &e.policy, |policy| {
                policy.enforced = Some(revision);
            }),
            Event::RuleAdded(e) => self.policy(&e.tenant, &e.policy, |policy| {
                policy.rules.insert(e.rule.id.clone(), e.rule.clone());
            }),
            Event::RuleRemoved(e) => self.policy(&e.tenant, &e.policy, |policy| {
                policy.rules.remove(&e.rule);
            }),
            Event::NetworkClosing(e) => self.change(&e.tenant, &e.network, |n| n.closing = true),
            Event::NetworkReopened(e) => self.change(&e.tenant, &e.network, |n| n.closing = false),
            Event::BlockLeased(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.insert(e.block, e.node.clone());
            }),
            Event::BlockReturned(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::BlockRevoked(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::BlockCeded(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.insert(IpNet::from(e.address), e.to.clone());
            }),
            // The intent's half of the same batch has said it.
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
            Event::Barrier | Event::LogAccepted(_) | Event::Unknown => Touched::default(),
        }
    }

    /// Folds in an event that was written for newer readers only: it isn't guessed at, and what
    /// its subject names is closed: a group, the groups of a policy, else a tenant; what spans
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
            // Who is in a group that isn't known here is closed anyway.
            Concerned::Group(tenant, group) => self.group(&tenant, &group, |it| it.newer = true),
            Concerned::Policy(tenant, policy) => {
                let policies = &mut self.open(&tenant).policies;
                policies.entry(policy.clone()).or_default();
                self.policy(&tenant, &policy, |it| it.newer = true)
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

    /// Passes a message that holds no event at all; nobody who decides wrote it.
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

    /// How many blocks are leased to `node`.
    pub fn blocks_of(&self, node: &NodeName) -> usize {
        self.networks()
            .map(|(_, network)| network.blocks_of(node).count())
            .sum()
    }

    /// A tenant's facts, which begin here if there are none.
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

    /// The next zone that no tenant has: who comes after one that went gets another one than it
    /// had, whose connections may not be forgotten everywhere yet. Beyond 65,535 tenants they are
    /// shared.
    fn free_zone(&self) -> u16 {
        let next = |zone: u16| zone % u16::MAX + 1;
        let taken = |zone: u16| self.tenants.values().any(|tenant| tenant.zone == zone);
        let mut zone = next(self.last_zone);
        while zone != self.last_zone && taken(zone) {
            zone = next(zone);
        }
        zone
    }

    /// False: this revision was folded in before.
    fn advance(&mut self, revision: Revision, id: Option<EventId>) -> bool {
        if revision <= self.applied {
            return false;
        }
        self.applied = revision;
        self.applied_event = id;
        true
    }

    fn node(&mut self, name: &NodeName, change: impl FnOnce(&mut NodeFact)) -> Touched {
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

    fn tenant(&mut self, name: &TenantName, change: impl FnOnce(&mut TenantFact)) -> Touched {
        match self.tenants.get_mut(name) {
            Some(tenant) => {
                change(tenant);
                tenant.ruled = self.applied;
                Touched::tenant(name)
            }
            None => Touched::default(),
        }
    }

    fn group(
        &mut self,
        tenant: &TenantName,
        group: &GroupName,
        change: impl FnOnce(&mut GroupFact),
    ) -> Touched {
        self.tenant(tenant, |tenant| {
            if let Some(group) = tenant.groups.get_mut(group) {
                change(group);
            }
        })
    }

    fn policy(
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

    fn change(
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
