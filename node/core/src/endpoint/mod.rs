//! The model of this node's endpoints: attach requests, the ledger of the journal's records, and the
//! choice of addresses. Pure. The daemon writes the journal and serves the requests.

#[cfg(any(test, feature = "testing"))]
pub mod fixture;
pub mod ledger;
pub mod pool;

pub use ledger::{Ledger, Locals, NetworkKey, Record, Usage};

use std::net::IpAddr;

use bus_schema::limits::NameExcess;
use bus_schema::{EndpointId, GroupName, MacAddr, NetworkName, NodeName, Rejection, TenantName};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// An endpoint of this node, as its journal holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    pub id: EndpointId,
    pub tenant: TenantName,
    pub network: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// One address per family at most; at least one.
    pub addresses: Vec<IpAddr>,
    pub mac: MacAddr,
    /// The name of the veth's end that stays on the host's side. At most 15 bytes.
    pub host_interface: String,
    /// The name of the container's end until its owner moves it. At most 15 bytes.
    pub peer_interface: String,
    pub owner: Owner,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The MTU of both ends of its veth, in bytes, whatever MTU the underlay gets later: a veth drops what
    /// exceeds the MTU of its other end, without an ICMP error. Absent: an older build attached it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

impl std::fmt::Display for LocalEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let (tenant, network) = (&self.tenant, &self.network);
        write!(
            f,
            "endpoint {} {} in {tenant}:{network}",
            self.id,
            addresses.join(",")
        )
    }
}

/// The party that requested an endpoint and so moves its interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Owner {
    /// The engine moves the peer into the container's namespace.
    Docker { network_id: String },
    /// Netplugin moved the peer into this namespace and configured it there under this name.
    Namespace {
        path: String,
        interface: String,
        /// The name of the CNI network configuration; absent: no CNI runtime requested the endpoint.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cni: Option<String>,
    },
    /// The journal lost the owner: a detach must name the endpoint's id.
    Unknown,
}

/// A request to attach an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub id: EndpointId,
    pub tenant: TenantName,
    pub network: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// The addresses that were reserved before ([`Reserve`]) or requested (`--ip`); empty: any.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    pub owner: Owner,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// Names that the owner reports after the endpoint was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    /// Absent: not known yet, earlier aliases stay.
    pub aliases: Option<Vec<String>>,
    pub container: String,
}

/// A request to reserve an address before its endpoint exists, as Docker's IPAM does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    pub tenant: TenantName,
    pub network: NetworkName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// Absent: any free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    #[serde(default)]
    pub claim: Claim,
}

/// The purpose of a reservation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// A container that starts here.
    #[default]
    Container,
    /// A swarm's task that starts here, with the address that its manager promised it.
    Task,
    /// The swarm that this node manages: one of its tasks will start with it, on whatever node.
    Promise,
}

/// The reply to an attach: the endpoint and its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub endpoint: LocalEndpoint,
    /// The gateway of each address family of the endpoint.
    pub gateways: Vec<IpAddr>,
    /// The size of an inner packet, in bytes: the underlay's MTU without VXLAN's headers.
    pub mtu: u32,
}

/// The reason why an attach, a detach or a reservation failed, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Names(#[from] NameExcess),
    #[error("address {0} is in use by endpoint {1} of this node")]
    AddressInUse(IpAddr, String),
    #[error("address {0} is promised to a task of the swarm that this node manages")]
    AddressPromised(IpAddr),
    #[error("node {0} is drained: it takes no new endpoints until `netctl node uncordon {0}`")]
    Drained(NodeName),
    #[error(
        "node {0} has left the cluster: restart its netplugin to have it join again, which takes an answer of netmaster"
    )]
    Left(NodeName),
    #[error("node {0} was removed from the cluster: restart its netplugin to have it join again")]
    Removed(NodeName),
    #[error("endpoint {0} exists with other settings: detach it first")]
    EndpointDiffers(EndpointId),
    #[error("endpoint {0} doesn't exist on this node")]
    EndpointUnknown(EndpointId),
    #[error(
        "this node has no free address of network {network} of its own, and got none from netmaster: {reason}; try again when `netctl cluster info` answers"
    )]
    Unreachable {
        network: NetworkName,
        reason: String,
    },
    #[error(
        "this node hasn't read the cluster's log to its end, so it may be that {0}; try again when `netplugin status` says in-sync (it names what keeps it)"
    )]
    LogUnread(String),
    #[error("node {node} holds {address} and {reason}")]
    NotCeded {
        address: IpAddr,
        node: String,
        reason: String,
    },
    #[error("node {node} can give up no address of {pool}: {reason}")]
    NothingToGive {
        pool: String,
        node: String,
        reason: String,
    },
    #[error(
        "{block} of network {network} isn't given up yet: {reason}; no endpoint gets an address of it, and netplugin goes on asking netmaster"
    )]
    NotGivenUp {
        block: IpNet,
        network: NetworkName,
        reason: String,
    },
    #[error(
        "the endpoint journal of this node was damaged or missing, and it doesn't know yet which addresses are in use; nothing is attached until it has compared its kernel with the bus: try again"
    )]
    Incomplete,
    #[error("can't write the endpoint journal {path}: {reason}; nothing was attached")]
    Journal { path: String, reason: String },
    #[error("can't configure the kernel: {0}")]
    Datapath(String),
}

impl AttachError {
    /// Whether the part of the log that this node hasn't read may remove the reason.
    pub fn may_be_of_unread_log(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.is_of_an_unknown_name(),
            // A node that joins isn't in the projection yet.
            Self::Removed(_) => true,
            _ => false,
        }
    }
}
