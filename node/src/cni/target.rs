//! Derives the network, group and name of an attach from the configuration and `CNI_ARGS`. Pure.
//!
//! The operator writes the configuration: `CNI_ARGS` can add values that it leaves open, and can't
//! change those that it sets. The orchestrators' own variables come last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::{EndpointId, GroupName, InvalidName, Name, NetworkName, TenantName};
use serde_json::Value;
use uuid::Uuid;

use super::protocol::{Failure, NetworkConfig};

const TENANT_KEY: &str = "CONTIV_TENANT";
const NETWORK_KEY: &str = "CONTIV_NETWORK";
const GROUP_KEY: &str = "CONTIV_GROUP";
const NAME_KEY: &str = "CONTIV_NAME";
const IP_KEY: &str = "IP";
const IGNORE_UNKNOWN_KEY: &str = "IgnoreUnknown";

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
            args.insert(key.trim().to_owned(), value.trim().to_owned());
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
    pub tenant: TenantName,
    pub network: NetworkName,
    pub group: GroupChoice,
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
}

/// The group of an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum GroupChoice {
    None,
    /// The group must exist.
    Named(GroupName),
    /// The name of the orchestrator's own group: used only if the network has a group of this name.
    Hinted(GroupName),
}

impl AttachTarget {
    pub(super) fn of(
        config: &NetworkConfig,
        args: &EnvironmentArgs,
        container: &str,
    ) -> Result<Self, Failure> {
        refuse_unsupported(config)?;
        let whole = agreed_value("network", config.network.as_deref(), NETWORK_KEY, args)?;
        let whole = whole.unwrap_or(&config.name);
        let (in_name, network) = match whole.split_once('.') {
            Some((group, network)) => (Some(group), network),
            None => (None, whole),
        };
        let tenant = agreed_value("tenant", config.tenant.as_deref(), TENANT_KEY, args)?
            .or_else(|| args.get("NOMAD_NAMESPACE"))
            .or_else(|| args.get("K8S_POD_NAMESPACE"));
        Ok(Self {
            tenant: match tenant {
                Some(tenant) => parsed_name("tenant", TenantName::new(tenant))?,
                None => TenantName::default_tenant(),
            },
            network: parsed_name("network", NetworkName::new(network))?,
            group: group(config, args, in_name)?,
            name: name(config, args, container)?,
            addresses: addresses(config, args)?,
        })
    }
}

fn group(
    config: &NetworkConfig,
    args: &EnvironmentArgs,
    in_name: Option<&str>,
) -> Result<GroupChoice, Failure> {
    let stated = match (config.group.as_deref(), in_name) {
        (Some(group), Some(other)) if group != other => {
            return Err(Failure::config(format!(
                "group is `{group}`, and the network's name has the group `{other}`: leave one of them out"
            )));
        }
        (group, in_name) => group.or(in_name),
    };
    match agreed_value("group", stated, GROUP_KEY, args)? {
        Some("") => return Ok(GroupChoice::None),
        Some(group) => return parsed_name("group", GroupName::new(group)).map(GroupChoice::Named),
        None => {}
    }
    let hint = args.get("NOMAD_GROUP_NAME");
    let hint = hint.and_then(|name| GroupName::new(name).ok());
    Ok(hint.map_or(GroupChoice::None, GroupChoice::Hinted))
}

/// The container's name in DNS; its id if no name is set and the id is a valid name.
fn name(
    config: &NetworkConfig,
    args: &EnvironmentArgs,
    container: &str,
) -> Result<Option<String>, Failure> {
    let stated = config.container_name.as_deref();
    let parsed_name = agreed_value("containerName", stated, NAME_KEY, args)?
        .or_else(|| args.get("K8S_POD_NAME"))
        .or_else(|| args.get("NOMAD_GROUP_NAME"));
    let by_id = || Name::new(container).ok().map(|_| container);
    Ok(parsed_name.or_else(by_id).map(str::to_owned))
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

/// The configuration's value, else that of `CNI_ARGS`. Both may be set if they are equal.
fn agreed_value<'a>(
    key: &str,
    config: Option<&'a str>,
    variable: &str,
    args: &'a EnvironmentArgs,
) -> Result<Option<&'a str>, Failure> {
    match (config, args.get(variable)) {
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
