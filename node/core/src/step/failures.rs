//! Which endpoints a failed op concerns, and what the kernel holds after it.
//!
//! Pure. A rule or map that fails concerns all endpoints of its place. Other ops concern the endpoint
//! whose device or address they name.

use std::net::IpAddr;

use bus_schema::node::DomainKind;

use super::FailedOp;
use crate::desired::domain_name;
use crate::endpoint::LocalEndpoint;
use crate::reconcile::Op;
use crate::resource::{Element, Key, Kind, Object, Place, Resource, RouteTarget, State};

/// Corrects the known state after failures. The next plan contains the failed ops again, before the
/// ports, so that no port comes up without the rules that were refused.
///
/// `have` is the state before the ops: a device that couldn't be deleted still has what was on it.
pub(super) fn take_back(known: &mut State, have: &State, failures: &[FailedOp]) {
    let failed = || failures.iter().map(|it| &it.op);
    for op in failed() {
        match op {
            Op::Put(resource) => known.remove(&resource.key()),
            Op::Change { from, to } => {
                known.remove(&to.key());
                known.insert(from.clone());
            }
            Op::Delete(_) | Op::FlushConntrack { .. } => {}
        }
    }
    for there in failed().filter_map(Op::deleted) {
        known.insert(there.clone());
        for it in dependents(there, have) {
            if known.get(&it.key()).is_none() {
                known.insert(it);
            }
        }
    }
    // A route that couldn't be replaced still leads where it did, unless its device is gone or down.
    let routes = failed().filter_map(Op::resource).map(Resource::key);
    for key in routes.filter(|key| key.kind == Kind::Route) {
        match have.get(&key).filter(|it| !is_lost_route(it, known)) {
            Some(there) => known.insert(there.clone()),
            None => known.remove(&key),
        }
    }
}

/// Whether the kernel removed a route together with its device, or when the device went down.
fn is_lost_route(resource: &Resource, known: &State) -> bool {
    let Object::Route(route) = &resource.object else {
        return false;
    };
    let up = |device: &str| Key {
        place: resource.place.clone(),
        kind: Kind::Up,
        id: device.to_owned(),
    };
    let device = route.target.device();
    device.is_some_and(|device| known.get(&up(device)).is_none())
}

/// The resources that the kernel removes together with a device or a domain.
pub(super) fn dependents(of: &Resource, have: &State) -> Vec<Resource> {
    let key = of.key();
    if !matches!(key.kind, Kind::Domain | Kind::Device) {
        return Vec::new();
    }
    let here = have.of(&key.place);
    let on_it = here.resources().filter(|it| match it.object.device() {
        Some(device) => key.kind == Kind::Domain || device == key.id,
        None => false,
    });
    on_it.cloned().collect()
}

/// The endpoints of a place that a resource concerns.
enum Concerned<'a> {
    Everyone,
    Device(&'a str),
    Address(IpAddr),
    Nobody,
}

pub(super) fn is_blamed(op: &Op, endpoint: &LocalEndpoint, kind: DomainKind) -> bool {
    let (place, concerned) = match op {
        Op::Put(it) | Op::Delete(it) | Op::Change { to: it, .. } => {
            (&it.place, concerned(&it.object))
        }
        Op::FlushConntrack { place, address, .. } => (place, Concerned::Address(*address)),
    };
    let here = match place {
        Place::Host => true,
        Place::Domain(name) => *name == domain_name(kind, &endpoint.tenant),
    };
    here && match concerned {
        Concerned::Everyone => true,
        Concerned::Device(device) => device == endpoint.host_interface,
        Concerned::Address(address) => endpoint.addresses.contains(&address),
        Concerned::Nobody => false,
    }
}

fn concerned(object: &Object) -> Concerned<'_> {
    match object {
        Object::Domain(_) | Object::Table(_) => Concerned::Everyone,
        Object::Map(_) | Object::Chain(_) => Concerned::Everyone,
        Object::Element(element) => match element {
            Element::Peer { .. }
            | Element::Uplink { .. }
            | Element::UplinkAddress { .. }
            | Element::NatSource { .. }
            | Element::MetadataSource { .. } => Concerned::Nobody,
            Element::Stamp { interface, .. }
            | Element::Zone { interface, .. }
            | Element::ArpAddress { interface, .. } => Concerned::Device(interface),
            Element::Endpoint { address, .. } | Element::Member { address, .. } => {
                Concerned::Address(*address)
            }
            _ => Concerned::Everyone,
        },
        Object::Veth(veth) => Concerned::Device(&veth.name),
        Object::Route(route) => match &route.target {
            RouteTarget::Device(device) => Concerned::Device(device),
            _ => Concerned::Nobody,
        },
        other => other.device().map_or(Concerned::Nobody, Concerned::Device),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bus_schema::GroupId;

    use super::*;
    use crate::desired::fixture::{Facts, red};
    use crate::desired::interface_names;
    use crate::reconcile::diff;
    use crate::resource::{Chain, Route, RuleBody, Statement, Up};

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
    fn refused_rules_are_retried_before_the_port() {
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
        let failures = refused.iter().map(|op| FailedOp {
            op: op.clone(),
            reason: "no".to_owned(),
        });
        take_back(&mut known, &have, &failures.collect::<Vec<_>>());
        let want: State = [rules(&[1, 2]), up.clone()].into_iter().collect();
        let ops = diff(&known, &want);
        assert_eq!(ops, [refused, vec![Op::Put(up)]].concat());
    }

    #[test]
    fn address_concerns_only_its_endpoint() {
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
    fn failed_rule_concerns_all_endpoints_of_its_place_only() {
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
    fn network_device_concerns_no_endpoint() {
        let device = "cx1001".to_owned();
        let up = Object::Up(Up { device });
        assert_eq!(blamed(DomainKind::Netns, &up), Vec::<String>::new());
    }
}
