//! The addresses outside of the cluster that a node uses or that its containers reach, and its routing rules.

use std::net::IpAddr;

use crate::mark_rule::MarkRule;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The addresses around a node, and its rules by the packet mark. A network over one of the addresses hides
/// it from the tenant's containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Surroundings {
    /// The addresses of its interfaces, without loopback and link-local ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<InterfaceAddress>,
    /// The resolvers that its containers may ask, without loopback addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resolvers: Vec<IpAddr>,
    /// The engine's networks that aren't Contiv's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub engine_subnets: Vec<EngineSubnet>,
    /// Its routing rules by the packet mark, which no new group's number should match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mark_rules: Vec<MarkRule>,
}

/// An address of an interface, with the length of its prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InterfaceAddress {
    pub interface: String,
    pub address: IpNet,
}

/// A subnet of one of the engine's networks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EngineSubnet {
    /// The network's name.
    pub network: String,
    pub subnet: IpNet,
}
