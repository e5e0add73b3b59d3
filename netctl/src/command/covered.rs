//! Warns about addresses outside of the cluster that a new network hides from its tenant's containers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::query::NodeInfo;
use bus_schema::subnet::overlap;
use bus_schema::surroundings::Surroundings;
use bus_schema::{Answer, NodeName, Query};
use ipnet::IpNet;

use crate::client::Session;
use crate::output;

/// More addresses of one kind are counted.
const MAX_SHOWN: usize = 4;

/// The kinds of addresses that a network should not cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Underlay,
    Interface,
    Resolver,
    EngineNetwork,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Underlay => "the underlay",
            Self::Interface => "addresses of nodes",
            Self::Resolver => "resolvers of nodes",
            Self::EngineNetwork => "networks of engines",
        }
    }

    fn consequence(self) -> &'static str {
        match self {
            Self::Underlay | Self::Interface | Self::EngineNetwork => {
                "the tenant's containers reach the new network at these addresses and nothing else"
            }
            Self::Resolver => {
                "the node's own DNS server answers questions to them, unless an endpoint has the address"
            }
        }
    }
}

/// A node and the addresses around it.
struct Node<'a> {
    name: &'a NodeName,
    vtep: IpAddr,
    /// Absent: the node hasn't published them.
    around: Option<&'a Surroundings>,
}

impl<'a> Node<'a> {
    fn of(info: &'a NodeInfo) -> Self {
        let status = info.status.as_ref();
        Self {
            name: &info.node,
            vtep: info.vtep,
            around: status.and_then(|it| it.surroundings.as_deref()),
        }
    }
}

/// The nodes of each address that is covered.
type Covered = BTreeMap<(Kind, String), Vec<String>>;

/// Prints the warnings about the subnets of a network that was created. Without an answer about the
/// nodes there are none.
pub(crate) async fn warn(session: &mut Session, subnets: &[IpNet]) {
    let Ok(Answer::Nodes { nodes, .. }) = session.ask(Query::NodeList { node: None }).await else {
        return;
    };
    let around: Vec<Node<'_>> = nodes.iter().map(Node::of).collect();
    for subnet in subnets {
        for text in warnings(*subnet, &around) {
            output::note(&format!("warning: {text}"));
        }
    }
}

/// One warning for each kind of address.
fn warnings(subnet: IpNet, nodes: &[Node<'_>]) -> Vec<String> {
    let mut covered = Covered::new();
    for node in nodes {
        add(&mut covered, subnet, node);
    }
    let mut of_kinds: BTreeMap<Kind, Vec<String>> = BTreeMap::new();
    for ((kind, address), mut nodes) in covered {
        nodes.sort();
        let shown = format!("{address} of {}", shortened(&nodes));
        of_kinds.entry(kind).or_default().push(shown);
    }
    let text = |(kind, found): (Kind, Vec<String>)| {
        let (name, then) = (kind.name(), kind.consequence());
        format!("{subnet} covers {name}: {}; {then}", shortened(&found))
    };
    of_kinds.into_iter().map(text).collect()
}

fn shortened(items: &[String]) -> String {
    let shown = items.iter().take(MAX_SHOWN).map(String::as_str);
    let shown = shown.collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(MAX_SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn add(covered: &mut Covered, subnet: IpNet, node: &Node<'_>) {
    let mut found = |kind, address: String| {
        let nodes = covered.entry((kind, address)).or_default();
        nodes.push(node.name.to_string());
    };
    let Some(around) = node.around else {
        if subnet.contains(&node.vtep) {
            found(Kind::Underlay, node.vtep.to_string());
        }
        return;
    };
    for it in &around.interfaces {
        let (address, interface) = (it.address.addr(), &it.interface);
        let of_engine = |it: &IpNet| it.contains(&address);
        if address == node.vtep {
            if overlap(subnet, it.address) {
                found(Kind::Underlay, format!("{} on {interface}", it.address));
            }
        } else if subnet.contains(&address)
            && !around.engine_subnets.iter().any(|it| of_engine(&it.subnet))
        {
            found(Kind::Interface, format!("{address} on {interface}"));
        }
    }
    for resolver in around.resolvers.iter().filter(|it| subnet.contains(*it)) {
        found(Kind::Resolver, resolver.to_string());
    }
    for it in &around.engine_subnets {
        if overlap(subnet, it.subnet) {
            found(
                Kind::EngineNetwork,
                format!("{} ({})", it.subnet, it.network),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::surroundings::{EngineSubnet, InterfaceAddress};

    use super::*;

    fn around(vtep: &str) -> Surroundings {
        let address = |interface: &str, address: &str| InterfaceAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
        };
        Surroundings {
            interfaces: vec![
                address("eth0", &format!("{vtep}/24")),
                address("eth1", "192.168.7.1/24"),
                address("docker0", "172.17.0.1/16"),
            ],
            resolvers: vec!["10.0.0.2".parse().unwrap()],
            engine_subnets: vec![EngineSubnet {
                network: "bridge".to_owned(),
                subnet: "172.17.0.0/16".parse().unwrap(),
            }],
            ..Surroundings::default()
        }
    }

    fn warned(subnet: &str) -> String {
        let nodes = [("n1", "10.0.0.11"), ("n2", "10.0.0.12")];
        let nodes = nodes.map(|(name, vtep)| (name.parse().unwrap(), vtep, around(vtep)));
        let nodes = nodes.each_ref().map(|(name, vtep, around)| Node {
            name,
            vtep: vtep.parse().unwrap(),
            around: Some(around),
        });
        warnings(subnet.parse().unwrap(), &nodes).join("\n")
    }

    #[test]
    fn warnings_name_each_covered_address_and_its_nodes() {
        let all = warned("10.0.0.0/8");
        for text in [
            "10.0.0.0/8 covers the underlay: 10.0.0.11/24 on eth0 of n1, 10.0.0.12/24 on eth0 of n2;",
            "covers resolvers of nodes: 10.0.0.2 of n1, n2;",
        ] {
            assert!(all.contains(text), "{all}");
        }
        assert!(warned("192.168.7.0/30").contains("192.168.7.1 on eth1 of n1, n2"));
        let engines = warned("172.17.128.0/24");
        assert!(engines.contains("networks of engines: 172.17.0.0/16 (bridge) of n1, n2"));
        assert_eq!(warned("172.16.0.0/12").lines().count(), 1, "once");
        // The underlay's other hosts have these addresses.
        assert!(warned("10.0.0.128/25").contains("the underlay"));
    }

    #[test]
    fn node_that_published_nothing_has_its_outer_address() {
        let name = "n1".parse().unwrap();
        let node = Node {
            name: &name,
            vtep: "10.0.0.11".parse().unwrap(),
            around: None,
        };
        let warned = |subnet: &str| warnings(subnet.parse().unwrap(), std::slice::from_ref(&node));
        let text = warned("10.0.0.0/8").join("\n");
        assert!(text.contains("the underlay: 10.0.0.11 of n1"), "{text}");
        assert!(warned("20.0.0.0/8").is_empty());
    }

    #[test]
    fn no_warning_is_given_about_other_subnets() {
        for subnet in ["20.1.1.0/24", "192.168.7.128/25", "fd00::/64"] {
            assert_eq!(warned(subnet), "", "{subnet}");
        }
    }
}
