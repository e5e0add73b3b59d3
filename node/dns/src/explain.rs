//! Explains in words how a container's query is answered. Pure; `zone` makes the answer itself.

use std::net::IpAddr;

use bus_schema::Endpoint;
use bus_schema::lookup::{Lookup, Outcome, RecordKind, Resolution, Resolved};
use bus_schema::policy::Protocol;

use super::leaving::Asker;
use super::zone::{self, Answer, Bearers, NameQuery, Question};
use node_core::policy::Cache;
use node_core::projection::EndpointsView;

pub(super) fn resolution(
    view: &EndpointsView,
    lookup: &Lookup,
    suffix: &str,
    resolvers: &[IpAddr],
    ttl: u32,
) -> Resolution {
    let name = lookup.name.trim_end_matches('.').to_ascii_lowercase();
    let query = NameQuery {
        tenant: &lookup.tenant,
        client: lookup.from,
        name: &name,
        suffix,
    };
    let question = match lookup.record {
        RecordKind::A => Question::A,
        RecordKind::Aaaa => Question::Aaaa,
        RecordKind::Ptr => Question::Ptr,
    };
    if !zone::can_be_asked(&name) {
        return Resolution {
            outcome: Outcome::NotThere,
            records: Vec::new(),
            ttl,
            because: vec![too_long(view, lookup, &name)],
            refused: false,
            engine: None,
        };
    }
    let answer = zone::answer(view, &query, question);
    let allowed = allowed(view, lookup, resolvers);
    let refused = answer == Answer::Forward && allowed.is_empty() && !resolvers.is_empty();
    let mut because = vec![client_networks(view, lookup)];
    because.extend(reasons(view, &query, &answer));
    if refused {
        because.push("the `out` rules of its group deny a connection to port 53 of the host's resolvers, so the answer is REFUSED".to_owned());
    }
    let (outcome, data) = outcome(view, lookup, answer, allowed);
    let record = |(data, endpoint): (String, &Endpoint)| Resolved {
        data,
        endpoint: endpoint.id.clone(),
        node: endpoint.node.clone(),
        silent: view.is_silent(endpoint),
    };
    Resolution {
        outcome,
        records: data.into_iter().map(record).collect(),
        ttl,
        because,
        refused,
        engine: None,
    }
}

/// The outcome of an answer, and its data with the endpoints that they are of.
fn outcome<'a>(
    view: &'a EndpointsView,
    lookup: &Lookup,
    answer: Answer,
    allowed: Vec<IpAddr>,
) -> (Outcome, Vec<(String, &'a Endpoint)>) {
    let at = |address: IpAddr| view.at(&lookup.tenant, address);
    let with_endpoint = |address: IpAddr| Some((address.to_string(), at(address)?));
    match answer {
        Answer::Addresses(found) => {
            let all = found.live.into_iter().chain(found.silent);
            (Outcome::Found, all.filter_map(with_endpoint).collect())
        }
        Answer::Name(name) => {
            let asked = lookup.name.trim_end_matches('.').to_ascii_lowercase();
            let endpoint = zone::reverse_address(&asked).and_then(at);
            let named = endpoint.map(|it| (name, it));
            (Outcome::Found, named.into_iter().collect())
        }
        Answer::NoSuchName => (Outcome::NotThere, Vec::new()),
        Answer::Forward => (Outcome::Forwarded { resolvers: allowed }, Vec::new()),
        Answer::NotYet => (Outcome::Later, Vec::new()),
    }
}

/// The resolvers that the container may ask, by UDP.
fn allowed(view: &EndpointsView, lookup: &Lookup, resolvers: &[IpAddr]) -> Vec<IpAddr> {
    let asker = Asker {
        tenant: &lookup.tenant,
        address: lookup.from,
        protocol: Protocol::UDP,
    };
    let mut programs = Cache::default();
    let resolvers = resolvers.iter().copied();
    resolvers
        .filter(|it| asker.may_ask(*it, view, &mut programs))
        .collect()
}

/// The reason why no client can ask for a name, and the name to ask for instead.
fn too_long(view: &EndpointsView, lookup: &Lookup, name: &str) -> String {
    let named = |it: &&Endpoint| {
        let own = it.name.as_deref();
        it.tenant == lookup.tenant && own.is_some_and(|own| own.eq_ignore_ascii_case(name))
    };
    let container = view
        .iter()
        .find(named)
        .and_then(|it| it.container.as_deref());
    let instead = container.map(|id| format!("; ask for its short id {}", zone::short_id(id)));
    format!(
        "a query holds no empty label, none of more than {} characters, and 253 in all, so no client can ask for this name{}",
        zone::MAX_LABEL_BYTES,
        instead.unwrap_or_default()
    )
}

/// The reasons for an answer.
fn reasons(view: &EndpointsView, query: &NameQuery<'_>, answer: &Answer) -> Vec<String> {
    let one = |reason: &str| vec![reason.to_owned()];
    match answer {
        Answer::Addresses(_) => roles(view, query),
        Answer::Name(_) => one("an endpoint of the tenant has this address"),
        Answer::NoSuchName => vec![format!(
            "no endpoint has this name, and names under {} are never forwarded",
            query.suffix
        )],
        Answer::Forward => one(
            "no container, alias or group in its networks has this name, and it is no NAME.NETWORK of the tenant: the query goes to the host's resolvers",
        ),
        Answer::NotYet => one("the node has just started and doesn't know all endpoints yet"),
    }
}

/// The networks in which the client's names are looked up first.
fn client_networks(view: &EndpointsView, lookup: &Lookup) -> String {
    let Some(client) = view.at(&lookup.tenant, lookup.from) else {
        return format!(
            "no endpoint of the tenant has the address {}: it is in no network",
            lookup.from
        );
    };
    let mut networks: Vec<&str> = view.beside(client).map(|it| it.network.as_str()).collect();
    networks.sort_unstable();
    networks.dedup();
    format!("{} is in {}", lookup.from, networks.join(", "))
}

/// For each endpoint with the name: as its name, an alias, or its group.
fn roles(view: &EndpointsView, query: &NameQuery<'_>) -> Vec<String> {
    let name = zone::without_suffix(query.name, query.suffix).unwrap_or(query.name);
    let Bearers { found, is_group } = zone::bearers(view, query.tenant, query.client, name);
    let is = |text: &str| {
        let text = text.to_ascii_lowercase();
        name.strip_prefix(text.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let mut lines: Vec<String> = found
        .iter()
        .map(|(_, it)| {
            let what = match (&it.name, &it.group) {
                (_, Some(group)) if is(group.as_str()) => "a member of the group",
                (Some(own), _) if is(own) => "the name of a container",
                _ => "an alias of a container",
            };
            let closed = it.closed.as_ref();
            let closed = closed.map(|why| format!(", which is closed: {why}"));
            let closed = closed.unwrap_or_default();
            format!("{name} is {what} in {}{closed}", it.network)
        })
        .collect();
    lines.sort_unstable();
    lines.dedup();
    if is_group && lines.is_empty() {
        return vec![format!(
            "{name} is a group without members, and no other container has its name"
        )];
    }
    if lines.is_empty() && zone::is_above(view, query.tenant, query.client, name) {
        lines.push(format!(
            "no endpoint has the name {name}, but there are names below it"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use bus_schema::policy::Action;

    use crate::leaving::tests::with_rules;
    use crate::zone::tests::{view, with_groups};

    fn explained(
        view: &EndpointsView,
        name: &str,
        record: RecordKind,
    ) -> (Outcome, String, String) {
        let lookup = Lookup {
            tenant: "default".parse().unwrap(),
            from: "20.1.1.3".parse().unwrap(),
            name: name.to_owned(),
            record,
        };
        let resolvers = ["10.0.0.2".parse().unwrap()];
        let it = resolution(view, &lookup, zone::DEFAULT_SUFFIX, &resolvers, 5);
        let data: Vec<String> = it.records.into_iter().map(|it| it.data).collect();
        (it.outcome, data.join(" "), it.because.join("; "))
    }

    #[test]
    fn denied_question_is_refused_and_own_names_are_answered() {
        let deny = (1, Action::Deny, None, None);
        let view = with_rules(&[deny]);
        let lookup = |name: &str| Lookup {
            tenant: "default".parse().unwrap(),
            from: "20.1.1.1".parse().unwrap(),
            name: name.to_owned(),
            record: RecordKind::A,
        };
        let resolvers = ["10.0.0.2".parse().unwrap()];
        let of = |name| resolution(&view, &lookup(name), zone::DEFAULT_SUFFIX, &resolvers, 5);
        let outside = of("example.org");
        assert!(outside.refused, "{outside:?}");
        assert!(outside.because.join(" ").contains("REFUSED"), "{outside:?}");
        let own = of("db");
        assert!(!own.refused && own.outcome == Outcome::Found, "{own:?}");
    }

    #[test]
    fn group_without_members_is_named_as_the_reason() {
        let view = view(&["default front web 20.1.1.3"]);
        let view = with_groups(view, &["default front web"]);
        let (outcome, data, why) = explained(&view, "web", RecordKind::A);
        assert_eq!((outcome, &*data), (Outcome::Found, ""));
        assert!(why.contains("web is a group without members"), "{why}");
    }

    #[test]
    fn resolution_gives_the_reason_for_each_answer() {
        let view = view(&[
            "default front/web one 20.1.1.1",
            "default front/web two 20.1.1.2",
            "default front client 20.1.1.3",
            "default front !shut 20.1.1.4",
        ]);
        let found = |data: &str, why: &str| {
            let because = format!("20.1.1.3 is in front; {why}");
            (Outcome::Found, data.to_owned(), because)
        };
        assert_eq!(
            explained(&view, "Web.", RecordKind::A),
            found("20.1.1.1 20.1.1.2", "web is a member of the group in front")
        );
        assert_eq!(
            explained(&view, "one.front.contiv.local", RecordKind::A),
            found("20.1.1.1", "one.front is the name of a container in front")
        );
        assert_eq!(
            explained(&view, "two-alias", RecordKind::Aaaa),
            found("", "two-alias is an alias of a container in front")
        );
        assert_eq!(
            explained(&view, "1.1.1.20.in-addr.arpa", RecordKind::Ptr),
            found(
                "one.front.contiv.local",
                "an endpoint of the tenant has this address"
            )
        );
        assert_eq!(
            explained(&view, "shut", RecordKind::A),
            found(
                "",
                "shut is the name of a container in front, which is closed: its group was removed"
            )
        );
        assert_eq!(
            explained(&view, "front.contiv.local", RecordKind::A),
            found(
                "",
                "no endpoint has the name front, but there are names below it"
            )
        );
        let long = "x".repeat(64);
        let (outcome, _, why) = explained(&view, &long, RecordKind::A);
        assert_eq!(outcome, Outcome::NotThere);
        assert!(why.contains("63 characters"), "{why}");
        let (outcome, ..) = explained(&view, "nobody.contiv.local", RecordKind::A);
        assert_eq!(outcome, Outcome::NotThere);
        let (outcome, _, why) = explained(&view, "example.org", RecordKind::A);
        let resolvers = vec!["10.0.0.2".parse().unwrap()];
        assert_eq!(outcome, Outcome::Forwarded { resolvers });
        assert!(why.contains("resolvers"), "{why}");
    }
}
