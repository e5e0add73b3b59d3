//! Names that Docker's own resolver answers with a part of their containers. Pure.

use std::collections::BTreeSet;

use bus_schema::NodeName;
use bus_schema::node::{Finding, Grade};
use node_core::endpoint::{LocalEndpoint, Locals, Owner};
use node_core::projection::{EndpointsView, full_name};

/// More names are counted.
const MAX_SHOWN: usize = 5;

/// A warning about names of this engine's containers that containers of other nodes have, too.
pub(super) fn shared(view: &EndpointsView, me: &NodeName, locals: &Locals) -> Option<Finding> {
    let docker = |it: &&LocalEndpoint| matches!(it.owner, Owner::Docker { .. });
    let endpoints = locals.values().map(|it| &**it).filter(docker);
    let names: BTreeSet<String> = endpoints
        .flat_map(|it| {
            let names = it.name.iter().chain(&it.aliases);
            names.map(|name| (&it.tenant, full_name(name, it.network.as_str())))
        })
        .filter(|(tenant, name)| view.resolve(tenant, name).any(|(_, it)| it.node != *me))
        .map(|(_, name)| name)
        .collect();
    let more = match names.len().saturating_sub(MAX_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<String> = names.into_iter().take(MAX_SHOWN).collect();
    let first = shown.first()?.clone();
    let text = format!(
        "Docker's own resolver answers names of its engine's containers without asking anybody, so this node's containers find only those of this node by {}{more}, though other nodes have some, too: ask for {first}.contiv.local, or give them a group and ask for its name",
        shown.join(", ")
    );
    Some(Finding::new(Grade::Warning, "names", text))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bus_schema::{Endpoint, EndpointId, MacAddr};
    use node_core::desired::fixture::{Facts, red};

    use super::*;

    fn view(alias: &str, node: &str) -> EndpointsView {
        let mut view = EndpointsView::default();
        let address = std::net::Ipv4Addr::new(20, 1, 1, 9);
        view.show(Arc::new(Endpoint {
            id: EndpointId::new("other").unwrap(),
            tenant: red(),
            network: "net".parse().unwrap(),
            group: None,
            name: None,
            aliases: vec![alias.to_owned()],
            container: None,
            v4: Some(address),
            v6: None,
            mac: MacAddr::of_endpoint(address.into()),
            node: node.parse().unwrap(),
            interface: "cv1".to_owned(),
            vtep: "198.18.0.2".parse().unwrap(),
            closed: None,
        }));
        view
    }

    #[test]
    fn names_that_other_nodes_have_too_are_named() {
        let locals = Facts::two_nodes().endpoint("web", "20.1.1.1").locals;
        let of =
            |alias: &str, node: &str| shared(&view(alias, node), &"n1".parse().unwrap(), &locals);
        let finding = of("web", "n2").expect("a warning");
        assert!(finding.text.contains("web.net.contiv.local"), "{finding:?}");
        assert_eq!(of("web", "n1"), None);
        assert_eq!(of("db", "n2"), None);
    }
}
