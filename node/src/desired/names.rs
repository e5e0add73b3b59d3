//! Names and numbers in the kernel, by which what is ours is told again after a restart.
//!
//! Interface names have 15 bytes at most (`IFNAMSIZ`), so ids and tenants are hashed.

use std::collections::BTreeSet;

use bus_schema::node::DomainKind;
use bus_schema::{EndpointId, TenantName, Vni};
use uuid::Uuid;

use crate::projection::Projection;

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

/// A domain's namespace, or its VRF device.
pub fn domain_name(kind: DomainKind, tenant: &TenantName) -> String {
    match kind {
        DomainKind::Netns => format!("contiv-{tenant}"),
        DomainKind::Vrf => format!("cd{}", hex(tenant.as_str(), 8)),
    }
}

/// A VRF's table, from the same hash as its name; never one of the numbers below 2^16, where
/// people put theirs.
pub(super) fn vrf_table(tenant: &TenantName) -> u32 {
    hash(tenant.as_str()) | 1 << 31
}

/// A tenant's conntrack zone: 0 in a namespace, which has it all; in a VRF the next free one after its hash. Zones have 16 bits: with
/// 100 tenants one in fourteen clusters has a pair with the same hash, where the arrival of one
/// may give the other a new zone, and its connections are then tracked anew.
pub fn zone(facts: &Projection, tenant: &TenantName, kind: DomainKind) -> u16 {
    if kind == DomainKind::Netns {
        return 0;
    }
    let slot = |tenant: &TenantName| (hash(tenant.as_str()) % 65_535) as u16 + 1;
    let mut wanted: Vec<_> = facts.tenants.keys().map(|it| (slot(it), it)).collect();
    if !facts.tenants.contains_key(tenant) {
        wanted.push((slot(tenant), tenant));
    }
    wanted.sort();
    let mut taken = BTreeSet::new();
    for (mut zone, of) in wanted {
        while zone == 0 || !taken.insert(zone) {
            zone = zone.wrapping_add(1);
        }
        if of == tenant {
            return zone;
        }
    }
    0
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
