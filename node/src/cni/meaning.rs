//! What a call means: which network, group and name, out of the configuration and `CNI_ARGS`. Pure.
//!
//! What the configuration states is the operator's word: `CNI_ARGS` fills in what it leaves open,
//! and can't change it. The orchestrators' own names come last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::{EndpointId, GroupName, InvalidName, Name, NetworkName, TenantName};
use serde_json::Value;
use uuid::Uuid;

use super::protocol::{Config, Failure};

const TENANT: &str = "CONTIV_TENANT";
const NETWORK: &str = "CONTIV_NETWORK";
const GROUP: &str = "CONTIV_GROUP";
const NAME: &str = "CONTIV_NAME";
const IP: &str = "IP";
const IGNORE_UNKNOWN: &str = "IgnoreUnknown";

/// `CNI_ARGS` by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Args(BTreeMap<String, String>);

impl Args {
    /// Reads `KEY=VALUE;KEY=VALUE`. A key that nobody knows is refused without `IgnoreUnknown`.
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
        let ignores = match args.get(IGNORE_UNKNOWN).map(String::as_str) {
            Some("1" | "true" | "True" | "TRUE") => true,
            Some("0" | "false" | "False" | "FALSE") | None => false,
            Some(other) => {
                return Err(Failure::environment(format!(
                    "CNI_ARGS: IgnoreUnknown is `{other}`: it must be 1 or 0"
                )));
            }
        };
        let is_known = |key: &str| {
            [TENANT, NETWORK, GROUP, NAME, IP, IGNORE_UNKNOWN].contains(&key)
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

/// What an attach asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    pub tenant: TenantName,
    pub network: NetworkName,
    pub group: Group,
    pub name: Option<String>,
    pub addresses: Vec<IpAddr>,
}

/// Which group is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Group {
    None,
    /// It must be there.
    Named(GroupName),
    /// An orchestrator calls its own group so: meant when the network has a group of that name.
    Hinted(GroupName),
}

impl Meaning {
    pub(super) fn of(config: &Config, args: &Args, container: &str) -> Result<Self, Failure> {
        refuse_unsupported(config)?;
        let whole = settled("network", config.network.as_deref(), NETWORK, args)?;
        let whole = whole.unwrap_or(&config.name);
        let (in_name, network) = match whole.split_once('.') {
            Some((group, network)) => (Some(group), network),
            None => (None, whole),
        };
        let tenant = settled("tenant", config.tenant.as_deref(), TENANT, args)?
            .or_else(|| args.get("NOMAD_NAMESPACE"))
            .or_else(|| args.get("K8S_POD_NAMESPACE"));
        Ok(Self {
            tenant: match tenant {
                Some(tenant) => named("tenant", TenantName::new(tenant))?,
                None => TenantName::default_tenant(),
            },
            network: named("network", NetworkName::new(network))?,
            group: group(config, args, in_name)?,
            name: name(config, args, container)?,
            addresses: addresses(config, args)?,
        })
    }
}

fn group(config: &Config, args: &Args, in_name: Option<&str>) -> Result<Group, Failure> {
    let stated = match (config.group.as_deref(), in_name) {
        (Some(group), Some(other)) if group != other => {
            return Err(Failure::config(format!(
                "group is `{group}`, and the network's name says `{other}`: leave one of them out"
            )));
        }
        (group, in_name) => group.or(in_name),
    };
    match settled("group", stated, GROUP, args)? {
        Some("") => return Ok(Group::None),
        Some(group) => return named("group", GroupName::new(group)).map(Group::Named),
        None => {}
    }
    let hint = args.get("NOMAD_GROUP_NAME");
    let hint = hint.and_then(|name| GroupName::new(name).ok());
    Ok(hint.map_or(Group::None, Group::Hinted))
}

/// What it answers to in DNS: the container's id, too, when it is a name.
fn name(config: &Config, args: &Args, container: &str) -> Result<Option<String>, Failure> {
    let stated = config.container_name.as_deref();
    let named = settled("containerName", stated, NAME, args)?
        .or_else(|| args.get("K8S_POD_NAME"))
        .or_else(|| args.get("NOMAD_GROUP_NAME"));
    let by_id = || Name::new(container).ok().map(|_| container);
    Ok(named.or_else(by_id).map(str::to_owned))
}

/// Runtime's capability before `args` before `CNI_ARGS`, as CONVENTIONS.md has it.
fn addresses(config: &Config, args: &Args) -> Result<Vec<IpAddr>, Failure> {
    let by_capability = &config.runtime_config.ips;
    let by_args = &config.args.cni.ips;
    let asked: Vec<&str> = match (by_capability.as_slice(), by_args.as_slice()) {
        ([], []) => args.get(IP).into_iter().collect(),
        ([], ips) | (ips, _) => ips.iter().map(String::as_str).collect(),
    };
    let parse = |text: &str| {
        let address = text.split('/').next().unwrap_or(text);
        address.parse().map_err(|error| {
            Failure::config(format!("`{text}` is no IP address to ask for: {error}"))
        })
    };
    asked.into_iter().map(parse).collect()
}

/// The configuration's word, else that of `CNI_ARGS`; both may be there when they agree.
fn settled<'a>(
    key: &str,
    config: Option<&'a str>,
    variable: &str,
    args: &'a Args,
) -> Result<Option<&'a str>, Failure> {
    match (config, args.get(variable)) {
        (Some(stated), Some(asked)) if stated != asked => Err(Failure::environment(format!(
            "CNI_ARGS: {variable} is `{asked}`, and the network configuration says {key} `{stated}`, which nobody may change: leave {variable} out"
        ))),
        (stated, asked) => Ok(stated.or(asked)),
    }
}

fn named<T>(key: &str, name: Result<T, InvalidName>) -> Result<T, Failure> {
    name.map_err(|error| Failure::config(format!("{key}: {error}")))
}

fn refuse_unsupported(config: &Config) -> Result<(), Failure> {
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
            "contiv gives out its networks' addresses itself: leave it out",
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

/// An attachment is its container's id and its interface's name; an endpoint's id holds one token.
pub(super) fn endpoint_id(container: &str, interface: &str) -> Result<EndpointId, Failure> {
    let text = format!("cni {container} {interface}");
    let hash = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes());
    EndpointId::new(hash.simple().to_string())
        .map_err(|error| Failure::environment(error.to_string()))
}
