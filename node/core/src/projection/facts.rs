//! The facts of a node, a tenant, a group, a policy and a network, as the log holds them. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::{
    AddressRange, GroupId, GroupName, GroupSpec, MachineId, NetworkName, NetworkSpec, NodeName,
    PolicyName, Pool, Revision, Rule, RuleId,
};
use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFact {
    pub machine: MachineId,
    pub vtep: IpAddr,
    /// The node accepts no new endpoints (`netctl node drain`).
    #[serde(default)]
    pub drained: bool,
    /// The node accepts no new endpoints and has withdrawn its names (`netplugin leave`).
    #[serde(default)]
    pub left: bool,
}

impl NodeFact {
    /// A node that accepts endpoints.
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
    /// An event about anything of this tenant was written for newer readers only: all of it is closed
    /// for new connections.
    pub newer: bool,
    /// Its conntrack zone on nodes that have VRFs; never 0, which is the host's. It is assigned when
    /// the tenant is created and doesn't change when other tenants are created or removed.
    pub zone: u16,
    /// The connections that each endpoint may open; absent: the node's default.
    #[serde(default)]
    pub max_connections: Option<u32>,
}

/// An endpoint group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupFact {
    pub spec: GroupSpec,
    /// The group is being removed: no attaches.
    pub closing: bool,
    /// An event about it was written for newer readers only.
    #[serde(default)]
    pub newer: bool,
}

/// A policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PolicyFact {
    pub rules: OrdMap<RuleId, Rule>,
    /// The last revision that changed the rules.
    #[serde(default)]
    pub ruled: Revision,
    /// The revision of the last request to end the connections that the policy doesn't allow.
    #[serde(default)]
    pub enforced: Option<Revision>,
    /// An event about it was written for newer readers only.
    #[serde(default)]
    pub newer: bool,
}

impl TenantFact {
    /// The last revision that changed the decisions about connections: rules of a policy that no
    /// group uses don't.
    pub fn ruled(&self) -> Revision {
        let used = self.groups.values().flat_map(|it| &it.spec.policies);
        let used = used.filter_map(|policy| self.policies.get(policy));
        let ruled = used.map(|policy| policy.ruled).max();
        ruled.unwrap_or_default().max(self.ruled)
    }

    /// The last revision that changed anything of the tenant that a kernel holds.
    pub fn last_changed(&self) -> Revision {
        self.changed.max(self.ruled())
    }

    /// Returns the group's addresses to its network; blocks of the pool are leased no more.
    pub(super) fn release_pool(&mut self, group: &GroupName) {
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

    /// The groups whose members open and accept no connections, because newer events are about them or
    /// about a policy of theirs and their content isn't guessed.
    pub fn closed_groups(&self) -> BTreeSet<GroupId> {
        let any = self.policies.values().any(|policy| policy.newer);
        let groups = self.groups.values();
        let closed = groups.filter(|it| it.newer || any && self.has_newer_policy(it));
        closed.map(|group| group.spec.id).collect()
    }

    /// The reason why newer events close an endpoint of this group, or of none, for new connections.
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

    /// Whether the address lies in a subnet of one of the tenant's networks.
    pub fn has_subnet_around(&self, address: IpAddr) -> bool {
        let mut pools = self.networks.values().flat_map(|it| it.spec.pools());
        pools.any(|pool| pool.subnet.contains(&address))
    }

    /// The group with this id.
    pub fn group_of(&self, id: GroupId) -> Option<&GroupFact> {
        self.groups.values().find(|group| group.spec.id == id)
    }
}

/// A network and the holders of its addresses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NetworkFact {
    pub spec: NetworkSpec,
    /// The network is being removed: no attaches, no leases.
    pub closing: bool,
    /// The blocks and their holders. A ceded address is a /32 (or a /128), inside the block of its
    /// former holder.
    pub blocks: OrdMap<IpNet, NodeName>,
    /// The pools of its groups, for their members only.
    #[serde(default)]
    pub pools: OrdMap<GroupName, AddressRange>,
}

impl NetworkFact {
    /// The group whose pool holds the address, and the pool.
    pub fn pool_of(&self, address: IpAddr) -> Option<(&GroupName, AddressRange)> {
        let mut pools = self.pools.iter().map(|(group, range)| (group, *range));
        pools.find(|(_, range)| range.contains(address))
    }

    /// The group whose pool contains the block; none: the block is the network's, and may hold
    /// addresses of pools among others.
    pub fn pool_around(&self, block: IpNet) -> Option<&GroupName> {
        let inside =
            |it: &AddressRange| it.contains(block.network()) && it.contains(block.broadcast());
        let mut pools = self.pools.iter();
        pools.find(|(_, range)| inside(range)).map(|it| it.0)
    }

    /// The pool for members of the group, or for everybody else, of this address family.
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

    /// The group, if it has a pool of its own; none: the network's blocks serve its members.
    pub fn pool_group(&self, group: Option<&GroupName>) -> Option<GroupName> {
        group.filter(|it| self.pools.contains_key(*it)).cloned()
    }

    /// The block of `address`, and its holder: a ceded address, or a block of a group's pool, before
    /// the network's block around it.
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

    /// Whether `node` alone may allocate `address`.
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
