//! A tenant's intent: its networks, groups and policies, and the rules for changing them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bus_schema::command::{
    GroupCreate, GroupRemove, GroupUpdate, NetworkCreate, NetworkRemove, NetworkUpdate,
    PolicyApply, PolicyCreate, PolicyRemove, Removal, RuleAdd, RuleRemove, TenantCreate,
    TenantRemove, TenantUpdate,
};
use bus_schema::event::{
    LeasesClosed, LeasesClosing, LeasesOpened, LeasesReopened, NetworkClosing, NetworkCreated,
    NetworkRemoved, NetworkReopened, TenantClosed, TenantCreated, TenantOpened, TenantRemoved,
    VniAssigned, VniReleased,
};
use bus_schema::mark_rule::MarkRule;
use bus_schema::policy::Peer;
use bus_schema::rejection::BlockUse;
use bus_schema::{
    Egress, Event, GroupId, GroupName, NetworkName, NetworkSpec, NodeName, PolicyName, PoolKey,
    Rejection, TenantName, subnet, update_default_egress, update_limit,
};

use super::{Aggregate, Cluster, Leases};

mod group;
mod network;
mod policy;
mod pool;
mod update;

pub use group::GroupIntent;
pub use network::NetworkIntent;
pub use policy::PolicyIntent;

/// The fold of `contiv.log.<tenant>.intent.>`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tenant {
    pub open: bool,
    /// The connections that each endpoint may open; absent: the nodes' default.
    pub max_connections: Option<u32>,
    /// The way out of new networks; absent: [`Egress::OF_NEW_NETWORKS`].
    pub egress: Option<Egress>,
    pub networks: BTreeMap<NetworkName, NetworkIntent>,
    pub groups: BTreeMap<GroupName, GroupIntent>,
    pub policies: BTreeMap<PolicyName, PolicyIntent>,
    /// The highest number of a rule so far.
    last_rule: u32,
    /// The last group's id.
    last_group: u16,
    /// Ids of groups that were removed by force: a node that couldn't be asked may still mark packets
    /// with them, so no other group gets them.
    retired: BTreeSet<GroupId>,
}

#[derive(Debug, Clone)]
pub enum TenantCommand {
    Create(TenantCreate),
    Update(TenantUpdate),
    Remove(TenantRemove),
    NetworkCreate(NetworkCreate),
    NetworkUpdate(NetworkUpdate),
    NetworkRemove(NetworkRemove),
    GroupCreate(GroupCreate),
    GroupUpdate(GroupUpdate),
    GroupRemove(GroupRemove),
    PolicyCreate(PolicyCreate),
    PolicyRemove(PolicyRemove),
    PolicyApply(PolicyApply),
    RuleAdd(RuleAdd),
    RuleRemove(RuleRemove),
}

/// The closing of a group, counted from 1, for which all nodes answered that they hold none of it. It
/// isn't in the log: netmaster asked them.
pub type Drained = Option<u32>;

#[derive(Debug, Clone, Default)]
pub struct TenantFacts {
    pub cluster: Arc<Cluster>,
    /// The leases on which the command depends: see [`Tenant::pools_of`].
    pub leases: BTreeMap<PoolKey, Arc<Leases>>,
    pub drained: Drained,
    /// The nodes' routing rules by the packet mark, which no new group's number should match.
    pub mark_rules: Vec<MarkRule>,
}

impl TenantFacts {
    /// The leased blocks of the pool.
    fn blocks(&self, pool: &PoolKey) -> Vec<BlockUse> {
        let blocks = self.leases.get(pool).map(|leases| &leases.blocks);
        let blocks = blocks.into_iter().flatten();
        blocks
            .map(|(block, node)| BlockUse {
                block: *block,
                node: node.clone(),
            })
            .collect()
    }

    /// The nodes that hold blocks of the pool, each once, by name.
    fn holders(&self, pool: &PoolKey) -> Vec<NodeName> {
        self.leases.get(pool).map_or(vec![], |it| it.holders())
    }
}

impl Tenant {
    /// The pools whose leases the command changes, or depends on.
    pub fn pools_of(&self, command: &TenantCommand) -> Vec<PoolKey> {
        match command {
            TenantCommand::NetworkCreate(c) => vec![PoolKey::of_network(&c.tenant, &c.network)],
            TenantCommand::NetworkRemove(c) => vec![PoolKey::of_network(&c.tenant, &c.network)],
            TenantCommand::GroupCreate(c) if c.ip_pool.is_some() => vec![
                PoolKey::of_network(&c.tenant, &c.network),
                PoolKey::of_group(&c.tenant, &c.network, &c.group),
            ],
            TenantCommand::GroupRemove(c) => self.pools_of_group(&c.tenant, &c.group),
            _ => vec![],
        }
    }

    fn create(&self, c: &TenantCreate) -> Result<Vec<Event>, Rejection> {
        if self.open {
            return self.same_again(c).map(|()| vec![]);
        }
        let tenant = || c.tenant.clone();
        let created = [
            Event::TenantCreated(TenantCreated { tenant: tenant() }),
            Event::TenantOpened(TenantOpened { tenant: tenant() }),
        ];
        Ok(created.into_iter().chain(update::settings(c)).collect())
    }

    fn remove(&self, c: &TenantRemove) -> Result<Vec<Event>, Rejection> {
        let tenant = c.tenant.clone();
        if tenant == TenantName::default_tenant() {
            return Err(Rejection::TenantIsDefault);
        }
        self.must_be_open(&tenant)?;
        // Groups are in networks.
        if !self.networks.is_empty() || !self.policies.is_empty() {
            return Err(Rejection::TenantInUse {
                tenant,
                networks: self.networks.keys().cloned().collect(),
                groups: self.groups.keys().cloned().collect(),
                policies: self.policies.keys().cloned().collect(),
            });
        }
        Ok(vec![
            Event::TenantRemoved(TenantRemoved {
                tenant: tenant.clone(),
            }),
            Event::TenantClosed(TenantClosed { tenant }),
        ])
    }

    fn network_create(
        &self,
        c: &NetworkCreate,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        self.must_be_open(&c.tenant)?;
        let pool = subnet::pool(c)?;
        if let Some(existing) = self.networks.get(&c.network) {
            return existing.same_again(c, &pool).map(|()| vec![]);
        }
        self.must_be_no_group(&c.tenant, &c.network)?;
        self.must_not_overlap(c, pool.subnet)?;
        let vni = facts.cluster.free_vni(c.vni)?;
        let spec = NetworkSpec {
            tenant: c.tenant.clone(),
            name: c.network.clone(),
            vni,
            v4: pool.clone(),
            v6: None,
            docker_name: c.docker_name.clone(),
            max_connections: c.max_connections.filter(|it| *it > 0),
            egress: c.egress.or(self.egress).or(Some(Egress::OF_NEW_NETWORKS)),
            allow_metadata: c.allow_metadata.unwrap_or_default(),
        };
        self.must_not_share_docker_name(&spec.tenant, &spec.docker_network(), "--nw-tag")?;
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        Ok(vec![
            Event::NetworkCreated(NetworkCreated { network: spec }),
            Event::VniAssigned(VniAssigned {
                vni,
                tenant: tenant.clone(),
                network: network.clone(),
            }),
            Event::LeasesOpened(LeasesOpened {
                tenant,
                network,
                group: None,
                v4: pool,
                v6: None,
            }),
        ])
    }

    fn network_remove(
        &self,
        c: &NetworkRemove,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        self.must_be_open(&tenant)?;
        let Some(intent) = self.networks.get(&network) else {
            // A removal is finished: it is gone already.
            return match c.mode {
                Removal::Finish => Ok(vec![]),
                Removal::Close | Removal::Abort | Removal::Force => {
                    Err(Rejection::NetworkUnknown { tenant, network })
                }
            };
        };
        if matches!(c.mode, Removal::Close | Removal::Force) {
            self.must_have_no_groups(&tenant, &network)?;
            let what = format!("network {network} of tenant {tenant}");
            self.must_not_be_named(
                what,
                &Peer::Network {
                    network: network.clone(),
                },
            )?;
        }
        let holders = facts.holders(&PoolKey::of_network(&tenant, &network));
        match c.mode {
            Removal::Close if intent.closing => Ok(vec![]),
            Removal::Close => Ok(closing(tenant, network)),
            Removal::Abort | Removal::Finish if !intent.closing => {
                Err(Rejection::NetworkNotClosing { tenant, network })
            }
            Removal::Abort => Ok(reopened(tenant, network)),
            Removal::Finish if !holders.is_empty() => Err(Rejection::NetworkHeld {
                tenant,
                network,
                nodes: holders,
            }),
            Removal::Finish | Removal::Force => Ok(removed(&intent.spec, !holders.is_empty())),
        }
    }

    fn must_be_open(&self, tenant: &TenantName) -> Result<(), Rejection> {
        if self.open {
            return Ok(());
        }
        Err(Rejection::TenantUnknown {
            tenant: tenant.clone(),
        })
    }

    /// A network being removed still counts: its addresses are in use until it is gone.
    fn must_not_overlap(&self, c: &NetworkCreate, subnet: ipnet::IpNet) -> Result<(), Rejection> {
        let mut others = self.networks.values();
        let overlapping = others.find(|it| subnet::overlap(it.spec.v4.subnet, subnet));
        match overlapping {
            None => Ok(()),
            Some(other) => Err(Rejection::SubnetOverlaps {
                subnet,
                tenant: c.tenant.clone(),
                network: other.spec.name.clone(),
                other_subnet: other.spec.v4.subnet,
            }),
        }
    }

    fn must_be_no_group(
        &self,
        tenant: &TenantName,
        network: &NetworkName,
    ) -> Result<(), Rejection> {
        if !self.groups.keys().any(|g| g.as_str() == network.as_str()) {
            return Ok(());
        }
        Err(Rejection::NameTaken {
            tenant: tenant.clone(),
            name: network.to_string(),
        })
    }

    /// A group being removed still counts.
    fn must_have_no_groups(
        &self,
        tenant: &TenantName,
        network: &NetworkName,
    ) -> Result<(), Rejection> {
        let inside = |group: &&GroupIntent| group.spec.network == *network;
        let groups: Vec<GroupName> = self
            .groups
            .values()
            .filter(inside)
            .map(|group| group.spec.name.clone())
            .collect();
        if groups.is_empty() {
            return Ok(());
        }
        Err(Rejection::NetworkHasGroups {
            tenant: tenant.clone(),
            network: network.clone(),
            groups,
        })
    }

    /// `flag` chooses the name of the object that is to be created.
    fn must_not_share_docker_name(
        &self,
        tenant: &TenantName,
        name: &str,
        flag: &str,
    ) -> Result<(), Rejection> {
        let network = self.networks.values().map(|n| &n.spec);
        let network = network
            .filter(|spec| spec.is_docker_network(name))
            .map(|spec| format!("network {}", spec.name))
            .next();
        let group = self.groups.values().map(|g| &g.spec);
        let mut group = group
            .filter(|spec| spec.is_docker_network(name))
            .map(|spec| format!("group {}", spec.name));
        match network.or_else(|| group.next()) {
            None => Ok(()),
            Some(bearer) => Err(Rejection::DockerNameTaken {
                tenant: tenant.clone(),
                name: name.to_owned(),
                bearer,
                flag: flag.to_owned(),
            }),
        }
    }
}

fn closing(tenant: TenantName, network: NetworkName) -> Vec<Event> {
    vec![
        Event::NetworkClosing(NetworkClosing {
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::LeasesClosing(LeasesClosing {
            tenant,
            network,
            group: None,
        }),
    ]
}

fn reopened(tenant: TenantName, network: NetworkName) -> Vec<Event> {
    vec![
        Event::NetworkReopened(NetworkReopened {
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::LeasesReopened(LeasesReopened {
            tenant,
            network,
            group: None,
        }),
    ]
}

fn removed(spec: &NetworkSpec, forced: bool) -> Vec<Event> {
    let (tenant, network, vni) = (spec.tenant.clone(), spec.name.clone(), spec.vni);
    vec![
        Event::NetworkRemoved(NetworkRemoved {
            tenant: tenant.clone(),
            network: network.clone(),
            vni,
            forced,
        }),
        Event::VniReleased(VniReleased {
            vni,
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::LeasesClosed(LeasesClosed {
            tenant,
            network,
            group: None,
        }),
    ]
}

impl Aggregate for Tenant {
    type Command = TenantCommand;
    type Facts = TenantFacts;

    fn decide(
        &self,
        command: &TenantCommand,
        facts: &TenantFacts,
    ) -> Result<Vec<Event>, Rejection> {
        match command {
            TenantCommand::Create(c) => self.create(c),
            TenantCommand::Update(c) => self.update(c),
            TenantCommand::Remove(c) => self.remove(c),
            TenantCommand::NetworkCreate(c) => self.network_create(c, facts),
            TenantCommand::NetworkUpdate(c) => self.network_update(c),
            TenantCommand::NetworkRemove(c) => self.network_remove(c, facts),
            TenantCommand::GroupCreate(c) => self.group_create(c, facts),
            TenantCommand::GroupUpdate(c) => self.group_update(c),
            TenantCommand::GroupRemove(c) => self.group_remove(c, facts),
            TenantCommand::PolicyCreate(c) => self.policy_create(c),
            TenantCommand::PolicyRemove(c) => self.policy_remove(c),
            TenantCommand::PolicyApply(c) => self.policy_apply(c),
            TenantCommand::RuleAdd(c) => self.rule_add(c),
            TenantCommand::RuleRemove(c) => self.rule_remove(c),
        }
    }

    fn evolve(&mut self, event: &Event) {
        match event {
            Event::TenantOpened(_) => self.open = true,
            Event::TenantUpdated(e) => {
                update_limit(&mut self.max_connections, e.max_connections);
                update_default_egress(&mut self.egress, e.egress);
            }
            // Numbers and ids outlive the tenant: nodes keep them by its name.
            Event::TenantClosed(_) => {
                *self = Self {
                    last_rule: self.last_rule,
                    last_group: self.last_group,
                    retired: std::mem::take(&mut self.retired),
                    ..Self::default()
                }
            }
            Event::NetworkCreated(e) => {
                let intent = NetworkIntent {
                    spec: e.network.clone(),
                    closing: false,
                };
                self.networks.insert(e.network.name.clone(), intent);
            }
            Event::NetworkUpdated(e) => {
                if let Some(network) = self.networks.get_mut(&e.network) {
                    e.apply(&mut network.spec);
                }
            }
            Event::NetworkClosing(e) => self.set_closing(&e.network, true),
            Event::NetworkReopened(e) => self.set_closing(&e.network, false),
            Event::NetworkRemoved(e) => {
                self.networks.remove(&e.network);
            }
            Event::GroupCreated(e) => {
                self.last_group = e.group.id.0;
                let intent = GroupIntent::new(e.group.clone());
                self.groups.insert(e.group.name.clone(), intent);
            }
            Event::GroupUpdated(e) => {
                self.change_group(&e.group, |g| g.spec.policies.clone_from(&e.policies));
            }
            Event::GroupClosing(e) => self.change_group(&e.group, GroupIntent::close),
            Event::GroupReopened(e) => self.change_group(&e.group, |g| g.closing = false),
            Event::GroupRemoved(e) => {
                self.groups.remove(&e.group);
                if e.forced {
                    self.retired.insert(e.id);
                }
            }
            Event::PolicyCreated(e) => {
                self.policies.entry(e.policy.clone()).or_default();
            }
            Event::PolicyRemoved(e) => {
                self.policies.remove(&e.policy);
            }
            Event::RuleAdded(e) => {
                self.last_rule = self.last_rule.max(e.rule.number);
                let policy = self.policies.entry(e.policy.clone()).or_default();
                policy.rules.insert(e.rule.id.clone(), e.rule.clone());
            }
            Event::RuleRemoved(e) => {
                if let Some(policy) = self.policies.get_mut(&e.policy) {
                    policy.rules.remove(&e.rule);
                }
            }
            _ => {}
        }
    }
}

impl Tenant {
    fn set_closing(&mut self, network: &NetworkName, closing: bool) {
        if let Some(intent) = self.networks.get_mut(network) {
            intent.closing = closing;
        }
    }

    fn change_group(&mut self, group: &GroupName, how: impl FnOnce(&mut GroupIntent)) {
        if let Some(intent) = self.groups.get_mut(group) {
            how(intent);
        }
    }
}

#[cfg(test)]
mod tests;
