//! Facts and endpoints for the tests of endpoints.

use std::net::IpAddr;

use bus_schema::{
    AddressRange, EndpointId, GroupId, GroupName, GroupSpec, MacAddr, NetworkName, NetworkSpec,
    NodeName, Pool, TenantName, Vni,
};
use imbl::OrdMap;
use ipnet::IpNet;

use super::{LocalEndpoint, NetworkKey, Owner};
use crate::projection::{NetworkFact, Projection, TenantFact};

pub fn tenant() -> TenantName {
    TenantName::default_tenant()
}

pub fn net() -> NetworkName {
    NetworkName::new("web").expect("a valid literal")
}

pub fn key() -> NetworkKey {
    (tenant(), net())
}

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a valid literal")
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("a valid literal")
}

/// 10.0.0.0/24 with the gateway 10.0.0.1, and these blocks.
pub fn network(blocks: &[(&str, &str)]) -> NetworkFact {
    NetworkFact {
        spec: NetworkSpec::new(
            tenant(),
            net(),
            Vni(7),
            Pool {
                subnet: "10.0.0.0/24".parse().expect("a valid literal"),
                gateway: ip("10.0.0.1"),
                range: None,
            },
        ),
        closing: false,
        pools: Default::default(),
        blocks: blocks
            .iter()
            .map(|(block, holder)| {
                (
                    block.parse::<IpNet>().expect("a valid literal"),
                    node(holder),
                )
            })
            .collect(),
    }
}

/// A group of the network, with these addresses for its members.
pub fn group(name: &GroupName, pool: Option<AddressRange>) -> GroupSpec {
    GroupSpec {
        tenant: tenant(),
        network: net(),
        name: name.clone(),
        id: GroupId::FIRST,
        policies: Vec::new(),
        docker_name: None,
        pool,
    }
}

pub fn facts(network: NetworkFact) -> Projection {
    let mut tenants = OrdMap::new();
    let mut fact = TenantFact::default();
    fact.networks.insert(net(), network);
    tenants.insert(tenant(), fact);
    Projection {
        tenants,
        ..Projection::default()
    }
}

pub fn endpoint(id: &str, address: &str) -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId::new(id).expect("a valid literal"),
        tenant: tenant(),
        network: net(),
        group: None,
        addresses: vec![ip(address)],
        mac: MacAddr::of_endpoint(ip(address)),
        host_interface: format!("cv{id}"),
        peer_interface: format!("cp{id}"),
        owner: Owner::Docker {
            network_id: "n".to_owned(),
        },
        name: None,
        aliases: Vec::new(),
        container: None,
        mtu: None,
    }
}
