//! The ways out of this node: which domains have an uplink, and its resources.
//!
//! A domain has one while a network of its tenant with a way out has a block of addresses here: so the
//! uplink stays when containers come and go, as the domain does.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::{AddressRange, Egress, subnet};
use ipnet::{IpNet, Ipv4Net};

use super::{Params, holds_block};
use crate::projection::{NetworkFact, Projection, TenantFact};
use crate::resource::{
    Address, DockerUserRule, Element, Neighbor, Object, Route, RouteTarget, Sysctl, Unseen, Up,
    Uplink, Veth,
};

/// The uplink of a tenant's domain on this node; absent: it has none.
pub fn uplink(fact: &TenantFact, params: &Params) -> Option<Uplink> {
    let mut networks = fact.networks.values();
    let goes_out = networks.any(|it| has_way_out(it) && holds_block(it, params));
    (goes_out && !is_covered(fact, params)).then(|| Uplink::new(params.uplink_pool, fact.zone))
}

/// Whether the network's endpoints may open connections out of the cluster.
pub(super) fn has_way_out(network: &NetworkFact) -> bool {
    network.spec.egress() == Egress::Nat
}

/// Whether a subnet of the tenant holds addresses of uplinks, which its containers could then forge.
pub fn is_covered(fact: &TenantFact, params: &Params) -> bool {
    subnets(fact).any(|it| subnet::overlap(it.into(), params.uplink_pool.into()))
}

fn subnets(fact: &TenantFact) -> impl Iterator<Item = Ipv4Net> {
    let networks = fact.networks.values();
    networks.filter_map(|it| match it.spec.v4.subnet {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    })
}

/// The addresses in no subnet of the tenant.
pub(super) fn world(fact: &TenantFact) -> Vec<AddressRange> {
    let mut subnets: Vec<_> = subnets(fact)
        .map(|it| (it.network().to_bits(), it.broadcast().to_bits()))
        .collect();
    subnets.sort_unstable();
    let mut ranges = Vec::new();
    let mut range = |first: u64, last: u64| {
        let address = |bits: u64| u32::try_from(bits).map(Ipv4Addr::from).map(IpAddr::V4);
        if let (true, Ok(first), Ok(last)) = (first <= last, address(first), address(last)) {
            ranges.push(AddressRange { first, last });
        }
    };
    let mut next = 0;
    for (first, last) in subnets {
        // A subnet that begins with the first address has none before it.
        if let Some(before) = u64::from(first).checked_sub(1) {
            range(next, before);
        }
        next = next.max(u64::from(last) + 1);
    }
    range(next, u32::MAX.into());
    ranges
}

/// The resources of all uplinks' ends in the host's namespace.
pub(super) fn host_ends(facts: &Projection, params: &Params) -> Vec<Object> {
    let uplinks = facts.tenants.values();
    let uplinks = uplinks.filter_map(|fact| uplink(fact, params));
    let mut objects: Vec<_> = uplinks.flat_map(|it| host_end(&it, params)).collect();
    if objects.is_empty() {
        return objects;
    }
    // The answers arrive by the underlay, where the default route mostly leads, too.
    if !params.underlay_interface.is_empty() {
        let underlay = Sysctl::forwarding(&params.underlay_interface);
        objects.push(Object::Sysctl(underlay));
    }
    objects.extend(DockerUserRule::OF_UPLINKS.map(Object::DockerUserRule));
    objects
}

fn host_end(uplink: &Uplink, params: &Params) -> Vec<Object> {
    let device = uplink.host_device.clone();
    let mut objects = vec![
        Object::Veth(Veth {
            name: device.clone(),
            mac: Uplink::HOST_MAC,
            mtu: params.underlay_mtu,
            // The domain's end is made with both.
            peer: Unseen(None),
        }),
        Object::Element(Element::Uplink {
            interface: device.clone(),
            address: uplink.domain_address.into(),
        }),
        Object::Route(Route {
            destination: IpNet::from(IpAddr::V4(uplink.domain_address)),
            target: RouteTarget::Device(device.clone()),
        }),
    ];
    objects.extend(Sysctl::of_host_end(&device).map(Object::Sysctl));
    let neighbor = (uplink.domain_address, Uplink::DOMAIN_MAC);
    objects.extend(end(device, uplink.host_address, neighbor));
    objects
}

/// The resources that both ends of an uplink have: an address, a neighbor, and a device that is up.
pub(super) fn end(
    device: String,
    address: Ipv4Addr,
    (neighbor, mac): (Ipv4Addr, bus_schema::MacAddr),
) -> [Object; 3] {
    [
        Object::Address(Address {
            device: device.clone(),
            address: address.into(),
        }),
        Object::Neighbor(Neighbor {
            device: device.clone(),
            address: neighbor.into(),
            mac,
        }),
        Object::Up(Up { device }),
    ]
}

#[cfg(test)]
mod tests {
    use bus_schema::node::DomainKind;

    use super::super::fixture::{Facts, params, red};
    use super::*;

    fn ranges(subnets: &[&str]) -> Vec<String> {
        let mut facts = Facts::default();
        for (number, subnet) in subnets.iter().enumerate() {
            let gateway = subnet.split('/').next().expect("an address");
            facts = facts.network(&format!("n{number}"), 1, subnet, gateway);
        }
        let fact = facts.projection.open(&red());
        world(fact).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn world_is_all_that_no_subnet_covers() {
        assert_eq!(ranges(&[]), ["0.0.0.0-255.255.255.255"]);
        assert_eq!(
            ranges(&["20.1.2.0/24", "20.1.1.0/24"]),
            ["0.0.0.0-20.1.0.255", "20.1.3.0-255.255.255.255"]
        );
        assert_eq!(
            ranges(&["0.0.0.0/8", "255.0.0.0/8", "20.1.1.0/24"]),
            ["1.0.0.0-20.1.0.255", "20.1.2.0-254.255.255.255"]
        );
    }

    #[test]
    fn uplink_needs_a_way_out_and_a_block_here() {
        let params = params(DomainKind::Netns);
        let has = |mut facts: Facts| uplink(facts.projection.open(&red()), &params).is_some();
        let out = Facts::two_nodes().way_out("net");
        assert!(has(out.clone()));
        assert!(!has(Facts::two_nodes()));
        assert!(!has(out.block("net", "20.1.1.0/28", "n2")));
        let covering = Facts::two_nodes().network("n", 7, "251.0.0.0/8", "251.0.0.1");
        assert!(!has(covering.way_out("net")));
    }
}
