//! Endpoints of other nodes, for tests.

use std::net::Ipv4Addr;

use bus_schema::{Endpoint, MacAddr, TenantName, testing};

/// An endpoint without a name, in network `net` of the tenant.
pub(crate) fn endpoint(id: &str, tenant: &TenantName, on: &str, address: Ipv4Addr) -> Endpoint {
    Endpoint {
        id: testing::name(id),
        tenant: tenant.clone(),
        network: testing::name("net"),
        group: None,
        name: None,
        aliases: Vec::new(),
        container: None,
        v4: Some(address),
        v6: None,
        mac: MacAddr::of_endpoint(address.into()),
        node: testing::name(on),
        interface: "cv1".to_owned(),
        vtep: testing::ip("198.18.0.2"),
        closed: None,
    }
}
