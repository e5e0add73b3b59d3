//! The messages between Docker's engine and a remote network and IPAM driver.
//!
//! The field names are the engine's (libnetwork, `drivers/remote/api` and `ipams/remote/api`). Go
//! sends `null` for an empty list or map, so those are options here. Unknown fields are skipped:
//! newer engines add some. `driver` and `ipam` handle the messages.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Key of the options of `docker network create -o` in [`CreateNetwork::options`].
pub(super) const GENERIC_KEY: &str = "com.docker.network.generic";
/// Set by `docker network create --internal`.
pub(super) const INTERNAL_KEY: &str = "com.docker.network.internal";
/// Published ports of an endpoint; absent, `null` or empty without any.
pub(super) const PORT_MAP_KEY: &str = "com.docker.network.portmap";
/// Key of the kind of the requested address in [`RequestAddress::options`].
pub(super) const ADDRESS_TYPE_KEY: &str = "RequestAddressType";
/// The value of [`ADDRESS_TYPE_KEY`] for a network's gateway.
pub(super) const GATEWAY_ADDRESS_TYPE: &str = "com.docker.network.gateway";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    pub(super) options: Option<Map<String, Value>>,
    #[serde(rename = "IPv4Data")]
    pub(super) ipv4: Option<Vec<IpamData>>,
    #[serde(rename = "IPv6Data")]
    pub(super) ipv6: Option<Vec<IpamData>>,
}

/// The call of a swarm's manager, before any worker creates the network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AllocateNetwork {
    /// The options of `docker network create -o`.
    pub(super) options: Option<BTreeMap<String, String>>,
    #[serde(rename = "IPv4Data")]
    pub(super) ipv4: Option<Vec<IpamData>>,
    #[serde(rename = "IPv6Data")]
    pub(super) ipv6: Option<Vec<IpamData>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IpamData {
    #[serde(default)]
    pub(super) pool: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct NetworkRef {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    pub(super) interface: Option<DriverInterface>,
    pub(super) options: Option<Map<String, Value>>,
}

/// Addresses with their prefix length; an empty string means none. In an answer only fields that the
/// request left empty may be set: the engine refuses a driver that changes its values.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct DriverInterface {
    pub(super) address: String,
    #[serde(rename = "AddressIPv6")]
    pub(super) address_ipv6: String,
    pub(super) mac_address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointRef {
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    /// `ProgramExternalConnectivity` and `Join` only.
    pub(super) options: Option<Map<String, Value>>,
    /// The path of the container's network namespace; `Join` only.
    #[serde(default)]
    pub(super) sandbox_key: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    pub(super) gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub(super) gateway_ipv6: String,
    pub(super) static_routes: Vec<StaticRoute>,
    /// True: otherwise the engine may add a second interface on `docker_gwbridge`, which bypasses our
    /// policies.
    pub(super) disable_gateway_service: bool,
}

/// The engine moves `src_name` into the container and names it `dst_prefix` and a number.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct StaticRoute {
    pub(super) destination: String,
    pub(super) route_type: u8,
    pub(super) next_hop: String,
}

impl StaticRoute {
    /// libnetwork's `types.NEXTHOP` and `types.CONNECTED`.
    pub(super) const NEXT_HOP: u8 = 0;
    pub(super) const CONNECTED: u8 = 1;
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestPool {
    #[serde(default)]
    pub(super) address_space: String,
    #[serde(default)]
    pub(super) pool: String,
    #[serde(default)]
    pub(super) sub_pool: String,
    pub(super) options: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "V6")]
    pub(super) v6: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    #[serde(default)]
    pub(super) address: String,
    pub(super) options: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ReleaseAddress {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    #[serde(default)]
    pub(super) address: String,
}

/// An error. The engine shows it to the user who typed the command; it reads `Err` from a network
/// driver and `Error` from an IPAM driver.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DriverFailure {
    pub(super) err: String,
    pub(super) error: String,
}
