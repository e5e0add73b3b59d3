//! Addresses: pools, ranges, MAC addresses, and networks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{GroupName, NetworkName, TenantName, Vni};

/// An inclusive range of addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl AddressRange {
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Whether an address lies in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }
}

impl From<IpNet> for AddressRange {
    fn from(net: IpNet) -> Self {
        Self {
            first: net.network(),
            last: net.broadcast(),
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

/// The addresses of a network in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Host bits are zero.
    pub subnet: IpNet,
    pub gateway: IpAddr,
    /// Endpoints get addresses of this range only; absent: of the whole subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<AddressRange>,
}

impl Pool {
    /// Whether an endpoint may bear `address`: in the subnet and the range, and neither the
    /// gateway nor, in IPv4 subnets of more than two addresses, the network's or the broadcast
    /// address (RFC 3021).
    pub fn is_assignable(&self, address: IpAddr) -> bool {
        let reserved = match self.subnet {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                address == IpAddr::V4(net.network()) || address == IpAddr::V4(net.broadcast())
            }
            IpNet::V4(_) => false,
            // The subnet-router anycast address (RFC 4291 §2.6.1).
            IpNet::V6(net) => net.prefix_len() < 127 && address == IpAddr::V6(net.network()),
        };
        self.subnet.contains(&address)
            && address != self.gateway
            && !reserved
            && self.range.is_none_or(|range| range.contains(address))
    }

    /// The addresses that it gives out, and what of them can't be an endpoint's.
    pub fn span(&self) -> AddressRange {
        self.range.unwrap_or_else(|| self.subnet.into())
    }

    /// The shortest prefix of this pool's blocks: a sixteenth of its addresses, at most 64.
    pub fn block_prefix(&self) -> u8 {
        let max = self.subnet.max_prefix_len();
        let prefix = match self.range.map(|range| (range.first, range.last)) {
            Some((IpAddr::V4(first), IpAddr::V4(last))) => {
                let size = u64::from(last.to_bits().saturating_sub(first.to_bits())) + 1;
                // Of a range that is no power of two the sixteenth is rounded down.
                max - u8::try_from(size.ilog2()).unwrap_or(max)
            }
            _ => self.subnet.prefix_len(),
        };
        (prefix + 4).clamp(max - 6, max)
    }

    /// The block with `address` in it: a range is cut into the largest subnets that fit.
    pub fn block_at(&self, address: IpAddr) -> IpNet {
        let span = self.span();
        let single = IpNet::from(address);
        (self.block_prefix()..=single.max_prefix_len())
            .filter_map(|prefix| IpNet::new(address, prefix).ok())
            .map(|block| block.trunc())
            .find(|block| span.contains(block.network()) && span.contains(block.broadcast()))
            .unwrap_or(single)
    }
}

/// The pool of a network, or a group's own pool in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolKey {
    pub tenant: TenantName,
    pub network: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
}

impl PoolKey {
    pub fn of_network(tenant: &TenantName, network: &NetworkName) -> Self {
        Self {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
        }
    }

    pub fn of_group(tenant: &TenantName, network: &NetworkName, group: &GroupName) -> Self {
        Self {
            group: Some(group.clone()),
            ..Self::of_network(tenant, network)
        }
    }
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.network)?;
        match &self.group {
            None => Ok(()),
            Some(group) => write!(f, "/{group}"),
        }
    }
}

/// Changes a limit if another one is given; 0 takes it away, so that the default holds.
pub fn update_limit(limit: &mut Option<u32>, given: Option<u32>) {
    if let Some(given) = given {
        *limit = Some(given).filter(|it| *it > 0);
    }
}

/// The way out of a network's endpoints to addresses that aren't the tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// A new connection out gets an ICMP error at once.
    None,
    /// The endpoint's node masquerades: an endpoint reaches what its node reaches.
    Nat,
}

impl Egress {
    /// The setting of a new network, if its tenant has no default of its own.
    pub const OF_NEW_NETWORKS: Self = Self::Nat;
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::Nat => "nat",
        })
    }
}

/// Changes the default of a tenant's new networks if another one is given;
/// [`Egress::OF_NEW_NETWORKS`] takes it away.
pub fn update_default_egress(default: &mut Option<Egress>, given: Option<Egress>) {
    if let Some(given) = given {
        *default = Some(given).filter(|it| *it != Egress::OF_NEW_NETWORKS);
    }
}

/// A network, as in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    pub tenant: TenantName,
    pub name: NetworkName,
    pub vni: Vni,
    pub v4: Pool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Pool>,
    /// The name of the Docker network, when it isn't `NET` or `NET/TENANT` (`--nw-tag`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_name: Option<String>,
    /// The connections that each endpoint may open; absent: its tenant's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Absent in networks of older builds: their endpoints have no way out, also after an upgrade.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// With a way out, endpoints also reach the metadata services of clouds (169.254.0.0/16 and others).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_metadata: bool,
}

impl NetworkSpec {
    /// A network without settings of its own: as of an older build, with no way out.
    pub fn new(tenant: TenantName, name: NetworkName, vni: Vni, v4: Pool) -> Self {
        Self {
            tenant,
            name,
            vni,
            v4,
            v6: None,
            docker_name: None,
            max_connections: None,
            egress: None,
            allow_metadata: false,
        }
    }

    /// The way out that holds.
    pub fn egress(&self) -> Egress {
        self.egress.unwrap_or(Egress::None)
    }

    pub fn pools(&self) -> impl Iterator<Item = &Pool> {
        std::iter::once(&self.v4).chain(&self.v6)
    }

    /// Its name as arguments of netctl's verbs: `NET`, in other tenants than `default` `NET -t TENANT`.
    pub fn arguments(&self) -> String {
        match self.tenant == TenantName::default_tenant() {
            true => self.name.to_string(),
            false => format!("{} -t {}", self.name, self.tenant),
        }
    }

    /// The name of this network's Docker network: `NET`, in other tenants than `default`
    /// `NET/TENANT`, as in Contiv.
    pub fn docker_network(&self) -> String {
        match &self.docker_name {
            Some(name) => name.clone(),
            None if self.tenant == TenantName::default_tenant() => self.name.to_string(),
            None => format!("{}/{}", self.name, self.tenant),
        }
    }

    /// Whether that name is `name`.
    pub fn is_docker_network(&self, name: &str) -> bool {
        match &self.docker_name {
            Some(own) => own == name,
            None => self.tenant.within(name) == Some(self.name.as_str()),
        }
    }
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// An endpoint's address: `02:02` and the four bytes of its IPv4 address, as in Contiv; of
    /// an IPv6 address the last four.
    pub fn of_endpoint(address: IpAddr) -> Self {
        Self::tail(2, address)
    }

    /// The inner address of a node's VXLAN devices, the same in all networks: `02:03` and the
    /// last four bytes of its VTEP's address.
    pub fn of_vtep(address: IpAddr) -> Self {
        Self::tail(3, address)
    }

    fn tail(second: u8, address: IpAddr) -> Self {
        let [a, b, c, d] = match address {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(v6) => {
                let [.., a, b, c, d] = v6.octets();
                [a, b, c, d]
            }
        };
        Self([2, second, a, b, c, d])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an Ethernet address such as 02:02:14:01:01:01")]
pub struct InvalidMac(String);

impl FromStr for MacAddr {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let bytes = text
            .split(':')
            .map(|part| u8::from_str_radix(part, 16))
            .collect::<Result<Vec<u8>, _>>()
            .map_err(|_| invalid())?;
        bytes.try_into().map(Self).map_err(|_| invalid())
    }
}

impl TryFrom<String> for MacAddr {
    type Error = InvalidMac;

    fn try_from(text: String) -> Result<Self, InvalidMac> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupId, GroupSpec};

    #[test]
    fn docker_networks_are_known_by_their_names() {
        let pool = Pool {
            subnet: crate::testing::subnet("20.1.1.0/24"),
            gateway: crate::testing::ip("20.1.1.254"),
            range: None,
        };
        let (mut networks, mut groups) = (Vec::new(), Vec::new());
        for tenant in ["default", "blue", "a-blue", "web"] {
            for docker_name in [None, Some("web/blue".to_owned()), Some("lb.web".to_owned())] {
                networks.push(NetworkSpec {
                    docker_name: docker_name.clone(),
                    ..NetworkSpec::new(
                        crate::testing::name(tenant),
                        crate::testing::name("web"),
                        Vni(1),
                        pool.clone(),
                    )
                });
                groups.push(GroupSpec {
                    tenant: crate::testing::name(tenant),
                    network: crate::testing::name("web"),
                    name: crate::testing::name("lb"),
                    id: GroupId(1),
                    policies: Vec::new(),
                    docker_name,
                    pool: None,
                });
            }
        }
        let names = networks.iter().map(NetworkSpec::docker_network);
        let names = names.chain(groups.iter().map(GroupSpec::docker_network));
        for name in names.chain(["web/".to_owned(), "/blue".to_owned(), "lb.".to_owned()]) {
            for it in &networks {
                let is = it.docker_network() == name;
                assert_eq!(it.is_docker_network(&name), is, "{name}: {it:?}");
            }
            for it in &groups {
                let is = it.docker_network() == name;
                assert_eq!(it.is_docker_network(&name), is, "{name}: {it:?}");
            }
        }
    }
}
