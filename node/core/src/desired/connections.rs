//! The chain and the element that limit the connections of a network's endpoints.

use ipnet::IpNet;

use crate::resource::{BucketLimit, Chain, Element, Object, Place, Resource, RuleBody, Statement};

/// The resources that let each address of `subnet` open `max` connections.
pub(super) fn limit(place: &Place, zone: u16, subnet: IpNet, max: u32) -> [Resource; 2] {
    let chain = format!("k{zone}_{max}");
    let body = RuleBody(vec![
        Statement::CountConnections(BucketLimit::new(max)),
        Statement::SetCtMark(BucketLimit::EXCEEDED),
    ]);
    let compiled = Chain::compiled(&chain, vec![body]);
    [
        Object::Chain(compiled.into()).at(place),
        Element::ConnectionLimit {
            zone,
            subnet,
            chain,
        }
        .at(place),
    ]
}
