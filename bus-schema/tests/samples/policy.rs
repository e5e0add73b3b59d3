//! Samples of groups, policies and rules.

use bus_schema::command::{
    GroupCreate, GroupRemove, GroupUpdate, PolicyApply, PolicyCreate, PolicyRemove, Removal,
    RuleAdd, RuleRemove,
};
use bus_schema::lookup::{EngineAnswer, Lookup, Outcome, RecordKind, Resolution, Resolved};
use bus_schema::node::{Counter, Flow, NodeReply, NodeRequest, Trace, TraceEnd};
use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol};
use bus_schema::query::{GroupInfo, PolicyInfo};
use bus_schema::testing;
use bus_schema::{
    Answer, Command, Event, GroupId, GroupName, GroupSpec, PolicyName, Query, Revision, Rule,
    RuleSpec, event,
};
use ipnet::IpNet;

use super::{ip, network, node, tenant, v4};

pub(super) fn group() -> GroupName {
    testing::name("prod_db")
}

pub(super) fn policy() -> PolicyName {
    testing::name("prod_web")
}

pub(super) fn rule() -> Rule {
    Rule {
        id: testing::name("2"),
        number: 70_000,
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::new(10).expect("priority"),
            action: Action::Allow,
            protocol: Some(Protocol::TCP),
            ports: vec![
                PortRange {
                    first: 80,
                    last: 80,
                },
                PortRange {
                    first: 8000,
                    last: 8100,
                },
            ],
            peer: Some(Peer::Group { group: group() }),
        },
    }
}

/// Outgoing, to addresses.
fn other_rule() -> Rule {
    Rule {
        id: testing::name("3"),
        number: 70_001,
        spec: RuleSpec {
            direction: Direction::Out,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: None,
            ports: vec![],
            peer: Some(Peer::Addresses {
                range: v4().range.expect("a range"),
            }),
        },
    }
}

fn spec() -> GroupSpec {
    GroupSpec {
        tenant: tenant(),
        network: network(),
        name: group(),
        id: GroupId(300),
        policies: vec![policy()],
        docker_name: Some("dbs".to_owned()),
        pool: None,
    }
}

pub(super) fn events() -> Vec<Event> {
    let (tenant, group, policy) = (tenant(), group(), policy());
    vec![
        Event::GroupCreated(event::GroupCreated { group: spec() }),
        Event::GroupUpdated(event::GroupUpdated {
            tenant: tenant.clone(),
            group: group.clone(),
            policies: vec![policy.clone()],
        }),
        Event::GroupClosing(event::GroupClosing {
            tenant: tenant.clone(),
            group: group.clone(),
        }),
        Event::GroupReopened(event::GroupReopened {
            tenant: tenant.clone(),
            group: group.clone(),
        }),
        Event::GroupRemoved(event::GroupRemoved {
            tenant: tenant.clone(),
            group,
            id: GroupId(300),
            forced: true,
        }),
        Event::PolicyCreated(event::PolicyCreated {
            tenant: tenant.clone(),
            policy: policy.clone(),
        }),
        Event::PolicyRemoved(event::PolicyRemoved {
            tenant: tenant.clone(),
            policy: policy.clone(),
        }),
        Event::PolicyApplied(event::PolicyApplied {
            tenant: tenant.clone(),
            policy: policy.clone(),
        }),
        Event::RuleAdded(event::RuleAdded {
            tenant: tenant.clone(),
            policy: policy.clone(),
            rule: rule(),
        }),
        Event::RuleRemoved(event::RuleRemoved {
            tenant,
            policy,
            rule: rule().id,
        }),
    ]
}

/// Samples of groups with addresses of their own.
pub(crate) fn pooled_events() -> Vec<Event> {
    let pool = v4();
    let block = IpNet::new(ip("20.1.1.16"), 28).expect("a block");
    let spec = GroupSpec {
        pool: pool.range,
        ..spec()
    };
    vec![
        Event::GroupCreated(event::GroupCreated { group: spec }),
        Event::LeasesOpened(event::LeasesOpened {
            tenant: tenant(),
            network: network(),
            group: Some(group()),
            v4: pool,
            v6: None,
        }),
        Event::BlockLeased(event::BlockLeased {
            tenant: tenant(),
            network: network(),
            group: Some(group()),
            block,
            node: node("node1"),
        }),
    ]
}

pub(super) fn commands() -> Vec<Command> {
    let (tenant, group, policy) = (tenant(), group(), policy());
    vec![
        Command::GroupCreate(GroupCreate {
            tenant: tenant.clone(),
            network: network(),
            group: group.clone(),
            policies: vec![policy.clone()],
            ip_pool: v4().range,
            docker_name: Some("dbs".to_owned()),
        }),
        Command::GroupUpdate(GroupUpdate {
            tenant: tenant.clone(),
            group: group.clone(),
            policies: vec![policy.clone()],
        }),
        Command::GroupRemove(GroupRemove {
            tenant: tenant.clone(),
            group,
            mode: Removal::Finish,
        }),
        Command::PolicyCreate(PolicyCreate {
            tenant: tenant.clone(),
            policy: policy.clone(),
        }),
        Command::PolicyRemove(PolicyRemove {
            tenant: tenant.clone(),
            policy: policy.clone(),
        }),
        Command::PolicyApply(PolicyApply {
            tenant: tenant.clone(),
            policy: policy.clone(),
        }),
        Command::RuleAdd(RuleAdd {
            tenant: tenant.clone(),
            policy: policy.clone(),
            rule: other_rule().id,
            spec: other_rule().spec,
            immediate: true,
        }),
        Command::RuleRemove(RuleRemove {
            tenant,
            policy,
            rule: rule().id,
            immediate: true,
        }),
    ]
}

pub(super) fn queries() -> [Query; 2] {
    [
        Query::GroupList {
            tenant: Some(tenant()),
            group: Some(group()),
        },
        Query::PolicyList {
            tenant: Some(tenant()),
            policy: Some(policy()),
        },
    ]
}

pub(super) fn answers() -> [Answer; 2] {
    let revision = Revision(42);
    [
        Answer::Groups {
            revision,
            groups: vec![GroupInfo {
                spec: spec(),
                created: Revision(9),
                closing: true,
                endpoints: 3,
                addresses: None,
                usage: vec![],
            }],
        },
        Answer::Policies {
            revision,
            policies: vec![PolicyInfo {
                tenant: tenant(),
                policy: policy(),
                created: Revision(8),
                rules: vec![rule(), other_rule()],
                groups: vec![group()],
            }],
        },
    ]
}

pub(super) fn node_requests() -> [NodeRequest; 4] {
    [
        NodeRequest::Resolve(Lookup {
            tenant: tenant(),
            from: ip("20.1.1.17"),
            name: "db.contiv-net".to_owned(),
            record: RecordKind::Aaaa,
        }),
        NodeRequest::DrainGroup {
            tenant: tenant(),
            group: group(),
            revision: Revision(42),
        },
        NodeRequest::Counters { tenant: tenant() },
        NodeRequest::Trace(Flow {
            tenant: tenant(),
            from: ip("20.1.1.17"),
            to: ip("20.1.1.18"),
            protocol: Protocol::TCP,
            port: Some(443),
        }),
    ]
}

/// The answer to a container of an engine, which its own resolver gives.
pub(crate) fn engine_reply() -> NodeReply {
    NodeReply::Resolved(Resolution {
        outcome: Outcome::Forwarded {
            resolvers: Vec::new(),
        },
        records: Vec::new(),
        ttl: 5,
        because: vec!["denied".to_owned()],
        refused: true,
        engine: Some(EngineAnswer {
            code: "NOERROR".to_owned(),
            records: vec!["20.1.1.18".to_owned()],
            ttl: 600,
            first: true,
        }),
    })
}

pub(super) fn node_replies() -> [NodeReply; 3] {
    let counter = Counter {
        packets: 3,
        bytes: 180,
    };
    [
        NodeReply::Resolved(Resolution {
            outcome: Outcome::Forwarded {
                resolvers: vec![ip("10.0.0.2")],
            },
            records: vec![Resolved {
                data: "20.1.1.18".to_owned(),
                endpoint: testing::name("e1"),
                node: testing::name("node2"),
                silent: true,
            }],
            ttl: 5,
            because: vec!["nobody bears it".to_owned()],
            refused: false,
            engine: None,
        }),
        NodeReply::Counters {
            rules: [(70_000, counter)].into(),
        },
        NodeReply::Traced(Trace {
            allowed: false,
            ends: vec![
                TraceEnd {
                    direction: Direction::Out,
                    group: None,
                    action: Action::Allow,
                    rule: None,
                },
                TraceEnd {
                    direction: Direction::In,
                    group: Some(group()),
                    action: Action::Deny,
                    rule: Some((policy(), rule().id)),
                },
            ],
            closed: Some("its policy isn't in place".to_owned()),
            route: vec!["20.1.1.18 dev cv0123456789".to_owned()],
            translation: None,
        }),
    ]
}
