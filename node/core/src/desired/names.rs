//! Names and numbers of our kernel objects; a restart recognises its objects by them.
//!
//! Interface names have 15 bytes at most (`IFNAMSIZ`), so ids and tenants are hashed.

use bus_schema::node::DomainKind;
use bus_schema::{EndpointId, TenantName, Vni};
use uuid::Uuid;

use crate::projection::Projection;
use crate::resource::Place;

/// The table of a namespace's routes, `RT_TABLE_MAIN`.
pub(super) const MAIN_TABLE: u32 = 254;

/// The VXLAN device of a network.
pub fn vxlan_name(vni: Vni) -> String {
    format!("cx{vni}")
}

/// The host's and the container's end of an endpoint's veth, as it is created.
pub fn interface_names(endpoint: &EndpointId) -> (String, String) {
    let hash = hex(endpoint.as_str(), 10);
    (format!("cv{hash}"), format!("cp{hash}"))
}

/// Whether a device of this name is ours: a domain's own, an endpoint's, a VXLAN device or an end of an
/// uplink.
pub fn is_own_device(name: &str) -> bool {
    ["cv", "cx", "cd", "cu", "cw"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// A domain's namespace, or its VRF device.
pub fn domain_name(kind: DomainKind, tenant: &TenantName) -> String {
    match kind {
        DomainKind::Netns => format!("{}{tenant}", Place::NAMESPACE),
        DomainKind::Vrf => format!("cd{}", hex(tenant.as_str(), 8)),
    }
}

/// A VRF's routing table, from the same hash as its name; never a number below 2^16, which operators
/// use for their own tables.
pub(super) fn vrf_table(tenant: &TenantName) -> u32 {
    hash(tenant.as_str()) | 1 << 31
}

/// A tenant's conntrack zone: 0 in a namespace, which has a conntrack of its own. An unknown tenant
/// has none, and its endpoints are closed.
pub fn zone(facts: &Projection, tenant: &TenantName, kind: DomainKind) -> u16 {
    match kind {
        DomainKind::Netns => 0,
        DomainKind::Vrf => facts.tenants.get(tenant).map_or(0, |it| it.zone),
    }
}

fn hash(text: &str) -> u32 {
    let [a, b, c, d, ..] = *digest(text).as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

pub(super) fn hex(text: &str, digits: usize) -> String {
    digest(text).simple().to_string()[..digits].to_owned()
}

fn digest(text: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes())
}
