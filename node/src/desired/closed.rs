//! Which endpoints of this node are closed, because the log says so, and why. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::EndpointId;

use super::Params;
use crate::endpoint::LocalEndpoint;
use crate::projection::{NetworkFact, Projection};

/// The closed ones among `endpoints`.
pub fn closed<'a>(
    facts: &Projection,
    endpoints: impl Iterator<Item = &'a LocalEndpoint>,
    params: &Params,
) -> BTreeMap<EndpointId, String> {
    let reason = |it: &LocalEndpoint| Some((it.id.clone(), reason(facts, it, params)?.to_owned()));
    endpoints.filter_map(reason).collect()
}

fn reason(facts: &Projection, endpoint: &LocalEndpoint, params: &Params) -> Option<&'static str> {
    let Some(network) = facts.network(&endpoint.tenant, &endpoint.network) else {
        return Some("its network was removed");
    };
    let groups = facts.tenants.get(&endpoint.tenant).map(|it| &it.groups);
    let has = |group| groups.is_some_and(|it| it.contains_key(group));
    if !endpoint.group.as_ref().is_none_or(has) {
        return Some("its group was removed");
    }
    let mut open = open_addresses(endpoint, network, params);
    open.next()
        .is_none()
        .then_some("its address was taken from this node")
}

/// The addresses that are this node's to use.
pub(super) fn open_addresses<'a>(
    endpoint: &'a LocalEndpoint,
    network: &'a NetworkFact,
    params: &'a Params,
) -> impl Iterator<Item = IpAddr> {
    let addresses = endpoint.addresses.iter().copied().filter(IpAddr::is_ipv4);
    addresses.filter(|address| network.is_held_by(*address, &params.node))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Facts, kinds, params};
    use super::*;

    #[track_caller]
    fn check(facts: &Facts, expected: Option<&str>) {
        let params = params(kinds()[0]);
        let locals = facts.locals.values().map(|it| &**it);
        let told = closed(&facts.projection, locals, &params);
        assert_eq!(told.values().next().map(String::as_str), expected);
    }

    #[test]
    fn what_was_taken_away_is_told() {
        let open = Facts::two_nodes().endpoint("web", "20.1.1.1");
        check(&open, None);
        let revoked = open.clone().block("net", "20.1.1.1/32", "n2");
        check(&revoked, Some("its address was taken from this node"));
        let gone = open.clone().without_network("net");
        check(&gone, Some("its network was removed"));
        let mut ungrouped = open;
        let web: EndpointId = "web".parse().unwrap();
        let endpoint = ungrouped.locals.get_mut(&web).unwrap();
        std::sync::Arc::make_mut(endpoint).group = Some("web".parse().unwrap());
        check(&ungrouped, Some("its group was removed"));
    }
}
