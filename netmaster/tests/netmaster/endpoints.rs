//! Endpoints, as a node publishes them.

use bus_schema::{Endpoint, MacAddr, testing};

use crate::support::{network, node, tenant};

/// An endpoint of node n1 without a name, in network `front`.
pub(crate) fn endpoint() -> Endpoint {
    Endpoint {
        id: testing::name("e1"),
        tenant: tenant("default"),
        network: network("front"),
        group: None,
        node: node("n1"),
        v4: Some([20, 1, 1, 3].into()),
        v6: None,
        mac: MacAddr::of_endpoint([20, 1, 1, 3].into()),
        name: None,
        aliases: vec![],
        container: None,
        interface: "cv1".to_owned(),
        closed: None,
        vtep: [198, 18, 0, 1].into(),
    }
}
