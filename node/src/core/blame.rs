//! Which endpoints a change that failed is about, and what isn't there then.
//!
//! Pure. What decides about connections fails for all endpoints of its place; the rest is told by
//! the endpoint's device or address, compared as values.

use std::net::IpAddr;

use bus_schema::node::DomainKind;

use crate::endpoint::LocalEndpoint;
use node_core::desired::domain_name;
use node_core::reconcile::Op;
use node_core::resource::{Element, Object, Place, RouteTarget, State};
use node_datapath::{BatchError, Failure};

/// What failed isn't there: whatever comes next tries it again first, so that no port comes up
/// beside rules that were refused.
pub(super) fn take_back(known: &mut State, error: &BatchError) {
    for Failure { op, .. } in &error.failures {
        match op {
            Op::Put(resource) => known.remove(&resource.key()),
            Op::Change { from: there, .. } | Op::Delete(there) => known.insert(there.clone()),
            Op::FlushConntrack { .. } => {}
        }
    }
}

/// Whom something in a place is about.
enum About<'a> {
    Everyone,
    Device(&'a str),
    Address(IpAddr),
    Nobody,
}

pub(super) fn is_blamed(op: &Op, endpoint: &LocalEndpoint, kind: DomainKind) -> bool {
    let (place, about) = match op {
        Op::Put(it) | Op::Delete(it) | Op::Change { to: it, .. } => (&it.place, about(&it.object)),
        Op::FlushConntrack { place, address, .. } => (place, About::Address(*address)),
    };
    let here = match place {
        Place::Host => true,
        Place::Domain(name) => *name == domain_name(kind, &endpoint.tenant),
    };
    here && match about {
        About::Everyone => true,
        About::Device(device) => device == endpoint.host_interface,
        About::Address(address) => endpoint.addresses.contains(&address),
        About::Nobody => false,
    }
}

fn about(object: &Object) -> About<'_> {
    match object {
        Object::Domain(_) | Object::Table(_) => About::Everyone,
        Object::Map(_) | Object::Chain(_) => About::Everyone,
        Object::Element(element) => match element {
            Element::Peer { .. } => About::Nobody,
            Element::Stamp { interface, .. } | Element::Zone { interface, .. } => {
                About::Device(interface)
            }
            Element::Endpoint { address, .. } | Element::Member { address, .. } => {
                About::Address(*address)
            }
            _ => About::Everyone,
        },
        Object::Veth(veth) => About::Device(&veth.name),
        Object::Route(route) => match &route.target {
            RouteTarget::Device(device) => About::Device(device),
            _ => About::Nobody,
        },
        other => other.device().map_or(About::Nobody, About::Device),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bus_schema::GroupId;

    use super::*;
    use node_core::desired::fixture::{Facts, red};
    use node_core::desired::interface_names;
    use node_core::reconcile::diff;
    use node_core::resource::{Chain, Route, RuleBody, Statement, Up};
    use node_datapath::DatapathError;

    fn blamed(kind: DomainKind, object: &Object) -> Vec<String> {
        let place = Place::Domain(domain_name(kind, &red()));
        blamed_at(kind, &place, object)
    }

    fn blamed_at(kind: DomainKind, place: &Place, object: &Object) -> Vec<String> {
        let facts = Facts::two_nodes()
            .endpoint("one", "20.1.1.1")
            .endpoint("ten", "20.1.1.10");
        let op = Op::Put(object.clone().at(place));
        let locals = facts.locals.values();
        let blamed = locals.filter(|it| is_blamed(&op, it, kind));
        blamed.map(|it| it.id.to_string()).collect()
    }

    fn device(endpoint: &str) -> String {
        interface_names(&bus_schema::EndpointId::new(endpoint).expect("valid")).0
    }

    #[test]
    fn a_port_comes_after_the_rules_that_were_refused_before_it() {
        let rules = |marks: &[u32]| {
            let rules = marks
                .iter()
                .map(|mark| RuleBody(vec![Statement::SetMark(*mark)]));
            let chain = Chain::compiled("p0_1", rules.collect());
            Object::Chain(Arc::new(chain)).at(&Place::Host)
        };
        let device = "cv1".to_owned();
        let up = Object::Up(Up { device }).at(&Place::Host);
        let have: State = [rules(&[1])].into_iter().collect();
        let mut known: State = [rules(&[1, 2])].into_iter().collect();
        let refused = diff(&have, &known);
        let failures = refused.iter().map(|op| Failure {
            op: op.clone(),
            error: DatapathError::Kernel {
                what: "do so".to_owned(),
                place: "here".to_owned(),
                error: std::io::Error::other("no"),
            },
        });
        let error = BatchError {
            attempted: 1,
            failures: failures.collect(),
        };
        take_back(&mut known, &error);
        let want: State = [rules(&[1, 2]), up.clone()].into_iter().collect();
        let ops = diff(&known, &want);
        assert_eq!(ops, [refused, vec![Op::Put(up)]].concat());
    }

    #[test]
    fn an_address_is_its_own_endpoints_alone() {
        let route = Object::Route(Route {
            destination: "20.1.1.1/32".parse().expect("a net"),
            target: RouteTarget::Device(device("one")),
        });
        assert_eq!(blamed(DomainKind::Netns, &route), ["one"]);
        let member = Object::Element(Element::Member {
            zone: 0,
            address: "20.1.1.1".parse().expect("an address"),
            group: GroupId(7),
        });
        assert_eq!(blamed(DomainKind::Vrf, &member), ["one"]);
    }

    #[test]
    fn a_rule_that_fails_fails_for_all_of_its_place_and_for_no_other() {
        let chain = Object::Chain(Arc::new(Chain::compiled("p0_1", Vec::new())));
        let elsewhere = Place::Domain("another".to_owned());
        for kind in [DomainKind::Netns, DomainKind::Vrf] {
            assert_eq!(blamed(kind, &chain), ["one", "ten"]);
            assert_eq!(blamed_at(kind, &elsewhere, &chain), Vec::<String>::new());
        }
        let known = Object::Element(Element::AllowedSource {
            zone: 0,
            group: GroupId(7),
        });
        assert_eq!(blamed(DomainKind::Netns, &known), ["one", "ten"]);
    }

    #[test]
    fn a_networks_device_is_no_endpoints() {
        let device = "cx1001".to_owned();
        let up = Object::Up(Up { device });
        assert_eq!(blamed(DomainKind::Netns, &up), Vec::<String>::new());
    }
}
