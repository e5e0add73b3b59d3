//! Messages about ways out of networks, which older versions don't have.

use bus_schema::command::{NetworkCreate, NetworkUpdate, RuleAdd, TenantCreate, TenantUpdate};
use bus_schema::event::{NetworkCreated, NetworkUpdated, RuleAdded, TenantUpdated};
use bus_schema::node::{EGRESS, NodeReply, NodeStatus, Trace, TraceEnd};
use bus_schema::policy::{Action, Direction, Peer, Priority};
use bus_schema::query::TenantInfo;
use bus_schema::{Answer, Command, Egress, Event, NetworkSpec, Revision, Rule, RuleSpec, testing};

use super::{network, spec, status, subnet, tenant};

pub(crate) fn outside_commands() -> Vec<Command> {
    vec![
        Command::TenantCreate(TenantCreate {
            tenant: tenant(),
            max_connections: None,
            egress: Some(Egress::None),
        }),
        Command::TenantUpdate(TenantUpdate {
            tenant: tenant(),
            max_connections: None,
            egress: Some(Egress::Nat),
        }),
        Command::NetworkCreate(NetworkCreate {
            tenant: tenant(),
            network: network(),
            subnet: subnet("20.1.1.0/24"),
            range: None,
            gateway: None,
            subnet6: None,
            gateway6: None,
            vni: None,
            docker_name: None,
            max_connections: None,
            egress: Some(Egress::Nat),
            allow_metadata: Some(true),
        }),
        Command::NetworkUpdate(NetworkUpdate {
            tenant: tenant(),
            network: network(),
            max_connections: None,
            egress: Some(Egress::None),
            allow_metadata: Some(false),
        }),
        Command::RuleAdd(RuleAdd {
            tenant: tenant(),
            policy: testing::name("p"),
            rule: testing::name("1"),
            spec: to_the_world(),
            immediate: false,
        }),
    ]
}

fn to_the_world() -> RuleSpec {
    RuleSpec {
        direction: Direction::Out,
        priority: Priority::DEFAULT,
        action: Action::Deny,
        protocol: None,
        ports: vec![],
        peer: Some(Peer::World),
    }
}

pub(crate) fn outside_events() -> Vec<Event> {
    vec![
        Event::TenantUpdated(TenantUpdated {
            tenant: tenant(),
            max_connections: None,
            egress: Some(Egress::None),
        }),
        Event::NetworkCreated(NetworkCreated {
            network: NetworkSpec {
                egress: Some(Egress::Nat),
                allow_metadata: true,
                ..spec()
            },
        }),
        Event::NetworkUpdated(NetworkUpdated {
            tenant: tenant(),
            network: network(),
            max_connections: None,
            egress: Some(Egress::None),
            allow_metadata: Some(false),
        }),
        Event::RuleAdded(RuleAdded {
            tenant: tenant(),
            policy: testing::name("p"),
            rule: Rule {
                id: testing::name("1"),
                number: 7,
                spec: to_the_world(),
            },
        }),
    ]
}

pub(crate) fn outside_answers() -> Vec<Answer> {
    vec![Answer::Tenants {
        revision: Revision(42),
        tenants: vec![TenantInfo {
            tenant: tenant(),
            networks: vec![network()],
            max_connections: None,
            egress: Some(Egress::None),
        }],
    }]
}

pub(crate) fn trace_outside() -> NodeReply {
    NodeReply::Traced(Trace {
        allowed: true,
        ends: vec![TraceEnd {
            direction: Direction::Out,
            group: None,
            action: Action::Allow,
            rule: None,
        }],
        closed: None,
        route: vec!["node node1: from 20.1.1.17 iif cv0123456789 mark 0x1".to_owned()],
        translation: Some("masquerade: 20.1.1.17 becomes an address of node node1".to_owned()),
    })
}

pub(crate) fn status_of_a_node_with_ways_out() -> NodeStatus {
    NodeStatus {
        carries: vec![EGRESS.to_owned()],
        ..status()
    }
}
