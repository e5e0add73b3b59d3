//! Files are read as they are written, and plans lead where they should, each step finding what it
//! needs.

use std::collections::BTreeMap;

use bus_schema::policy::Peer;
use bus_schema::{Command, RuleId, TenantName};
use serde_json::{Value, json};

use super::file::{read, write};
use super::plan::{PlanStep, plan};
use super::{Group, Intent, Network};

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

/// Does a step, and says what it lacked.
fn carry_out(intent: &mut Intent, command: &Command) -> Result<(), String> {
    let lacks = |what: &str| Err(format!("{what} is missing for {command:?}"));
    let Some(name) = command.tenant() else {
        return lacks("a tenant");
    };
    if let Command::TenantCreate(_) = command {
        intent.tenants.entry(name.clone()).or_default();
        return Ok(());
    }
    let Some(tenant) = intent.tenants.get_mut(name) else {
        return lacks("the tenant");
    };
    match command.clone() {
        Command::TenantRemove(_) => {
            if !tenant.networks.is_empty() {
                return lacks("emptiness");
            }
            intent.tenants.remove(name);
        }
        Command::NetworkCreate(c) => {
            let network = Network {
                subnet: c.subnet,
                range: c.range,
                gateway: c.gateway,
                subnet6: c.subnet6,
                gateway6: c.gateway6,
                vni: c.vni,
                docker_name: c.docker_name,
            };
            tenant.networks.insert(c.network, network);
        }
        Command::NetworkRemove(c) => {
            if tenant.groups.values().any(|it| it.network == c.network) {
                return lacks("disuse");
            }
            tenant.networks.remove(&c.network);
        }
        Command::PolicyCreate(c) => {
            tenant.policies.insert(c.policy, BTreeMap::new());
        }
        Command::PolicyRemove(c) => {
            if tenant
                .groups
                .values()
                .any(|it| it.policies.contains(&c.policy))
            {
                return lacks("disuse");
            }
            tenant.policies.remove(&c.policy);
        }
        Command::RuleAdd(c) => {
            if let Some(Peer::Group { group }) = &c.spec.peer
                && !tenant.groups.contains_key(group)
            {
                return lacks("the rule's group");
            }
            let Some(rules) = tenant.policies.get_mut(&c.policy) else {
                return lacks("the policy");
            };
            if rules.insert(c.rule, c.spec).is_some() {
                return lacks("a free id");
            }
        }
        Command::RuleRemove(c) => {
            let rules = tenant.policies.get_mut(&c.policy);
            if rules.and_then(|rules| rules.remove(&c.rule)).is_none() {
                return lacks("the rule");
            }
        }
        Command::GroupCreate(c) => {
            let policies = c.policies.iter();
            if !tenant.networks.contains_key(&c.network)
                || !policies.clone().all(|it| tenant.policies.contains_key(it))
            {
                return lacks("network or policy");
            }
            let group = Group {
                network: c.network,
                policies: c.policies,
                pool: c.ip_pool,
                docker_name: c.docker_name,
            };
            tenant.groups.insert(c.group, group);
        }
        Command::GroupUpdate(c) => {
            if !c.policies.iter().all(|it| tenant.policies.contains_key(it)) {
                return lacks("the policy");
            }
            let Some(group) = tenant.groups.get_mut(&c.group) else {
                return lacks("the group");
            };
            group.policies = c.policies;
        }
        Command::GroupRemove(c) => {
            let named = tenant.policies.values().flat_map(BTreeMap::values);
            let peer = Some(Peer::Group {
                group: c.group.clone(),
            });
            if named.into_iter().any(|spec| spec.peer == peer) {
                return lacks("disuse");
            }
            tenant.groups.remove(&c.group);
        }
        other => return Err(format!("{other:?} isn't planned")),
    }
    Ok(())
}

fn led(current: &Intent, wanted: &Intent, prune: bool) -> Intent {
    let mut now = current.clone();
    let steps = plan(current, wanted, prune).expect("it can be led there");
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
fn a_file_is_read_as_it_is_written() {
    let intent = read(QUICK_START).unwrap();
    let written = write(&intent).unwrap();
    assert_eq!(read(&written).unwrap(), intent, "{written}");
    assert!(written.contains("port: 443,8000-8100"), "{written}");
    assert!(written.contains("fromEndpointGroup: lb"), "{written}");
    assert_eq!(read("{tenants: []}").unwrap(), Intent::default());
}

#[test]
fn what_is_wrong_in_a_file_is_named_with_its_place() {
    for (text, says) in [
        ("tenants: [{tenantName: a b}]", "letters, digits"),
        ("tenants: [{tenantName: a, netwrks: []}]", "netwrks"),
        (
            "tenants: [{tenantName: a}, {tenantName: a}]",
            "tenant a occurs twice",
        ),
        (
            "tenants: [{tenantName: a, networks: [{networkName: n, subnet: 10.0.0.0}]}]",
            "network a:n: the prefix length is missing",
        ),
        (
            "tenants: [{tenantName: a, policies: [{policyName: p, rules: [{ruleId: 1, port: 80}]}]}]",
            "rule 1 of policy a:p: --port needs a protocol",
        ),
        (
            "tenants: [{tenantName: a, policies: [{policyName: p, rules: [{ruleId: 1, protocol: no}]}]}]",
            "rule 1 of policy a:p: ",
        ),
        (
            "tenants: [{tenantName: a, groups: [{groupName: g, networkName: n, ipPool: x}]}]",
            "group a:g: a range looks like",
        ),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn from_nothing_each_step_finds_what_it_needs() {
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
fn back_to_nothing_goes_the_other_way_round_and_only_when_asked() {
    let full = read(QUICK_START).unwrap();
    let named = read("tenants: [{tenantName: default}]").unwrap();
    assert!(plan(&full, &named, false).unwrap().is_empty());
    assert_eq!(led(&full, &named, true), empty());
}

#[test]
fn a_changed_rule_is_never_missing() {
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
fn what_cannot_be_changed_is_told_all_at_once() {
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
    // What isn't said stays as it is.
    let text = QUICK_START.replace("    gateway: 20.1.1.254\n    pktTag: 1001\n", "");
    assert!(
        plan(&before, &read(&text).unwrap(), true)
            .unwrap()
            .is_empty()
    );
}

/// Small numbers in an order of their own.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn drawn(draw: &mut Draw) -> Intent {
    let mut tenants = Vec::new();
    for tenant in ["default", "blue", "red"] {
        if tenant != "default" && draw.below(3) == 0 {
            continue;
        }
        let groups: Vec<u64> = (0..4).filter(|_| draw.below(2) == 0).collect();
        let policies: Vec<u64> = (0..3).filter(|_| draw.below(3) > 0).collect();
        let mut rule = |id: u64| {
            let peer = groups.get(draw.below(5) as usize);
            json!({
                "ruleId": id,
                "protocol": "tcp",
                "port": 80 + draw.below(3),
                "fromEndpointGroup": peer.map_or(String::new(), |it| format!("g{it}")),
            })
        };
        let ruled: Vec<Value> = policies
            .iter()
            .map(|it| json!({"policyName": format!("p{it}"), "rules": (0..3).map(&mut rule).collect::<Vec<_>>()}))
            .collect();
        let grouped: Vec<Value> = groups
            .iter()
            .map(|it| {
                let used = policies.iter().filter(|_| draw.below(2) == 0);
                let used: Vec<String> = used.map(|it| format!("p{it}")).collect();
                json!({"groupName": format!("g{it}"), "networkName": "n", "policies": used})
            })
            .collect();
        tenants.push(json!({
            "tenantName": tenant,
            "networks": [{"networkName": "n", "subnet": "10.0.0.0/24"}],
            "policies": ruled,
            "groups": grouped,
        }));
    }
    read(&json!({"tenants": tenants}).to_string()).unwrap()
}

#[test]
fn any_intent_leads_to_any_other() {
    let mut draw = Draw(7);
    let mut before = empty();
    for _ in 0..300 {
        let wanted = drawn(&mut draw);
        let now = led(&before, &wanted, true);
        assert_eq!(now, wanted);
        before = now;
    }
}
