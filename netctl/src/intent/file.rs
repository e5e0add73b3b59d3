//! The intent's file: YAML (or JSON, which is YAML), with Contiv's keys.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::{
    AddressRange, GroupName, NetworkName, PolicyName, RuleId, RuleSpec, TenantName, Vni,
};
use clap::Parser;
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Group, Intent, Network, Tenant};
use crate::command::pool::{self, Subnet};
use crate::command::rule;
use crate::failure::Failure;

/// The errors of a file, each with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidFile {
    #[error("{0}")]
    Syntax(String),
    #[error("{at}: {reason}")]
    Value { at: String, reason: String },
    #[error("{0} occurs twice")]
    Twice(String),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WholeFile {
    #[serde(default)]
    tenants: Vec<TenantItem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TenantItem {
    tenant_name: TenantName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    networks: Vec<NetworkItem>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyItem>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupItem>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetworkItem {
    network_name: NetworkName,
    /// In the form of `net create --subnet`.
    subnet: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pkt_tag: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6_subnet: Option<Ipv6Net>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ipv6_gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cfgd_tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PolicyItem {
    policy_name: PolicyName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<RuleItem>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RuleItem {
    rule_id: Word,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    direction: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_endpoint_group: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_endpoint_group: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_network: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_network: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from_ip_address: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to_ip_address: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<Word>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    action: Option<Word>,
}

/// A text that YAML may read as a number, such as `80`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    Number(u64),
    Text(String),
}

impl Default for Word {
    fn default() -> Self {
        Self::Text(String::new())
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupItem {
    group_name: GroupName,
    network_name: NetworkName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip_pool: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cfgd_tag: Option<String>,
}

/// The parser of `rule-add` for a rule's keys.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct RuleLine {
    #[command(flatten)]
    flags: rule::RuleFlags,
}

/// Reads a file's text.
pub(crate) fn read(text: &str) -> Result<Intent, InvalidFile> {
    let file: WholeFile =
        serde_yaml_ng::from_str(text).map_err(|error| InvalidFile::Syntax(error.to_string()))?;
    let mut intent = Intent::default();
    for item in file.tenants {
        let name = item.tenant_name.clone();
        let tenant = tenant(item)?;
        insert_once(&mut intent.tenants, name.clone(), tenant, || {
            format!("tenant {name}")
        })?;
    }
    Ok(intent)
}

fn insert_once<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    what: impl FnOnce() -> String,
) -> Result<(), InvalidFile> {
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(InvalidFile::Twice(what())),
    }
}

fn tenant(item: TenantItem) -> Result<Tenant, InvalidFile> {
    let of = item.tenant_name;
    let mut tenant = Tenant {
        max_connections: item.max_connections,
        ..Tenant::default()
    };
    for item in item.networks {
        let name = item.network_name.clone();
        let at = format!("network {of}:{name}");
        let network = network(item, &at)?;
        insert_once(&mut tenant.networks, name, network, || at)?;
    }
    for item in item.policies {
        let at = format!("policy {of}:{}", item.policy_name);
        let mut rules = BTreeMap::new();
        for item in item.rules {
            let at = format!("rule {} of {at}", item.rule_id);
            let id = RuleId::new(item.rule_id.to_string());
            let id = id.map_err(|error| value(&at, error))?;
            insert_once(&mut rules, id, rule(&item, &at)?, || at)?;
        }
        insert_once(&mut tenant.policies, item.policy_name, rules, || at)?;
    }
    for item in item.groups {
        let name = item.group_name.clone();
        let at = format!("group {of}:{name}");
        let group = group(item, &at)?;
        insert_once(&mut tenant.groups, name, group, || at)?;
    }
    Ok(tenant)
}

fn value(at: &str, reason: impl std::fmt::Display) -> InvalidFile {
    InvalidFile::Value {
        at: at.to_owned(),
        reason: reason.to_string(),
    }
}

fn network(item: NetworkItem, at: &str) -> Result<Network, InvalidFile> {
    let subnet: Subnet = item.subnet.parse().map_err(|error| value(at, error))?;
    Ok(Network {
        // netmaster truncates too; so the same file compares equal.
        subnet: subnet.net.trunc(),
        range: subnet.range,
        gateway: item.gateway,
        subnet6: item.ipv6_subnet.map(|net| IpNet::V6(net.trunc())),
        gateway6: item.ipv6_gateway,
        vni: item.pkt_tag.filter(|tag| *tag != 0).map(Vni),
        docker_name: item.cfgd_tag.filter(|name| !name.is_empty()),
        max_connections: item.max_connections,
    })
}

fn group(item: GroupItem, at: &str) -> Result<Group, InvalidFile> {
    let pool = item.ip_pool.filter(|range| !range.is_empty());
    let pool: Option<AddressRange> = pool
        .map(|text| pool::range(&text))
        .transpose()
        .map_err(|error| value(at, error))?;
    let mut policies = item.policies;
    policies.sort();
    policies.dedup();
    Ok(Group {
        network: item.network_name,
        policies,
        pool,
        docker_name: item.cfgd_tag.filter(|name| !name.is_empty()),
    })
}

fn rule(item: &RuleItem, at: &str) -> Result<RuleSpec, InvalidFile> {
    let flags = [
        ("direction", &item.direction),
        ("priority", &item.priority),
        ("from-group", &item.from_endpoint_group),
        ("to-group", &item.to_endpoint_group),
        ("from-network", &item.from_network),
        ("to-network", &item.to_network),
        ("from-ip-address", &item.from_ip_address),
        ("to-ip-address", &item.to_ip_address),
        ("protocol", &item.protocol),
        ("port", &item.port),
        ("action", &item.action),
    ];
    let typed = flags.into_iter().filter_map(|(flag, word)| {
        let word = word.as_ref()?.to_string();
        (!word.is_empty()).then(|| format!("--{flag}={word}"))
    });
    let typed = RuleLine::try_parse_from(typed).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        value(at, first.trim_start_matches("error: "))
    })?;
    typed.flags.spec().map_err(|error| value(at, error))
}

/// Writes the whole intent.
pub(crate) fn write(intent: &Intent) -> Result<String, Failure> {
    let tenants = intent.tenants.iter().map(|(name, tenant)| TenantItem {
        tenant_name: name.clone(),
        max_connections: tenant.max_connections,
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
    serde_yaml_ng::to_string(&file)
        .map_err(|error| Failure::Local(format!("can't write the intent: {error}")))
}

fn network_item((name, network): (&NetworkName, &Network)) -> NetworkItem {
    NetworkItem {
        network_name: name.clone(),
        subnet: match network.range {
            Some(range) => format!("{range}/{}", network.subnet.prefix_len()),
            None => network.subnet.to_string(),
        },
        gateway: network.gateway,
        pkt_tag: network.vni.map(|vni| vni.0),
        ipv6_subnet: match network.subnet6 {
            Some(IpNet::V6(net)) => Some(net),
            Some(IpNet::V4(_)) | None => None,
        },
        ipv6_gateway: network.gateway6,
        cfgd_tag: network.docker_name.clone(),
        max_connections: network.max_connections,
    }
}

fn group_item((name, group): (&GroupName, &Group)) -> GroupItem {
    GroupItem {
        group_name: name.clone(),
        network_name: group.network.clone(),
        policies: group.policies.clone(),
        ip_pool: group.pool.map(|range| range.to_string()),
        cfgd_tag: group.docker_name.clone(),
    }
}

fn rule_item((id, spec): (&RuleId, &RuleSpec)) -> RuleItem {
    let keys = rule::keys(spec);
    let word = |key: &str| {
        let text = match &keys[key] {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => {
                return number.as_u64().map(Word::Number);
            }
            _ => String::new(),
        };
        (!text.is_empty()).then_some(Word::Text(text))
    };
    RuleItem {
        rule_id: Word::Text(id.to_string()),
        direction: word("direction"),
        priority: word("priority"),
        from_endpoint_group: word("fromEndpointGroup"),
        to_endpoint_group: word("toEndpointGroup"),
        from_network: word("fromNetwork"),
        to_network: word("toNetwork"),
        from_ip_address: word("fromIpAddress"),
        to_ip_address: word("toIpAddress"),
        protocol: word("protocol"),
        port: word("port"),
        action: word("action"),
    }
}
