//! The container's end of an endpoint that no engine takes.

use std::path::PathBuf;

use crate::datapath::PeerSetup;
use crate::desired::{Params, domain_name};
use crate::endpoint::{LocalEndpoint, Owner};
use crate::projection::Projection;
use crate::resource::Place;

/// `None`: an engine takes the container's end, or its network is unknown.
pub(super) fn peer_setup(
    endpoint: &LocalEndpoint,
    facts: &Projection,
    params: &Params,
) -> Option<PeerSetup> {
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
        mac: endpoint.mac,
        mtu: params.mtu(),
    })
}
