use serde_json::{Value, json};

use super::*;

/// A table as `nft -j` lists it: a chain `base` with a hook, others, and rules as statements.
fn table(
    (family, name): (&'static str, &str),
    (base, hook, policy): (&str, &str, &str),
    chains: &[&str],
    rules: &[(&str, Value)],
) -> Foreign {
    let part = |kind: &str, mut of: Value| {
        of["family"] = json!(family);
        of["table"] = json!(name);
        json!({ kind: of })
    };
    let base = json!({"name": base, "type": "filter", "prio": 0, "hook": hook, "policy": policy});
    let more = chains.iter().map(|it| json!({ "name": it }));
    let chains = std::iter::once(base).chain(more);
    let rules = rules
        .iter()
        .map(|(chain, expr)| part("rule", json!({"chain": chain, "expr": expr})));
    let objects: Vec<_> = chains.map(|it| part("chain", it)).chain(rules).collect();
    let text = json!({ "nftables": objects }).to_string();
    let table = Foreign::of(family, name.to_owned(), &text).unwrap();
    assert_eq!(table.chains.len() + table.rules.len(), objects.len());
    assert!(
        table.rules.iter().all(|(_, it)| !it.is_empty()),
        "all are read"
    );
    table
}

const FW: (&str, &str) = ("inet", "fw");

/// Rules in `base`, which has the hook, and in `more`.
fn foreign_drops_of(hook: &str, policy: &str, rules: &[(&str, Value)]) -> bool {
    let table = table(FW, ("base", hook, policy), &["more"], rules);
    let found = |of| !of_table(&table, &of).is_empty();
    found(Traffic::Forwarded) || found(Traffic::Asked)
}

fn name(key: &str, right: impl Into<Value>) -> Value {
    json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right.into()}})
}

#[test]
fn drop_policy_is_reported_unless_our_packets_are_accepted() {
    assert!(!foreign_drops_of("forward", "accept", &[]));
    assert!(foreign_drops_of("forward", "drop", &[]));
    let (input, accept) = (name("iifname", json!("cd*")), json!({"accept": null}));
    let to = |right| json!([input, name("oifname", right), {"counter": {}}, accept]);
    assert!(!foreign_drops_of(
        "forward",
        "drop",
        &[("base", to(json!({"set": ["cv*", "cx*"]})))]
    ));
    assert!(
        foreign_drops_of("forward", "drop", &[("base", to(json!("cv*")))]),
        "but not to other nodes"
    );
    assert!(!foreign_drops_of(
        "forward",
        "drop",
        &[("base", json!([input, accept]))]
    ));
    let other = json!([name("iifname", json!("docker0")), accept]);
    assert!(foreign_drops_of("forward", "drop", &[("base", other)]));
}

#[test]
fn uncertain_rules_are_not_reported() {
    let state = json!({"match": {"op": "in", "left": {"ct": {"key": "state"}},
        "right": ["established", "related"]}});
    let replies = ("base", json!([state, {"accept": null}]));
    let invalid = ("base", json!([state, {"drop": null}]));
    assert!(!foreign_drops_of("forward", "accept", &[invalid]));
    let news = (
        "base",
        json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}},
        "right": ["new", "untracked"]}}, {"accept": null}]),
    );
    assert!(!foreign_drops_of("forward", "drop", &[news]));
    let reject = ("base", json!([{"reject": {"type": "icmpx"}}]));
    assert!(foreign_drops_of("forward", "accept", &[replies, reject]));
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
    assert!(!foreign_drops_of(
        "forward",
        "drop",
        &[jump.clone(), ours.clone()]
    ));
    assert!(foreign_drops_of(
        "forward",
        "drop",
        &[jump.clone(), back, ours]
    ));
    let refused = (
        "more",
        json!([{"xt": {"type": "target", "name": "REJECT"}}]),
    );
    assert!(foreign_drops_of(
        "forward",
        "accept",
        &[jump.clone(), refused]
    ));
    // As ufw does by what `nft` doesn't tell of.
    let local = json!({"xt": {"type": "match", "name": "addrtype"}});
    let local = ("more", json!([local, {"return": null}]));
    let dropped = ("more", json!([{"drop": null}]));
    let calls = &[jump.clone(), local, dropped.clone()];
    assert!(!foreign_drops_of("forward", "accept", calls), "perhaps");
    assert!(foreign_drops_of(
        "forward",
        "accept",
        &[jump.clone(), dropped]
    ));
    let round = ("more", json!([{"jump": {"target": "more"}}]));
    assert!(
        !foreign_drops_of("forward", "accept", &[jump, round]),
        "and end"
    );
}

#[test]
fn name_server_questions_must_pass_the_input_hook() {
    assert!(foreign_drops_of("input", "drop", &[]));
    let port = |right: Value| {
        let left = json!({"payload": {"protocol": "udp", "field": "dport"}});
        let port = json!({"match": {"op": "==", "left": left, "right": right}});
        [("base", json!([port, {"accept": null}]))]
    };
    assert!(!foreign_drops_of("input", "drop", &port(json!(14_753))));
    assert!(!foreign_drops_of(
        "input",
        "drop",
        &port(json!({"set": [22, {"range": [14_000, 15_000]}]}))
    ));
    assert!(foreign_drops_of("input", "drop", &port(json!(22))));
    let taken_there = json!([{"match": {"op": "in", "left": {"ct": {"key": "status"}},
        "right": "dnat"}}, {"accept": null}]);
    let rules = [("base", taken_there)];
    assert!(
        !foreign_drops_of("input", "drop", &rules) && foreign_drops_of("forward", "drop", &rules)
    );
}

#[test]
fn legacy_table_drops_by_its_policy() {
    assert!(legacy_drops(
        "-P FORWARD DROP\n-A FORWARD -i eth0 -j ACCEPT\n",
        "cd"
    ));
    assert!(!legacy_drops(
        "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n",
        "cd"
    ));
    assert!(!legacy_drops("-P FORWARD ACCEPT\n", "cd"));
    let by_ufw = "-P FORWARD DROP\n-A ufw-user-forward -i cd+ -o cv+ -j ACCEPT\n";
    assert!(!legacy_drops(by_ufw, "cd"));
    assert!(legacy_drops(by_ufw, "cu"));
}

#[test]
fn missing_rule_is_reported_as_a_command() {
    let said = |hook, of, chain: &str, more: &[&str]| {
        let table = table(of, (chain, hook, "drop"), more, &[]);
        let traffic = match hook {
            "forward" => Traffic::Forwarded,
            _ => Traffic::Asked,
        };
        let found: Vec<_> = of_table(&table, &traffic)
            .iter()
            .map(ToString::to_string)
            .collect();
        let [said] = &found[..] else {
            panic!("{found:?}");
        };
        let (_, line) = said.split_once("configuration: ").expect("a line");
        line.to_owned()
    };
    let (iptables, fw) = (("ip", "filter"), FW);
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

#[test]
fn outer_port_must_pass_the_input_hook() {
    let drops = |rules: &[(&str, Value)]| {
        let outer = Traffic::Outer {
            interface: "eth1".to_owned(),
            port: 14789,
        };
        let found = of_table(&table(FW, ("base", "input", "drop"), &[], rules), &outer);
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let accept = json!({"accept": null});
    let dport = |protocol: &str, right: Value| {
        let left = json!({"payload": {"protocol": protocol, "field": "dport"}});
        json!({"match": {"op": "==", "left": left, "right": right}})
    };
    let said = drops(&[("base", json!([dport("tcp", json!(14789)), accept]))]);
    let said = said.join("\n");
    assert!(said.contains("chain base of nft's table inet fw"), "{said}");
    let remedy = "nft insert rule inet fw base udp dport 14789 accept";
    assert!(said.ends_with(remedy), "{said}");
    let let_in = [
        json!([dport("udp", json!(14789)), accept]),
        json!([
            dport("udp", json!({"set": [53, {"range": [14000, 15000]}]})),
            accept
        ]),
        json!([name("iifname", json!("eth1")), accept]),
    ];
    for rule in let_in {
        assert_eq!(
            drops(&[("base", rule.clone())]),
            Vec::<String>::new(),
            "{rule}"
        );
    }
    let elsewhere = json!([name("iifname", json!("eth0")), accept]);
    assert_ne!(drops(&[("base", elsewhere)]), Vec::<String>::new());
}

/// As of the crate's `nft` and later ones: what isn't known may be a return.
#[test]
fn unreadable_rule_may_be_a_return() {
    let base = json!({"chain": {"family": "inet", "table": "fw", "name": "base", "type": "filter",
        "prio": 0, "hook": "forward", "policy": "accept"}});
    let rule =
        |expr| json!({"rule": {"family": "inet", "table": "fw", "chain": "base", "expr": expr}});
    let drop = rule(json!([{"drop": null}]));
    let read = |objects: &[&Value]| {
        let text = json!({ "nftables": objects }).to_string();
        let table = Foreign::of("inet", "fw".to_owned(), &text).unwrap();
        of_table(&table, &Traffic::Forwarded).len()
    };
    assert_eq!(read(&[&base, &drop]), 1);
    let unknown = rule(json!([{"of tomorrow": {}}, {"return": null}]));
    assert_eq!(read(&[&base, &unknown, &drop]), 0);
}
