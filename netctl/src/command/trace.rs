//! `netctl trace`: whether a connection is allowed, computed by the node of its destination.

use std::net::IpAddr;

use bus_schema::node::{Flow, NodeReply, NodeRequest, Trace, TraceEnd};
use bus_schema::policy::{Direction, Protocol};
use bus_schema::{Endpoint, NodeName};
use clap::Args;
use serde_json::json;

use super::endpoint;
use super::flags::{OutputFlags, TenantFlag};
use crate::client::{Session, node_refusal};
use crate::failure::Failure;
use crate::output;

#[derive(Debug, Args)]
#[command(
    after_help = "Computed from the configuration, by the code that also makes the firewall's rules; no packet is\nsent. Exit code 0: the connection is allowed, 1: it is denied, 4: that can't be computed, because an\nend isn't known or its node doesn't answer.\n\nExamples:\n  netctl trace --from web --to db --protocol tcp --port 5432\n  netctl trace --from 20.1.1.1 --to 20.1.1.9 --protocol icmp -t blue\n  netctl trace --from web --to 8.8.8.8 --protocol udp --port 53"
)]
pub(crate) struct TraceOptions {
    /// The source: a container's name, the start of an id, or an address
    #[arg(long, value_name = "CONTAINER|IP")]
    from: String,
    /// The destination: a container's name, the start of an id, or an address, also one outside
    #[arg(long, value_name = "CONTAINER|IP")]
    to: String,
    /// tcp, udp, icmp, sctp or a number
    #[arg(long, short = 'l', default_value = "tcp")]
    protocol: Protocol,
    /// The destination's port
    #[arg(long, short = 'P')]
    port: Option<u16>,
    #[command(flatten)]
    of: TenantFlag,
    #[command(flatten)]
    output: OutputFlags,
}

impl TraceOptions {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        check_port(self.protocol, self.port)
    }
}

pub(crate) async fn run(session: &mut Session, options: TraceOptions) -> Result<(), Failure> {
    let tenant = options.of.tenant;
    let endpoints = endpoint::list(session, Some(tenant.clone())).await;
    let endpoints = endpoints.map_err(undecided)?;
    let from = End::find(&endpoints, &options.from).map_err(undecided)?;
    let to = End::find(&endpoints, &options.to).map_err(undecided)?;
    let node = deciding_node(&from, &to).map_err(undecided)?;
    let flow = Flow {
        tenant,
        from: from.address,
        to: to.address,
        protocol: options.protocol,
        port: options.port,
    };
    let itself = from.is_same_container(&to);
    let trace = match itself {
        true => Trace {
            allowed: true,
            ends: Vec::new(),
            closed: None,
            route: Vec::new(),
            translation: None,
        },
        false => traced(session, &node, &flow).await.map_err(undecided)?,
    };
    let text = match options.output.format() {
        format if format.is_text() && itself => to_itself(&flow, &from),
        format if format.is_text() => text(&flow, &from, &to, &node, &trace),
        format => {
            let value = json!({ "flow": flow, "node": node, "toItself": itself, "trace": trace });
            output::document(&value, format)?
        }
    };
    output::print(&text)?;
    match trace.allowed {
        true => Ok(()),
        false => Err(Failure::Negative),
    }
}

async fn traced(session: &Session, node: &NodeName, flow: &Flow) -> Result<Trace, Failure> {
    match session
        .node(node, &NodeRequest::Trace(flow.clone()))
        .await?
    {
        NodeReply::Traced(trace) => Ok(trace),
        reply => Err(node_refusal(node, "can't trace", reply)),
    }
}

/// A typo or a silent node isn't a denial.
fn undecided(failure: Failure) -> Failure {
    match failure {
        Failure::Rejected { .. } | Failure::Refused(_) | Failure::Unreachable(_) => {
            Failure::Undecided(failure.to_string())
        }
        other => other,
    }
}

fn check_port(protocol: Protocol, port: Option<u16>) -> Result<(), Failure> {
    match (protocol.has_ports(), port) {
        (true, None) => Err(Failure::Usage(format!(
            "{protocol} needs a port: add --port"
        ))),
        (false, Some(_)) => Err(Failure::Usage(format!(
            "{protocol} has no ports: leave --port out"
        ))),
        _ => Ok(()),
    }
}

/// One end of the connection.
#[derive(Debug)]
struct End {
    address: IpAddr,
    name: Option<String>,
    node: Option<NodeName>,
    container: Option<String>,
}

impl End {
    /// Whether both are endpoints of one container, whose packets to its own addresses never leave it.
    fn is_same_container(&self, other: &Self) -> bool {
        let same_address = self.node.is_some() && self.address == other.address;
        let same_container = self.container.is_some() && self.container == other.container;
        same_address || same_container && self.node == other.node
    }

    /// Finds an endpoint, or takes an address that needn't belong to one.
    fn find(endpoints: &[Endpoint], text: &str) -> Result<Self, Failure> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let owner = endpoints
                .iter()
                .find(|e| e.addresses().any(|a| a == address));
            return Ok(Self {
                address,
                name: owner.and_then(|e| e.name.clone()),
                node: owner.map(|e| e.node.clone()),
                container: owner.and_then(|e| e.container.clone()),
            });
        }
        let found = endpoint::find(endpoints, text)?;
        let Some(address) = found.addresses().next() else {
            return Err(Failure::Refused(format!("{text} has no address")));
        };
        Ok(Self {
            address,
            name: found.name.clone(),
            node: Some(found.node.clone()),
            container: found.container.clone(),
        })
    }

    fn describe(&self) -> String {
        match (&self.name, &self.node) {
            (Some(name), Some(node)) => format!("{name} ({} on {node})", self.address),
            (None, Some(node)) => format!("{} on {node}", self.address),
            (_, None) => self.address.to_string(),
        }
    }
}

/// The node that decides: the destination's, or the source's if the destination is no endpoint.
fn deciding_node(from: &End, to: &End) -> Result<NodeName, Failure> {
    let node = to.node.as_ref().or(from.node.as_ref());
    node.cloned().ok_or_else(|| {
        Failure::Refused(format!(
            "neither {} nor {} is an endpoint's address: see `netctl endpoint ls`",
            from.address, to.address
        ))
    })
}

fn to_itself(flow: &Flow, end: &End) -> String {
    let port = flow.port.map(|p| format!(" port {p}")).unwrap_or_default();
    format!(
        "allowed: {}{port} from {} to itself\n  never filtered: a container's traffic to its own addresses doesn't leave it\n",
        flow.protocol,
        end.describe()
    )
}

fn text(flow: &Flow, from: &End, to: &End, node: &NodeName, trace: &Trace) -> String {
    let verdict = if trace.allowed { "allowed" } else { "denied" };
    let port = flow.port.map(|p| format!(" port {p}")).unwrap_or_default();
    let mut text = format!(
        "{verdict}: {}{port} from {} to {}, computed by node {node}\n",
        flow.protocol,
        from.describe(),
        to.describe()
    );
    if let Some(why) = &trace.closed {
        text += &format!("  dropped before any rule: {why}\n");
    }
    for end in &trace.ends {
        text += &format!("  {}\n", end_text(end));
    }
    if let Some(translation) = &trace.translation {
        text += &format!("  {}\n", output::printable(translation));
    }
    if !trace.route.is_empty() {
        text += "  route:\n";
    }
    for hop in &trace.route {
        text += &format!("    {}\n", output::printable(hop));
    }
    text
}

fn end_text(end: &TraceEnd) -> String {
    let way = match end.direction {
        Direction::Out => "out of",
        Direction::In => "in to",
    };
    let Some(group) = &end.group else {
        return format!("{way} no group: {}", end.action);
    };
    match &end.rule {
        Some((policy, rule)) => format!(
            "{way} group {group}: {} by rule {rule} of policy {policy}",
            end.action
        ),
        None => format!("{way} group {group}: {}, no rule matches", end.action),
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::TenantName;
    use bus_schema::policy::Action;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn flow(protocol: Protocol, port: Option<u16>) -> Flow {
        Flow {
            tenant: TenantName::default_tenant(),
            from: ip("20.1.1.9"),
            to: ip("20.1.1.1"),
            protocol,
            port,
        }
    }

    #[test]
    fn port_is_required_if_the_protocol_has_ports() {
        assert!(check_port(Protocol::TCP, Some(80)).is_ok());
        assert!(check_port(Protocol::ICMP, None).is_ok());
        for (protocol, port) in [(Protocol::UDP, None), (Protocol::ICMP, Some(80))] {
            let failure = check_port(protocol, port).unwrap_err();
            assert_eq!(failure.code(), crate::failure::EXIT_USAGE);
        }
    }

    #[test]
    fn ends_are_found_by_name_id_or_address() {
        let endpoints = [endpoint::tests::endpoint("abc1", "web")];
        for text in ["web", "abc", "20.1.1.1"] {
            let end = End::find(&endpoints, text).unwrap();
            assert_eq!(end.describe(), "web (20.1.1.1 on n1)", "{text}");
        }
        let outside = End::find(&endpoints, "8.8.8.8").unwrap();
        assert_eq!(outside.describe(), "8.8.8.8");
        assert!(End::find(&endpoints, "nobody").is_err());
        let web = End::find(&endpoints, "web").unwrap();
        assert_eq!(deciding_node(&web, &outside).unwrap().as_str(), "n1");
        assert!(deciding_node(&outside, &outside).is_err());
    }

    #[test]
    fn a_container_reaches_itself_and_no_rule_is_asked() {
        let of = |id: &str, address: &str, container: Option<&str>| {
            let mut it = endpoint::tests::endpoint(id, id);
            it.v4 = Some(address.parse().unwrap());
            it.container = container.map(str::to_owned);
            it
        };
        let endpoints = [
            of("web", "20.1.1.1", Some("c1")),
            of("web-back", "20.2.1.1", Some("c1")),
            of("db", "20.1.1.2", Some("c2")),
            of("bare", "20.1.1.3", None),
            of("bare-2", "20.1.1.4", None),
        ];
        let end = |text: &str| End::find(&endpoints, text).unwrap();
        for (from, to, itself) in [
            ("web", "20.1.1.1", true),
            ("web", "web-back", true),
            ("bare", "20.1.1.3", true),
            ("web", "db", false),
            ("bare", "bare-2", false),
            ("8.8.8.8", "8.8.8.8", false),
        ] {
            assert_eq!(end(from).is_same_container(&end(to)), itself, "{from} {to}");
        }
        assert_eq!(
            to_itself(&flow(Protocol::TCP, Some(80)), &end("web")),
            "\
allowed: tcp port 80 from web (20.1.1.1 on n1) to itself
  never filtered: a container's traffic to its own addresses doesn't leave it
"
        );
    }

    #[test]
    fn trace_without_an_answer_is_no_denial() {
        let unknown = End::find(&[], "nobody").unwrap_err();
        for failure in [
            unknown,
            Failure::Unreachable("node n1 doesn't answer".to_owned()),
        ] {
            let text = failure.to_string();
            let failure = undecided(failure);
            assert_eq!(failure.code(), crate::failure::EXIT_UNDECIDED);
            assert_eq!(failure.to_string(), text);
        }
    }

    #[test]
    fn denied_connection_names_the_rule_and_its_end() {
        let from = End {
            address: ip("20.1.1.9"),
            name: None,
            node: Some("n2".parse().unwrap()),
            container: None,
        };
        let to = End {
            address: ip("20.1.1.1"),
            name: Some("web".to_owned()),
            node: Some("n1".parse().unwrap()),
            container: None,
        };
        let trace = Trace {
            allowed: false,
            ends: vec![
                TraceEnd {
                    direction: Direction::Out,
                    group: None,
                    action: Action::Allow,
                    rule: None,
                },
                TraceEnd {
                    direction: Direction::In,
                    group: Some("web".parse().unwrap()),
                    action: Action::Deny,
                    rule: Some(("prod_web".parse().unwrap(), "1".parse().unwrap())),
                },
            ],
            closed: None,
            route: vec!["20.1.1.1 dev cv0123456789".to_owned()],
            translation: None,
        };
        let node = "n1".parse().unwrap();
        assert_eq!(
            text(&flow(Protocol::TCP, Some(443)), &from, &to, &node, &trace),
            "\
denied: tcp port 443 from 20.1.1.9 on n2 to web (20.1.1.1 on n1), computed by node n1
  out of no group: allow
  in to group web: deny by rule 1 of policy prod_web
  route:
    20.1.1.1 dev cv0123456789
"
        );
    }
}
