//! Finds the endpoints of this node that the log closes, with the reasons. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::EndpointId;

use super::Params;
use crate::endpoint::LocalEndpoint;
use crate::projection::{NetworkFact, Projection};

/// The closed endpoints among `endpoints`, with the reasons.
pub fn closed<'a>(
    facts: &Projection,
    endpoints: impl Iterator<Item = &'a LocalEndpoint>,
    params: &Params,
) -> BTreeMap<EndpointId, String> {
    let reason = |it: &LocalEndpoint| Some((it.id.clone(), reason(facts, it, params)?));
    endpoints.filter_map(reason).collect()
}

fn reason(facts: &Projection, endpoint: &LocalEndpoint, params: &Params) -> Option<String> {
    let tenant = facts.tenants.get(&endpoint.tenant);
    let network = tenant.and_then(|it| Some((it, it.networks.get(&endpoint.network)?)));
    let Some((tenant, network)) = network else {
        return Some("its network was removed".to_owned());
    };
    let group = endpoint.group.as_ref();
    if !group.is_none_or(|group| tenant.groups.contains_key(group)) {
        return Some("its group was removed".to_owned());
    }
    if open_addresses(endpoint, network, params).next().is_none() {
        return Some("its address was taken from this node".to_owned());
    }
    tenant.closed_by_newer(group)
}

/// The endpoint's addresses that this node holds.
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
    use bus_schema::{EventId, GroupId, GroupSpec, Revision};

    use super::super::fixture::{Facts, kinds, params, red};
    use super::*;
    use crate::projection::GroupFact;

    #[track_caller]
    fn check(facts: &Facts, expected: Option<&str>) {
        let params = params(kinds()[0]);
        let locals = facts.locals.values().map(|it| &**it);
        let closed_now = closed(&facts.projection, locals, &params);
        assert_eq!(closed_now.values().next().map(String::as_str), expected);
    }

    #[test]
    fn endpoint_is_closed_when_its_network_group_or_address_is_gone() {
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

    #[test]
    fn endpoints_are_closed_by_newer_events_about_what_they_belong_to() {
        let mut facts = Facts::two_nodes();
        let mut at = 0;
        let mut newer = |facts: &mut Facts, of: &str| {
            at += 1;
            let id = EventId(uuid::Uuid::from_u128(at.into()));
            facts.projection.apply_newer(Revision(at), id, of);
        };
        for (number, (name, policies)) in [("web", &["p"][..]), ("db", &[]), ("app", &["q"])]
            .into_iter()
            .enumerate()
        {
            facts = facts.endpoint(name, &format!("20.1.1.{number}"));
            let id: EndpointId = name.parse().unwrap();
            let endpoint = facts.locals.get_mut(&id).unwrap();
            std::sync::Arc::make_mut(endpoint).group = Some(name.parse().unwrap());
            let spec = GroupSpec {
                tenant: red(),
                network: "net".parse().unwrap(),
                name: name.parse().unwrap(),
                id: GroupId(u16::try_from(number).unwrap() + 1),
                policies: policies.iter().map(|it| it.parse().unwrap()).collect(),
                docker_name: None,
                pool: None,
            };
            let fact = GroupFact {
                spec,
                closing: false,
                newer: false,
            };
            let groups = &mut facts.projection.open(&red()).groups;
            groups.insert(name.parse().unwrap(), fact);
        }
        facts = facts.endpoint("plain", "20.1.1.9");
        let closed_now = |facts: &Facts| -> Vec<String> {
            let locals = facts.locals.values().map(|it| &**it);
            let reasons = closed(&facts.projection, locals, &params(kinds()[0]));
            let reasons = reasons.into_iter();
            reasons
                .map(|(id, why)| {
                    assert!(why.ends_with("needs a newer netplugin: upgrade this node"));
                    id.to_string()
                })
                .collect()
        };
        newer(&mut facts, "contiv.log.red.intent.group.db");
        assert_eq!(closed_now(&facts), ["db"]);
        newer(&mut facts, "contiv.log.red.intent.policy.p");
        assert_eq!(closed_now(&facts), ["db", "web"]);
        newer(&mut facts, "contiv.log.red.intent.network.net");
        assert_eq!(closed_now(&facts), ["app", "db", "plain", "web"]);
    }
}
