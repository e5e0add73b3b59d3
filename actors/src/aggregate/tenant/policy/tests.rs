mod peers;

use bus_schema::command::{GroupRemove, NetworkRemove, Removal, TenantRemove};
use bus_schema::event::{
    GroupClosing, GroupCreated, NetworkClosing, NetworkCreated, TenantClosed, TenantOpened,
};
use bus_schema::policy::{Action, Direction, Priority};
use bus_schema::testing;
use bus_schema::{GroupId, GroupSpec, NetworkName, NetworkSpec, Pool, Vni};

use super::super::{TenantCommand, TenantFacts};
use super::*;
use crate::aggregate::Aggregate;
use crate::testing::{Given, given};

fn tenant() -> TenantName {
    testing::name("blue")
}

fn p() -> PolicyName {
    testing::name("p")
}

fn net(name: &str) -> NetworkName {
    testing::name(name)
}

fn group(name: &str) -> GroupName {
    testing::name(name)
}

fn rule(id: &str) -> RuleId {
    id.parse().expect("an id")
}

fn facts() -> TenantFacts {
    TenantFacts::default()
}

/// Tenant blue with network front, group web in it, and policy p.
fn events() -> Vec<Event> {
    let network = NetworkSpec::new(
        tenant(),
        net("front"),
        Vni(1),
        Pool {
            subnet: testing::subnet("20.1.1.0/24"),
            gateway: testing::ip("20.1.1.1"),
            range: None,
        },
    );
    let web = GroupSpec {
        tenant: tenant(),
        network: net("front"),
        name: group("web"),
        id: GroupId(2),
        policies: vec![],
        docker_name: None,
        pool: None,
    };
    vec![
        Event::TenantOpened(TenantOpened { tenant: tenant() }),
        Event::NetworkCreated(NetworkCreated { network }),
        Event::GroupCreated(GroupCreated { group: web }),
        created(),
    ]
}

fn blue() -> Given<Tenant> {
    given::<Tenant>(events())
}

fn created() -> Event {
    Event::PolicyCreated(PolicyCreated {
        tenant: tenant(),
        policy: p(),
    })
}

fn applied_p() -> Event {
    applied(&tenant(), &p())
}

fn ports(text: &str) -> Vec<PortRange> {
    let ranges = text.split(',').map(|range| range.parse().expect("ports"));
    ranges.collect()
}

fn deny_tcp() -> RuleSpec {
    RuleSpec {
        direction: Direction::In,
        priority: Priority::DEFAULT,
        action: Action::Deny,
        protocol: Some(Protocol::TCP),
        ports: vec![],
        peer: None,
    }
}

fn from(peer: Peer) -> RuleSpec {
    RuleSpec {
        peer: Some(peer),
        ..deny_tcp()
    }
}

fn from_web() -> RuleSpec {
    from(Peer::Group {
        group: group("web"),
    })
}

fn from_front() -> RuleSpec {
    from(Peer::Network {
        network: net("front"),
    })
}

fn addresses(first: &str, last: &str) -> RuleSpec {
    from(Peer::Addresses {
        range: AddressRange {
            first: testing::ip(first),
            last: testing::ip(last),
        },
    })
}

fn add(id: &str, spec: RuleSpec) -> TenantCommand {
    TenantCommand::RuleAdd(RuleAdd {
        tenant: tenant(),
        policy: p(),
        rule: rule(id),
        spec,
        immediate: false,
    })
}

fn add_now(id: &str, spec: RuleSpec) -> TenantCommand {
    TenantCommand::RuleAdd(RuleAdd {
        tenant: tenant(),
        policy: p(),
        rule: rule(id),
        spec,
        immediate: true,
    })
}

fn drop_rule(id: &str, immediate: bool) -> TenantCommand {
    TenantCommand::RuleRemove(RuleRemove {
        tenant: tenant(),
        policy: p(),
        rule: rule(id),
        immediate,
    })
}

fn added(id: &str, number: u32, spec: RuleSpec) -> Event {
    Event::RuleAdded(RuleAdded {
        tenant: tenant(),
        policy: p(),
        rule: Rule {
            id: rule(id),
            number,
            spec,
        },
    })
}

fn dropped(id: &str) -> Event {
    Event::RuleRemoved(RuleRemoved {
        tenant: tenant(),
        policy: p(),
        rule: rule(id),
    })
}

#[test]
fn a_policy_is_created_once_and_goes_with_its_rules() {
    let create = || {
        TenantCommand::PolicyCreate(PolicyCreate {
            tenant: tenant(),
            policy: p(),
        })
    };
    let remove = || {
        TenantCommand::PolicyRemove(PolicyRemove {
            tenant: tenant(),
            policy: p(),
        })
    };
    given::<Tenant>([Event::TenantOpened(TenantOpened { tenant: tenant() })])
        .when(create(), facts())
        .then([created()])
        .when(create(), facts())
        .then([])
        .when(add("1", deny_tcp()), facts())
        .accepted()
        .when(remove(), facts())
        .then([Event::PolicyRemoved(PolicyRemoved {
            tenant: tenant(),
            policy: p(),
        })])
        .when(create(), facts())
        .accepted()
        .when(drop_rule("1", false), facts())
        .rejected(Rejection::RuleUnknown {
            tenant: tenant(),
            policy: p(),
            rule: rule("1"),
        });
}

#[test]
fn an_unknown_policy_is_named() {
    let open = || given::<Tenant>([Event::TenantOpened(TenantOpened { tenant: tenant() })]);
    let apply = TenantCommand::PolicyApply(PolicyApply {
        tenant: tenant(),
        policy: p(),
    });
    let remove = TenantCommand::PolicyRemove(PolicyRemove {
        tenant: tenant(),
        policy: p(),
    });
    for command in [apply, remove, add("1", deny_tcp()), drop_rule("1", false)] {
        open()
            .when(command.clone(), facts())
            .rejected(Rejection::PolicyUnknown {
                tenant: tenant(),
                policy: p(),
            });
        given::<Tenant>([])
            .when(command, facts())
            .rejected(Rejection::TenantUnknown { tenant: tenant() });
    }
}

#[test]
fn a_rule_is_added_once_with_its_ports_in_order() {
    let asked = RuleSpec {
        ports: ports("443,80,81"),
        ..deny_tcp()
    };
    let normal = RuleSpec {
        ports: ports("80-81,443"),
        ..deny_tcp()
    };
    blue()
        .when(add("1", asked.clone()), facts())
        .then([added("1", 1, normal.clone())])
        .when(add("1", asked), facts())
        .then([])
        .when(add("1", normal), facts())
        .then([]);
}

#[test]
fn another_rule_of_the_id_is_refused_and_what_differs_is_named() {
    for (other, differs) in [
        (
            RuleSpec {
                direction: Direction::Out,
                ..deny_tcp()
            },
            "direction",
        ),
        (
            RuleSpec {
                priority: Priority::new(9).expect("a priority"),
                ..deny_tcp()
            },
            "priority",
        ),
        (
            RuleSpec {
                action: Action::Allow,
                ..deny_tcp()
            },
            "action",
        ),
        (
            RuleSpec {
                protocol: None,
                ..deny_tcp()
            },
            "protocol",
        ),
        (
            RuleSpec {
                ports: ports("80"),
                ..deny_tcp()
            },
            "list of ports",
        ),
        (from_web(), "peer"),
    ] {
        blue()
            .when(add("1", deny_tcp()), facts())
            .accepted()
            .when(add("1", other), facts())
            .rejected(Rejection::RuleDiffers {
                policy: p(),
                rule: rule("1"),
                differs: differs.to_owned(),
            });
    }
}

#[test]
fn a_number_is_never_given_twice() {
    blue()
        .when(add("1", deny_tcp()), facts())
        .then([added("1", 1, deny_tcp())])
        .when(add("2", deny_tcp()), facts())
        .then([added("2", 2, deny_tcp())])
        .when(drop_rule("2", false), facts())
        .then([dropped("2")])
        .when(add("2", deny_tcp()), facts())
        .then([added("2", 3, deny_tcp())]);
    // Not even when the tenant was removed in between.
    let mut tenant_again = blue();
    tenant_again.state.evolve(&added("1", 7, deny_tcp()));
    let closed = TenantClosed { tenant: tenant() };
    tenant_again.state.evolve(&Event::TenantClosed(closed));
    assert!(!tenant_again.state.open);
    for event in events() {
        tenant_again.state.evolve(&event);
    }
    tenant_again
        .when(add("1", deny_tcp()), facts())
        .then([added("1", 8, deny_tcp())]);
}

#[test]
fn a_rule_is_refused_when_no_number_is_left() {
    let mut last = blue();
    let event = added("1", Rule::MAX_NUMBER, deny_tcp());
    last.state.evolve(&event);
    last.when(add("2", deny_tcp()), facts())
        .rejected(Rejection::RuleNumbersExhausted { tenant: tenant() });
}

#[test]
fn applied_event_follows_the_change_of_an_immediate_command() {
    blue()
        .when(add_now("1", deny_tcp()), facts())
        .then([added("1", 1, deny_tcp()), applied_p()])
        .when(add_now("1", deny_tcp()), facts())
        .then([applied_p()])
        .when(drop_rule("1", true), facts())
        .then([dropped("1"), applied_p()]);
    let apply = TenantCommand::PolicyApply(PolicyApply {
        tenant: tenant(),
        policy: p(),
    });
    blue()
        .when(apply.clone(), facts())
        .then([applied_p()])
        .when(apply, facts())
        .then([applied_p()]);
}

#[test]
fn ports_need_a_protocol_that_has_them() {
    for protocol in [None, Some(Protocol::ICMP), Some(Protocol(47))] {
        let spec = RuleSpec {
            protocol,
            ports: ports("80"),
            ..deny_tcp()
        };
        blue()
            .when(add("1", spec), facts())
            .rejected(Rejection::PortsWithoutProtocol);
    }
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        let spec = RuleSpec {
            protocol: Some(protocol),
            ports: ports("80"),
            ..deny_tcp()
        };
        blue().when(add("1", spec), facts()).accepted();
    }
}

#[test]
fn a_rule_that_no_packet_can_match_is_refused() {
    let backwards = RuleSpec {
        ports: vec![PortRange { first: 9, last: 3 }],
        ..deny_tcp()
    };
    for spec in [backwards, addresses("10.1.1.9", "10.1.1.3")] {
        let rejection = blue().when(add("1", spec), facts()).rejection();
        assert!(
            matches!(
                rejection,
                Rejection::PortsReversed { .. } | Rejection::AddressesReversed { .. }
            ),
            "{rejection}"
        );
    }
    for spec in [
        addresses("fd00::1", "fd00::9"),
        addresses("10.1.1.1", "fd00::9"),
    ] {
        let rejection = blue().when(add("1", spec), facts()).rejection();
        assert!(
            matches!(rejection, Rejection::Unsupported { .. }),
            "{rejection}"
        );
    }
}

#[test]
fn a_tenant_with_policies_stays() {
    let opened = Event::TenantOpened(TenantOpened { tenant: tenant() });
    given::<Tenant>([opened, created()])
        .when(
            TenantCommand::Remove(TenantRemove { tenant: tenant() }),
            facts(),
        )
        .rejected(Rejection::TenantInUse {
            tenant: tenant(),
            networks: vec![],
            groups: vec![],
            policies: vec![p()],
        });
}
