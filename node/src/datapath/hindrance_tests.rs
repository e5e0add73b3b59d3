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
    let news = (
        "base",
        json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}},
        "right": ["new", "untracked"]}}, {"accept": null}]),
    );
    assert!(!hindered("forward", "drop", &[news]));
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
    // As ufw does by what `nft` doesn't tell of.
    let local = json!({"xt": {"type": "match", "name": "addrtype"}});
    let local = ("more", json!([local, {"return": null}]));
    let dropped = ("more", json!([{"drop": null}]));
    let calls = &[jump.clone(), local, dropped.clone()];
    assert!(!hindered("forward", "accept", calls), "perhaps");
    assert!(hindered("forward", "accept", &[jump.clone(), dropped]));
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
    let taken_there = json!([{"match": {"op": "in", "left": {"ct": {"key": "status"}},
        "right": "dnat"}}, {"accept": null}]);
    let rules = [("base", taken_there)];
    assert!(!hindered("input", "drop", &rules) && hindered("forward", "drop", &rules));
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
    let by_ufw = "-P FORWARD DROP\n-A ufw-user-forward -i cd+ -o cv+ -j ACCEPT\n";
    assert!(!legacy_drops(by_ufw));
}

#[test]
fn what_is_missing_is_said_as_a_line_to_type() {
    let said = |hook, (family, name): (&str, &str), chain: &str, more: &[&str]| {
        let base = json!({"chain": {"name": chain, "hook": hook, "policy": "drop"}});
        let more = more.iter().map(|name| json!({"chain": {"name": name}}));
        let table = Foreign {
            family: family.to_owned(),
            name: name.to_owned(),
            objects: std::iter::once(base).chain(more).collect(),
        };
        let found: Vec<_> = of_table(&table).iter().map(ToString::to_string).collect();
        let [said] = &found[..] else {
            panic!("{found:?}");
        };
        let (_, line) = said.split_once("configuration: ").expect("a line");
        line.to_owned()
    };
    let (iptables, fw) = (("ip", "filter"), ("inet", "fw"));
    let ufw = ["ufw-user-forward"];
    for (wanted, said) in [
        (
            r#"nft insert rule inet fw f iifname "cd*" oifname { "cv*", "cx*" } accept"#,
            said("forward", fw, "f", &[]),
        ),
        (
            "iptables -I INPUT -i cd+ -j ACCEPT",
            said("input", iptables, "INPUT", &[]),
        ),
        (
            "ufw route allow in on cd+ out on cv+; ufw route allow in on cd+ out on cx+",
            said("forward", iptables, "FORWARD", &ufw),
        ),
        (
            "ufw allow in on cd+",
            said("input", iptables, "INPUT", &ufw),
        ),
        (
            "firewall-cmd --permanent --zone=trusted --add-interface=cd+; firewall-cmd --reload",
            said("input", ("inet", "firewalld"), "filter_INPUT", &[]),
        ),
    ] {
        assert_eq!(said, wanted);
    }
}
