//! What Docker's engine sends to a remote network and IPAM driver, and what it understands.
//!
//! Field names are the engine's (libnetwork, `drivers/remote/api` and `ipams/remote/api`); Go
//! sends `null` for an empty list or map, so those are options here. Unknown fields are skipped:
//! newer engines add some. Nothing here decides; `driver` and `ipam` do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Driver options that `docker network create -o` gave, inside [`CreateNetwork::options`].
pub(super) const GENERIC: &str = "com.docker.network.generic";
/// Set by `docker network create --internal`.
pub(super) const INTERNAL: &str = "com.docker.network.internal";
/// Published ports of an endpoint; absent, `null` or empty without any.
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";
/// What kind of address is asked for, in [`RequestAddress::options`].
pub(super) const ADDRESS_TYPE: &str = "RequestAddressType";
/// Its value for a network's gateway.
pub(super) const ADDRESS_TYPE_GATEWAY: &str = "com.docker.network.gateway";

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

/// A swarm's manager asks, before any worker creates the network.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AllocateNetwork {
    /// What `docker network create -o` gave.
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
    pub(super) interface: Option<Interface>,
    pub(super) options: Option<Map<String, Value>>,
}

/// Addresses with their prefix length; an empty string is none. In an answer only what the
/// request left empty may be set: the engine refuses a driver that changes what it gave.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
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
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    pub(super) gateway: String,
    #[serde(rename = "GatewayIPv6")]
    pub(super) gateway_ipv6: String,
    pub(super) static_routes: Vec<StaticRoute>,
    /// Without it the engine may add a second interface on `docker_gwbridge`, past our policy.
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

/// Every answer that isn't a success: the engine shows it to who typed the command. Of a network
/// driver it reads `Err`, of an IPAM driver `Error`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Failure {
    pub(super) err: String,
    pub(super) error: String,
}
