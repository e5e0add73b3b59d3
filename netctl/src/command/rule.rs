//! The flags, text and JSON of a rule. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol};
use bus_schema::{AddressRange, GroupName, NetworkName, PolicyName, Rule, RuleSpec, TenantName};
use clap::{Args, ValueEnum};
use ipnet::{Ipv4Net, Ipv4Subnets};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Table;

/// The value of `--port`: a port, a range or a list of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) Vec<PortRange>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ports = text
            .split(',')
            .map(|part| part.trim().parse::<PortRange>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        // In Contiv 0 meant any port, so a 0 is ambiguous.
        if ports.iter().any(|range| range.first == 0) {
            return Err("ports are 1 to 65535: leave --port out for any".to_owned());
        }
        Ok(Self(PortRange::normalise(ports)))
    }
}

/// The value of `--from-ip-address` and `--to-ip-address`: an address, a CIDR, a range or `world`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Addresses(pub(crate) Peer);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidAddresses {
    #[error(
        "write an address (10.1.1.1), a CIDR (10.1.0.0/16), a range (10.1.1.1-20), or world for all that aren't the tenant's"
    )]
    Malformed,
    #[error("rules about the host don't exist yet: write world, or addresses")]
    Host,
    #[error("the range is the wrong way round: write {last}-{first}")]
    Backwards { first: Ipv4Addr, last: Ipv4Addr },
    #[error("write IPv4 addresses: endpoints have no others")]
    V6,
}

impl FromStr for Addresses {
    type Err = InvalidAddresses;

    fn from_str(text: &str) -> Result<Self, InvalidAddresses> {
        if text == WORLD {
            return Ok(Self(Peer::World));
        }
        if text == "host" {
            return Err(InvalidAddresses::Host);
        }
        if text.contains(':') {
            return Err(InvalidAddresses::V6);
        }
        if let Ok(net) = text.parse::<Ipv4Net>() {
            return Ok(range(net.network(), net.broadcast()));
        }
        let address = |text: &str| text.parse().map_err(|_| InvalidAddresses::Malformed);
        let Some((first, last)) = text.split_once('-') else {
            let address = address(text)?;
            return Ok(range(address, address));
        };
        let first: Ipv4Addr = address(first)?;
        let last = match last.parse::<u8>() {
            Ok(last) => {
                let [a, b, c, _] = first.octets();
                Ipv4Addr::new(a, b, c, last)
            }
            Err(_) => address(last)?,
        };
        if last < first {
            return Err(InvalidAddresses::Backwards { first, last });
        }
        Ok(range(first, last))
    }
}

fn range(first: Ipv4Addr, last: Ipv4Addr) -> Addresses {
    let (first, last) = (first.into(), last.into());
    let range = AddressRange { first, last };
    Addresses(Peer::Addresses { range })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DirectionFlag {
    In,
    Out,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActionFlag {
    Allow,
    Deny,
}

/// The flags of a rule.
#[derive(Debug, Clone, Args)]
pub(crate) struct RuleFlags {
    /// 1 to 100: the highest priority wins, on a tie deny wins
    #[arg(long, short, default_value = "1", value_parser = priority)]
    priority: Priority,
    /// The direction of connections, seen from the group's members
    #[arg(long, short, value_enum, default_value_t = DirectionFlag::In)]
    direction: DirectionFlag,
    /// Match connections from members of this group (incoming rules)
    #[arg(long, short = 'g', value_name = "GROUP")]
    from_group: Option<GroupName>,
    /// Match connections to members of this group (outgoing rules)
    #[arg(long, short = 'e', value_name = "GROUP")]
    to_group: Option<GroupName>,
    /// Match connections from this network (incoming rules)
    #[arg(long, short = 'n', value_name = "NETWORK")]
    from_network: Option<NetworkName>,
    /// Match connections to this network (outgoing rules)
    #[arg(long, short = 'o', value_name = "NETWORK")]
    to_network: Option<NetworkName>,
    /// Match connections from an address, a CIDR, a range such as 10.1.1.1-20, or world: every address
    /// that isn't the tenant's and isn't the host's (incoming rules)
    #[arg(long, short = 'i', value_name = "ADDRESSES")]
    from_ip_address: Option<Addresses>,
    /// Match connections to an address, a CIDR, a range such as 10.1.1.1-20, or world: every address
    /// that isn't the tenant's and isn't the host's (outgoing rules)
    #[arg(long, short = 's', value_name = "ADDRESSES")]
    to_ip_address: Option<Addresses>,
    /// tcp, udp, icmp, sctp or a number [default: any]
    #[arg(long, short = 'l')]
    protocol: Option<Protocol>,
    /// A port, a range or a list: 80, 8000-8100, 80,443 [default: any]
    #[arg(long, short = 'P', value_name = "PORTS")]
    port: Option<Ports>,
    #[arg(long, short = 'j', value_enum, default_value_t = ActionFlag::Allow)]
    action: ActionFlag,
}

fn priority(text: &str) -> Result<Priority, String> {
    text.parse::<u8>()
        .ok()
        .and_then(|number| Priority::new(number).ok())
        .ok_or_else(|| format!("a priority is a number from 1 to {}", Priority::MAX))
}

impl RuleFlags {
    pub(crate) fn spec(&self) -> Result<RuleSpec, Failure> {
        let peer = self.peer()?;
        let ports = self
            .port
            .as_ref()
            .map(|ports| ports.0.clone())
            .unwrap_or_default();
        if !ports.is_empty() && !self.protocol.is_some_and(Protocol::has_ports) {
            return Err(usage(
                "--port needs a protocol that has ports: add --protocol=tcp, udp or sctp",
            ));
        }
        Ok(RuleSpec {
            direction: match self.direction {
                DirectionFlag::In => Direction::In,
                DirectionFlag::Out => Direction::Out,
            },
            priority: self.priority,
            action: match self.action {
                ActionFlag::Allow => Action::Allow,
                ActionFlag::Deny => Action::Deny,
            },
            protocol: self.protocol,
            ports,
            peer,
        })
    }

    fn peer(&self) -> Result<Option<Peer>, Failure> {
        let from = [
            ("--from-group", self.from_group.clone().map(group)),
            ("--from-network", self.from_network.clone().map(network)),
            (
                "--from-ip-address",
                self.from_ip_address.clone().map(addresses),
            ),
        ];
        let to = [
            ("--to-group", self.to_group.clone().map(group)),
            ("--to-network", self.to_network.clone().map(network)),
            ("--to-ip-address", self.to_ip_address.clone().map(addresses)),
        ];
        let (mine, other, why) = match self.direction {
            DirectionFlag::In => (
                from,
                to,
                "an incoming rule matches the source of connections: use --from-*, or --direction=out",
            ),
            DirectionFlag::Out => (
                to,
                from,
                "an outgoing rule matches the destination of connections: use --to-*, or --direction=in",
            ),
        };
        if let Some((flag, _)) = other.iter().find(|(_, peer)| peer.is_some()) {
            return Err(usage(&format!("{flag} can't be used here: {why}")));
        }
        let mut named = mine
            .into_iter()
            .filter_map(|(flag, peer)| Some((flag, peer?)));
        match (named.next(), named.next()) {
            (None, _) => Ok(None),
            (Some((_, peer)), None) => Ok(Some(peer)),
            (Some((one, _)), Some((two, _))) => Err(usage(&format!(
                "{one} and {two} can't be used together: a rule has one peer, write two rules"
            ))),
        }
    }
}

/// In place of addresses: all that aren't the tenant's.
const WORLD: &str = "world";

fn usage(text: &str) -> Failure {
    Failure::Usage(text.to_owned())
}

fn group(group: GroupName) -> Peer {
    Peer::Group { group }
}

fn network(network: NetworkName) -> Peer {
    Peer::Network { network }
}

fn addresses(addresses: Addresses) -> Peer {
    addresses.0
}

/// Shows a range in its shortest form: an address, a CIDR, or first to last.
fn show_addresses(range: AddressRange) -> String {
    if range.first == range.last {
        return range.first.to_string();
    }
    if let (IpAddr::V4(first), IpAddr::V4(last)) = (range.first, range.last) {
        let mut nets = Ipv4Subnets::new(first, last, 0);
        if let (Some(net), None) = (nets.next(), nets.next()) {
            return net.to_string();
        }
    }
    range.to_string()
}

fn show_ports(ports: &[PortRange]) -> String {
    let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
    shown.join(",")
}

/// Shows a rule in one line: `in deny tcp port 80 from group web, priority 10`.
pub(crate) fn line(spec: &RuleSpec) -> String {
    let mut text = format!("{} {}", spec.direction, spec.action);
    if let Some(protocol) = spec.protocol {
        text += &format!(" {protocol}");
    }
    if !spec.ports.is_empty() {
        text += &format!(" port {}", show_ports(&spec.ports));
    }
    let way = match spec.direction {
        Direction::In => "from",
        Direction::Out => "to",
    };
    match &spec.peer {
        None => {}
        Some(Peer::Group { group }) => text += &format!(" {way} group {group}"),
        Some(Peer::Network { network }) => text += &format!(" {way} network {network}"),
        Some(Peer::Addresses { range }) => text += &format!(" {way} {}", show_addresses(*range)),
        Some(Peer::World) => text += &format!(" {way} {WORLD}"),
    }
    text + &format!(", priority {}", spec.priority)
}

/// The group, network and addresses of the peer; two of them are empty.
fn peer_cells(spec: &RuleSpec) -> [String; 3] {
    let (mut group, mut network, mut addresses) = Default::default();
    match &spec.peer {
        None => {}
        Some(Peer::Group { group: name }) => group = name.to_string(),
        Some(Peer::Network { network: name }) => network = name.to_string(),
        Some(Peer::Addresses { range }) => addresses = show_addresses(*range),
        Some(Peer::World) => WORLD.clone_into(&mut addresses),
    }
    [group, network, addresses]
}

fn protocol_cell(spec: &RuleSpec) -> String {
    spec.protocol.map(|p| p.to_string()).unwrap_or_default()
}

/// The two tables of Contiv.
pub(crate) fn tables(rules: &[Rule]) -> String {
    let mut incoming = Table::new(
        &[
            "Rule",
            "Priority",
            "From EndpointGroup",
            "From Network",
            "From IpAddress",
            "To IpAddress",
            "Protocol",
            "Port",
            "Action",
        ],
        &[],
    );
    let mut outgoing = Table::new(
        &[
            "Rule",
            "Priority",
            "To EndpointGroup",
            "To Network",
            "To IpAddress",
            "Protocol",
            "Port",
            "Action",
        ],
        &[],
    );
    for rule in rules {
        let spec = &rule.spec;
        let mut row = vec![rule.id.to_string(), spec.priority.to_string()];
        row.extend(peer_cells(spec));
        let (table, gap) = match spec.direction {
            Direction::In => (&mut incoming, Some(String::new())),
            Direction::Out => (&mut outgoing, None),
        };
        row.extend(gap);
        row.extend([
            protocol_cell(spec),
            show_ports(&spec.ports),
            spec.action.to_string(),
        ]);
        table.row(row);
    }
    format!(
        "Incoming Rules:\n{}Outgoing Rules:\n{}",
        incoming.render(crate::output::Format::Table),
        outgoing.render(crate::output::Format::Table)
    )
}

/// The JSON of a rule, with Contiv's keys.
pub(crate) fn config(tenant: &TenantName, policy: &PolicyName, rule: &Rule) -> Value {
    let mut value = keys(&rule.spec);
    value["key"] = json!(format!("{tenant}:{policy}:{}", rule.id));
    value["ruleId"] = json!(rule.id);
    value["policyName"] = json!(policy);
    value["tenantName"] = json!(tenant);
    value
}

/// The JSON of a rule without its names, with Contiv's keys.
pub(crate) fn keys(spec: &RuleSpec) -> Value {
    let [group, network, addresses] = peer_cells(spec);
    let mut value = json!({
        "direction": spec.direction,
        "priority": spec.priority,
        "fromEndpointGroup": "",
        "toEndpointGroup": "",
        "fromNetwork": "",
        "toNetwork": "",
        "fromIpAddress": "",
        "toIpAddress": "",
        "protocol": protocol_cell(spec),
        "port": show_ports(&spec.ports),
        "action": spec.action,
    });
    let way = match spec.direction {
        Direction::In => "from",
        Direction::Out => "to",
    };
    value[format!("{way}EndpointGroup")] = json!(group);
    value[format!("{way}Network")] = json!(network);
    value[format!("{way}IpAddress")] = json!(addresses);
    value
}

#[cfg(test)]
mod tests;
