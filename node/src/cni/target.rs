//! Derives the network, group and name of an attach from the configuration and `CNI_ARGS`. Pure.
//!
//! The operator writes the configuration, the author of a job chooses variables in `CNI_ARGS`. So the
//! configuration decides tenant, network and group: a variable adds one that the configuration leaves
//! open only if `allowArgs` lists it, and changes none that it sets. The namespace, which the
//! orchestrator itself passes, chooses the tenant.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use bus_schema::{EndpointId, GroupName, InvalidName, Name, NetworkName, TenantName};
use serde_json::Value;
use uuid::Uuid;

use super::protocol::{Failure, NetworkConfig};

const TENANT_KEY: &str = "CONTIV_TENANT";
const NETWORK_KEY: &str = "CONTIV_NETWORK";
const GROUP_KEY: &str = "CONTIV_GROUP";
const NOMAD_GROUP_KEY: &str = "NOMAD_GROUP_NAME";
const NAME_KEY: &str = "CONTIV_NAME";
const IP_KEY: &str = "IP";
const IGNORE_UNKNOWN_KEY: &str = "IgnoreUnknown";

/// The variables that `allowArgs` can list, each with the key of the configuration that decides instead.
const LISTED_KEYS: [(&str, &str); 4] = [
    (TENANT_KEY, "tenant"),
    (NETWORK_KEY, "network"),
    (GROUP_KEY, "group"),
    (NOMAD_GROUP_KEY, "group"),
];

/// `CNI_ARGS` by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct EnvironmentArgs(BTreeMap<String, String>);

impl EnvironmentArgs {
    /// Parses `KEY=VALUE;KEY=VALUE`. An unknown key is refused without `IgnoreUnknown`.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let mut args = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.trim().is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Failure::environment(format!(
                    "CNI_ARGS: `{pair}` is no KEY=VALUE"
                )));
            };
            let (key, value) = (key.trim(), value.trim());
            // A job's author may smuggle a pair into a value, which the orchestrator doesn't escape.
            match args.insert(key.to_owned(), value.to_owned()) {
                Some(other) if other != value => {
                    return Err(Failure::environment(format!(
                        "CNI_ARGS: {key} is both `{other}` and `{value}`: leave one of them out"
                    )));
                }
                _ => {}
            }
        }
        let ignores = match args.get(IGNORE_UNKNOWN_KEY).map(String::as_str) {
            Some("1" | "true" | "True" | "TRUE") => true,
            Some("0" | "false" | "False" | "FALSE") | None => false,
            Some(other) => {
                return Err(Failure::environment(format!(
                    "CNI_ARGS: IgnoreUnknown is `{other}`: it must be 1 or 0"
                )));
            }
        };
        let is_known = |key: &str| {
            [
                TENANT_KEY,
                NETWORK_KEY,
                GROUP_KEY,
                NAME_KEY,
                IP_KEY,
                IGNORE_UNKNOWN_KEY,
            ]
            .contains(&key)
                || key.starts_with("K8S_")
                || key.starts_with("NOMAD_")
        };
        let unknown: Vec<&str> = args.keys().map(String::as_str).collect();
        let unknown: Vec<&str> = unknown.into_iter().filter(|key| !is_known(key)).collect();
        if !ignores && !unknown.is_empty() {
            return Err(Failure::environment(format!(
                "CNI_ARGS: unknown keys {}: leave them out, or add IgnoreUnknown=1",
                unknown.join(", ")
            )));
        }
        Ok(Self(args))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }
}

/// The network, group, name and addresses of an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AttachTarget {
    pub destination: Destination,
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
}

/// The tenant, network and group of an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub group: Option<GroupName>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network {} of tenant {}, ", self.network, self.tenant)?;
        match &self.group {
            Some(group) => write!(f, "group {group}"),
            None => write!(f, "no group"),
        }
    }
}

impl AttachTarget {
    /// `has_group` says whether a network has a group: only then does Nomad's task group choose it.
    pub(super) fn of(
        config: &NetworkConfig,
        args: &EnvironmentArgs,
        container: &str,
        has_group: &dyn Fn(&Destination, &GroupName) -> bool,
    ) -> Result<Self, Failure> {
        refuse_unsupported(config)?;
        Ok(Self {
            destination: allowed_destination(config, args, has_group)?,
            name: name(config, args, container)?,
            addresses: addresses(config, args)?,
        })
    }
}

/// Derives the destination from the listed variables. It refuses a variable that isn't listed and would
/// change the destination: without it, a container would be in another group or tenant than its author
/// expects, and than before an upgrade.
fn allowed_destination(
    config: &NetworkConfig,
    args: &EnvironmentArgs,
    has_group: &dyn Fn(&Destination, &GroupName) -> bool,
) -> Result<Destination, Failure> {
    let listed: BTreeSet<&str> = config.allow_args.iter().map(String::as_str).collect();
    let is_known = |entry: &str| LISTED_KEYS.iter().any(|(variable, _)| *variable == entry);
    if let Some(entry) = listed.iter().find(|entry| !is_known(entry)) {
        let known = LISTED_KEYS.map(|(variable, _)| variable).join(", ");
        return Err(Failure::config(format!(
            "allowArgs: `{entry}` can't be listed: it can list {known}"
        )));
    }
    let destination = destination(config, args, &listed, has_group)?;
    for (variable, key) in LISTED_KEYS {
        let Some(value) = args.get(variable).filter(|_| !listed.contains(variable)) else {
            continue;
        };
        let with_variable: BTreeSet<&str> = listed.iter().copied().chain([variable]).collect();
        let other = self::destination(config, args, &with_variable, has_group)?;
        if other != destination {
            return Err(Failure::environment(format!(
                "CNI_ARGS: {variable}=`{value}` would attach the container to {other} instead of {destination}, and only the network configuration may choose that: set its key \"{key}\", or list the variable in it: \"allowArgs\": [\"{variable}\"]"
            )));
        }
    }
    Ok(destination)
}

/// Derives the destination from the configuration and the variables in `listed`.
fn destination(
    config: &NetworkConfig,
    args: &EnvironmentArgs,
    listed: &BTreeSet<&str>,
    has_group: &dyn Fn(&Destination, &GroupName) -> bool,
) -> Result<Destination, Failure> {
    let value = |variable| args.get(variable).filter(|_| listed.contains(variable));
    let stated = config.network.as_deref();
    let whole = agreed_value("network", stated, NETWORK_KEY, value(NETWORK_KEY))?;
    let (in_name, network) = split_group(whole.unwrap_or(&config.name));
    if let (None, Some(group), Some(whole)) = (stated, in_name, value(NETWORK_KEY))
        && !listed.contains(GROUP_KEY)
    {
        return Err(Failure::environment(format!(
            "CNI_ARGS: {NETWORK_KEY}=`{whole}` chooses group {group}, too: list {GROUP_KEY} in the network configuration's \"allowArgs\", or leave the group out"
        )));
    }
    let stated = config.tenant.as_deref();
    let tenant = agreed_value("tenant", stated, TENANT_KEY, value(TENANT_KEY))?
        .or_else(|| args.get("NOMAD_NAMESPACE"))
        .or_else(|| args.get("K8S_POD_NAMESPACE"));
    let mut destination = Destination {
        tenant: match tenant {
            Some(tenant) => parsed_name("tenant", TenantName::new(tenant))?,
            None => TenantName::default_tenant(),
        },
        network: parsed_name("network", NetworkName::new(network))?,
        group: None,
    };
    let stated = stated_group(config, in_name)?;
    destination.group = match agreed_value("group", stated, GROUP_KEY, value(GROUP_KEY))? {
        Some("") => None,
        Some(group) => Some(parsed_name("group", GroupName::new(group))?),
        None => value(NOMAD_GROUP_KEY)
            .and_then(|name| GroupName::new(name).ok())
            .filter(|group| has_group(&destination, group)),
    };
    Ok(destination)
}

/// Splits `GROUP.NETWORK` or `NETWORK`.
fn split_group(whole: &str) -> (Option<&str>, &str) {
    match whole.split_once('.') {
        Some((group, network)) => (Some(group), network),
        None => (None, whole),
    }
}

/// The group by the key `group` or in the network's name; empty: none, whatever `CNI_ARGS` say.
fn stated_group<'a>(
    config: &'a NetworkConfig,
    in_name: Option<&'a str>,
) -> Result<Option<&'a str>, Failure> {
    match (config.group.as_deref(), in_name) {
        (Some(group), Some(other)) if group != other => Err(Failure::config(format!(
            "group is `{group}`, and the network's name has the group `{other}`: leave one of them out"
        ))),
        (group, in_name) => Ok(group.or(in_name)),
    }
}

/// The container's name in DNS; its id if no name is set and the id is a valid name.
fn name(
    config: &NetworkConfig,
    args: &EnvironmentArgs,
    container: &str,
) -> Result<Option<String>, Failure> {
    let stated = config.container_name.as_deref();
    let name = agreed_value("containerName", stated, NAME_KEY, args.get(NAME_KEY))?
        .or_else(|| args.get("K8S_POD_NAME"))
        .or_else(|| args.get(NOMAD_GROUP_KEY));
    let by_id = || Name::new(container).ok().map(|_| container);
    Ok(name.or_else(by_id).map(str::to_owned))
}

/// The requested addresses: the runtime's capability, else `args`, else `CNI_ARGS`, as in the CNI
/// project's CONVENTIONS.md.
fn addresses(config: &NetworkConfig, args: &EnvironmentArgs) -> Result<Vec<IpAddr>, Failure> {
    let by_capability = &config.runtime_config.ips;
    let by_args = &config.args.cni.ips;
    let asked: Vec<&str> = match (by_capability.as_slice(), by_args.as_slice()) {
        ([], []) => args.get(IP_KEY).into_iter().collect(),
        ([], ips) | (ips, _) => ips.iter().map(String::as_str).collect(),
    };
    let parse = |text: &str| {
        let address = text.split('/').next().unwrap_or(text);
        address
            .parse()
            .map_err(|error| Failure::config(format!("`{text}` is no IP address: {error}")))
    };
    asked.into_iter().map(parse).collect()
}

/// The configuration's value, else that of the variable. Both may be set if they are equal.
fn agreed_value<'a>(
    key: &str,
    config: Option<&'a str>,
    variable: &str,
    value: Option<&'a str>,
) -> Result<Option<&'a str>, Failure> {
    match (config, value) {
        (Some(stated), Some(asked)) if stated != asked => Err(Failure::environment(format!(
            "CNI_ARGS: {variable} is `{asked}`, and the network configuration sets {key} to `{stated}`, which CNI_ARGS can't change: leave {variable} out"
        ))),
        (stated, asked) => Ok(stated.or(asked)),
    }
}

fn parsed_name<T>(key: &str, name: Result<T, InvalidName>) -> Result<T, Failure> {
    name.map_err(|error| Failure::config(format!("{key}: {error}")))
}

fn refuse_unsupported(config: &NetworkConfig) -> Result<(), Failure> {
    let set = |value: &Option<Value>| {
        let value = value.clone()?;
        let empty = matches!(&value, Value::Null | Value::Bool(false))
            || value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(serde_json::Map::is_empty);
        (!empty).then_some(value)
    };
    for (key, value, instead) in [
        (
            "ipam",
            set(&config.ipam),
            "contiv assigns its networks' addresses itself: leave it out",
        ),
        (
            "ipMasq",
            set(&config.ip_masq),
            "contiv translates no addresses: leave it out",
        ),
        (
            "runtimeConfig.mac",
            set(&config.runtime_config.mac),
            "the MAC address follows from the IP address: leave the capability out",
        ),
        (
            "runtimeConfig.portMappings",
            set(&config.runtime_config.port_mappings),
            "contiv publishes no ports yet: leave the capability out; containers of the tenant reach each other directly",
        ),
    ] {
        if let Some(value) = value {
            return Err(Failure::unsupported(key, &value, instead));
        }
    }
    Ok(())
}

/// An endpoint's id: a hash of the container's id and the interface's name, since an id is one token.
pub(super) fn endpoint_id(container: &str, interface: &str) -> Result<EndpointId, Failure> {
    let text = format!("cni {container} {interface}");
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
    EndpointId::new(hash.simple().to_string())
        .map_err(|error| Failure::environment(error.to_string()))
}
