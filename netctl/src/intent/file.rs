//! The intent's file: YAML (or JSON, which is YAML), with Contiv's keys. Values are parsed while the file
//! is read, so that errors name its keys and lines.

use std::net::IpAddr;

use bus_schema::{
    AddressRange, Egress, GroupName, NetworkName, PolicyName, RuleId, RuleSpec, TenantName, Vni,
};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::rule_keys::RuleItem;
use super::yaml::{self, Limit, Named, Parsed, PktTag, unique};
use super::{Group, Intent, Network, Tenant};
use crate::command::pool::{self, Subnet};
use crate::failure::Failure;
use crate::output::Format;

/// The error of a file, with its keys and its line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct InvalidFile(String);

#[derive(Debug, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "the key `tenants` with a list"
)]
struct WholeFile {
    #[serde(default, deserialize_with = "unique")]
    tenants: Vec<TenantItem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a tenant's keys and values"
)]
struct TenantItem {
    tenant_name: TenantName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_connections: Option<Limit>,
    /// Of new networks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress: Option<Egress>,
    #[serde(
        default,
        deserialize_with = "unique",
        skip_serializing_if = "Vec::is_empty"
    )]
    networks: Vec<NetworkItem>,
    #[serde(
        default,
        deserialize_with = "unique",
        skip_serializing_if = "Vec::is_empty"
    )]
    policies: Vec<PolicyItem>,
    #[serde(
        default,
        deserialize_with = "unique",
        skip_serializing_if = "Vec::is_empty"
    )]
    groups: Vec<GroupItem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a network's keys and values"
)]
struct NetworkItem {
    network_name: NetworkName,
    /// In the form of `net create --subnet`.
    subnet: Parsed<Subnet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pkt_tag: Option<PktTag>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6_subnet: Option<Parsed<Ipv6Net>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6_gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cfgd_tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_connections: Option<Limit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress: Option<Egress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allow_metadata: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a policy's keys and values"
)]
struct PolicyItem {
    policy_name: PolicyName,
    #[serde(
        default,
        deserialize_with = "unique",
        skip_serializing_if = "Vec::is_empty"
    )]
    rules: Vec<RuleItem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "a group's keys and values"
)]
struct GroupItem {
    group_name: GroupName,
    network_name: NetworkName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_pool: Option<Parsed<PoolRange>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cfgd_tag: Option<String>,
}

/// The value of `ipPool`; an empty text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PoolRange(Option<AddressRange>);

impl std::str::FromStr for PoolRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.is_empty() {
            true => Ok(Self(None)),
            false => pool::range(text).map(Some).map(Self),
        }
    }
}

impl std::fmt::Display for PoolRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |range| range.fmt(f))
    }
}

impl Named for TenantItem {
    fn describe(&self) -> String {
        format!("tenant {}", self.tenant_name)
    }
}

impl Named for NetworkItem {
    fn describe(&self) -> String {
        format!("network {}", self.network_name)
    }
}

impl Named for PolicyItem {
    fn describe(&self) -> String {
        format!("policy {}", self.policy_name)
    }
}

impl Named for GroupItem {
    fn describe(&self) -> String {
        format!("group {}", self.group_name)
    }
}

impl Named for RuleItem {
    fn describe(&self) -> String {
        format!("rule {}", self.id)
    }
}

/// Reads a file's text.
pub(crate) fn read(text: &str) -> Result<Intent, InvalidFile> {
    let file: WholeFile = yaml::read(text).map_err(InvalidFile)?;
    let tenants = file.tenants.into_iter();
    Ok(Intent {
        tenants: tenants
            .map(|item| (item.tenant_name.clone(), tenant(item)))
            .collect(),
    })
}

fn tenant(item: TenantItem) -> Tenant {
    let rules = |rules: Vec<RuleItem>| rules.into_iter().map(|it| (it.id, it.spec)).collect();
    let policies = item.policies.into_iter();
    Tenant {
        max_connections: item.max_connections.map(|it| it.0),
        egress: item.egress,
        networks: item.networks.into_iter().map(network).collect(),
        policies: policies
            .map(|it| (it.policy_name, rules(it.rules)))
            .collect(),
        groups: item.groups.into_iter().map(group).collect(),
    }
}

fn network(item: NetworkItem) -> (NetworkName, Network) {
    let Parsed(subnet) = item.subnet;
    let network = Network {
        // netmaster truncates too; so the same file compares equal.
        subnet: subnet.net.trunc(),
        range: subnet.range,
        gateway: item.gateway,
        subnet6: item.ipv6_subnet.map(|Parsed(net)| IpNet::V6(net.trunc())),
        gateway6: item.ipv6_gateway,
        vni: item.pkt_tag.filter(|tag| tag.0 != 0).map(|tag| Vni(tag.0)),
        docker_name: item.cfgd_tag.filter(|name| !name.is_empty()),
        max_connections: item.max_connections.map(|it| it.0),
        egress: item.egress,
        allow_metadata: item.allow_metadata,
    };
    (item.network_name, network)
}

fn group(item: GroupItem) -> (GroupName, Group) {
    let mut policies = item.policies;
    policies.sort();
    policies.dedup();
    let group = Group {
        network: item.network_name,
        policies,
        pool: item.ip_pool.and_then(|Parsed(PoolRange(range))| range),
        docker_name: item.cfgd_tag.filter(|name| !name.is_empty()),
    };
    (item.group_name, group)
}

/// Writes the whole intent: as YAML, or as JSON.
pub(crate) fn write(intent: &Intent, format: Format) -> Result<String, Failure> {
    let tenants = intent.tenants.iter().map(|(name, tenant)| TenantItem {
        tenant_name: name.clone(),
        max_connections: tenant.max_connections.map(Limit),
        egress: tenant.egress,
        networks: tenant.networks.iter().map(network_item).collect(),
        policies: tenant
            .policies
            .iter()
            .map(|(name, rules)| PolicyItem {
                policy_name: name.clone(),
                rules: rules.iter().map(rule_item).collect(),
            })
            .collect(),
        groups: tenant.groups.iter().map(group_item).collect(),
    });
    let file = WholeFile {
        tenants: tenants.collect(),
    };
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&file)
            .map(|text| text + "\n")
            .map_err(|error| error.to_string()),
        _ => serde_yaml_ng::to_string(&file).map_err(|error| error.to_string()),
    };
    text.map_err(|error| Failure::Local(format!("can't write the intent: {error}")))
}

fn network_item((name, network): (&NetworkName, &Network)) -> NetworkItem {
    NetworkItem {
        network_name: name.clone(),
        subnet: Parsed(Subnet {
            net: network.subnet,
            range: network.range,
        }),
        gateway: network.gateway,
        pkt_tag: network.vni.map(|vni| PktTag(vni.0)),
        ipv6_subnet: match network.subnet6 {
            Some(IpNet::V6(net)) => Some(Parsed(net)),
            Some(IpNet::V4(_)) | None => None,
        },
        ipv6_gateway: network.gateway6,
        cfgd_tag: network.docker_name.clone(),
        max_connections: network.max_connections.map(Limit),
        egress: network.egress,
        allow_metadata: network.allow_metadata,
    }
}

fn group_item((name, group): (&GroupName, &Group)) -> GroupItem {
    GroupItem {
        group_name: name.clone(),
        network_name: group.network.clone(),
        policies: group.policies.clone(),
        ip_pool: group.pool.map(|range| Parsed(PoolRange(Some(range)))),
        cfgd_tag: group.docker_name.clone(),
    }
}

fn rule_item((id, spec): (&RuleId, &RuleSpec)) -> RuleItem {
    RuleItem {
        id: id.clone(),
        spec: spec.clone(),
    }
}
