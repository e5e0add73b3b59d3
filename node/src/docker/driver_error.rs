//! The reasons why a call of the engine fails; each message gives the command to type.

use std::net::IpAddr;

use bus_schema::{EndpointId, MacAddr, NetworkName, TenantName};

use super::meaning::Unresolved;
use crate::endpoint::AttachError;

/// A call's failure. The engine shows the message to the user who typed the command.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    #[error("netplugin doesn't support the call {0}: this engine needs a newer netplugin")]
    UnknownCall(String),
    #[error("can't parse the engine's request: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the engine sent `{text}` as {what}: {reason}")]
    Value {
        what: &'static str,
        text: String,
        reason: String,
    },
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(
        "contiv doesn't publish ports yet: leave out -p and -P (`ports:` in a compose file); containers of the tenant reach {0} directly"
    )]
    PublishedPorts(String),
    #[error(
        "network {network} of tenant {tenant} has a way out, which --internal forbids: close it on all nodes with `netctl net update {network} -t {tenant} --egress=none`, or leave --internal out"
    )]
    Internal {
        tenant: TenantName,
        network: NetworkName,
    },
    #[error(
        "contiv needs its own addresses: add `--ipam-driver contiv --ipam-opt contiv.network=NET` to `docker network create` (in a swarm `--ipam-driver contiv-swarm:latest`); in a compose file `ipam: {{driver: contiv, config: [{{subnet: CIDR}}]}}`, with the subnet of NET (in a stack `driver: contiv-swarm:latest`)"
    )]
    ForeignIpam,
    #[error(
        "contiv gives an endpoint the MAC address {given}, after its IP address: leave --mac-address={asked} out"
    )]
    MacAddress { given: MacAddr, asked: String },
    #[error(
        "netplugin has no record of the Docker network {0}: `docker network rm` it, netplugin creates it again"
    )]
    UnknownNetwork(String),
    #[error(
        "contiv gives a container one address and one group in a network, and none in a second network with the same addresses: this container has {address} in network {network} of tenant {tenant} already; leave that Docker network first: `docker network disconnect {docker_network} CONTAINER`"
    )]
    InNetwork {
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        /// Its short id.
        docker_network: String,
    },
    #[error("endpoint {0} is gone: start the container again")]
    UnknownEndpoint(EndpointId),
    #[error(
        "networks of driver `contiv` are of scope `local`, which swarm services can't use: create one with `docker network create -d contiv-swarm:latest --ipam-driver contiv-swarm:latest`"
    )]
    Swarm,
    #[error(
        "can't save the map of Docker networks: {0}; free space on the disk of the state folder and try again"
    )]
    Save(#[from] std::io::Error),
}
