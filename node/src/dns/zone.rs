//! What a name means to who asks. Pure.
//!
//! A container is asked about in the networks of the asker, and the asker is known by its source
//! address: that of one of its endpoints. Another tenant's names don't exist, since a look-up
//! stays in one tenant. Names of other networks and PTR get their place in `answer`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bus_schema::{NetworkName, TenantName};

use crate::projection::EndpointsView;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    A,
    Aaaa,
    /// Every address, of both families.
    Any,
    /// A record that endpoints don't have.
    Other,
}

/// What a domain's server says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is ours, with these addresses. None: it has no record of that type, which is
    /// NOERROR and never NXDOMAIN (RFC 4074 §4.2; musl gives up otherwise).
    Addresses(Vec<IpAddr>),
    /// Not ours: the host's resolvers know.
    Forward,
}

/// Looks `name` up, without its last dot and in any case, for who has the address `asker`.
pub fn answer(
    view: &EndpointsView,
    tenant: &TenantName,
    asker: IpAddr,
    name: &str,
    question: Question,
) -> Answer {
    let found: BTreeSet<IpAddr> = networks_of(view, tenant, asker)
        .into_iter()
        .flat_map(|network| view.resolve(tenant, network, name))
        .collect();
    if found.is_empty() {
        return Answer::Forward;
    }
    let wanted = |address: &IpAddr| match question {
        Question::A => address.is_ipv4(),
        Question::Aaaa => address.is_ipv6(),
        Question::Any => true,
        Question::Other => false,
    };
    Answer::Addresses(found.into_iter().filter(wanted).collect())
}

/// The networks that the asker is in: its container's other endpoints count too, as its queries
/// leave by one interface.
fn networks_of<'a>(
    view: &'a EndpointsView,
    tenant: &TenantName,
    asker: IpAddr,
) -> BTreeSet<&'a NetworkName> {
    view.at(tenant, asker)
        .into_iter()
        .flat_map(|endpoint| view.beside(endpoint))
        .filter(|endpoint| endpoint.tenant == *tenant)
        .map(|endpoint| &endpoint.network)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bus_schema::{Endpoint, MacAddr};

    use super::*;

    /// `TENANT NETWORK NAME ADDRESS…`, with `NAME@CONTAINER` for a container of several endpoints.
    fn view(lines: &[&str]) -> EndpointsView {
        let mut view = EndpointsView::default();
        for (number, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            let (name, container) = match words[2].split_once('@') {
                Some((name, container)) => (name, Some(container.to_owned())),
                None => (words[2], None),
            };
            let addresses: Vec<IpAddr> = words[3..].iter().map(|a| a.parse().unwrap()).collect();
            view.show(Arc::new(Endpoint {
                id: format!("e{number}").parse().unwrap(),
                tenant: words[0].parse().unwrap(),
                network: words[1].parse().unwrap(),
                group: None,
                node: "n1".parse().unwrap(),
                v4: addresses.iter().find_map(|a| match a {
                    IpAddr::V4(v4) => Some(*v4),
                    IpAddr::V6(_) => None,
                }),
                v6: addresses.iter().find_map(|a| match a {
                    IpAddr::V6(v6) => Some(*v6),
                    IpAddr::V4(_) => None,
                }),
                mac: MacAddr::of_endpoint(addresses[0]),
                name: Some(name.to_owned()),
                aliases: vec![format!("{name}-alias")],
                container,
                interface: "cv0".to_owned(),
                closed: None,
                vtep: "10.0.0.1".parse().unwrap(),
            }));
        }
        view
    }

    #[track_caller]
    fn check(view: &EndpointsView, asker: &str, name: &str, question: Question, expected: &str) {
        let (tenant, asker) = asker.split_once('/').unwrap();
        let tenant = tenant.parse().unwrap();
        let answer = answer(view, &tenant, asker.parse().unwrap(), name, question);
        let shown = match answer {
            Answer::Forward => "forward".to_owned(),
            Answer::Addresses(found) => {
                let found: Vec<String> = found.iter().map(ToString::to_string).collect();
                format!("[{}]", found.join(" "))
            }
        };
        assert_eq!(shown, expected, "{name} for {asker}");
    }

    #[test]
    fn a_name_is_known_in_its_network_and_tenant_only() {
        let view = view(&[
            "default front web 20.1.1.1",
            "default front db_1 20.1.1.2 fd00::2",
            "default back cache 20.2.1.1",
            "blue front db_1 20.1.1.9",
            "blue front web 20.1.1.1",
        ]);
        let web = "default/20.1.1.1";
        check(&view, web, "db_1", Question::A, "[20.1.1.2]");
        check(&view, web, "DB_1", Question::A, "[20.1.1.2]");
        check(&view, web, "db_1-alias", Question::A, "[20.1.1.2]");
        check(&view, web, "web", Question::A, "[20.1.1.1]");
        check(&view, web, "cache", Question::A, "forward");
        check(&view, web, "example.org", Question::A, "forward");
        check(&view, web, "", Question::A, "forward");
        check(&view, "blue/20.1.1.1", "db_1", Question::A, "[20.1.1.9]");
        check(&view, "green/20.1.1.1", "db_1", Question::A, "forward");
        check(&view, "default/9.9.9.9", "db_1", Question::A, "forward");
    }

    #[test]
    fn a_name_without_such_a_record_exists_all_the_same() {
        let view = view(&[
            "default front web 20.1.1.1",
            "default front db 20.1.1.2 fd00::2",
        ]);
        let web = "default/20.1.1.1";
        check(&view, web, "web", Question::Aaaa, "[]");
        check(&view, web, "db", Question::Aaaa, "[fd00::2]");
        check(&view, web, "db", Question::Any, "[20.1.1.2 fd00::2]");
        check(&view, web, "db", Question::Other, "[]");
    }

    #[test]
    fn a_container_on_two_networks_sees_the_names_of_both() {
        let mut view = view(&[
            "default front web@c1 20.1.1.1",
            "default back web@c1 20.2.1.1",
            "default back cache@c2 20.2.1.2",
            "blue back cache@c1 30.2.1.2",
        ]);
        check(
            &view,
            "default/20.1.1.1",
            "cache",
            Question::A,
            "[20.2.1.2]",
        );
        check(
            &view,
            "default/20.2.1.1",
            "web",
            Question::A,
            "[20.1.1.1 20.2.1.1]",
        );
        check(&view, "default/20.2.1.2", "web", Question::A, "[20.2.1.1]");

        // It leaves the second network.
        view.remove(&"e1".parse().unwrap(), &"n1".parse().unwrap());
        check(&view, "default/20.1.1.1", "cache", Question::A, "forward");
        check(&view, "default/20.1.1.1", "web", Question::A, "[20.1.1.1]");
    }
}
