//! What a name means to who asks. Pure.
//!
//! `NAME` and `GROUP` are looked up in the networks of the asker, who is known by its source
//! address: that of one of its endpoints. `NAME.NETWORK` and `GROUP.NETWORK` mean the same from
//! everywhere in the tenant, and so does every name with [`SUFFIX`] behind it. Another tenant's
//! names don't exist, since a look-up stays in one tenant. Who is on a node that has fallen silent
//! stands behind the others. A closed endpoint keeps its names and has no address: nobody can reach
//! it there, and another may bear that address by now.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::{Endpoint, TenantName};

use node_core::projection::{EndpointsView, full_name};

/// May stand behind every name of ours; whatever else ends so is nobody's.
pub const SUFFIX: &str = "contiv.local";

/// A suffix as people write it, with or without dots around it.
pub fn suffix(text: &str) -> Result<String, String> {
    let suffix = text.trim_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(known)
    };
    // A container's name and a network's stand before it, in 255 bytes.
    if suffix.len() > 100 || !suffix.split('.').all(is_label) {
        return Err("labels of letters, digits, `-` and `_` joined by dots, up to 100 characters, such as contiv.local".to_owned());
    }
    Ok(suffix)
}

/// A name, and who asks for it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub tenant: &'a TenantName,
    pub asker: IpAddr,
    /// In lower case, without its last dot.
    pub name: &'a str,
    /// The node's own [`SUFFIX`].
    pub suffix: &'a str,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    A,
    Aaaa,
    /// Every address, of both families.
    Any,
    /// The name of an address (RFC 1035 §3.5, RFC 3596 §2.5).
    Ptr,
    /// A record that endpoints don't have.
    Other,
}

/// What a domain's server says to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is ours, with these addresses. None: it has no record of that type, which is
    /// NOERROR and never NXDOMAIN (RFC 4074 §4.2; musl gives up otherwise).
    Addresses(Found),
    /// The name of the address that was asked about.
    Name(String),
    /// The name would be ours, and nobody bears it.
    Nobody,
    /// Not ours: the host's resolvers know.
    Forward,
    /// Nobody bears the name as far as is known, but not everything is known yet.
    Later,
}

/// The addresses behind a name, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub live: Vec<IpAddr>,
    /// Of nodes that have fallen silent.
    pub silent: Vec<IpAddr>,
}

/// Looks a name up.
pub fn answer(view: &EndpointsView, asked: &Asked<'_>, question: Question) -> Answer {
    let Asked {
        tenant,
        asker,
        name,
        suffix,
    } = *asked;
    let unknown = |answer| {
        if view.is_complete() {
            answer
        } else {
            Answer::Later
        }
    };
    if let Some(address) = reverse(name) {
        return match (view.at(tenant, address), question) {
            (None, _) => unknown(Answer::Forward),
            (Some(endpoint), Question::Ptr | Question::Any) => {
                Answer::Name(name_of(endpoint, suffix))
            }
            (Some(_), _) => Answer::Addresses(Found::default()),
        };
    }
    let (name, ours) = match without_suffix(name, suffix) {
        Some("") => return Answer::Addresses(Found::default()),
        Some(name) => (name, true),
        None => (name, false),
    };
    let mut bearers = look_up(view, tenant, asker, name);
    if bearers.is_empty() {
        return match ours {
            // Nothing is there, and that would say that nothing is below it (RFC 8020 §2).
            true if is_above(view, tenant, asker, name) => Answer::Addresses(Found::default()),
            true => unknown(Answer::Nobody),
            false => unknown(Answer::Forward),
        };
    }
    let wanted = |address: &IpAddr| match question {
        Question::A => address.is_ipv4(),
        Question::Aaaa => address.is_ipv6(),
        Question::Any => true,
        Question::Ptr | Question::Other => false,
    };
    let mut found = Found::default();
    bearers.retain(|(address, bearer)| wanted(address) && bearer.closed.is_none());
    for (address, bearer) in bearers {
        match view.is_silent(bearer) {
            false => found.live.push(address),
            true => found.silent.push(address),
        }
    }
    Answer::Addresses(found)
}

/// What stands before the suffix; `None`: it isn't there.
pub(super) fn without_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    match name.strip_suffix(suffix)? {
        "" => Some(""),
        rest => rest.strip_suffix('.'),
    }
}

/// Whether names end with `.` and this one, for who asks.
pub(super) fn is_above(
    view: &EndpointsView,
    tenant: &TenantName,
    asker: IpAddr,
    name: &str,
) -> bool {
    let mut near = networks(view, tenant, asker);
    near.any(|network| view.is_above(tenant, &full_name(name, network)))
        || view.is_above(tenant, name)
}

/// The asker's networks. Its container's other endpoints count too, as its queries leave by one
/// interface.
fn networks<'a>(
    view: &'a EndpointsView,
    tenant: &TenantName,
    asker: IpAddr,
) -> impl Iterator<Item = &'a str> {
    let asker = view.at(tenant, asker).into_iter();
    let endpoints = asker.flat_map(|it| view.beside(it));
    let endpoints = endpoints.filter(move |it| it.tenant == *tenant);
    endpoints.map(|it| it.network.as_str())
}

/// A name of the asker's networks before the same as `NAME.NETWORK`: containers' names may have
/// dots. `name` is in lower case.
pub(super) fn look_up<'a>(
    view: &'a EndpointsView,
    tenant: &TenantName,
    asker: IpAddr,
    name: &str,
) -> Vec<(IpAddr, &'a Endpoint)> {
    let mut near = Vec::new();
    for network in networks(view, tenant, asker) {
        near.extend(view.resolve(tenant, &full_name(name, network)));
    }
    if near.is_empty() {
        near.extend(view.resolve(tenant, name));
    }
    near.sort_by_key(|(address, _)| *address);
    near.dedup_by_key(|(address, _)| *address);
    near
}

/// The address that a name of `in-addr.arpa` or `ip6.arpa` stands for.
pub(super) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.rsplit('.').collect();
        return octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<u8> = nibbles
        .rsplit('.')
        .map(|nibble| u8::from_str_radix(nibble, 16).ok().filter(|it| *it < 16))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = nibbles
        .chunks(2)
        .map(|it| it[0] << 4 | it[it.len() - 1])
        .collect();
    let bytes: [u8; 16] = bytes.try_into().ok().filter(|_| nibbles.len() == 32)?;
    Some(IpAddr::V6(bytes.into()))
}

/// What an endpoint is called from everywhere in its tenant.
fn name_of(endpoint: &Endpoint, suffix: &str) -> String {
    let name = endpoint.name.as_deref().unwrap_or(endpoint.id.as_str());
    format!("{name}.{}.{suffix}", endpoint.network)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use bus_schema::MacAddr;

    use super::*;

    /// `TENANT NETWORK NAME ADDRESS…`, with `NAME@CONTAINER` for a container of several endpoints,
    /// `NETWORK/GROUP` for a member of a group, `TENANT%NODE` where it isn't on n1, and a `!` before
    /// the name of a closed one.
    pub(crate) fn view(lines: &[&str]) -> EndpointsView {
        let mut view = EndpointsView::default();
        for (number, line) in lines.iter().enumerate() {
            let words: Vec<&str> = line.split(' ').collect();
            let (tenant, node) = words[0].split_once('%').unwrap_or((words[0], "n1"));
            let (word, closed) = match words[2].strip_prefix('!') {
                Some(word) => (word, Some("its group was removed".to_owned())),
                None => (words[2], None),
            };
            let (name, container) = match word.split_once('@') {
                Some((name, container)) => (name, Some(container.to_owned())),
                None => (word, None),
            };
            let (network, group) = match words[1].split_once('/') {
                Some((network, group)) => (network, Some(group)),
                None => (words[1], None),
            };
            let addresses: Vec<IpAddr> = words[3..].iter().map(|a| a.parse().unwrap()).collect();
            view.show(Arc::new(Endpoint {
                id: format!("e{number}").parse().unwrap(),
                tenant: tenant.parse().unwrap(),
                network: network.parse().unwrap(),
                group: group.map(|group| group.parse().unwrap()),
                node: node.parse().unwrap(),
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
                closed,
                vtep: "10.0.0.1".parse().unwrap(),
            }));
        }
        view
    }

    #[track_caller]
    fn check(view: &EndpointsView, asker: &str, name: &str, question: Question, expected: &str) {
        let (tenant, asker) = asker.split_once('/').unwrap();
        let tenant = tenant.parse().unwrap();
        let asked = Asked {
            tenant: &tenant,
            asker: asker.parse().unwrap(),
            name: &name.to_lowercase(),
            suffix: SUFFIX,
        };
        let answer = answer(view, &asked, question);
        let shown = match answer {
            Answer::Forward => "forward".to_owned(),
            Answer::Nobody => "nobody".to_owned(),
            Answer::Later => "later".to_owned(),
            Answer::Name(name) => name,
            Answer::Addresses(Found { live, silent }) => {
                let shown = |addresses: &[IpAddr]| {
                    let words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                    words.join(" ")
                };
                match silent.is_empty() {
                    true => format!("[{}]", shown(&live)),
                    false => format!("[{} | {}]", shown(&live), shown(&silent)),
                }
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

    #[test]
    fn a_group_answers_with_all_its_members() {
        let view = view(&[
            "default front/web one 20.1.1.1",
            "default front/web two 20.1.1.2",
            "default front client 20.1.1.3",
            "default back/web three 20.2.1.1",
            "blue front/web one 20.1.1.1",
        ]);
        let client = "default/20.1.1.3";
        check(&view, client, "web", Question::A, "[20.1.1.1 20.1.1.2]");
        check(&view, client, "web.back", Question::A, "[20.2.1.1]");
        check(&view, "default/20.2.1.1", "web", Question::A, "[20.2.1.1]");
        check(&view, "blue/20.1.1.1", "web", Question::A, "[20.1.1.1]");
        check(&view, "blue/20.1.1.1", "web.back", Question::A, "forward");
    }

    #[test]
    fn who_is_on_a_silent_node_stands_behind() {
        let mut view = view(&[
            "default%n2 front/web one 20.1.1.1",
            "default front/web two 20.1.1.2",
            "default front client 20.1.1.3",
        ]);
        let client = "default/20.1.1.3";
        view.set_silent(["n2".parse().unwrap()].into_iter().collect());
        check(&view, client, "web", Question::A, "[20.1.1.2 | 20.1.1.1]");
        check(&view, client, "one", Question::A, "[ | 20.1.1.1]");
        view.set_silent(imbl::OrdSet::new());
        check(&view, client, "web", Question::A, "[20.1.1.1 20.1.1.2]");
    }

    #[test]
    fn what_may_still_come_is_not_denied() {
        let mut view = view(&["default front web 20.1.1.1"]);
        let web = "default/20.1.1.1";
        view.await_stream(true);
        check(&view, web, "web", Question::A, "[20.1.1.1]");
        check(&view, web, "web", Question::Aaaa, "[]");
        for name in ["db", "db.front", "db.contiv.local", "example.org"] {
            check(&view, web, name, Question::A, "later");
        }
        check(&view, web, "9.1.1.20.in-addr.arpa", Question::Ptr, "later");
        view.await_stream(false);
        check(&view, web, "db", Question::A, "forward");
        check(&view, web, "db.contiv.local", Question::A, "nobody");
    }

    #[test]
    fn a_name_with_its_network_is_known_in_the_whole_tenant() {
        let view = view(&[
            "default front web 20.1.1.1",
            "default front a.back 20.1.1.4",
            "default back a 20.2.1.1",
            "default back db_1 20.2.1.2 fd00::2",
            "blue back db_1 20.2.1.9",
        ]);
        let web = "default/20.1.1.1";
        check(&view, web, "db_1.back", Question::A, "[20.2.1.2]");
        check(&view, web, "DB_1.Back", Question::Aaaa, "[fd00::2]");
        check(
            &view,
            web,
            "db_1.back.contiv.local",
            Question::A,
            "[20.2.1.2]",
        );
        check(&view, web, "web.contiv.local", Question::A, "[20.1.1.1]");
        check(&view, web, "a.back", Question::A, "[20.1.1.4]");
        check(&view, web, "db_1.other", Question::A, "forward");
        check(&view, web, "db_1.b*d", Question::A, "forward");
        check(
            &view,
            web,
            "nobody.back.contiv.local",
            Question::A,
            "nobody",
        );
        check(&view, web, "contiv.local", Question::A, "[]");
        check(&view, web, "notcontiv.local", Question::A, "forward");
    }

    #[test]
    fn a_closed_endpoint_has_names_and_no_address() {
        let view = view(&[
            "default front/web one 20.1.1.1",
            "default front/web !two 20.1.1.2",
            "default front/old !three 20.1.1.3",
            "default front heir 20.1.1.2",
            "default front !four 20.1.1.1",
        ]);
        let one = "default/20.1.1.1";
        check(&view, one, "web", Question::A, "[20.1.1.1]");
        for name in ["two", "old", "three.front", "two-alias.contiv.local"] {
            check(&view, one, name, Question::A, "[]");
        }
        check(&view, one, "heir", Question::A, "[20.1.1.2]");
        // An address is its heir's, whoever was heard of first.
        for (name, told) in [("2.1.1.20", "heir"), ("1.1.1.20", "one")] {
            let name = format!("{name}.in-addr.arpa");
            let told = format!("{told}.front.contiv.local");
            check(&view, one, &name, Question::Ptr, &told);
        }
    }

    #[test]
    fn a_name_with_names_below_it_exists() {
        let mut view = view(&[
            "default front web 20.1.1.1",
            "default front a.b 20.1.1.2",
            "default back cache 20.2.1.1",
        ]);
        let web = "default/20.1.1.1";
        for name in ["front", "Back", "b.front", "b"] {
            let name = format!("{name}.contiv.local");
            check(&view, web, &name, Question::A, "[]");
            check(&view, web, &name, Question::Aaaa, "[]");
        }
        for name in ["ront", "x.front", "a", "web.web"] {
            let name = format!("{name}.contiv.local");
            check(&view, web, &name, Question::A, "nobody");
        }
        let cache = "default/20.2.1.1";
        check(&view, cache, "b.contiv.local", Question::A, "nobody");
        check(
            &view,
            "blue/20.1.1.1",
            "front.contiv.local",
            Question::A,
            "nobody",
        );
        // Others may know a name without the suffix.
        check(&view, web, "front", Question::A, "forward");

        // It goes with the last name below it.
        let n1 = "n1".parse().unwrap();
        view.remove(&"e1".parse().unwrap(), &n1);
        check(&view, web, "b.front.contiv.local", Question::A, "nobody");
        check(&view, web, "front.contiv.local", Question::A, "[]");
        view.remove(&"e2".parse().unwrap(), &n1);
        check(&view, web, "back.contiv.local", Question::A, "nobody");
    }

    #[test]
    fn a_suffix_is_taken_with_or_without_its_dots() {
        assert_eq!(suffix(".Svc.Example."), Ok("svc.example".to_owned()));
        for wrong in ["", ".", "a..b", "a b", &"x".repeat(64), &"x.".repeat(60)] {
            assert!(suffix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_address_has_the_name_that_its_tenant_knows() {
        let view = view(&[
            "default front web 20.1.1.1 fd00::2",
            "blue back db 20.1.1.1",
        ]);
        let name = "1.1.1.20.in-addr.arpa";
        let ptr = Question::Ptr;
        check(
            &view,
            "default/20.1.1.1",
            name,
            ptr,
            "web.front.contiv.local",
        );
        check(&view, "blue/20.1.1.1", name, ptr, "db.back.contiv.local");
        check(&view, "default/20.1.1.1", name, Question::A, "[]");
        check(
            &view,
            "default/20.1.1.1",
            "9.1.1.20.in-addr.arpa",
            ptr,
            "forward",
        );
        check(
            &view,
            "default/20.1.1.1",
            "1.1.20.in-addr.arpa",
            ptr,
            "forward",
        );
        let nibbles = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        check(
            &view,
            "default/20.1.1.1",
            nibbles,
            ptr,
            "web.front.contiv.local",
        );
        check(&view, "default/20.1.1.1", "web", ptr, "[]");
    }
}
