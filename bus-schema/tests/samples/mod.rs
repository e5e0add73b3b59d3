//! One sample of every message of the contract, with fixed ids, for the golden files.

mod answer;
mod command;
mod event;
mod limited;
mod node;
mod outside;
mod policy;
mod rejection;

pub(crate) use answer::answers;
pub(crate) use command::commands;
pub(crate) use event::events;
use event::first_events;
pub(crate) use limited::{limited_answer, limited_commands, limited_event};
use node::healing;
pub(crate) use node::{node_replies, node_requests};
pub(crate) use outside::{
    outside_answers, outside_commands, outside_events, status_of_a_node_with_ways_out,
    trace_outside,
};
pub(crate) use policy::{engine_reply, pooled_events};
pub(crate) use rejection::rejections;

use std::net::IpAddr;

use bus_schema::command::Request;
use bus_schema::healing::{Cleanup, Healed, Healing, Step, Steps};
use bus_schema::mark_rule::MarkRule;
use bus_schema::node::{
    Alarm, DnsCounters, DomainKind, EngineStatus, Examination, Finding, Grade, LogState, NodeReply,
    NodeRequest, NodeStatus, Spare,
};
use bus_schema::rejection::EndpointUse;
use bus_schema::surroundings::{EngineSubnet, InterfaceAddress, Surroundings};
use bus_schema::testing;
use bus_schema::{
    AddressRange, ClusterId, CommandId, Endpoint, EndpointEvent, Envelope, Event, EventId, Header,
    MacAddr, MachineId, NetworkName, NetworkSpec, NodeName, Pool, PoolKey, Query, Rejection, Reply,
    Revision, TenantName, Vni,
};
use uuid::Uuid;

const MACHINE: &str = "2f6b1c0de0a94d7d8f1f6a3f5a3f0c11";

fn tenant() -> TenantName {
    testing::name("blue")
}

fn network() -> NetworkName {
    testing::name("contiv-net")
}

fn node(name: &str) -> NodeName {
    testing::name(name)
}

fn ip(text: &str) -> IpAddr {
    testing::ip(text)
}

fn subnet(text: &str) -> ipnet::IpNet {
    testing::subnet(text)
}

fn id(tail: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | tail)
}

fn v4() -> Pool {
    Pool {
        subnet: subnet("20.1.1.0/24"),
        gateway: ip("20.1.1.254"),
        range: Some(AddressRange {
            first: ip("20.1.1.10"),
            last: ip("20.1.1.200"),
        }),
    }
}

fn v6() -> Pool {
    Pool {
        subnet: subnet("fd00:20::/64"),
        gateway: ip("fd00:20::fe"),
        range: None,
    }
}

fn spec() -> NetworkSpec {
    NetworkSpec {
        tenant: tenant(),
        name: network(),
        vni: Vni(1001),
        v4: v4(),
        v6: Some(v6()),
        docker_name: Some("front".to_owned()),
        max_connections: None,
        egress: None,
        allow_metadata: false,
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: testing::name("4f1c9a"),
        tenant: tenant(),
        network: network(),
        group: Some(testing::name("prod_db")),
        node: node("node1"),
        v4: Some(testing::ip("20.1.1.17")),
        v6: Some(testing::ip("fd00:20::11")),
        mac: MacAddr::of_endpoint(ip("20.1.1.17")),
        name: Some("db".to_owned()),
        aliases: vec!["database".to_owned()],
        container: Some("c0ffee".to_owned()),
        interface: "cv0123456789".to_owned(),
        closed: None,
        vtep: ip("198.18.0.11"),
    }
}

fn endpoint_use() -> EndpointUse {
    EndpointUse {
        endpoint: endpoint().id,
        node: node("node1"),
        name: Some("db".to_owned()),
        address: ip("20.1.1.17"),
    }
}

pub(crate) fn status() -> NodeStatus {
    NodeStatus {
        node: node("node1"),
        machine: MachineId(MACHINE.to_owned()),
        vtep: ip("198.18.0.11"),
        version: "0.1.0".to_owned(),
        applied: Revision(42),
        log: LogState::Disconnected {
            reason: "connection refused".to_owned(),
        },
        engine: Some(EngineStatus {
            answers: true,
            applied: Revision(41),
            version: Some("20.10.24".to_owned()),
        }),
        domain: DomainKind::Vrf,
        endpoints: 3,
        unpublished: 1,
        blocks: 2,
        drained: false,
        left: false,
        alarms: vec![Alarm::new(
            Grade::Wrong,
            "foreign-log",
            "another cluster's log",
        )],
        dns: Some(DnsCounters {
            answered: 70,
            forwarded: 8,
            cached: 5,
            failed: 1,
            malformed: 2,
            refused: 0,
        }),
        healing: Some(Box::new(healing())),
        at: Some(1_790_000_000_500),
        surroundings: None,
        carries: vec![],
    }
}

pub(crate) fn status_with_surroundings() -> NodeStatus {
    let around = Surroundings {
        interfaces: vec![InterfaceAddress {
            interface: "eth0".to_owned(),
            address: "198.18.0.11/24".parse().expect("an address"),
        }],
        resolvers: vec![ip("198.18.0.2")],
        engine_subnets: vec![EngineSubnet {
            network: "bridge".to_owned(),
            subnet: "172.17.0.0/16".parse().expect("a subnet"),
        }],
        mark_rules: Vec::new(),
    };
    NodeStatus {
        surroundings: Some(Box::new(around)),
        dns: Some(DnsCounters {
            refused: 3,
            ..DnsCounters::default()
        }),
        ..status()
    }
}

pub(crate) fn status_with_mark_rules() -> NodeStatus {
    let rule = |not, ipv6, action: &str| MarkRule {
        preference: 100,
        mark: 0xca6c,
        mask: u32::MAX,
        not,
        ipv6,
        action: action.to_owned(),
    };
    let around = Surroundings {
        mark_rules: vec![
            rule(true, false, "lookup 51820"),
            rule(false, true, "blackhole"),
        ],
        ..Surroundings::default()
    };
    NodeStatus {
        surroundings: Some(Box::new(around)),
        ..status()
    }
}

fn header(tail: u128) -> Header {
    Header::new(
        EventId(id(tail)),
        1_790_000_000_000,
        "netmaster-1",
        CommandId(id(0xc0)),
    )
}

/// `event` as the log holds it, written by the first schema that knew it.
pub(crate) fn enveloped(event: Event) -> Envelope<Event> {
    let mut header = header(0xe0);
    header.min_reader = event.min_reader();
    header.schema = header.min_reader;
    Envelope {
        header,
        body: event,
    }
}

fn requested<T>(body: T) -> Request<T> {
    Request {
        id: CommandId(id(0xc0)),
        deadline: 1_790_000_005_000,
        within: None,
        seen: Revision(41),
        linearizable: false,
        body,
    }
}

/// As builds since [`Request::within`] write it.
pub(crate) fn request_within() -> Request<Query> {
    Request {
        within: Some(5_000),
        linearizable: true,
        ..requested(Query::TenantList)
    }
}

pub(crate) fn queries() -> Vec<Request<Query>> {
    [
        Query::ClusterInfo,
        Query::TenantList,
        Query::NetworkList {
            tenant: Some(tenant()),
            network: Some(network()),
        },
        Query::NodeList {
            node: Some(node("node1")),
        },
        Query::EndpointList {
            tenant: Some(tenant()),
        },
        Query::Wait {
            revision: Some(Revision(42)),
        },
    ]
    .into_iter()
    .chain(policy::queries())
    .map(requested)
    .collect()
}

pub(crate) fn replies() -> Vec<Reply> {
    vec![
        Reply::Accepted {
            revision: Revision(42),
            events: first_events(),
        },
        Reply::Rejected {
            rejection: Rejection::NetworkInUse {
                tenant: tenant(),
                network: network(),
                endpoints: vec![endpoint_use()],
            },
            revision: Revision(42),
            text: None,
        },
        Reply::Unknown {
            id: CommandId(id(0xc0)),
            reason: "no answer from the log".to_owned(),
        },
    ]
}

pub(crate) fn endpoint_events() -> Vec<EndpointEvent> {
    vec![
        EndpointEvent::Up {
            endpoint: endpoint(),
            applied: Revision(42),
        },
        EndpointEvent::Down {
            tenant: tenant(),
            network: network(),
            node: node("node1"),
            id: endpoint().id,
            applied: Revision(43),
        },
        EndpointEvent::Healed {
            node: node("node1"),
            kinds: healing().kinds,
            last: healing().last.expect("something was healed"),
            applied: Revision(44),
        },
    ]
}
