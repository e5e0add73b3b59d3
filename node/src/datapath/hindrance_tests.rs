use serde_json::json;

use super::*;

/// A table whose chain `forward` has the hook, as `nft -j` lists it; rules as their statements.
fn hindered(hook: &str, policy: &str, rules: &[(&str, Value)]) -> bool {
    let chain = |name: &str| json!({"chain": {"name": name}});
    let base = json!({"chain": {"name": "base", "hook": hook, "policy": policy}});
    let rules = rules
        .iter()
        .map(|(chain, expr)| json!({"rule": {"chain": chain, "expr": expr}}));
    let table = Foreign {
        family: "inet".to_owned(),
        name: "fw".to_owned(),
        objects: [base, chain("more")].into_iter().chain(rules).collect(),
    };
    !of_table(&table).is_empty()
}

fn name(key: &str, right: impl Into<Value>) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right.into()}})
}

#[test]
fn a_policy_of_drop_hinders_unless_ours_are_let_through() {
    assert!(!hindered("forward", "accept", &[]));
    assert!(hindered("forward", "drop", &[]));
    let (input, accept) = (name("iifname", json!("cd*")), json!({"accept": null}));
    let to = |right| json!([input, name("oifname", right), {"counter": {}}, accept]);
    assert!(!hindered(
        "forward",
        "drop",
        &[("base", to(json!({"set": ["cv*", "cx*"]})))]
    ));
    assert!(
        hindered("forward", "drop", &[("base", to(json!("cv*")))]),
        "but not to other nodes"
    );
    assert!(!hindered(
        "forward",
        "drop",
        &[("base", json!([input, accept]))]
    ));
    let other = json!([name("iifname", json!("docker0")), accept]);
    assert!(hindered("forward", "drop", &[("base", other)]));
}

#[test]
fn what_may_or_may_not_match_says_nothing() {
    let state = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}},
        "right": ["established", "related"]}});
    let replies = ("base", json!([state, {"accept": null}]));
    let invalid = ("base", json!([state, {"drop": null}]));
    assert!(!hindered("forward", "accept", &[invalid]));
    let reject = ("base", json!([{"reject": {"type": "icmpx"}}]));
    assert!(hindered("forward", "accept", &[replies, reject]));
}

#[test]
fn chains_are_followed() {
    let jump = (
        "base",
        json!([{"counter": {}}, {"jump": {"target": "more"}}]),
    );
    let comment = json!({"xt": {"type": "match", "name": "comment"}});
    let ours = (
        "more",
        json!([name("iifname", json!("cd*")), comment, {"accept": null}]),
    );
    let back = ("more", json!([{"return": null}]));
    assert!(!hindered("forward", "drop", &[jump.clone(), ours.clone()]));
    assert!(hindered("forward", "drop", &[jump.clone(), back, ours]));
    let refused = (
        "more",
        json!([{"xt": {"type": "target", "name": "REJECT"}}]),
    );
    assert!(hindered("forward", "accept", &[jump.clone(), refused]));
    let round = ("more", json!([{"jump": {"target": "more"}}]));
    assert!(!hindered("forward", "accept", &[jump, round]), "and end");
}

#[test]
fn questions_to_the_name_server_must_come_in() {
    assert!(hindered("input", "drop", &[]));
    let port = |right: Value| {
        let left = json!({"payload": {"protocol": "udp", "field": "dport"}});
        let port = json!({"match": {"op": "==", "left": left, "right": right}});
        [("base", json!([port, {"accept": null}]))]
    };
    assert!(!hindered("input", "drop", &port(json!(14_753))));
    assert!(!hindered(
        "input",
        "drop",
        &port(json!({"set": [22, {"range": [14_000, 15_000]}]}))
    ));
    assert!(hindered("input", "drop", &port(json!(22))));
}

#[test]
fn the_legacy_table_hinders_by_its_policy() {
    assert!(legacy_drops(
        "-P FORWARD DROP\n-A FORWARD -i eth0 -j ACCEPT\n"
    ));
    assert!(!legacy_drops(
        "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n"
    ));
    assert!(!legacy_drops("-P FORWARD ACCEPT\n"));
}

#[test]
fn what_is_missing_is_said_as_a_line_to_type() {
    let table = Some(("inet".to_owned(), "fw".to_owned()));
    let chain = "forward".to_owned();
    let hook = Hook::Forward;
    let said = Hindrance { hook, table, chain }.to_string();
    let line = r#"nft insert rule inet fw forward iifname "cd*" oifname { "cv*", "cx*" } accept"#;
    assert!(said.ends_with(line), "{said}");
    let table = Some(("ip".to_owned(), "filter".to_owned()));
    let chain = "INPUT".to_owned();
    let hook = Hook::Input;
    let said = Hindrance { hook, table, chain }.to_string();
    assert!(
        said.ends_with("iptables -I INPUT -i cd+ -j ACCEPT"),
        "{said}"
    );
}
