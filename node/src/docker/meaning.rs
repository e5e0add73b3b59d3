//! Maps a Docker network's options to the network, or group, of the log that it belongs to. Pure.

use std::collections::BTreeMap;
use std::fmt;

use bus_schema::{GroupName, InvalidName, NetworkName, NetworkSpec, Pool, TenantName};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use node_core::projection::Projection;

pub(super) const TENANT_OPTION: &str = "contiv.tenant";
pub(super) const NETWORK_OPTION: &str = "contiv.network";
pub(super) const GROUP_OPTION: &str = "contiv.group";

/// The network and group of the log that a Docker network belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Meaning {
    pub(super) tenant: TenantName,
    pub(super) network: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) group: Option<GroupName>,
}

impl Meaning {
    pub(super) fn of(spec: &NetworkSpec) -> Self {
        Self {
            tenant: spec.tenant.clone(),
            network: spec.name.clone(),
            group: None,
        }
    }

    /// The options of such a Docker network or of its IPAM.
    pub(super) fn options(&self) -> BTreeMap<String, String> {
        let mut options = BTreeMap::from([
            (TENANT_OPTION.to_owned(), self.tenant.to_string()),
            (NETWORK_OPTION.to_owned(), self.network.to_string()),
        ]);
        if let Some(group) = &self.group {
            options.insert(GROUP_OPTION.to_owned(), group.to_string());
        }
        options
    }

    /// `None` if the options name no network.
    pub(super) fn from_options(
        options: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, Unresolved> {
        let Some(network) = options.get(NETWORK_OPTION) else {
            return match [TENANT_OPTION, GROUP_OPTION]
                .iter()
                .find(|key| options.contains_key(**key))
            {
                Some(key) => Err(Unresolved::OptionAlone(key)),
                None => Ok(None),
            };
        };
        Ok(Some(Self {
            tenant: match options.get(TENANT_OPTION) {
                Some(tenant) => named(TENANT_OPTION, TenantName::new(tenant.as_str()))?,
                None => TenantName::default_tenant(),
            },
            network: named(NETWORK_OPTION, NetworkName::new(network.as_str()))?,
            group: options
                .get(GROUP_OPTION)
                .map(|group| named(GROUP_OPTION, GroupName::new(group.as_str())))
                .transpose()?,
        }))
    }

    pub(super) fn spec<'a>(
        &self,
        projection: &'a Projection,
    ) -> Result<&'a NetworkSpec, Unresolved> {
        if let Some(group) = &self.group {
            let fact = projection.group_fact(&self.tenant, group);
            if fact.is_none_or(|fact| fact.spec.network != self.network) {
                return Err(Unresolved::UnknownGroup {
                    tenant: self.tenant.clone(),
                    network: self.network.clone(),
                    group: group.clone(),
                });
            }
        }
        projection
            .network(&self.tenant, &self.network)
            .map(|fact| &fact.spec)
            .ok_or_else(|| Unresolved::Unknown {
                tenant: self.tenant.clone(),
                network: self.network.clone(),
            })
    }
}

impl Unresolved {
    /// Whether it names an object that isn't in the part of the log that was read.
    pub(super) fn is_of_an_unknown_name(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. } | Self::UnknownGroup { .. } | Self::NoSubnet(_)
        )
    }
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.network)?;
        match &self.group {
            Some(group) => write!(f, "/{group}"),
            None => Ok(()),
        }
    }
}

fn named<T>(option: &'static str, name: Result<T, InvalidName>) -> Result<T, Unresolved> {
    name.map_err(|reason| Unresolved::Name { option, reason })
}

/// A Docker network that belongs to no network of ours; each message gives the command to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unresolved {
    #[error("option {option}: {reason}")]
    Name {
        option: &'static str,
        reason: InvalidName,
    },
    #[error("option {0} needs contiv.network=NET beside it")]
    OptionAlone(&'static str),
    #[error(
        "network {network} of tenant {tenant} has no group {group} on this node: see `netctl group ls -t {tenant}`, or create it with `netctl group create {network} {group} -t {tenant}`, which makes its Docker network too"
    )]
    UnknownGroup {
        tenant: TenantName,
        network: NetworkName,
        group: GroupName,
    },
    #[error(
        "network {network} of tenant {tenant} doesn't exist on this node: see `netctl net ls -t {tenant}`, or create it with `netctl net create {network} -t {tenant} --subnet=CIDR`, which makes its Docker network too"
    )]
    Unknown {
        tenant: TenantName,
        network: NetworkName,
    },
    #[error(
        "no contiv network has the subnet {0}: see `netctl net ls -a`, or name the network with `-o contiv.network=NET --ipam-opt contiv.network=NET` (in a compose file only its subnet names it)"
    )]
    NoSubnet(IpNet),
    #[error(
        "several tenants have a network with the subnet {subnet} ({candidates}): select one with `-o contiv.tenant=T -o contiv.network=NET --ipam-opt contiv.tenant=T --ipam-opt contiv.network=NET`; in a compose file use the Docker network that netplugin made, with `external: true`"
    )]
    Ambiguous { subnet: IpNet, candidates: String },
    #[error(
        "a contiv network must be named: `docker network create -d contiv --ipam-driver contiv -o contiv.network=NET --ipam-opt contiv.network=NET NAME` (and contiv.tenant=T for another tenant than default); in a compose file with `driver_opts: {{contiv.network: NET}}` and `ipam: {{driver: contiv, config: [{{subnet: CIDR}}]}}`"
    )]
    Nothing,
    #[error(
        "network {network} of tenant {tenant} has no {family} subnet: create the Docker network without it"
    )]
    NoFamily {
        tenant: TenantName,
        network: NetworkName,
        family: &'static str,
    },
    #[error(
        "network {network} of tenant {tenant} has the subnet {has}, not {asked}: leave --subnet out"
    )]
    SubnetDiffers {
        tenant: TenantName,
        network: NetworkName,
        has: IpNet,
        asked: IpNet,
    },
    #[error(
        "contiv didn't create pool {0}: remove the Docker network with `docker network rm` and create it again"
    )]
    PoolId(String),
}

/// Finds the network by options, else by a subnet that only one network has.
pub(super) fn resolve(
    projection: &Projection,
    options: &BTreeMap<String, String>,
    subnet: Option<IpNet>,
) -> Result<Meaning, Unresolved> {
    if let Some(meaning) = Meaning::from_options(options)? {
        let spec = meaning.spec(projection)?;
        if let Some(asked) = subnet {
            let pool = pool_of(spec, matches!(asked, IpNet::V6(_)))?;
            if pool.subnet != asked {
                return Err(Unresolved::SubnetDiffers {
                    tenant: meaning.tenant,
                    network: meaning.network,
                    has: pool.subnet,
                    asked,
                });
            }
        }
        return Ok(meaning);
    }
    let subnet = subnet.ok_or(Unresolved::Nothing)?;
    let found: Vec<Meaning> = projection
        .tenants
        .values()
        .flat_map(|tenant| tenant.networks.values())
        .filter(|fact| fact.spec.pools().any(|pool| pool.subnet == subnet))
        .map(|fact| Meaning::of(&fact.spec))
        .collect();
    match found.as_slice() {
        [] => Err(Unresolved::NoSubnet(subnet)),
        [one] => Ok(one.clone()),
        several => Err(Unresolved::Ambiguous {
            subnet,
            candidates: several
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

pub(super) fn pool_of(spec: &NetworkSpec, v6: bool) -> Result<&Pool, Unresolved> {
    spec.pools()
        .find(|pool| pool.subnet.addr().is_ipv6() == v6)
        .ok_or_else(|| Unresolved::NoFamily {
            tenant: spec.tenant.clone(),
            network: spec.name.clone(),
            family: if v6 { "IPv6" } else { "IPv4" },
        })
}
