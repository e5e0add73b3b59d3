//! Tests the compiler against a model that evaluates the sorted rules, by docs/design.md alone.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::Flow;
use bus_schema::policy::{Action, Direction, Peer, Priority, Protocol, Rule, RuleSpec};
use bus_schema::{AddressRange, GroupId, GroupName, PolicyName, RuleId, TenantName};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestRunner;
use proptest::{collection, option};

use super::fixture::{address, alteration, draft, group, group_fact, policy, rule, tenant};
use super::*;
use crate::projection::{PolicyFact, TenantFact};

/// docs/design.md, Policy: the matching rule with the highest priority of all the group's policies decides;
/// on a tie deny, then the lower id. If no rule matches, the connection is allowed.
fn model(
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
                // These flows are between endpoints.
                Some(Peer::World) => false,
            }
    });
    match first {
        Some(rule) => (rule.spec.action, Some(rule.spec.priority.into())),
        None => (Action::Allow, None),
    }
}

fn flow() -> impl Strategy<Value = Flow> {
    let protocol = select(vec![
        Protocol::TCP,
        Protocol::TCP,
        Protocol::UDP,
        Protocol::ICMP,
        Protocol(47),
    ]);
    let port = select(vec![0, 1, 2, 79, 80, 81, 90, 91, 443, 8080, 65_534, 65_535]);
    let parts = (address(), address(), protocol, port);
    parts.prop_map(|(from, to, protocol, port)| Flow {
        tenant: TenantName::default_tenant(),
        from: from.into(),
        to: to.into(),
        protocol,
        port: protocol.has_ports().then_some(port),
    })
}

/// Runs a test on generated values; a failure is shrunk.
fn check<S: Strategy>(cases: u32, values: &S, test: impl Fn(S::Value)) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(cases));
    let outcome = runner.run(values, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

#[test]
fn compiled_rules_decide_as_the_first_match() {
    let decided = [Cell::new(0), Cell::new(0)];
    let member = || option::weighted(0.8, (0..4_u64).prop_map(group));
    let flows = collection::vec((flow(), member(), member()), 20);
    check(2_000, &(tenant(), flows), |(tenant, flows)| {
        let mut cache = Cache::default();
        for (flow, from, to) in flows {
            let allowed = decides_as_the_model(&tenant, &flow, (from, to), &mut cache);
            decided[usize::from(allowed)].update(|count| count + 1);
        }
    });
    assert!(
        decided.iter().all(|count| count.get() > 5_000),
        "{decided:?}"
    );
}

/// Whether both allow the connection.
fn decides_as_the_model(
    tenant: &TenantFact,
    flow: &Flow,
    (from, to): (Option<GroupName>, Option<GroupName>),
    cache: &mut Cache,
) -> bool {
    let deciding = Deciding {
        tenant,
        from: &End::Endpoint(from.clone()),
        to: &End::Endpoint(to.clone()),
    };
    let trace = decide(&deciding, flow, cache);
    let (from, to) = (from.as_ref(), to.as_ref());
    let out = model(tenant, Direction::Out, from, (to, flow.to), flow);
    let incoming = model(tenant, Direction::In, to, (from, flow.from), flow);
    let ends = trace.ends.iter().map(|end| {
        let rule = end.rule.as_ref();
        let rule = rule.map(|(policy, id)| &tenant.policies[policy].rules[id]);
        (end.action, rule.map(|rule| u8::from(rule.spec.priority)))
    });
    assert_eq!(ends.collect::<Vec<_>>(), [out, incoming]);
    let allowed = out.0 == Action::Allow && incoming.0 == Action::Allow;
    assert_eq!(trace.allowed, allowed);
    allowed
}

#[test]
fn sender_denies_only_what_it_denies_to_every_group() {
    let name = TenantName::default_tenant();
    let denied = Cell::new(0);
    let member = || option::weighted(0.8, (0..4_u64).prop_map(group));
    let flows = collection::vec((flow(), member()), 20);
    check(2_000, &(tenant(), flows), |(tenant, flows)| {
        let mut cache = Cache::default();
        let ids = tenant.groups.values().map(|it| it.spec.id);
        let ids: Vec<GroupId> = ids.chain([GroupId::UNGROUPED]).collect();
        for (flow, from) in flows {
            let group = from.and_then(|it| tenant.groups.get(&it));
            let policies = group.map(|it| it.spec.policies.clone()).unwrap_or_default();
            let program = cache.program((&name, &tenant), &policies, Direction::Out);
            let IpAddr::V4(to) = flow.to else { continue };
            let port = flow.port.unwrap_or_default();
            let of = |id: GroupId| program.best_rule((id, to), flow.protocol, port);
            let any = program.best_rule_of_any_group(to, flow.protocol, port);
            let is_denied = |it: Option<Value>| it.is_some_and(|it| it.action() == Action::Deny);
            if is_denied(any) {
                assert!(ids.iter().all(|id| is_denied(of(*id))), "{flow:?}");
                denied.update(|count| count + 1);
            }
            let allows_a_group = policies.iter().any(|it| {
                let rules = tenant.policies.get(it).map(|it| it.rules.clone());
                let mut rules = rules.unwrap_or_default().into_iter().map(|(_, it)| it.spec);
                rules.any(|it| {
                    it.action == Action::Allow && matches!(it.peer, Some(Peer::Group { .. }))
                })
            });
            if !allows_a_group {
                assert_eq!(any, of(GroupId::UNGROUPED), "{flow:?}");
            }
        }
    });
    assert!(denied.get() > 500, "{denied:?}");
}

#[test]
fn address_without_endpoint_opens_and_accepts_nothing() {
    check(100, &flow(), |flow| {
        let member = End::Endpoint(None);
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
            let reason = format!("no endpoint has the address {nobodys}");
            assert_eq!((trace.allowed, trace.closed), (false, Some(reason)));
        }
    });
}

/// A rule about the world decides before the translation, and none about groups does.
#[test]
fn only_rules_about_the_world_or_the_address_decide_about_addresses_outside() {
    let name = || -> PolicyName { "out".parse().expect("valid") };
    let world: IpAddr = [203, 0, 113, 5].into();
    let range = AddressRange {
        first: world,
        last: world,
    };
    let about_group = Peer::Group { group: group(0) };
    for (peer, decides) in [
        (None, true),
        (Some(Peer::World), true),
        (Some(Peer::Addresses { range }), true),
        (Some(about_group), false),
    ] {
        let mut tenant = TenantFact::default();
        let rule = Rule {
            id: "1".parse().expect("valid"),
            number: 1,
            spec: RuleSpec {
                direction: Direction::Out,
                priority: Priority::DEFAULT,
                action: Action::Deny,
                protocol: None,
                ports: Vec::new(),
                peer,
            },
        };
        let mut policy = PolicyFact::default();
        policy.rules.insert(rule.id.clone(), rule);
        tenant.policies.insert(name(), policy);
        let fact = group_fact(group(0), GroupId(2), vec![name()]);
        tenant.groups.insert(fact.spec.name.clone(), fact);
        let member = End::Endpoint(Some(group(0)));
        let flow = Flow {
            tenant: TenantName::default_tenant(),
            from: [10, 0, 0, 1].into(),
            to: world,
            protocol: Protocol::TCP,
            port: Some(80),
        };
        let deciding = Deciding {
            tenant: &tenant,
            from: &member,
            to: &End::World,
        };
        let trace = decide(&deciding, &flow, &mut Cache::default());
        assert_eq!((!trace.allowed, trace.ends.len()), (decides, 1));
        let (own, ends) = ([name()], (member.clone(), End::World));
        assert_eq!(
            must_end(&tenant, &own, &flow, ends, &mut Cache::default()),
            decides
        );
        let leaves = may_leave(&tenant, Some(&group(0)), &flow, &mut Cache::default());
        assert_eq!(!leaves, decides);
    }
}

/// Each range lies in the one before it.
#[test]
fn program_size_is_linear_however_ranges_nest() {
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
    assert!(program.port_tables.len() < 62 * RULES as usize);
    assert!(program.lengths().count() <= 33);
}

/// Rules, groups, networks and policies are added, removed and changed.
#[test]
fn changed_program_equals_one_that_is_compiled_from_scratch() {
    let name = TenantName::default_tenant();
    let compared = Cell::new(0);
    let step = (
        collection::vec(alteration(), 1..=4),
        proptest::bool::weighted(0.125),
    );
    let steps = collection::vec(step, 30..=60);
    check(60, &(tenant(), steps), |(mut now, steps)| {
        let mut cache = Cache::default();
        let mut numbers = 1_000..;
        for (alterations, sweeps) in steps {
            for (alteration, number) in alterations.into_iter().zip(&mut numbers) {
                alteration.apply(&mut now, number);
            }
            for policies in [vec![policy(0)], vec![policy(2), policy(0)], vec![policy(1)]] {
                for direction in [Direction::In, Direction::Out] {
                    let changed = cache.program((&name, &now), &policies, direction);
                    let fresh = Cache::default().program((&name, &now), &policies, direction);
                    assert_eq!(changed, fresh);
                    compared.update(|count| count + usize::from(!fresh.is_empty()));
                }
            }
            if sweeps {
                cache.sweep(&name);
            }
        }
    });
    assert!(compared.get() > 1_000, "{compared:?}");
}

#[test]
fn unchanged_program_is_not_compiled_again() {
    let name = TenantName::default_tenant();
    let policies = [policy(0), policy(1)];
    check(
        20,
        &(tenant(), draft(), draft()),
        |(mut tenant, elsewhere, mut here)| {
            let mut cache = Cache::default();
            let mut program =
                |tenant: &TenantFact| cache.program((&name, tenant), &policies, Direction::In);
            let first = program(&tenant);
            let elsewhere = rule(elsewhere, 900);
            let changed = tenant.policies.get_mut(&policy(2)).expect("there");
            changed.rules.insert(elsewhere.id.clone(), elsewhere);
            assert!(std::sync::Arc::ptr_eq(&first, &program(&tenant)));
            here.1.direction = Direction::In;
            let here = rule(here, 901);
            let changed = tenant.policies.get_mut(&policy(1)).expect("there");
            changed.rules.insert(here.id.clone(), here);
            assert!(!std::sync::Arc::ptr_eq(&first, &program(&tenant)));
        },
    );
}

#[test]
fn connections_end_that_are_of_the_policies_groups_and_denied_now() {
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
        let fact = group_fact(group(number), GroupId(number as u16 + 2), policies);
        tenant.groups.insert(group(number), fact);
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
