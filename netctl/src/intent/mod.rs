//! The whole configuration (intent) as one value, which a file or netmaster's answers yield. No I/O.
//!
//! `file` reads and writes its YAML, `check` finds its contradictions, `plan` finds the commands that
//! lead from one intent to another.

pub(crate) mod check;
pub(crate) mod file;
pub(crate) mod plan;
mod rule_keys;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::query::{GroupInfo, NetworkInfo, PolicyInfo, TenantInfo};
use bus_schema::{
    AddressRange, Egress, GroupName, NetworkName, PolicyName, RuleId, RuleSpec, TenantName, Vni,
};
use ipnet::IpNet;

/// The wanted or the current configuration of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Intent {
    pub(crate) tenants: BTreeMap<TenantName, Tenant>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tenant {
    /// Absent, as the other settings: it stays as it is; 0 stands for the default.
    pub(crate) max_connections: Option<u32>,
    /// Of new networks.
    pub(crate) egress: Option<Egress>,
    pub(crate) networks: BTreeMap<NetworkName, Network>,
    pub(crate) policies: BTreeMap<PolicyName, BTreeMap<RuleId, RuleSpec>>,
    pub(crate) groups: BTreeMap<GroupName, Group>,
}

/// A network. An absent value stays as it is, or gets its default when the network is created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) subnet: IpNet,
    pub(crate) range: Option<AddressRange>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) subnet6: Option<IpNet>,
    pub(crate) gateway6: Option<IpAddr>,
    pub(crate) vni: Option<Vni>,
    pub(crate) docker_name: Option<String>,
    /// 0 stands for the default.
    pub(crate) max_connections: Option<u32>,
    pub(crate) egress: Option<Egress>,
    pub(crate) allow_metadata: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) network: NetworkName,
    /// All policies, in the order of their names.
    pub(crate) policies: Vec<PolicyName>,
    pub(crate) pool: Option<AddressRange>,
    pub(crate) docker_name: Option<String>,
}

impl Intent {
    /// The current intent, by netmaster's answers.
    pub(crate) fn of(
        tenants: &[TenantInfo],
        networks: &[NetworkInfo],
        policies: &[PolicyInfo],
        groups: &[GroupInfo],
    ) -> Self {
        let mut intent = Self::default();
        for info in tenants {
            let tenant = intent.tenants.entry(info.tenant.clone()).or_default();
            tenant.max_connections = info.max_connections;
            tenant.egress = info.egress;
        }
        for info in networks {
            let (spec, v6) = (&info.spec, info.spec.v6.as_ref());
            let network = Network {
                subnet: spec.v4.subnet,
                range: spec.v4.range,
                gateway: Some(spec.v4.gateway),
                subnet6: v6.map(|pool| pool.subnet),
                gateway6: v6.map(|pool| pool.gateway),
                vni: Some(spec.vni),
                docker_name: spec.docker_name.clone(),
                max_connections: spec.max_connections,
                egress: Some(spec.egress()),
                allow_metadata: spec.allow_metadata.then_some(true),
            };
            let tenant = intent.tenants.entry(spec.tenant.clone()).or_default();
            tenant.networks.insert(spec.name.clone(), network);
        }
        for info in policies {
            let rules = info.rules.iter();
            let rules = rules.map(|rule| (rule.id.clone(), rule.spec.clone()));
            let tenant = intent.tenants.entry(info.tenant.clone()).or_default();
            tenant.policies.insert(info.policy.clone(), rules.collect());
        }
        for info in groups {
            let spec = &info.spec;
            let group = Group {
                network: spec.network.clone(),
                policies: spec.policies.clone(),
                pool: spec.pool,
                docker_name: spec.docker_name.clone(),
            };
            let tenant = intent.tenants.entry(spec.tenant.clone()).or_default();
            tenant.groups.insert(spec.name.clone(), group);
        }
        intent
    }
}
