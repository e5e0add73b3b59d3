//! Traces a connection out of a tenant: the obstacles on its way, the verdict of the sender's `out` rules,
//! and the translation.

use std::net::IpAddr;

use bus_schema::node::{DomainKind, Flow, Trace};
use bus_schema::policy::{Action, Protocol};
use bus_schema::{Egress, Endpoint, NetworkSpec, NodeName};

use super::domain_name;
use super::trace::stamp;
use crate::policy::{Cache, decide_leaving};
use crate::projection::{EndpointsView, Projection};
use crate::resource::is_metadata;

/// Whether the destination is no endpoint of the tenant and lies in none of its subnets.
pub(super) fn leads_outside(facts: &Projection, view: &EndpointsView, flow: &Flow) -> bool {
    let tenant = facts.tenants.get(&flow.tenant);
    view.at(&flow.tenant, flow.to).is_none()
        && tenant.is_some_and(|it| !it.has_subnet_around(flow.to))
}

/// Decides about a connection of `from`; an error names the reason why `me` can't.
pub(super) fn trace(
    facts: &Projection,
    from: &Endpoint,
    (me, kind): (&NodeName, DomainKind),
    flow: &Flow,
) -> Result<Trace, String> {
    if from.node != *me {
        let node = &from.node;
        return Err(format!(
            "{} is on node {node}, which decides: ask it",
            flow.from
        ));
    }
    let network = facts.network(&from.tenant, &from.network);
    let (Some(tenant), Some(network)) = (facts.tenants.get(&flow.tenant), network) else {
        let (network, tenant) = (&from.network, &from.tenant);
        return Err(format!(
            "it doesn't know network {network} of tenant {tenant} yet"
        ));
    };
    let group = from.group.as_ref();
    let end = decide_leaving(tenant, group, flow, &mut Cache::default());
    let newer = || tenant.closed_by_newer(group);
    let gone = || {
        let name = group.map(ToString::to_string).unwrap_or_default();
        format!("group {name} doesn't exist any more")
    };
    let undecided = end.is_none().then(|| newer().unwrap_or_else(gone));
    let closed = from.closed.clone().or(undecided);
    let closed = closed.or_else(|| obstacle(facts, &network.spec, me, flow));
    let by_rules = end.as_ref().is_some_and(|it| it.action == Action::Allow);
    let allowed = closed.is_none() && by_rules;
    Ok(Trace {
        allowed,
        ends: end.into_iter().collect(),
        closed,
        route: route(facts, from, kind, flow),
        translation: allowed
            .then(|| format!("masquerade: {} becomes an address of node {me}", flow.from)),
    })
}

/// The reason why no packet to the destination leaves the node, whatever the rules are.
fn obstacle(facts: &Projection, spec: &NetworkSpec, me: &NodeName, flow: &Flow) -> Option<String> {
    let IpAddr::V4(to) = flow.to else {
        return Some("IPv6 isn't carried".to_owned());
    };
    let of = spec.arguments();
    if spec.egress() == Egress::None {
        return Some(format!(
            "network {} has no way out: `netctl net update {of} --egress=nat` gives it one",
            spec.name
        ));
    }
    if to.is_loopback() || to.is_multicast() || to.is_broadcast() || to.is_unspecified() {
        return Some(format!("{to} is no address of another machine"));
    }
    if is_metadata(flow.to) && !spec.allow_metadata {
        return Some(format!(
            "{to} belongs to a cloud's metadata services: `netctl net update {of} --allow-metadata` allows them"
        ));
    }
    if facts.nodes.get(me).is_some_and(|it| it.vtep == flow.to) {
        return Some(format!(
            "{to} is node {me} itself, whose services are closed to its containers"
        ));
    }
    let is_outer = flow.protocol == Protocol::UDP && flow.port == Some(facts.settings.vxlan_port);
    is_outer.then(|| "UDP to the port of VXLAN never leaves a tenant".to_owned())
}

fn route(facts: &Projection, from: &Endpoint, kind: DomainKind, flow: &Flow) -> Vec<String> {
    let id = stamp(facts, &flow.tenant, from);
    let domain = domain_name(kind, &flow.tenant);
    vec![
        format!(
            "node {}: from {} iif {} mark {:#x}",
            from.node, flow.from, from.interface, id.0
        ),
        format!("default through the uplink of {domain}"),
        format!("node {}: its own route to {}", from.node, flow.to),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use bus_schema::policy::{Direction, Peer, Priority};
    use bus_schema::{GroupId, GroupSpec, NetworkName, Rule, RuleSpec, testing};

    use super::super::fixture::{Facts, red};
    use super::super::trace;
    use super::*;
    use crate::projection::fixture::endpoint;
    use crate::projection::{GroupFact, PolicyFact};

    /// `net` of tenant `red`, with these settings, and 20.1.1.1 in group `g`, whose policy `p` has these
    /// `out` rules: action, peer and port.
    fn world(
        egress: Option<Egress>,
        allow_metadata: bool,
        rules: &[(Action, Option<Peer>, Option<u16>)],
    ) -> (Projection, EndpointsView) {
        let mut facts = Facts::two_nodes().projection;
        let tenant = facts.open(&red());
        let name: NetworkName = testing::name("net");
        let network = tenant.networks.get_mut(&name).unwrap();
        network.spec.egress = egress;
        network.spec.allow_metadata = allow_metadata;
        let rules = rules.iter().zip(1..).map(|((action, peer, port), number)| {
            let ports = port.map(|it| bus_schema::policy::PortRange {
                first: it,
                last: it,
            });
            let rule = Rule {
                id: testing::name(&number.to_string()),
                number,
                spec: RuleSpec {
                    direction: Direction::Out,
                    priority: Priority::new(100 - number as u8).unwrap(),
                    action: *action,
                    protocol: port.map(|_| Protocol::TCP),
                    ports: ports.into_iter().collect(),
                    peer: peer.clone(),
                },
            };
            (rule.id.clone(), rule)
        });
        let policy = PolicyFact {
            rules: rules.collect(),
            ..PolicyFact::default()
        };
        tenant.policies.insert(testing::name("p"), policy);
        let group = GroupFact {
            spec: GroupSpec {
                tenant: red(),
                network: testing::name("net"),
                name: testing::name("g"),
                id: GroupId::FIRST,
                policies: vec![testing::name("p")],
                docker_name: None,
                pool: None,
            },
            closing: false,
            newer: false,
        };
        tenant.groups.insert(testing::name("g"), group);
        let mut view = EndpointsView::default();
        let mut member = endpoint("e1", &red(), "n1", Ipv4Addr::new(20, 1, 1, 1));
        member.group = Some(testing::name("g"));
        view.show(Arc::new(member));
        (facts, view)
    }

    fn traced((facts, view): &(Projection, EndpointsView), to: &str) -> Result<Trace, String> {
        let (address, port) = to.split_once(':').unwrap_or((to, "443"));
        let flow = Flow {
            tenant: red(),
            from: testing::ip("20.1.1.1"),
            to: testing::ip(address),
            protocol: match port {
                "14789" => Protocol::UDP,
                _ => Protocol::TCP,
            },
            port: Some(port.parse().unwrap()),
        };
        trace(
            facts,
            view,
            (&testing::name("n1"), DomainKind::Netns),
            &flow,
        )
    }

    #[test]
    fn out_rules_decide_about_addresses_outside_of_the_tenant() {
        use Action::{Allow, Deny};
        let to = |net: &str| {
            let range = testing::subnet(net).into();
            Some(Peer::Addresses { range })
        };
        let rules = [
            (Allow, to("192.0.2.0/24"), None),
            (Deny, Some(Peer::World), Some(443)),
            (Allow, Some(Peer::World), None),
            (Deny, None, None),
        ];
        let world = world(Some(Egress::Nat), false, &rules);
        for (address, allowed, rule) in [
            ("192.0.2.7", true, "1"),
            ("8.8.8.8", false, "2"),
            ("8.8.8.8:80", true, "3"),
        ] {
            let trace = traced(&world, address).unwrap();
            assert_eq!(trace.allowed, allowed, "{address}");
            assert_eq!(trace.closed, None, "{address}");
            let [end] = trace.ends.as_slice() else {
                panic!("{trace:?}");
            };
            assert_eq!(end.direction, Direction::Out);
            let by = end.rule.as_ref().map(|(_, id)| id.as_str());
            assert_eq!(by, Some(rule), "{address}");
            assert_eq!(trace.translation.is_some(), allowed, "{address}");
        }
        // An address of the tenant isn't the world's, whoever has it.
        let inside = traced(&world, "20.1.1.9").unwrap_err();
        assert!(inside.contains("no endpoint"), "{inside}");
    }

    #[test]
    fn obstacles_of_the_way_out_are_named_with_their_remedies() {
        for (egress, metadata, to, expected) in [
            (None, false, "8.8.8.8", "--egress=nat"),
            (Some(Egress::None), true, "8.8.8.8", "--egress=nat"),
            (
                Some(Egress::Nat),
                false,
                "169.254.169.254:80",
                "--allow-metadata",
            ),
            (
                Some(Egress::Nat),
                false,
                "100.100.100.200:80",
                "--allow-metadata",
            ),
            (
                Some(Egress::Nat),
                false,
                "168.63.129.16:80",
                "--allow-metadata",
            ),
            (Some(Egress::Nat), true, "169.254.169.254:80", ""),
            (Some(Egress::Nat), false, "127.0.0.1:80", "another machine"),
            (Some(Egress::Nat), false, "198.18.0.1:22", "node n1 itself"),
            (Some(Egress::Nat), false, "198.18.0.2:22", ""),
            (Some(Egress::Nat), false, "198.18.0.2:14789", "VXLAN"),
        ] {
            let trace = traced(&world(egress, metadata, &[]), to).unwrap();
            let closed = trace.closed.unwrap_or_default();
            assert_eq!(trace.allowed, expected.is_empty(), "{to}: {closed}");
            assert!(closed.contains(expected), "{to}: {closed}");
        }
    }

    #[test]
    fn connection_out_of_an_endpoint_of_another_node_is_that_nodes_to_decide() {
        let (facts, mut view) = world(Some(Egress::Nat), false, &[]);
        let other = endpoint("e2", &red(), "n2", Ipv4Addr::new(20, 1, 1, 1));
        view.show(Arc::new(other));
        view.remove(&testing::name("e1"), &testing::name("n1"));
        let error = traced(&(facts, view), "8.8.8.8").unwrap_err();
        assert!(error.contains("on node n2"), "{error}");
    }
}
