//! Answers to queries.

use std::collections::BTreeMap;

use bus_schema::node::{Alarm, Grade};
use bus_schema::query::{
    ClusterInfo, GroupInfo, NetworkInfo, NodeInfo, PolicyInfo, TenantInfo, Waited,
};
use bus_schema::rejection::EndpointUse;
use bus_schema::{
    Answer, Endpoint, GroupName, NetworkName, NodeName, PolicyName, Query, Rejection, Revision,
    TenantName,
};

use super::{GroupView, Held, NetworkView, NodeView, TenantView, View};

impl View {
    /// Answers a query from the view; `None` for [`Query::Wait`], which takes time.
    pub(crate) fn answer(&self, query: &Query, now: u64) -> Option<Answer> {
        let revision = self.applied;
        let answer = match query {
            Query::ClusterInfo => self.info(),
            Query::TenantList => Ok(Answer::Tenants {
                revision,
                tenants: self.tenant_infos(),
            }),
            Query::NetworkList { tenant, network } => self
                .network_infos(tenant.as_ref(), network.as_ref())
                .map(|networks| Answer::Networks { revision, networks }),
            Query::GroupList { tenant, group } => self
                .group_infos(tenant.as_ref(), group.as_ref())
                .map(|groups| Answer::Groups { revision, groups }),
            Query::PolicyList { tenant, policy } => self
                .policy_infos(tenant.as_ref(), policy.as_ref())
                .map(|policies| Answer::Policies { revision, policies }),
            Query::NodeList { node } => self
                .node_infos(node.as_ref(), now)
                .map(|nodes| Answer::Nodes { revision, nodes }),
            Query::EndpointList { tenant } => {
                self.endpoints_of(tenant.as_ref())
                    .map(|endpoints| Answer::Endpoints {
                        revision,
                        endpoints,
                    })
            }
            Query::Wait { .. } => return None,
        };
        Some(answer.unwrap_or_else(|rejection| Answer::rejected(rejection, revision)))
    }

    fn info(&self) -> Result<Answer, Rejection> {
        let cluster = self.cluster.ok_or(Rejection::NotInitialised)?;
        Ok(Answer::Cluster {
            revision: self.applied,
            cluster: ClusterInfo {
                cluster,
                settings: self.settings.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
        })
    }

    fn tenant_infos(&self) -> Vec<TenantInfo> {
        let tenants = self.tenants.iter();
        tenants
            .map(|(tenant, view)| TenantInfo {
                tenant: tenant.clone(),
                networks: view.networks.keys().cloned().collect(),
                max_connections: view.max_connections,
                egress: view.egress,
            })
            .collect()
    }

    fn network_infos(
        &self,
        tenant: Option<&TenantName>,
        network: Option<&NetworkName>,
    ) -> Result<Vec<NetworkInfo>, Rejection> {
        self.must_exist(tenant)?;
        let found: Vec<NetworkInfo> = self
            .tenants_named(tenant)
            .flat_map(|(_, view)| view.networks.values())
            .filter(|n| network.is_none_or(|name| *name == n.spec.name))
            .map(|n| self.network_info(n, network.is_some()))
            .collect();
        match network {
            Some(network) if found.is_empty() => Err(Rejection::NetworkUnknown {
                tenant: tenant.cloned().unwrap_or_else(TenantName::default_tenant),
                network: network.clone(),
            }),
            _ => Ok(found),
        }
    }

    /// `in_full`: with the usage of each block. For all networks that is too much for one answer.
    fn network_info(&self, network: &NetworkView, in_full: bool) -> NetworkInfo {
        let blocks = network.blocks.iter();
        let endpoints = self.endpoints_in(&network.spec.tenant, &network.spec.name);
        let addresses = self.addresses(network);
        NetworkInfo {
            spec: network.spec.clone(),
            created: network.created,
            closing: network.closing.is_some(),
            blocks: blocks
                .map(|(block, held)| (*block, held.node.clone()))
                .collect(),
            endpoints: count(endpoints),
            addresses: Some(addresses.count(None)),
            usage: addresses.usage(|_| in_full),
        }
    }

    fn tenants_named(
        &self,
        tenant: Option<&TenantName>,
    ) -> impl Iterator<Item = (&TenantName, &TenantView)> {
        let tenants = self.tenants.iter();
        tenants.filter(move |(name, _)| tenant.is_none_or(|t| t == *name))
    }

    fn group_infos(
        &self,
        tenant: Option<&TenantName>,
        group: Option<&GroupName>,
    ) -> Result<Vec<GroupInfo>, Rejection> {
        self.must_exist(tenant)?;
        let found: Vec<GroupInfo> = self
            .tenants_named(tenant)
            .flat_map(|(_, view)| view.groups.values())
            .filter(|g| group.is_none_or(|name| *name == g.spec.name))
            .map(|g| self.group_info(g, group.is_some()))
            .collect();
        match group {
            Some(group) if found.is_empty() => Err(Rejection::GroupUnknown {
                tenant: tenant.cloned().unwrap_or_else(TenantName::default_tenant),
                group: group.clone(),
            }),
            _ => Ok(found),
        }
    }

    /// `in_full`: with the usage of each block of its own pool.
    fn group_info(&self, group: &GroupView, in_full: bool) -> GroupInfo {
        let (tenant, name) = (&group.spec.tenant, &group.spec.name);
        let network = group
            .spec
            .pool
            .and(self.network(tenant, &group.spec.network));
        let addresses = network.map(|it| self.addresses(it));
        let is_own = |held: &Held| in_full && held.group.as_ref() == Some(name);
        GroupInfo {
            spec: group.spec.clone(),
            created: group.created,
            closing: group.closing.is_some(),
            endpoints: count(self.members_of(tenant, name)),
            addresses: addresses.as_ref().map(|it| it.count(Some(name))),
            usage: addresses.map_or(vec![], |it| it.usage(is_own)),
        }
    }

    fn policy_infos(
        &self,
        tenant: Option<&TenantName>,
        policy: Option<&PolicyName>,
    ) -> Result<Vec<PolicyInfo>, Rejection> {
        self.must_exist(tenant)?;
        let found: Vec<PolicyInfo> = self
            .tenants_named(tenant)
            .flat_map(|(tenant, view)| view.policy_infos(tenant))
            .filter(|info| policy.is_none_or(|name| *name == info.policy))
            .collect();
        match policy {
            Some(policy) if found.is_empty() => Err(Rejection::PolicyUnknown {
                tenant: tenant.cloned().unwrap_or_else(TenantName::default_tenant),
                policy: policy.clone(),
            }),
            _ => Ok(found),
        }
    }

    fn members_of<'a>(
        &'a self,
        tenant: &'a TenantName,
        group: &'a GroupName,
    ) -> impl Iterator<Item = &'a Endpoint> {
        let all = self.endpoints_of_members();
        all.filter(move |e| e.tenant == *tenant && e.group.as_ref() == Some(group))
    }

    /// The published endpoints in a group.
    pub(crate) fn members(&self, tenant: &TenantName, group: &GroupName) -> Vec<EndpointUse> {
        uses(self.members_of(tenant, group))
    }

    pub(super) fn endpoints_in<'a>(
        &'a self,
        tenant: &'a TenantName,
        network: &'a NetworkName,
    ) -> impl Iterator<Item = &'a Endpoint> {
        let all = self.endpoints_of_members();
        all.filter(move |e| e.tenant == *tenant && e.network == *network)
    }

    /// The published endpoints in a network.
    pub(crate) fn users(&self, tenant: &TenantName, network: &NetworkName) -> Vec<EndpointUse> {
        uses(self.endpoints_in(tenant, network))
    }

    fn node_infos(&self, node: Option<&NodeName>, now: u64) -> Result<Vec<NodeInfo>, Rejection> {
        if let Some(node) = node
            && !self.nodes.contains_key(node)
        {
            return Err(Rejection::NodeUnknown { node: node.clone() });
        }
        let ahead = self.ahead(now);
        let nodes = self.nodes.iter();
        Ok(nodes
            .filter(|(name, _)| node.is_none_or(|n| n == *name))
            .map(|(name, member)| {
                let mut info = self.node_info(name, member, now);
                if node.is_some() {
                    info.usage = self.usage_of(name);
                }
                let alarm = ahead.get(name).map(|applied| ahead_of_log(*applied));
                if let Some(status) = &mut info.status {
                    status.alarms.extend(alarm);
                }
                info
            })
            .collect())
    }

    fn node_info(&self, name: &NodeName, member: &NodeView, now: u64) -> NodeInfo {
        let heard = self.statuses.get(name);
        NodeInfo {
            node: name.clone(),
            machine: member.machine.clone(),
            vtep: member.vtep,
            status: heard.map(|heard| heard.status.clone()),
            age: heard.map(|heard| now.saturating_sub(heard.at)),
            alive: self.alive(name, now),
            drained: member.drained,
            left: member.left,
            usage: vec![],
        }
    }

    fn endpoints_of(&self, tenant: Option<&TenantName>) -> Result<Vec<Endpoint>, Rejection> {
        self.must_exist(tenant)?;
        let all = self.endpoints_of_members();
        Ok(all
            .filter(|endpoint| tenant.is_none_or(|t| *t == endpoint.tenant))
            .cloned()
            .collect())
    }

    fn must_exist(&self, tenant: Option<&TenantName>) -> Result<(), Rejection> {
        match tenant {
            Some(tenant) if !self.tenants.contains_key(tenant) => Err(Rejection::TenantUnknown {
                tenant: tenant.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// The progress of the nodes towards `until`, and whether every live one has applied it; with
    /// `published`, also whether the bus has all their endpoints.
    pub(crate) fn waiting(&self, until: Revision, published: bool, now: u64) -> (Waited, bool) {
        let mut lagging = BTreeMap::new();
        let mut unpublished = BTreeMap::new();
        let mut silent = Vec::new();
        for (node, member) in &self.nodes {
            match self.statuses.get(node).filter(|_| self.alive(node, now)) {
                // It left before it was stopped.
                None if member.left => {}
                None => silent.push(node.clone()),
                Some(heard) if !heard.status.has_applied(until) => {
                    lagging.insert(node.clone(), heard.status.applied);
                }
                Some(heard) if published && heard.status.unpublished > 0 => {
                    unpublished.insert(node.clone(), heard.status.unpublished);
                }
                Some(_) => {}
            }
        }
        let over = lagging.is_empty() && unpublished.is_empty();
        let waited = Waited {
            until,
            lagging,
            unpublished,
            silent,
        };
        (waited, over)
    }
}

impl TenantView {
    fn policy_infos(&self, tenant: &TenantName) -> impl Iterator<Item = PolicyInfo> {
        self.policies.iter().map(move |(name, policy)| {
            let mut rules: Vec<_> = policy.rules.values().cloned().collect();
            rules.sort_by(|one, other| one.id.precedence(&other.id));
            let uses = self.groups.values().map(|group| &group.spec);
            PolicyInfo {
                tenant: tenant.clone(),
                policy: name.clone(),
                created: policy.created,
                rules,
                groups: uses
                    .filter(|spec| spec.policies.contains(name))
                    .map(|spec| spec.name.clone())
                    .collect(),
            }
        })
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u64 {
    u64::try_from(items.count()).unwrap_or(u64::MAX)
}

fn uses<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<EndpointUse> {
    endpoints
        .filter_map(|endpoint| {
            Some(EndpointUse {
                endpoint: endpoint.id.clone(),
                node: endpoint.node.clone(),
                name: endpoint.name.clone(),
                address: endpoint.addresses().next()?,
            })
        })
        .collect()
}

fn ahead_of_log(applied: Revision) -> Alarm {
    let text = format!(
        "this node has applied revision {applied}, which the log doesn't hold: the log was restored from an older copy, or this node's disk is of another cluster; `netctl node accept-log` makes it follow the log as it is"
    );
    Alarm::new(Grade::Wrong, "ahead-of-log", text)
}
