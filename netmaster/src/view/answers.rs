//! Answers to queries, out of the view.

use std::collections::BTreeMap;

use bus_schema::query::{ClusterInfo, NetworkInfo, NodeInfo, TenantInfo, Waited};
use bus_schema::rejection::EndpointUse;
use bus_schema::{Answer, Endpoint, NetworkName, NodeName, Query, Rejection, Revision, TenantName};

use super::{NetworkView, NodeView, View};

impl View {
    /// Answers what the view alone can answer; `None` for [`Query::Wait`], which takes time.
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
        Some(answer.unwrap_or_else(|rejection| Answer::Rejected {
            rejection,
            revision,
        }))
    }

    fn info(&self) -> Result<Answer, Rejection> {
        let cluster = self.cluster.ok_or_else(|| Rejection::Malformed {
            reason: "the cluster isn't initialised: run `netmaster init`".to_owned(),
        })?;
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
            .map(|(tenant, networks)| TenantInfo {
                tenant: tenant.clone(),
                networks: networks.keys().cloned().collect(),
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
            .tenants
            .iter()
            .filter(|(name, _)| tenant.is_none_or(|t| t == *name))
            .flat_map(|(_, networks)| networks.values())
            .filter(|n| network.is_none_or(|name| *name == n.spec.name))
            .map(|n| self.network_info(n))
            .collect();
        match network {
            Some(network) if found.is_empty() => Err(Rejection::NetworkUnknown {
                tenant: tenant.cloned().unwrap_or_else(TenantName::default_tenant),
                network: network.clone(),
            }),
            _ => Ok(found),
        }
    }

    fn network_info(&self, network: &NetworkView) -> NetworkInfo {
        let blocks = network.blocks.iter();
        let endpoints = self.endpoints_in(&network.spec.tenant, &network.spec.name);
        NetworkInfo {
            spec: network.spec.clone(),
            created: network.created,
            closing: network.closing.is_some(),
            blocks: blocks
                .map(|(block, (node, _))| (*block, node.clone()))
                .collect(),
            endpoints: u64::try_from(endpoints.count()).unwrap_or(u64::MAX),
        }
    }

    fn endpoints_in<'a>(
        &'a self,
        tenant: &'a TenantName,
        network: &'a NetworkName,
    ) -> impl Iterator<Item = &'a Endpoint> {
        let all = self.endpoints.values();
        all.filter(move |e| e.tenant == *tenant && e.network == *network)
    }

    /// Who uses a network, as nodes published it.
    pub(crate) fn users(&self, tenant: &TenantName, network: &NetworkName) -> Vec<EndpointUse> {
        self.endpoints_in(tenant, network)
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

    fn node_infos(&self, node: Option<&NodeName>, now: u64) -> Result<Vec<NodeInfo>, Rejection> {
        if let Some(node) = node
            && !self.nodes.contains_key(node)
        {
            return Err(Rejection::NodeUnknown { node: node.clone() });
        }
        let nodes = self.nodes.iter();
        Ok(nodes
            .filter(|(name, _)| node.is_none_or(|n| n == *name))
            .map(|(name, member)| self.node_info(name, member, now))
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
        }
    }

    fn endpoints_of(&self, tenant: Option<&TenantName>) -> Result<Vec<Endpoint>, Rejection> {
        self.must_exist(tenant)?;
        let all = self.endpoints.values();
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

    /// How far the nodes are with `until`, and whether every live one has applied it.
    pub(crate) fn waiting(&self, until: Revision, now: u64) -> (Waited, bool) {
        let mut lagging = BTreeMap::new();
        let mut silent = Vec::new();
        for node in self.nodes.keys() {
            match self.statuses.get(node).filter(|_| self.alive(node, now)) {
                None => silent.push(node.clone()),
                Some(heard) if heard.status.has_applied(until) => {}
                Some(heard) => {
                    lagging.insert(node.clone(), heard.status.applied);
                }
            }
        }
        let over = lagging.is_empty();
        let waited = Waited {
            until,
            lagging,
            silent,
        };
        (waited, over)
    }
}
