use std::sync::Arc;

use bus_schema::{GroupId, GroupSpec, MacAddr};
use imbl::OrdMap;
use node_core::projection::{GroupFact, TenantFact};

use super::*;

/// `TENANT NETWORK NAME ADDRESS…`, with `NAME@CONTAINER` for a container of several endpoints,
/// `NETWORK/GROUP` for a member of a group, `TENANT%NODE` if it isn't on n1, and a `!` before the
/// name of a closed endpoint.
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

/// Adds groups without policies, `TENANT NETWORK GROUP` each.
pub(crate) fn with_groups(mut view: EndpointsView, lines: &[&str]) -> EndpointsView {
    view.follow_intent(&intent(lines));
    view
}

/// The facts of these groups.
pub(crate) fn intent(lines: &[&str]) -> OrdMap<TenantName, TenantFact> {
    let mut intent = OrdMap::<TenantName, TenantFact>::new();
    for (line, number) in lines.iter().zip(2..) {
        let words: Vec<&str> = line.split(' ').collect();
        let spec = GroupSpec {
            tenant: words[0].parse().unwrap(),
            network: words[1].parse().unwrap(),
            name: words[2].parse().unwrap(),
            id: GroupId(number),
            policies: Vec::new(),
            docker_name: None,
            pool: None,
        };
        let fact = GroupFact {
            spec: spec.clone(),
            closing: false,
            newer: false,
        };
        let tenant = intent.entry(spec.tenant.clone()).or_default();
        tenant.groups.insert(spec.name, fact);
    }
    intent
}

#[track_caller]
fn check(view: &EndpointsView, client: &str, name: &str, question: Question, expected: &str) {
    let (tenant, client) = client.split_once('/').unwrap();
    let tenant = tenant.parse().unwrap();
    let asked = NameQuery {
        tenant: &tenant,
        client: client.parse().unwrap(),
        name: &name.to_lowercase(),
        suffix: DEFAULT_SUFFIX,
    };
    let answer = answer(view, &asked, question);
    let shown = match answer {
        Answer::Forward => "forward".to_owned(),
        Answer::NoSuchName => "nobody".to_owned(),
        Answer::NotYet => "later".to_owned(),
        Answer::Name(name) => name,
        Answer::Addresses(NameAddresses { live, silent }) => {
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
    assert_eq!(shown, expected, "{name} for {client}");
}

#[test]
fn name_resolves_in_its_network_and_tenant_only() {
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
fn name_without_a_record_of_the_type_exists() {
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
fn container_on_two_networks_resolves_names_of_both() {
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
fn group_name_resolves_to_all_members() {
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
fn members_on_silent_nodes_are_listed_last() {
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
fn incomplete_view_denies_no_name() {
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
fn name_with_its_network_resolves_in_the_whole_tenant() {
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
fn closed_endpoint_has_names_and_no_address() {
    let view = view(&[
        "default front/web one 20.1.1.1",
        "default front/web !two 20.1.1.2",
        "default front/old !three 20.1.1.3",
        "default front next 20.1.1.2",
        "default front !four 20.1.1.1",
    ]);
    let one = "default/20.1.1.1";
    check(&view, one, "web", Question::A, "[20.1.1.1]");
    for name in ["two", "old", "three.front", "two-alias.contiv.local"] {
        check(&view, one, name, Question::A, "[]");
    }
    check(&view, one, "next", Question::A, "[20.1.1.2]");
    // An address belongs to its open endpoint, in whatever order the two were learned.
    for (name, expected) in [("2.1.1.20", "next"), ("1.1.1.20", "one")] {
        let name = format!("{name}.in-addr.arpa");
        let expected = format!("{expected}.front.contiv.local");
        check(&view, one, &name, Question::Ptr, &expected);
    }
}

#[test]
fn name_with_names_below_it_exists() {
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
    // Other resolvers may know a name without the suffix.
    check(&view, web, "front", Question::A, "forward");

    // It ends with the last name below it.
    let n1 = "n1".parse().unwrap();
    view.remove(&"e1".parse().unwrap(), &n1);
    check(&view, web, "b.front.contiv.local", Question::A, "nobody");
    check(&view, web, "front.contiv.local", Question::A, "[]");
    view.remove(&"e2".parse().unwrap(), &n1);
    check(&view, web, "back.contiv.local", Question::A, "nobody");
}

#[test]
fn suffix_is_accepted_with_or_without_dots_around_it() {
    assert_eq!(suffix(".Svc.Example."), Ok("svc.example".to_owned()));
    for wrong in ["", ".", "a..b", "a b", &"x".repeat(64), &"x.".repeat(60)] {
        assert!(suffix(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn address_resolves_to_its_endpoint_in_the_tenant() {
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

#[test]
fn name_of_a_group_is_its_members_only() {
    let lines = [
        "default front web 20.1.1.1",
        "default front/Web one 20.1.1.2",
        "default back web 20.2.1.1",
        "default front lb@c1 20.1.1.4",
        "default back lb-back@c1 20.2.1.4",
        "blue front web 20.1.1.1",
    ];
    let before = view(&lines);
    let one = "default/20.1.1.2";
    check(&before, one, "web", Question::A, "[20.1.1.1 20.1.1.2]");
    let groups = [
        "default front Web",
        "default front empty-alias",
        "green front web",
    ];
    let view = with_groups(before, &groups);
    for name in ["web", "WEB.front", "web.front.contiv.local"] {
        check(&view, one, name, Question::A, "[20.1.1.2]");
    }
    check(&view, one, "web.back", Question::A, "[20.2.1.1]");
    check(&view, "blue/20.1.1.1", "web", Question::A, "[20.1.1.1]");
    // The network without such a group goes on.
    check(&view, "default/20.2.1.1", "web", Question::A, "[20.2.1.1]");
    check(
        &view,
        "default/20.1.1.4",
        "web",
        Question::A,
        "[20.1.1.2 20.2.1.1]",
    );
    // A group without members exists, and nothing takes its place.
    for name in ["empty-alias", "empty-alias.front.contiv.local"] {
        check(&view, one, name, Question::A, "[]");
        check(&view, one, name, Question::Aaaa, "[]");
    }
    let ptr = |address: &str, name: &str| {
        let octets: Vec<&str> = address.rsplit('.').collect();
        let reverse = format!("{}.in-addr.arpa", octets.join("."));
        check(&view, one, &reverse, Question::Ptr, name);
    };
    ptr("20.1.1.1", "e0.front.contiv.local");
    ptr("20.1.1.2", "one.front.contiv.local");
    ptr("20.2.1.1", "web.back.contiv.local");

    let gone = with_groups(view.clone(), &[]);
    check(&gone, one, "web", Question::A, "[20.1.1.1 20.1.1.2]");
}

#[test]
fn name_that_no_query_can_hold_is_replaced_by_the_short_id() {
    let (long, fits) = ("x".repeat(64), "y".repeat(63));
    let view = view(&[
        &format!("default front {long}@0123456789abcdef 20.1.1.1"),
        &format!("default front {long} 20.1.1.2"),
        &format!("default front {fits} 20.1.1.3"),
    ]);
    for (address, name) in [
        ("1.1.1.20", "0123456789ab".to_owned()),
        ("2.1.1.20", "e1".to_owned()),
        ("3.1.1.20", fits),
    ] {
        let reverse = format!("{address}.in-addr.arpa");
        let name = format!("{name}.front.contiv.local");
        check(&view, "default/20.1.1.1", &reverse, Question::Ptr, &name);
    }
}
