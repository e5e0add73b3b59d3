//! The types of the CNI specification (1.1.0, <https://www.cni.dev/docs/spec/>): a runtime's calls,
//! their results, and the error codes. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The supported versions of the specification, the newest last.
pub(super) const SUPPORTED_VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// Limits an interface's name: 15 bytes and a zero (`IFNAMSIZ`).
const MAX_INTERFACE_BYTES: usize = 15;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Command {
    Add,
    Del,
    Check,
    Status,
    Gc,
    Version,
}

impl std::str::FromStr for Command {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        Ok(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "STATUS" => Self::Status,
            "GC" => Self::Gc,
            "VERSION" => Self::Version,
            other => {
                return Err(Failure::environment(format!(
                    "CNI_COMMAND is `{other}`: it must be ADD, DEL, CHECK, STATUS, GC or VERSION; container runtimes start this program, see docs/cni.md"
                )));
            }
        })
    }
}

/// One call of a runtime: its environment, and the configuration from its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub command: Command,
    /// `CNI_CONTAINERID`; this and the next variables are empty if not set.
    #[serde(default)]
    pub container: String,
    #[serde(default)]
    pub netns: String,
    #[serde(default)]
    pub interface: String,
    #[serde(default)]
    pub args: String,
    pub config: Value,
}

impl Call {
    /// Validates the environment as the specification demands; the error names each bad variable.
    pub fn check(&self) -> Result<(), Failure> {
        let mut bad = Vec::new();
        let of_attachment = matches!(self.command, Command::Add | Command::Del | Command::Check);
        if of_attachment && !is_container_id(&self.container) {
            bad.push(format!(
                "CNI_CONTAINERID (`{}`: a letter or a digit, then letters, digits, `_`, `.` or `-`)",
                self.container
            ));
        }
        if of_attachment && !is_interface(&self.interface) {
            bad.push(format!(
                "CNI_IFNAME (`{}`: 1 to {MAX_INTERFACE_BYTES} bytes, no `/`, `:` or space, not `.` or `..`)",
                self.interface
            ));
        }
        if matches!(self.command, Command::Add | Command::Check) && self.netns.is_empty() {
            bad.push("CNI_NETNS (missing)".to_owned());
        }
        match bad.is_empty() {
            true => Ok(()),
            false => Err(Failure::environment(bad.join(", "))),
        }
    }

    /// Parses the configuration, which must be of a supported version.
    pub fn config(&self) -> Result<NetworkConfig, Failure> {
        let config = NetworkConfig::deserialize(&self.config).map_err(|error| {
            Failure::new(6, "can't read the network configuration", error.to_string())
        })?;
        if SUPPORTED_VERSIONS.contains(&config.cni_version.as_str()) {
            return Ok(config);
        }
        Err(Failure::new(
            1,
            "incompatible CNI version",
            format!(
                "cniVersion is `{}`: set one of {}",
                config.cni_version,
                SUPPORTED_VERSIONS.join(", ")
            ),
        ))
    }
}

fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

fn is_interface(text: &str) -> bool {
    !matches!(text, "" | "." | "..")
        && text.len() <= MAX_INTERFACE_BYTES
        && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace())
}

/// The network configuration, with the fields that we use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    #[serde(default)]
    pub cni_version: String,
    /// The configuration's name. It is also the network's name if `network` isn't set.
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub tenant: Option<String>,
    /// `NETWORK` or `GROUP.NETWORK`.
    #[serde(default)]
    pub network: Option<String>,
    /// If it is empty, the endpoint is in no group, whatever the runtime passes.
    #[serde(default)]
    pub group: Option<String>,
    /// The variables of `CNI_ARGS` that may choose a tenant, network or group that the keys leave open.
    #[serde(default)]
    pub allow_args: Vec<String>,
    /// The container's name, for configurations that are made for one container.
    #[serde(default)]
    pub container_name: Option<String>,
    /// netplugin's run directory, if it isn't the default.
    #[serde(default)]
    pub run_dir: Option<PathBuf>,
    #[serde(default)]
    pub dns: Dns,
    #[serde(default)]
    pub runtime_config: RuntimeConfig,
    #[serde(default)]
    pub args: ConfigArgs,
    #[serde(default)]
    pub ip_masq: Option<Value>,
    #[serde(default)]
    pub ipam: Option<Value>,
    #[serde(default)]
    pub prev_result: Option<Success>,
    #[serde(default, rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

impl NetworkConfig {
    /// Whether the runtime's variables may choose the network or its tenant at ADD.
    pub fn leaves_network_open(&self) -> bool {
        let listed = self.allow_args.iter().any(|it| it == "CONTIV_NETWORK");
        self.tenant.is_none() || (self.network.is_none() && listed)
    }

    /// The container's further names in this network.
    pub fn aliases(&self) -> &[String] {
        match &self.runtime_config.aliases {
            Some(Aliases::List(names)) => names,
            Some(Aliases::ByNetwork(map)) => map.get(&self.name).map_or(&[], Vec::as_slice),
            None => &[],
        }
    }
}

/// Values that a runtime passes for the capabilities in the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeConfig {
    #[serde(default)]
    pub ips: Vec<String>,
    #[serde(default)]
    pub aliases: Option<Aliases>,
    #[serde(default)]
    pub mac: Option<Value>,
    #[serde(default)]
    pub port_mappings: Option<Value>,
}

/// The capability `aliases`: a list by the CNI project's CONVENTIONS.md, a map from a configuration's
/// name to a list by Podman, whose plugin `dnsname` defined it first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "runtimeConfig.aliases must be a list of names, or a map from a network's name to such a list"
)]
pub enum Aliases {
    List(Vec<String>),
    ByNetwork(BTreeMap<String, Vec<String>>),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ConfigArgs {
    #[serde(default)]
    pub cni: CniArgs,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct CniArgs {
    #[serde(default)]
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ValidAttachment {
    #[serde(rename = "containerID")]
    pub container: String,
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// The result of an ADD. Unknown fields of other plugins' results are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Success {
    #[serde(default)]
    pub cni_version: String,
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    #[serde(default)]
    pub ips: Vec<Ip>,
    #[serde(default)]
    pub routes: Vec<Route>,
    #[serde(default)]
    pub dns: Dns,
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The namespace's path; empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    pub address: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Index in `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// A failed call with a code of the specification; codes from 100 are ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{msg}: {details}")]
pub struct Failure {
    #[serde(default)]
    pub cni_version: String,
    pub code: u32,
    pub msg: String,
    /// The reason and the remedy.
    #[serde(default)]
    pub details: String,
}

impl Failure {
    /// The requested address is in use by another endpoint.
    pub const ADDRESS_TAKEN_CODE: u32 = 100;
    /// The kernel refused a change.
    pub const KERNEL_CODE: u32 = 101;
    /// CHECK found that the container's network has changed.
    pub const NOT_AS_CREATED_CODE: u32 = 102;

    pub fn new(code: u32, msg: &str, details: impl Into<String>) -> Self {
        Self {
            cni_version: String::new(),
            code,
            msg: msg.to_owned(),
            details: details.into(),
        }
    }

    pub fn environment(details: impl Into<String>) -> Self {
        Self::new(4, "invalid environment variables", details)
    }

    pub fn config(details: impl Into<String>) -> Self {
        Self::new(7, "invalid network configuration", details)
    }

    pub fn unsupported(key: &str, value: &Value, instead: &str) -> Self {
        Self::new(
            2,
            "unsupported field in the network configuration",
            format!("{key}: {value}: {instead}"),
        )
    }

    pub fn try_again(details: impl Into<String>) -> Self {
        Self::new(11, "try again later", details)
    }

    /// Sets the version that the runtime uses.
    pub fn in_version(mut self, config: &Value) -> Self {
        let asked = config.get("cniVersion").and_then(Value::as_str);
        let spoken = asked.filter(|version| SUPPORTED_VERSIONS.contains(version));
        self.cni_version = spoken
            .unwrap_or(SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1])
            .to_owned();
        self
    }
}
