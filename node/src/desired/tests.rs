use bus_schema::node::DomainKind;

use super::fixture::{Facts, kinds, params, red, scenarios};
use super::*;

fn words(state: &State) -> Vec<String> {
    state.resources().map(ToString::to_string).collect()
}

#[test]
fn the_parts_make_up_the_whole() {
    for scenario in scenarios() {
        for kind in kinds() {
            let (facts, locals) = (&scenario.facts.projection, &scenario.facts.locals);
            let mut parts = desired_host(facts, &params(kind));
            parts.extend(desired_domain(
                facts,
                &red(),
                locals,
                &params(kind),
                &mut Programs::default(),
            ));
            assert_eq!(parts, scenario.facts.desired(kind), "{}", scenario.name);
        }
    }
}

#[test]
fn the_order_of_the_facts_does_not_matter() {
    let one = Facts::two_nodes()
        .endpoint("a", "20.1.1.1")
        .endpoint("b", "20.1.1.2")
        .block("net", "20.1.1.32/28", "n2");
    let other = Facts::default()
        .network("net", 1001, "20.1.1.0/24", "20.1.1.254")
        .block("net", "20.1.1.32/28", "n2")
        .block("net", "20.1.1.16/28", "n2")
        .block("net", "20.1.1.0/28", "n1")
        .endpoint("b", "20.1.1.2")
        .endpoint("gone", "20.1.1.3")
        .endpoint("a", "20.1.1.1")
        .node("n2", "198.18.0.2")
        .node("n1", "198.18.0.1")
        .detach("gone");
    for kind in kinds() {
        assert_eq!(one.desired(kind), other.desired(kind));
    }
}

#[test]
fn a_closed_endpoint_has_no_route_no_stamp_and_no_port() {
    let open = Facts::two_nodes().endpoint("web", "20.1.1.1");
    let revoked = open.clone().block("net", "20.1.1.1/32", "n2");
    let (device, _) = interface_names(&bus_schema::EndpointId::new("web").expect("valid"));
    for kind in kinds() {
        for closed in [open.clone().without_network("net"), revoked.clone()] {
            let words = words(&closed.desired(kind));
            let about: Vec<_> = words.iter().filter(|it| it.contains(&device)).collect();
            let harmless = |it: &&&String| {
                it.starts_with(&format!("link {device} type veth"))
                    || it.starts_with("sysctl")
                    || it.starts_with("element zones")
            };
            let harmful: Vec<_> = about.iter().filter(|it| !harmless(it)).collect();
            assert!(harmful.is_empty(), "{harmful:?}");
        }
    }
}

#[test]
fn names_fit_into_an_interface_name() {
    let long = TenantName::new("x".repeat(63)).expect("valid");
    assert!(domain_name(DomainKind::Vrf, &long).len() <= 15);
    assert!(vxlan_name(bus_schema::Vni(bus_schema::Vni::MAX)).len() <= 15);
    let (host, peer) =
        interface_names(&bus_schema::EndpointId::new("y".repeat(63)).expect("valid"));
    assert!(host.len() <= 15 && peer.len() <= 15);
}

#[test]
fn vxlan_takes_its_bytes() {
    assert_eq!(params(DomainKind::Netns).mtu(), 1450);
    let mut params = params(DomainKind::Netns);
    params.vtep = "fd00::1".parse().expect("an address");
    assert_eq!(params.mtu(), 1430);
}
