//! The container's end of an endpoint that no engine takes.

use std::path::PathBuf;

use super::{Changed, Core};
use crate::endpoint::{LocalEndpoint, Owner};
use node_core::desired::{Params, domain_name};
use node_core::projection::Projection;
use node_core::reconcile::Op;
use node_core::resource::{Object, Place};
use node_datapath::PeerSetup;

impl Core {
    /// Sets up the container's end where no engine does it: of what changed, and of what somebody
    /// had deleted.
    pub(super) async fn place_peers(&mut self, facts: &Projection, changed: &Changed) {
        let mut anew = std::mem::take(&mut self.made);
        for endpoint in changed {
            anew.remove(&endpoint.host_interface);
        }
        let mut endpoints = changed.clone();
        if !anew.is_empty() {
            let locals = self.locals.values();
            endpoints.extend(
                locals
                    .filter(|it| anew.contains(&it.host_interface))
                    .cloned(),
            );
        }
        for endpoint in endpoints {
            if !self.locals.contains_key(&endpoint.id) || self.failed.contains_key(&endpoint.id) {
                continue;
            }
            let Some(setup) = peer_setup(&endpoint, facts, &self.params) else {
                continue;
            };
            if let Err(error) = self.datapath.place_peer(&setup).await {
                tracing::warn!(endpoint = %endpoint.id, %error, "can't set up the container's end");
                self.failed.insert(endpoint.id.clone(), error.to_string());
            }
        }
    }
}

/// The device that an op makes an endpoint's.
pub(super) fn made(op: &Op) -> Option<String> {
    match op {
        Op::Put(it) => match &it.object {
            Object::Veth(it) => Some(it.name.clone()),
            _ => None,
        },
        _ => None,
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
        mac: endpoint.mac,
        mtu: params.mtu(),
    })
}
