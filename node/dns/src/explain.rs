//! What a container is told about a name, in words. Pure; the answer itself is `zone`'s.

use std::net::IpAddr;

use bus_schema::Endpoint;
use bus_schema::lookup::{Lookup, Outcome, RecordKind, Resolution, Resolved};

use super::zone::{self, Answer, Asked, Question};
use node_core::projection::EndpointsView;

pub(super) fn resolution(
    view: &EndpointsView,
    lookup: &Lookup,
    suffix: &str,
    resolvers: &[IpAddr],
    ttl: u32,
) -> Resolution {
    let name = lookup.name.trim_end_matches('.').to_ascii_lowercase();
    let asked = Asked {
        tenant: &lookup.tenant,
        asker: lookup.from,
        name: &name,
        suffix,
    };
    let question = match lookup.record {
        RecordKind::A => Question::A,
        RecordKind::Aaaa => Question::Aaaa,
        RecordKind::Ptr => Question::Ptr,
    };
    let at = |address: IpAddr| view.at(&lookup.tenant, address);
    let bearer = |address: IpAddr| Some((address.to_string(), at(address)?));
    let mut because = vec![whose(view, lookup)];
    let (outcome, bearers) = match zone::answer(view, &asked, question) {
        Answer::Addresses(found) => {
            let all = found.live.into_iter().chain(found.silent);
            because.extend(bears(view, &asked));
            (Outcome::Found, all.filter_map(bearer).collect())
        }
        Answer::Name(name) => {
            because.push("an endpoint of the tenant has this address".to_owned());
            let of = zone::reverse(asked.name).and_then(at);
            (
                Outcome::Found,
                of.map(|it| (name, it)).into_iter().collect(),
            )
        }
        Answer::Nobody => {
            because.push(format!(
                "nobody bears the name, and no name under {suffix} is anybody else's"
            ));
            (Outcome::NotThere, Vec::new())
        }
        Answer::Forward => {
            because.push("no container, alias or group of its networks is called so, and it is no NAME.NETWORK of the tenant: the host's resolvers are asked".to_owned());
            let resolvers = resolvers.to_vec();
            (Outcome::Forwarded { resolvers }, Vec::new())
        }
        Answer::Later => {
            because.push("the node has just started and doesn't know all endpoints yet".to_owned());
            (Outcome::Later, Vec::new())
        }
    };
    let record = |(data, endpoint): (String, &Endpoint)| Resolved {
        data,
        endpoint: endpoint.id.clone(),
        node: endpoint.node.clone(),
        silent: view.is_silent(endpoint),
    };
    Resolution {
        outcome,
        records: bearers.into_iter().map(record).collect(),
        ttl,
        because,
    }
}

/// Where the asker looks first.
fn whose(view: &EndpointsView, lookup: &Lookup) -> String {
    let Some(asker) = view.at(&lookup.tenant, lookup.from) else {
        return format!(
            "{} is no endpoint of the tenant: it has no network",
            lookup.from
        );
    };
    let mut networks: Vec<&str> = view.beside(asker).map(|it| it.network.as_str()).collect();
    networks.sort_unstable();
    networks.dedup();
    format!("{} is in {}", lookup.from, networks.join(", "))
}

/// As what each bearer has the name.
fn bears(view: &EndpointsView, asked: &Asked<'_>) -> Vec<String> {
    let name = zone::without_suffix(asked.name, asked.suffix).unwrap_or(asked.name);
    let found = zone::look_up(view, asked.tenant, asked.asker, name);
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
    if lines.is_empty() && zone::is_above(view, asked.tenant, asked.asker, name) {
        lines.push(format!("nobody bears {name}, but there are names below it"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::tests::view;

    fn said(view: &EndpointsView, name: &str, record: RecordKind) -> (Outcome, String, String) {
        let lookup = Lookup {
            tenant: "default".parse().unwrap(),
            from: "20.1.1.3".parse().unwrap(),
            name: name.to_owned(),
            record,
        };
        let resolvers = ["10.0.0.2".parse().unwrap()];
        let it = resolution(view, &lookup, zone::SUFFIX, &resolvers, 5);
        let data: Vec<String> = it.records.into_iter().map(|it| it.data).collect();
        (it.outcome, data.join(" "), it.because.join("; "))
    }

    #[test]
    fn each_answer_has_its_reason() {
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
            said(&view, "Web.", RecordKind::A),
            found("20.1.1.1 20.1.1.2", "web is a member of the group in front")
        );
        assert_eq!(
            said(&view, "one.front.contiv.local", RecordKind::A),
            found("20.1.1.1", "one.front is the name of a container in front")
        );
        assert_eq!(
            said(&view, "two-alias", RecordKind::Aaaa),
            found("", "two-alias is an alias of a container in front")
        );
        assert_eq!(
            said(&view, "1.1.1.20.in-addr.arpa", RecordKind::Ptr),
            found(
                "one.front.contiv.local",
                "an endpoint of the tenant has this address"
            )
        );
        assert_eq!(
            said(&view, "shut", RecordKind::A),
            found(
                "",
                "shut is the name of a container in front, which is closed: its group was removed"
            )
        );
        assert_eq!(
            said(&view, "front.contiv.local", RecordKind::A),
            found("", "nobody bears front, but there are names below it")
        );
        let (outcome, ..) = said(&view, "nobody.contiv.local", RecordKind::A);
        assert_eq!(outcome, Outcome::NotThere);
        let (outcome, _, why) = said(&view, "example.org", RecordKind::A);
        let resolvers = vec!["10.0.0.2".parse().unwrap()];
        assert_eq!(outcome, Outcome::Forwarded { resolvers });
        assert!(why.contains("resolvers"), "{why}");
    }
}
