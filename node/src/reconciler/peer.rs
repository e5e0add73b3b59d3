//! The container's end of an endpoint that no engine takes.

use std::path::PathBuf;

use bus_schema::Egress;

use super::Reconciler;
use crate::endpoint::{LocalEndpoint, Owner};
use node_core::desired::{Params, domain_name};
use node_core::projection::Projection;
use node_core::resource::Place;
use node_datapath::{PeerSetup, fallback_metric};

impl Reconciler {
    /// Sets up the container's end of endpoints that changed, and of those whose veth somebody had
    /// deleted.
    pub(super) async fn place_peers(&mut self, facts: &Projection) {
        for endpoint in self.memory.take_fresh() {
            let Some(setup) = peer_setup(&endpoint, facts, self.memory.params()) else {
                continue;
            };
            if let Err(error) = self.datapath.place_peer(&setup).await {
                tracing::warn!(endpoint = %endpoint.id, %error, "can't set up the container's end");
                self.memory.fail(&endpoint.id, error.to_string());
            }
        }
    }
}

/// `None`: an engine takes the container's end, or its network is unknown.
fn peer_setup(endpoint: &LocalEndpoint, facts: &Projection, params: &Params) -> Option<PeerSetup> {
    let Owner::Namespace {
        path, interface, ..
    } = &endpoint.owner
    else {
        return None;
    };
    let network = facts.network(&endpoint.tenant, &endpoint.network)?;
    let of = |subnet: &ipnet::IpNet| endpoint.addresses.iter().any(|it| subnet.contains(it));
    let pools = || network.spec.pools().filter(move |pool| of(&pool.subnet));
    let domain = Place::Domain(domain_name(params.kind, &endpoint.tenant));
    Some(PeerSetup {
        host: (domain, endpoint.host_interface.clone()),
        peer: endpoint.peer_interface.clone(),
        netns: PathBuf::from(path),
        interface: interface.clone(),
        addresses: endpoint.addresses.clone(),
        gateways: pools().map(|pool| pool.gateway).collect(),
        subnets: pools().map(|pool| pool.subnet).collect(),
        fallback_metric: match network.spec.egress() {
            Egress::None => Some(fallback_metric(network.spec.vni)),
            Egress::Nat => None,
        },
        mac: endpoint.mac,
        mtu: endpoint.mtu.unwrap_or_else(|| params.mtu()),
    })
}
