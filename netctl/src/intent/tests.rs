//! Files are read as they are written. Plans lead to the wanted intent, and each step finds the objects
//! that it needs.

mod model;

use bus_schema::{RuleId, TenantName, Vni};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest::{collection, option};
use serde_json::{Value, json};

use self::model::carry_out;
use super::Intent;
use super::check::{check, too_long};
use super::file::{read, write};
use super::plan::{PlanStep, plan};
use crate::output::Format;

const QUICK_START: &str = r#"
tenants:
- tenantName: default
  networks:
  - networkName: contiv-net
    subnet: 20.1.1.0/24
    gateway: 20.1.1.254
    pktTag: 1001
  - {networkName: back, subnet: 20.1.2.10-20.1.2.99/24}
  policies:
  - policyName: prod_web
    rules:
    - {ruleId: 1, direction: in, protocol: tcp, action: deny}
    - {ruleId: 2, protocol: tcp, port: 80, action: allow, priority: 10}
    - {ruleId: lb, protocol: tcp, port: "443,8000-8100", fromEndpointGroup: lb, priority: 20}
    - {ruleId: out, direction: out, toIpAddress: 10.0.0.0/8, action: deny}
  groups:
  - {groupName: web, networkName: contiv-net, policies: [prod_web]}
  - {groupName: lb, networkName: back, ipPool: 20.1.2.20-20.1.2.30}
- tenantName: blue
"#;

fn texts(steps: &[PlanStep]) -> Vec<&str> {
    steps.iter().filter_map(|it| it.text.as_deref()).collect()
}

/// Carries out the plan, and returns where it leads.
fn led(current: &Intent, wanted: &Intent, prune: bool) -> Intent {
    let mut now = current.clone();
    let steps = plan(current, wanted, prune).expect("a plan");
    for step in &steps {
        if let Err(why) = carry_out(&mut now, &step.command) {
            panic!("{why}\n{steps:#?}");
        }
    }
    now
}

fn empty() -> Intent {
    let mut empty = Intent::default();
    empty
        .tenants
        .entry(TenantName::default_tenant())
        .or_default();
    empty
}

#[test]
fn file_is_read_as_it_is_written() {
    let intent = read(QUICK_START).unwrap();
    let written = write(&intent, Format::Yaml).unwrap();
    assert_eq!(read(&written).unwrap(), intent, "{written}");
    assert!(written.contains("port: 443,8000-8100"), "{written}");
    assert!(written.contains("fromEndpointGroup: lb"), "{written}");
    let json = write(&intent, Format::Json).unwrap();
    let _: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read(&json).unwrap(), intent, "{json}");
    assert_eq!(read("{tenants: []}").unwrap(), Intent::default());
    assert_eq!(read("tenants:").unwrap(), Intent::default());
}

#[test]
fn file_errors_name_keys_and_lines() {
    for (text, says) in [
        ("tenantName: a b", "tenants[0]: `a b` holds"),
        ("tenantName: a\n  netwrks: []", "unknown key `netwrks`"),
        ("tenantName: a\n- tenantName: a", "tenant a occurs twice"),
        ("networks: []", "missing key `tenantName`"),
        (
            "tenantName: a\n  networks: front",
            "tenants[0].networks: found string",
        ),
        (
            "tenantName: a\n  networks: [front]",
            "a network's keys and values",
        ),
        (
            "tenantName: a\n  networks:\n  - networkName: n\n    subnet: 10.0.0.0",
            "tenants[0].networks[0].subnet: the prefix length is missing",
        ),
        (
            "tenantName: a\n  networks:\n  - {networkName: n, subnet: 10.0.0.0/8, pktTag: x}",
            "pktTag: found string \"x\", expected a packet tag",
        ),
        (
            "tenantName: a\n  maxConnections: many",
            "tenants[0].maxConnections: found string \"many\", expected a number of connections",
        ),
        (
            "tenantName: a\n  maxConnections: -1",
            "tenants[0].maxConnections: found integer `-1`, expected a number of connections",
        ),
        (
            "tenantName: a\n  policies:\n  - policyName: p\n    rules: [{ruleId: 1, port: 80}]",
            "rule 1: port needs a protocol that has ports: add protocol: tcp",
        ),
        (
            "tenantName: a\n  policies:\n  - policyName: p\n    rules: [{ruleId: 1, protocol: no}]",
            "rule 1: protocol `no`: ",
        ),
        (
            "tenantName: a\n  policies:\n  - policyName: p\n    rules: [{ruleId: 1, action: no}]",
            "rule 1: action `no`: write one of allow, deny",
        ),
        (
            "tenantName: a\n  policies:\n  - policyName: p\n    rules: [{ruleId: [1]}]",
            "expected a text or a number",
        ),
        (
            "tenantName: a\n  groups:\n  - {groupName: g, networkName: n, ipPool: x}",
            "tenants[0].groups[0].ipPool: a range looks like",
        ),
    ] {
        let text = format!("tenants:\n- {text}\n");
        let error = read(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
        assert!(error.contains("at line "), "{text}: {error}");
        for rust in ["struct", "enum", "Item", "Keys", "u32", "unit value", "--"] {
            assert!(!error.contains(rust), "{text}: {error}");
        }
    }
}

/// Additions to the quick start, each with the problem that is found.
const CONTRADICTIONS: [(&str, &str); 17] = [
    (
        "networks: [{networkName: web, subnet: 10.1.1.0/24}]",
        "network default:web: web can't be both",
    ),
    (
        "groups: [{groupName: g, networkName: back, cfgdTag: a b}]",
        "group default:g: `a b` can't be the name of a Docker network",
    ),
    (
        "networks: [{networkName: n, subnet: 20.1.1.128/25}]",
        "network default:n: subnet 20.1.1.128/25 overlaps 20.1.1.0/24",
    ),
    (
        "networks: [{networkName: n, subnet: 10.1.0.0/16}, {networkName: o, subnet: 10.1.1.0/24}]",
        "network default:o: subnet 10.1.1.0/24 overlaps 10.1.0.0/16 of network n",
    ),
    (
        "networks: [{networkName: n, subnet: 127.1.0.0/16}]",
        "network default:n: subnet 127.1.0.0/16 can't be used",
    ),
    (
        "networks: [{networkName: n, subnet: 10.1.1.0/24, gateway: 10.1.2.1}]",
        "network default:n: gateway 10.1.2.1",
    ),
    (
        "networks: [{networkName: n, subnet: 10.1.1.0/24, pktTag: 1001}]",
        "network default:n: packet tag 1001 is in use by network contiv-net",
    ),
    (
        "networks: [{networkName: n, subnet: 10.1.1.0/24, pktTag: 10001}]",
        "network default:n: packet tag 10001 is outside of the cluster's range 1-10000",
    ),
    (
        "networks: [{networkName: n, subnet: 10.1.1.0/24, cfgdTag: contiv-net}]",
        "network default:n: network contiv-net of tenant default is Docker network",
    ),
    (
        "groups: [{groupName: g, networkName: nowhere}]",
        "group default:g: it names the network nowhere",
    ),
    (
        "groups: [{groupName: g, networkName: back, policies: [none]}]",
        "group default:g: it names the policy none",
    ),
    (
        "groups: [{groupName: back, networkName: back}]",
        "group default:back: back can't be both",
    ),
    (
        "groups: [{groupName: g, networkName: back, ipPool: 20.1.2.25-20.1.2.40}]",
        "group default:g: pool 20.1.2.25-20.1.2.40 overlaps 20.1.2.20-20.1.2.30 of group lb",
    ),
    (
        "groups: [{groupName: g, networkName: back, ipPool: 20.1.3.1-20.1.3.2}]",
        "group default:g: pool 20.1.3.1-20.1.3.2 doesn't lie inside",
    ),
    (
        "groups: [{groupName: g, networkName: contiv-net, ipPool: 20.1.1.250-20.1.1.254}]",
        "group default:g: pool 20.1.1.250-20.1.1.254 holds 20.1.1.254",
    ),
    (
        "policies: [{policyName: p, rules: [{ruleId: 1, fromEndpointGroup: nobody}]}]",
        "rule 1 of policy default:p: it names the group nobody",
    ),
    (
        "policies: [{policyName: p, rules: [{ruleId: 1, fromNetwork: nowhere}]}]",
        "rule 1 of policy default:p: it names the network nowhere",
    ),
];

/// The contradictions of a file for tenant `default`, in a cluster with the quick start.
fn problems(of_default: &str, prune: bool) -> Vec<String> {
    let current = read(QUICK_START).unwrap();
    let file = format!("tenants: [{{tenantName: default, {of_default}}}]");
    let wanted = read(&file).unwrap();
    check(&current, &wanted, prune, (Vni(1), Vni(10_000)))
}

#[test]
fn whole_file_is_checked_before_anything_is_done() {
    for (file, says) in CONTRADICTIONS {
        let found = problems(file, false);
        assert_eq!(found.len(), 1, "{file}: {found:?}");
        assert!(found[0].starts_with(says), "{file}: {found:?}");
    }
    let of_cluster = "groups: [{groupName: g, networkName: back, policies: [prod_web]}]";
    assert_eq!(problems(of_cluster, false), [""; 0]);
    let pruned = problems(of_cluster, true);
    assert_eq!(pruned.len(), 2, "{pruned:?}");
}

#[test]
fn steps_from_nothing_find_what_they_need() {
    let wanted = read(QUICK_START).unwrap();
    assert_eq!(led(&empty(), &wanted, false), wanted);
    assert!(plan(&wanted, &wanted, true).unwrap().is_empty());
    let steps = plan(&empty(), &wanted, false).unwrap();
    let order: Vec<&str> = texts(&steps)
        .iter()
        .map(|it| it.split([':', ' ']).nth(1).unwrap_or_default())
        .collect();
    assert_eq!(
        order,
        [
            "tenant", "network", "network", "policy", "rule", "rule", "rule", "group", "group",
            "rule"
        ]
    );
}

#[test]
fn networks_with_a_packet_tag_are_created_before_others_that_could_get_it() {
    let text = "tenants: [{tenantName: a, networks: [{networkName: a, subnet: 10.1.1.0/24}]}, {tenantName: b, networks: [{networkName: b, subnet: 10.1.1.0/24, pktTag: 1}]}]";
    let steps = plan(&empty(), &read(text).unwrap(), false).unwrap();
    let expected = [
        "+ tenant a",
        "+ tenant b",
        "+ network b:b 10.1.1.0/24",
        "+ network a:a 10.1.1.0/24",
    ];
    assert_eq!(texts(&steps), expected);
}

#[test]
fn step_whose_request_is_too_long_is_found_before_anything_is_done() {
    let ports: Vec<String> = (1..=30_000).map(|it| (it * 2).to_string()).collect();
    let text = format!(
        "tenants: [{{tenantName: a, policies: [{{policyName: p, rules: [{{ruleId: 1, protocol: tcp, port: \"{}\"}}]}}]}}]",
        ports.join(",")
    );
    let steps = plan(&empty(), &read(&text).unwrap(), false).unwrap();
    let found = too_long(&steps);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("+ rule a:p:1: "), "{found:?}");
    assert!(found[0].contains("131072"), "{found:?}");
    let short = plan(&empty(), &read(QUICK_START).unwrap(), false).unwrap();
    assert_eq!(too_long(&short), [""; 0]);
}

#[test]
fn limit_of_connections_is_created_changed_and_kept_where_it_is_absent() {
    let with = |limits: [&str; 2]| {
        let [tenant, network] = limits;
        let text = format!(
            "tenants: [{{tenantName: blue, {tenant} networks: [{{networkName: n, subnet: 10.1.1.0/24, {network}}}]}}]"
        );
        read(&text).unwrap()
    };
    let limited = with(["maxConnections: 7,", "maxConnections: 9"]);
    assert_eq!(led(&Intent::default(), &limited, false), limited);
    let absent = with(["", ""]);
    assert!(plan(&limited, &absent, true).unwrap().is_empty());
    let changed = with(["maxConnections: 8,", "maxConnections: 0"]);
    assert_eq!(
        texts(&plan(&limited, &changed, false).unwrap()),
        [
            "~ tenant blue maxConnections 8 (was 7)",
            "~ network blue:n maxConnections 0 (was 9)"
        ]
    );
    assert_eq!(led(&limited, &changed, false), changed);
    let default = with(["maxConnections: 0,", "maxConnections: 0"]);
    assert!(plan(&absent, &default, true).unwrap().is_empty());
}

/// A file of an older build has no key for the way out, and opens nothing.
#[test]
fn way_out_is_created_changed_and_kept_where_it_is_absent() {
    let with = |settings: [&str; 2]| {
        let [tenant, network] = settings;
        let text = format!(
            "tenants: [{{tenantName: blue, {tenant} networks: [{{networkName: n, subnet: 10.1.1.0/24, {network}}}]}}]"
        );
        read(&text).unwrap()
    };
    let closed = with(["egress: none,", "egress: none"]);
    assert_eq!(led(&Intent::default(), &closed, false), closed);
    assert_eq!(
        read(&write(&closed, Format::Table).unwrap()).unwrap(),
        closed
    );
    let absent = with(["", ""]);
    assert!(plan(&closed, &absent, true).unwrap().is_empty());
    let open = with(["egress: nat,", "egress: nat, allowMetadata: true"]);
    assert_eq!(
        texts(&plan(&closed, &open, false).unwrap()),
        [
            "~ tenant blue egress nat (was none)",
            "~ network blue:n egress nat (was none), allowMetadata true (was false)"
        ]
    );
    assert_eq!(led(&closed, &open, false), open);
    let open_by_default = with(["", "egress: nat"]);
    let stays = with(["egress: nat,", "egress: nat, allowMetadata: false"]);
    assert!(plan(&open_by_default, &stays, true).unwrap().is_empty());
}

/// An existing network gets a way out when the rules about it hold, and loses it before they go.
#[test]
fn way_out_opens_behind_the_rules_about_it_and_closes_before_them() {
    let without = "tenants: [{tenantName: blue, networks: [{networkName: n, subnet: 10.1.1.0/24, egress: none}]}]";
    let with = "tenants: [{tenantName: blue, networks: [{networkName: n, subnet: 10.1.1.0/24, egress: nat}], policies: [{policyName: p, rules: [{ruleId: 1, direction: out, toIpAddress: world, action: deny}]}], groups: [{groupName: g, networkName: n, policies: [p]}]}]";
    let (without, with) = (read(without).unwrap(), read(with).unwrap());
    let opening = plan(&without, &with, false).unwrap();
    assert_eq!(
        texts(&opening),
        [
            "+ policy blue:p",
            "+ rule blue:p:1: out deny to world, priority 1",
            "+ group blue:g in n with p",
            "~ network blue:n egress nat (was none)"
        ]
    );
    let closing = plan(&with, &without, true).unwrap();
    assert_eq!(
        texts(&closing).first(),
        Some(&"~ network blue:n egress none (was nat)")
    );
}

#[test]
fn prune_removes_all_in_the_opposite_order() {
    let full = read(QUICK_START).unwrap();
    let named = read("tenants: [{tenantName: default}]").unwrap();
    assert!(plan(&full, &named, false).unwrap().is_empty());
    assert_eq!(led(&full, &named, true), empty());
}

#[test]
fn changed_rule_is_never_missing() {
    let before = read(QUICK_START).unwrap();
    let changed = QUICK_START.replace("port: 80, action: allow", "port: 81, action: deny");
    let wanted = read(&changed).unwrap();
    let steps = plan(&before, &wanted, false).unwrap();
    let text = "~ rule default:prod_web:2: in deny tcp port 81, priority 10 (was in allow tcp port 80, priority 10)";
    assert_eq!(texts(&steps), [text]);
    let mut now = before.clone();
    let policy = "prod_web".parse().unwrap();
    let rules =
        |intent: &Intent| intent.tenants[&TenantName::default_tenant()].policies[&policy].clone();
    let [old, new] = [&before, &wanted].map(|it| rules(it)[&RuleId::new("2").unwrap()].clone());
    for step in &steps {
        carry_out(&mut now, &step.command).unwrap();
        assert!(
            rules(&now)
                .values()
                .any(|spec| *spec == old || *spec == new)
        );
    }
    assert_eq!(now, wanted);
}

#[test]
fn unchangeable_differences_are_reported_together() {
    let before = read(QUICK_START).unwrap();
    let text = QUICK_START
        .replace("20.1.1.0/24", "20.1.0.0/16")
        .replace("pktTag: 1001", "pktTag: 7")
        .replace("ipPool: 20.1.2.20-20.1.2.30", "ipPool: 20.1.2.20-20.1.2.31")
        .replace(
            "groupName: web, networkName: contiv-net",
            "groupName: web, networkName: back",
        );
    let why = plan(&before, &read(&text).unwrap(), true).unwrap_err();
    for says in [
        "subnet 20.1.1.0/24",
        "pktTag 1001",
        "ipPool",
        "networkName contiv-net",
    ] {
        assert!(why.iter().any(|it| it.contains(says)), "{says}: {why:?}");
    }
    // A value that the file leaves out stays as it is.
    let text = QUICK_START.replace("    gateway: 20.1.1.254\n    pktTag: 1001\n", "");
    assert!(
        plan(&before, &read(&text).unwrap(), true)
            .unwrap()
            .is_empty()
    );
}

fn tenant(name: &'static str) -> impl Strategy<Value = Value> {
    let groups = subsequence(vec!["g0", "g1", "g2", "g3"], 0..=4);
    let policies = subsequence(vec!["p0", "p1", "p2"], 0..=3);
    let parts = (groups, policies).prop_flat_map(|(groups, policies)| {
        let peers = [vec![""], groups.clone()].concat();
        let rules = collection::vec((80..83_u16, select(peers)), 3);
        (
            collection::vec(rules, policies.len()),
            collection::vec(
                subsequence(policies.clone(), 0..=policies.len()),
                groups.len(),
            ),
            Just(groups),
            Just(policies),
        )
    });
    parts.prop_map(move |(rules, used, groups, policies)| {
        let policies = policies.iter().zip(rules).map(|(name, rules)| {
            let rules = rules.iter().enumerate().map(|(id, (port, peer))| {
                json!({"ruleId": id, "protocol": "tcp", "port": port, "fromEndpointGroup": peer})
            });
            json!({"policyName": name, "rules": rules.collect::<Vec<_>>()})
        });
        let groups = groups
            .iter()
            .zip(used)
            .map(|(name, used)| json!({"groupName": name, "networkName": "n", "policies": used}));
        json!({
            "tenantName": name,
            "networks": [{"networkName": "n", "subnet": "10.0.0.0/24"}],
            "policies": policies.collect::<Vec<_>>(),
            "groups": groups.collect::<Vec<_>>(),
        })
    })
}

fn intent() -> impl Strategy<Value = Intent> {
    let others = (option::of(tenant("blue")), option::of(tenant("red")));
    (tenant("default"), others).prop_map(|(default, (blue, red))| {
        let tenants: Vec<Value> = [Some(default), blue, red].into_iter().flatten().collect();
        read(&json!({ "tenants": tenants }).to_string()).unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_intent_leads_to_any_other(before in intent(), wanted in intent()) {
        prop_assert_eq!(&led(&empty(), &before, true), &before);
        prop_assert_eq!(led(&before, &wanted, true), wanted);
    }
}
