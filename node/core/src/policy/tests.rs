//! The compiler against a model that walks the sorted rules, written from docs/design.md alone.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::Flow;
use bus_schema::policy::{Action, Direction, Peer, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{AddressRange, GroupId, GroupName, GroupSpec, PolicyName, RuleId, TenantName};

use super::fixture::{Dice, address, alter, group, network, policy, rule, tenant};
use super::*;
use crate::projection::{GroupFact, PolicyFact, TenantFact};

/// docs/design.md, Policy: the rules of all the group's policies, the higher priority first, then deny,
/// then the lower id; the first that matches decides, and none is an allow.
fn naive(
    tenant: &TenantFact,
    direction: Direction,
    member: Option<&GroupName>,
    other: (Option<&GroupName>, IpAddr),
    flow: &Flow,
) -> (Action, Option<u8>) {
    let Some(group) = member.and_then(|name| tenant.groups.get(name)) else {
        return (Action::Allow, None);
    };
    let mut rules: Vec<&Rule> = Vec::new();
    for policy in &group.spec.policies {
        rules.extend(tenant.policies[policy].rules.values());
    }
    rules.sort_by(|a, b| {
        let priority = u8::from(b.spec.priority).cmp(&u8::from(a.spec.priority));
        let deny = |rule: &Rule| u8::from(rule.spec.action == Action::Allow);
        let ids = || a.id.precedence(&b.id);
        priority.then(deny(a).cmp(&deny(b))).then_with(ids)
    });
    let first = rules.into_iter().find(|rule| {
        let spec = &rule.spec;
        spec.direction == direction
            && spec.protocol.is_none_or(|it| it == flow.protocol)
            && (spec.ports.is_empty()
                || flow
                    .port
                    .is_some_and(|port| spec.ports.iter().any(|it| it.contains(port))))
            && match &spec.peer {
                None => true,
                Some(Peer::Group { group }) => other.0 == Some(group),
                Some(Peer::Network { network }) => tenant
                    .networks
                    .get(network)
                    .is_some_and(|it| it.spec.v4.subnet.contains(&other.1)),
                Some(Peer::Addresses { range }) => range.contains(other.1),
            }
    });
    match first {
        Some(rule) => (rule.spec.action, Some(rule.spec.priority.into())),
        None => (Action::Allow, None),
    }
}

fn flow(dice: &mut Dice) -> Flow {
    let protocols = [
        Protocol::TCP,
        Protocol::TCP,
        Protocol::UDP,
        Protocol::ICMP,
        Protocol(47),
    ];
    let protocol = dice.pick(&protocols);
    let edges: [u16; 12] = [0, 1, 2, 79, 80, 81, 90, 91, 443, 8080, 65_534, 65_535];
    Flow {
        tenant: TenantName::default_tenant(),
        from: address(dice).into(),
        to: address(dice).into(),
        protocol,
        port: protocol.has_ports().then(|| dice.pick(&edges)),
    }
}

#[test]
fn the_compiled_rules_say_what_the_first_match_says() {
    let mut decided = [0; 2];
    for seed in 0..2_000 {
        let dice = &mut Dice(seed);
        let tenant = tenant(dice);
        let mut cache = Cache::default();
        for _ in 0..20 {
            let flow = flow(dice);
            let member = |dice: &mut Dice| (dice.roll(5) > 0).then(|| group(dice.roll(4)));
            let (from, to) = (member(dice), member(dice));
            let deciding = Deciding {
                tenant: &tenant,
                from: &End::Endpoint(from.clone()),
                to: &End::Endpoint(to.clone()),
            };
            let trace = decide(&deciding, &flow, &mut cache);
            let out = naive(
                &tenant,
                Direction::Out,
                from.as_ref(),
                (to.as_ref(), flow.to),
                &flow,
            );
            let incoming = naive(
                &tenant,
                Direction::In,
                to.as_ref(),
                (from.as_ref(), flow.from),
                &flow,
            );
            let said: Vec<_> = trace
                .ends
                .iter()
                .map(|end| {
                    let rule = end.rule.as_ref();
                    let rule = rule.map(|(policy, id)| &tenant.policies[policy].rules[id]);
                    (end.action, rule.map(|rule| u8::from(rule.spec.priority)))
                })
                .collect();
            assert_eq!(
                said,
                [out, incoming],
                "seed {seed}: {flow:?} {from:?} {to:?}"
            );
            let allowed = out.0 == Action::Allow && incoming.0 == Action::Allow;
            assert_eq!(trace.allowed, allowed, "seed {seed}");
            decided[usize::from(allowed)] += 1;
        }
    }
    assert!(decided.iter().all(|count| *count > 5_000), "{decided:?}");
}

#[test]
fn nothing_is_opened_to_or_by_an_address_that_is_nobodys() {
    let dice = &mut Dice(1);
    let (flow, member) = (flow(dice), End::Endpoint(None));
    let tenant = TenantFact::default();
    for (from, to, nobodys) in [
        (&member, &End::Unknown, flow.to),
        (&End::Unknown, &member, flow.from),
    ] {
        let deciding = Deciding {
            tenant: &tenant,
            from,
            to,
        };
        let trace = decide(&deciding, &flow, &mut Cache::default());
        let said = format!("no endpoint has the address {nobodys}");
        assert_eq!((trace.allowed, trace.closed), (false, Some(said)));
    }
}

/// Each range lies in the one before it.
#[test]
fn the_size_is_linear_whatever_lies_within_what() {
    const RULES: u32 = 1_000;
    let name = TenantName::default_tenant();
    let mut tenant = TenantFact::default();
    let rules = tenant.policies.entry(policy(0)).or_default();
    for number in 0..RULES {
        let range = AddressRange {
            first: Ipv4Addr::from_bits(number).into(),
            last: Ipv4Addr::from_bits(1_000_000 - number).into(),
        };
        let id = RuleId::new(number.to_string()).expect("valid");
        let spec = RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: None,
            ports: Vec::new(),
            peer: Some(Peer::Addresses { range }),
        };
        let rule = Rule { id, number, spec };
        rules.rules.insert(rule.id.clone(), rule);
    }
    let program = Cache::default().program((&name, &tenant), &[policy(0)], Direction::In);
    assert!(program.lines.len() < 62 * RULES as usize);
    assert!(program.lengths().count() <= 33);
}

/// Rules, groups, networks and policies come and go; the program that was changed each time is the
/// one that is made of what there is.
#[test]
fn a_changed_program_is_what_it_would_be_from_nothing() {
    let name = TenantName::default_tenant();
    let mut differing = 0;
    for seed in 0..60 {
        let dice = &mut Dice(seed);
        let mut now = tenant(dice);
        let mut cache = Cache::default();
        let mut number = 1_000;
        for step in 0..60 {
            for _ in 0..=dice.roll(3) {
                number += 1;
                alter(dice, &mut now, number);
            }
            for policies in [vec![policy(0)], vec![policy(2), policy(0)], vec![policy(1)]] {
                for direction in [Direction::In, Direction::Out] {
                    let changed = cache.program((&name, &now), &policies, direction);
                    let fresh = Cache::default().program((&name, &now), &policies, direction);
                    assert_eq!(changed, fresh, "seed {seed}, step {step}");
                    differing += usize::from(!fresh.is_empty());
                }
            }
            if dice.roll(8) == 0 {
                cache.sweep(&name);
            }
        }
    }
    assert!(differing > 1_000, "{differing}");
}

#[test]
fn what_nobody_changed_is_not_compiled_again() {
    let dice = &mut Dice(3);
    let name = TenantName::default_tenant();
    let mut tenant = tenant(dice);
    let policies = [policy(0), policy(1)];
    let mut cache = Cache::default();
    let mut program =
        |tenant: &TenantFact| cache.program((&name, tenant), &policies, Direction::In);
    let first = program(&tenant);
    let elsewhere = rule(dice, 900);
    let changed = tenant.policies.get_mut(&policy(2)).expect("there");
    changed.rules.insert(elsewhere.id.clone(), elsewhere);
    assert!(std::sync::Arc::ptr_eq(&first, &program(&tenant)));
    let mut here = rule(dice, 901);
    here.spec.direction = Direction::In;
    let changed = tenant.policies.get_mut(&policy(1)).expect("there");
    changed.rules.insert(here.id.clone(), here);
    assert!(!std::sync::Arc::ptr_eq(&first, &program(&tenant)));
}

#[test]
fn what_must_end_is_of_the_policies_groups_and_denied_now() {
    let mut tenant = TenantFact::default();
    let named = PolicyName::new("p").expect("valid");
    let deny = Rule {
        id: RuleId::new("1").expect("valid"),
        number: 1,
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: Some(Protocol::TCP),
            ports: vec!["80".parse().expect("a port")],
            peer: None,
        },
    };
    let mut policy = PolicyFact::default();
    policy.rules.insert(deny.id.clone(), deny);
    tenant.policies.insert(named.clone(), policy);
    for (number, policies) in [(0, vec![named.clone()]), (1, vec![])] {
        let spec = GroupSpec {
            tenant: TenantName::default_tenant(),
            network: network(0),
            name: group(number),
            id: GroupId(number as u16 + 2),
            policies,
            docker_name: None,
            pool: None,
        };
        let closing = false;
        tenant.groups.insert(
            group(number),
            GroupFact {
                spec,
                closing,
                newer: false,
            },
        );
    }
    let member = IpAddr::from([10, 0, 0, 1]);
    let other = IpAddr::from([10, 0, 0, 2]);
    let stranger = IpAddr::from([10, 0, 0, 3]);
    let gateway = IpAddr::from([10, 0, 0, 254]);
    let end = |address| match address {
        it if it == member => End::Endpoint(Some(group(0))),
        it if it == other => End::Endpoint(Some(group(1))),
        _ => End::Unknown,
    };
    let policies = [named];
    let ends = |from, to, port| {
        let flow = Flow {
            tenant: TenantName::default_tenant(),
            from,
            to,
            protocol: Protocol::TCP,
            port: Some(port),
        };
        let ends = (end(from), end(to));
        must_end(&tenant, &policies, &flow, ends, &mut Cache::default())
    };
    assert!(ends(other, member, 80), "denied now");
    assert!(!ends(other, member, 81), "allowed");
    assert!(!ends(member, other, 80), "nothing denies it there");
    assert!(!ends(other, other, 80), "not of the policy's groups");
    assert!(
        ends(stranger, member, 81),
        "as its packets would be dropped"
    );
    assert!(!ends(member, gateway, 80), "no endpoint, no rules");
}
