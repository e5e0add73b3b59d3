//! The view of the cluster: the fold of the whole log, of the published endpoints, and of the nodes'
//! statuses.
//!
//! Pure. Queries and reactions read it. No command is decided on it, except for facts that aren't in
//! the log (whether a node is alive).

mod addresses;
mod answers;
pub(crate) mod log;

pub(crate) use addresses::PoolCount;

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::event::Settings;
use bus_schema::mark_rule::MarkRule;
use bus_schema::node::{ALIVE_MS, NodeStatus};
use bus_schema::{
    ClusterId, Egress, Endpoint, EndpointEvent, EndpointId, Event, GroupName, GroupSpec, MachineId,
    NetworkName, NetworkSpec, NodeName, PolicyName, Revision, Rule, RuleId, TenantName,
    update_default_egress, update_limit,
};
use ipnet::IpNet;
use std::net::IpAddr;

/// The key under which an endpoint is published: its tenant, node and id.
pub(crate) type EndpointKey = (TenantName, NodeName, EndpointId);

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct View {
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) settings: Settings,
    /// The last revision folded in.
    pub(crate) applied: Revision,
    pub(crate) tenants: BTreeMap<TenantName, TenantView>,
    pub(crate) nodes: BTreeMap<NodeName, NodeView>,
    pub(crate) endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub(crate) statuses: BTreeMap<NodeName, Heard>,
    pub(crate) log: log::LogView,
    /// Tenants with events that this build can't read, and the first revision of such an event.
    pub(crate) newer: BTreeMap<TenantName, Revision>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TenantView {
    /// The connections that each endpoint may open; absent: the nodes' default.
    pub(crate) max_connections: Option<u32>,
    /// The way out of new networks; absent: [`Egress::OF_NEW_NETWORKS`].
    pub(crate) egress: Option<Egress>,
    pub(crate) networks: BTreeMap<NetworkName, NetworkView>,
    pub(crate) groups: BTreeMap<GroupName, GroupView>,
    pub(crate) policies: BTreeMap<PolicyName, PolicyView>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NetworkView {
    pub(crate) spec: NetworkSpec,
    pub(crate) created: Revision,
    /// The revision at which its removal began.
    pub(crate) closing: Option<Revision>,
    /// The leased blocks, those of its groups' pools included.
    pub(crate) blocks: BTreeMap<IpNet, Held>,
}

/// A leased block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) node: NodeName,
    pub(crate) since: Revision,
    /// Of this group's own pool.
    pub(crate) group: Option<GroupName>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupView {
    pub(crate) spec: GroupSpec,
    pub(crate) created: Revision,
    /// The revision at which its removal began.
    pub(crate) closing: Option<Revision>,
    /// How often its removal began.
    pub(crate) closings: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PolicyView {
    pub(crate) created: Revision,
    pub(crate) rules: BTreeMap<RuleId, Rule>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NodeView {
    pub(crate) machine: MachineId,
    pub(crate) vtep: IpAddr,
    /// It takes no new endpoints (`netctl node drain`).
    pub(crate) drained: bool,
    /// How often it was drained.
    pub(crate) drains: u32,
    /// It takes no new endpoints and has withdrawn its names (`netplugin leave`).
    pub(crate) left: bool,
}

/// A status, and when it was heard, in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Heard {
    pub(crate) status: NodeStatus,
    pub(crate) at: u64,
}

impl View {
    /// Folds in an event of the log; `None`: this build can't read it.
    pub(crate) fn apply(&mut self, revision: Revision, event: Option<&Event>) {
        if revision <= self.applied {
            return;
        }
        self.applied = revision;
        if let Some(event) = event {
            self.fold(revision, event);
        }
    }

    fn fold(&mut self, revision: Revision, event: &Event) {
        match event {
            Event::ClusterCreated(e) => {
                self.cluster = Some(e.cluster);
                self.settings = e.settings.clone();
            }
            Event::ClusterChanged(e) => self.settings = e.settings.clone(),
            Event::TenantCreated(e) => {
                self.tenants.entry(e.tenant.clone()).or_default();
            }
            Event::TenantUpdated(e) => {
                let tenant = self.tenants.entry(e.tenant.clone()).or_default();
                update_limit(&mut tenant.max_connections, e.max_connections);
                update_default_egress(&mut tenant.egress, e.egress);
            }
            Event::TenantRemoved(e) => {
                self.tenants.remove(&e.tenant);
            }
            Event::NodeJoined(e) => {
                let known = self.nodes.get(&e.node);
                let node = NodeView {
                    machine: e.machine.clone(),
                    vtep: e.vtep,
                    drained: known.is_some_and(|it| it.drained),
                    drains: known.map_or(0, |it| it.drains),
                    left: false,
                };
                self.nodes.insert(e.node.clone(), node);
            }
            Event::NodeDrained(e) => self.change_node(&e.node, |node| {
                node.drained = true;
                node.drains = node.drains.saturating_add(1);
            }),
            Event::NodeUncordoned(e) => self.change_node(&e.node, |node| node.drained = false),
            Event::NodeLeft(e) => self.change_node(&e.node, |node| node.left = true),
            Event::NodeRemoved(e) => {
                self.nodes.remove(&e.node);
                self.statuses.remove(&e.node);
            }
            Event::NetworkCreated(e) => self.created(revision, &e.network),
            Event::NetworkRemoved(e) => {
                if let Some(tenant) = self.tenants.get_mut(&e.tenant) {
                    tenant.networks.remove(&e.network);
                }
            }
            Event::NetworkUpdated(e) => {
                self.change(&e.tenant, &e.network, |n| e.apply(&mut n.spec));
            }
            Event::NetworkClosing(e) => {
                self.change(&e.tenant, &e.network, |n| n.closing = Some(revision));
            }
            Event::NetworkReopened(e) => self.change(&e.tenant, &e.network, |n| n.closing = None),
            Event::BlockLeased(e) => self.change(&e.tenant, &e.network, |n| {
                let held = Held {
                    node: e.node.clone(),
                    since: revision,
                    group: e.group.clone(),
                };
                n.blocks.insert(e.block, held);
            }),
            Event::BlockCeded(e) => self.change(&e.tenant, &e.network, |n| {
                let held = Held {
                    node: e.to.clone(),
                    since: revision,
                    group: e.group.clone(),
                };
                n.blocks.insert(IpNet::from(e.address), held);
            }),
            Event::BlockReturned(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::BlockRevoked(e) => self.change(&e.tenant, &e.network, |n| {
                n.blocks.remove(&e.block);
            }),
            Event::GroupCreated(_)
            | Event::GroupUpdated(_)
            | Event::GroupClosing(_)
            | Event::GroupReopened(_)
            | Event::GroupRemoved(_) => self.group_changed(revision, event),
            Event::PolicyCreated(_)
            | Event::PolicyRemoved(_)
            | Event::RuleAdded(_)
            | Event::RuleRemoved(_) => self.policy_changed(revision, event),
            Event::LogAccepted(e) => self.log.accepted.extend(e.ahead.clone()),
            Event::Barrier
            | Event::PolicyApplied(_)
            | Event::TenantOpened(_)
            | Event::TenantClosed(_)
            | Event::VniAssigned(_)
            | Event::VniReleased(_)
            | Event::LeasesOpened(_)
            | Event::LeasesClosing(_)
            | Event::LeasesReopened(_)
            | Event::LeasesClosed(_)
            | Event::PoolReserved(_)
            | Event::PoolReleased(_)
            | Event::Unknown => {}
        }
    }

    /// Notes that an event of this tenant was written for newer netmasters only.
    pub(crate) fn is_older(&mut self, tenant: TenantName, revision: Revision) {
        self.newer.entry(tenant).or_insert(revision);
    }

    fn created(&mut self, revision: Revision, spec: &NetworkSpec) {
        let network = NetworkView {
            spec: spec.clone(),
            created: revision,
            closing: None,
            blocks: BTreeMap::new(),
        };
        let tenant = self.tenants.entry(spec.tenant.clone()).or_default();
        tenant.networks.insert(spec.name.clone(), network);
    }

    fn group_changed(&mut self, revision: Revision, event: &Event) {
        match event {
            Event::GroupCreated(e) => {
                let group = GroupView {
                    spec: e.group.clone(),
                    created: revision,
                    closing: None,
                    closings: 0,
                };
                let tenant = self.tenants.entry(e.group.tenant.clone()).or_default();
                tenant.groups.insert(e.group.name.clone(), group);
            }
            Event::GroupUpdated(e) => self.change_group(&e.tenant, &e.group, |g| {
                g.spec.policies.clone_from(&e.policies);
            }),
            Event::GroupClosing(e) => self.change_group(&e.tenant, &e.group, |g| {
                g.closing = Some(revision);
                g.closings = g.closings.saturating_add(1);
            }),
            Event::GroupReopened(e) => {
                self.change_group(&e.tenant, &e.group, |g| g.closing = None);
            }
            Event::GroupRemoved(e) => {
                if let Some(tenant) = self.tenants.get_mut(&e.tenant) {
                    tenant.groups.remove(&e.group);
                    for network in tenant.networks.values_mut() {
                        let group = Some(&e.group);
                        network
                            .blocks
                            .retain(|_, held| held.group.as_ref() != group);
                    }
                }
            }
            _ => {}
        }
    }

    fn policy_changed(&mut self, revision: Revision, event: &Event) {
        match event {
            Event::PolicyCreated(e) => {
                let policy = PolicyView {
                    created: revision,
                    rules: BTreeMap::new(),
                };
                let tenant = self.tenants.entry(e.tenant.clone()).or_default();
                tenant.policies.insert(e.policy.clone(), policy);
            }
            Event::PolicyRemoved(e) => {
                if let Some(tenant) = self.tenants.get_mut(&e.tenant) {
                    tenant.policies.remove(&e.policy);
                }
            }
            Event::RuleAdded(e) => {
                if let Some(policy) = self.policy_mut(&e.tenant, &e.policy) {
                    policy.rules.insert(e.rule.id.clone(), e.rule.clone());
                }
            }
            Event::RuleRemoved(e) => {
                if let Some(policy) = self.policy_mut(&e.tenant, &e.policy) {
                    policy.rules.remove(&e.rule);
                }
            }
            _ => {}
        }
    }

    fn policy_mut(&mut self, tenant: &TenantName, policy: &PolicyName) -> Option<&mut PolicyView> {
        self.tenants.get_mut(tenant)?.policies.get_mut(policy)
    }

    fn change_node(&mut self, node: &NodeName, how: impl FnOnce(&mut NodeView)) {
        if let Some(node) = self.nodes.get_mut(node) {
            how(node);
        }
    }

    fn change_group(
        &mut self,
        tenant: &TenantName,
        group: &GroupName,
        how: impl FnOnce(&mut GroupView),
    ) {
        let tenant = self.tenants.get_mut(tenant);
        if let Some(group) = tenant.and_then(|t| t.groups.get_mut(group)) {
            how(group);
        }
    }

    fn change(
        &mut self,
        tenant: &TenantName,
        network: &NetworkName,
        how: impl FnOnce(&mut NetworkView),
    ) {
        let tenant = self.tenants.get_mut(tenant);
        if let Some(network) = tenant.and_then(|t| t.networks.get_mut(network)) {
            how(network);
        }
    }

    /// Takes a status that arrived at `now`, in milliseconds since 1970.
    pub(crate) fn hear(&mut self, status: NodeStatus, now: u64) {
        self.log.hear(&status, now);
        let heard = Heard { status, at: now };
        self.statuses.insert(heard.status.node.clone(), heard);
    }

    /// The routing rules by the packet mark of all members, each once. A node that is away keeps its rules.
    pub(crate) fn mark_rules(&self) -> Vec<MarkRule> {
        let members = self.nodes.keys().filter_map(|it| self.statuses.get(it));
        let around = members.filter_map(|it| it.status.surroundings.as_ref());
        let rules: BTreeSet<_> = around.flat_map(|it| &it.mark_rules).collect();
        rules.into_iter().cloned().collect()
    }

    /// Whether every member sent a status at least once.
    pub(crate) fn has_heard_all(&self) -> bool {
        let mut nodes = self.nodes.keys();
        nodes.all(|node| self.statuses.contains_key(node))
    }

    /// Whether the node is a member and sent a status a moment ago.
    pub(crate) fn alive(&self, node: &NodeName, now: u64) -> bool {
        let heard = self.statuses.get(node);
        self.nodes.contains_key(node)
            && heard.is_some_and(|heard| now.saturating_sub(heard.at) <= ALIVE_MS)
    }

    /// Whether no member sent a status a moment ago: then this netmaster may be cut off.
    pub(crate) fn hears_nobody(&self, now: u64) -> bool {
        !self.nodes.keys().any(|node| self.alive(node, now))
    }

    pub(crate) fn network(
        &self,
        tenant: &TenantName,
        network: &NetworkName,
    ) -> Option<&NetworkView> {
        self.tenants.get(tenant)?.networks.get(network)
    }

    pub(crate) fn group(&self, tenant: &TenantName, group: &GroupName) -> Option<&GroupView> {
        self.tenants.get(tenant)?.groups.get(group)
    }

    /// The published endpoints of members. Those of a node that was removed as lost stay on the bus until
    /// it is back, but aren't in the cluster.
    fn endpoints_of_members(&self) -> impl Iterator<Item = &Endpoint> {
        let all = self.endpoints.values();
        all.filter(|endpoint| self.nodes.contains_key(&endpoint.node))
    }

    pub(crate) fn networks(&self) -> impl Iterator<Item = &NetworkView> {
        self.tenants.values().flat_map(|t| t.networks.values())
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &GroupView> {
        self.tenants.values().flat_map(|t| t.groups.values())
    }

    /// The networks of which a node holds blocks.
    pub(crate) fn held_by(&self, node: &NodeName) -> Vec<NetworkName> {
        self.networks()
            .filter(|network| network.blocks.values().any(|held| held.node == *node))
            .map(|network| network.spec.name.clone())
            .collect()
    }
}

impl NetworkView {
    /// The nodes that hold blocks, each once: blocks of a group's pool alone, or all.
    pub(crate) fn holders(&self, group: Option<&GroupName>) -> Vec<NodeName> {
        let held = self.blocks.values();
        let held = held.filter(|it| group.is_none() || it.group.as_ref() == group);
        let mut nodes: Vec<NodeName> = held.map(|it| it.node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        nodes
    }
}

/// Folds an event of an endpoint into `endpoints`.
pub(crate) fn publish(endpoints: &mut BTreeMap<EndpointKey, Endpoint>, event: &EndpointEvent) {
    match event {
        EndpointEvent::Up { endpoint, .. } => {
            let key = (
                endpoint.tenant.clone(),
                endpoint.node.clone(),
                endpoint.id.clone(),
            );
            endpoints.insert(key, endpoint.clone());
        }
        EndpointEvent::Down {
            tenant, node, id, ..
        } => {
            endpoints.remove(&(tenant.clone(), node.clone(), id.clone()));
        }
        EndpointEvent::Healed { .. } | EndpointEvent::Unknown => {}
    }
}

#[cfg(test)]
mod address_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod tests;
