//! Rules of a policy as text.

use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Rule, RuleSpec};
use bus_schema::{AddressRange, GroupName, NetworkName, RuleId};

/// A rule in the order of `netctl policy rule-add`: `7 in deny tcp 80,443 priority 10 group web`.
/// Its number is its id.
pub(crate) fn rule(text: &str) -> Rule {
    let mut words = text.split_whitespace().peekable();
    let mut word = || words.next().map(str::to_owned);
    let id = word().expect("an id");
    let direction = match word().as_deref() {
        Some("in") => Direction::In,
        _ => Direction::Out,
    };
    let action = match word().as_deref() {
        Some("deny") => Action::Deny,
        _ => Action::Allow,
    };
    let mut spec = RuleSpec {
        direction,
        priority: Priority::DEFAULT,
        action,
        protocol: None,
        ports: Vec::new(),
        peer: None,
    };
    while let Some(next) = word() {
        let mut value = || word().expect("a value");
        match next.as_str() {
            "priority" => {
                let priority = value().parse().expect("a number");
                spec.priority = Priority::new(priority).expect("in range");
            }
            "group" => {
                let group = GroupName::new(value()).expect("valid");
                spec.peer = Some(Peer::Group { group });
            }
            "network" => {
                let network = NetworkName::new(value()).expect("valid");
                spec.peer = Some(Peer::Network { network });
            }
            "world" => spec.peer = Some(Peer::World),
            "from" | "to" => {
                let net: ipnet::Ipv4Net = value().parse().expect("a network");
                let (first, last) = (net.network().into(), net.broadcast().into());
                let range = AddressRange { first, last };
                spec.peer = Some(Peer::Addresses { range });
            }
            ports if ports.starts_with(|it: char| it.is_ascii_digit()) => {
                let ranges = ports.split(',').map(|it| it.parse().expect("ports"));
                spec.ports = PortRange::normalise(ranges.collect());
            }
            protocol => spec.protocol = Some(protocol.parse().expect("a protocol")),
        }
    }
    Rule {
        number: id.parse().expect("a number"),
        id: RuleId::new(id).expect("valid"),
        spec,
    }
}
