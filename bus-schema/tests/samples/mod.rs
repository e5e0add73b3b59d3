//! One sample of every message of the contract, with fixed ids, for the golden files.

mod node;
mod policy;
mod rejection;

use node::healing;
pub(crate) use node::{node_replies, node_requests};
pub(crate) use policy::pooled_events;
pub(crate) use rejection::rejections;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::command::{
    BlockCede, BlockLease, BlockReturn, BlockRevoke, LogAccept, NetworkCreate, NetworkRemove,
    NodeDrain, NodeJoin, NodeLeave, NodeRemove, NodeUncordon, Removal, Request, TenantCreate,
    TenantRemove,
};
use bus_schema::event::{self, Settings};
use bus_schema::healing::{Cleanup, Healed, Healing, Step, Steps};
use bus_schema::node::{
    Alarm, DnsCounters, DomainKind, EngineStatus, Examination, Finding, Grade, LogState, NodeReply,
    NodeRequest, NodeStatus, Spare,
};
use bus_schema::query::{
    AddressCount, BlockUsage, ClusterInfo, NetworkInfo, NodeInfo, TenantInfo, Waited,
};
use bus_schema::rejection::EndpointUse;
use bus_schema::{
    AddressRange, Answer, ClusterId, Command, CommandId, Endpoint, EndpointEvent, EndpointId,
    Envelope, Event, EventId, GroupName, Header, MacAddr, MachineId, NetworkName, NetworkSpec,
    NodeName, Pool, PoolKey, Query, Rejection, Reply, Revision, TenantName, Vni,
};
use uuid::Uuid;

const MACHINE: &str = "2f6b1c0de0a94d7d8f1f6a3f5a3f0c11";

fn tenant() -> TenantName {
    TenantName::new("blue").expect("name")
}

fn network() -> NetworkName {
    NetworkName::new("contiv-net").expect("name")
}

fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("name")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn subnet(text: &str) -> ipnet::IpNet {
    text.parse().expect("subnet")
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
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: EndpointId::new("4f1c9a").expect("id"),
        tenant: tenant(),
        network: network(),
        group: Some(GroupName::new("prod_db").expect("name")),
        node: node("node1"),
        v4: Some("20.1.1.17".parse().expect("address")),
        v6: Some("fd00:20::11".parse().expect("address")),
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
        }),
        healing: Some(Box::new(healing())),
        at: Some(1_790_000_000_500),
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

pub(crate) fn events() -> Vec<Event> {
    let mut all = first_events();
    all.extend(policy::events());
    all
}

/// Those of schema 1.
fn first_events() -> Vec<Event> {
    let (tenant, network) = (tenant(), network());
    let node1 = node("node1");
    let block = subnet("20.1.1.16/28");
    let vni = Vni(1001);
    vec![
        Event::ClusterCreated(event::ClusterCreated {
            cluster: ClusterId(id(1)),
            settings: Settings::default(),
        }),
        Event::Barrier,
        Event::LogAccepted(event::LogAccepted {
            end: Revision(40),
            ahead: BTreeMap::from([(node1.clone(), Revision(47))]),
        }),
        Event::TenantCreated(event::TenantCreated {
            tenant: tenant.clone(),
        }),
        Event::TenantRemoved(event::TenantRemoved {
            tenant: tenant.clone(),
        }),
        Event::TenantOpened(event::TenantOpened {
            tenant: tenant.clone(),
        }),
        Event::TenantClosed(event::TenantClosed {
            tenant: tenant.clone(),
        }),
        Event::NodeJoined(event::NodeJoined {
            node: node1.clone(),
            machine: MachineId(MACHINE.to_owned()),
            vtep: ip("198.18.0.11"),
        }),
        Event::NodeRemoved(event::NodeRemoved {
            node: node1.clone(),
            lost: true,
        }),
        Event::NodeDrained(event::NodeDrained {
            node: node1.clone(),
        }),
        Event::NodeUncordoned(event::NodeUncordoned {
            node: node1.clone(),
        }),
        Event::NodeLeft(event::NodeLeft {
            node: node1.clone(),
        }),
        Event::VniAssigned(event::VniAssigned {
            vni,
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::VniReleased(event::VniReleased {
            vni,
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::NetworkCreated(event::NetworkCreated { network: spec() }),
        Event::NetworkClosing(event::NetworkClosing {
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::NetworkReopened(event::NetworkReopened {
            tenant: tenant.clone(),
            network: network.clone(),
        }),
        Event::NetworkRemoved(event::NetworkRemoved {
            tenant: tenant.clone(),
            network: network.clone(),
            vni,
            forced: true,
        }),
        Event::LeasesOpened(event::LeasesOpened {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            v4: v4(),
            v6: Some(v6()),
        }),
        Event::LeasesClosing(event::LeasesClosing {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
        }),
        Event::LeasesReopened(event::LeasesReopened {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
        }),
        Event::LeasesClosed(event::LeasesClosed {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
        }),
        Event::BlockLeased(event::BlockLeased {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            block,
            node: node1.clone(),
        }),
        Event::BlockReturned(event::BlockReturned {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            block,
            node: node1.clone(),
        }),
        Event::BlockCeded(event::BlockCeded {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            address: ip("20.1.1.17"),
            from: node1.clone(),
            to: node("node2"),
        }),
        Event::BlockRevoked(event::BlockRevoked {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            block,
            node: node1,
        }),
        Event::PoolReserved(event::PoolReserved {
            tenant: tenant.clone(),
            network: network.clone(),
            group: policy::group(),
            range: v4().span(),
        }),
        Event::PoolReleased(event::PoolReleased {
            tenant,
            network,
            group: policy::group(),
        }),
    ]
}

pub(crate) fn commands() -> Vec<Request<Command>> {
    let (tenant, network) = (tenant(), network());
    let node1 = node("node1");
    let all = vec![
        Command::TenantCreate(TenantCreate {
            tenant: tenant.clone(),
        }),
        Command::TenantRemove(TenantRemove {
            tenant: tenant.clone(),
        }),
        Command::NetworkCreate(NetworkCreate {
            tenant: tenant.clone(),
            network: network.clone(),
            subnet: subnet("20.1.1.0/24"),
            range: v4().range,
            gateway: Some(ip("20.1.1.254")),
            subnet6: Some(subnet("fd00:20::/64")),
            gateway6: Some(ip("fd00:20::fe")),
            vni: Some(Vni(1001)),
            docker_name: Some("front".to_owned()),
        }),
        Command::NetworkRemove(NetworkRemove {
            tenant: tenant.clone(),
            network: network.clone(),
            mode: Removal::Close,
        }),
        Command::LogAccept(LogAccept {}),
        Command::NodeJoin(NodeJoin {
            node: node1.clone(),
            machine: MachineId(MACHINE.to_owned()),
            vtep: ip("198.18.0.11"),
        }),
        Command::NodeRemove(NodeRemove {
            node: node1.clone(),
            lost: true,
        }),
        Command::NodeDrain(NodeDrain {
            node: node1.clone(),
        }),
        Command::NodeUncordon(NodeUncordon {
            node: node1.clone(),
        }),
        Command::NodeLeave(NodeLeave {
            node: node1.clone(),
            machine: MachineId(MACHINE.to_owned()),
        }),
        Command::BlockLease(BlockLease {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            node: node1.clone(),
            address: Some(ip("20.1.1.17")),
            v6: false,
            ahead: false,
            waiting: 0,
        }),
        Command::BlockReturn(BlockReturn {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            block: subnet("20.1.1.16/28"),
            node: node1.clone(),
        }),
        Command::BlockCede(BlockCede {
            tenant: tenant.clone(),
            network: network.clone(),
            group: None,
            address: ip("20.1.1.17"),
            from: node1.clone(),
            to: node("node2"),
        }),
        Command::BlockRevoke(BlockRevoke {
            tenant,
            network,
            group: None,
            node: node1,
        }),
    ];
    let all = all.into_iter().chain(policy::commands());
    all.map(requested).collect()
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

fn block_usage() -> BlockUsage {
    BlockUsage {
        tenant: tenant(),
        network: network(),
        group: None,
        block: subnet("20.1.1.16/28"),
        node: node("node1"),
        in_use: 3,
        free: 12,
        ceded: 1,
    }
}

pub(crate) fn answers() -> Vec<Answer> {
    let revision = Revision(42);
    let mut all = vec![
        Answer::Cluster {
            revision,
            cluster: ClusterInfo {
                cluster: ClusterId(id(1)),
                settings: Settings::default(),
                version: "0.1.0".to_owned(),
            },
        },
        Answer::Tenants {
            revision,
            tenants: vec![TenantInfo {
                tenant: tenant(),
                networks: vec![network()],
            }],
        },
        Answer::Networks {
            revision,
            networks: vec![NetworkInfo {
                spec: spec(),
                created: Revision(9),
                closing: false,
                blocks: [(subnet("20.1.1.16/28"), node("node1"))].into(),
                endpoints: 3,
                addresses: Some(AddressCount {
                    assignable: 253,
                    in_use: 3,
                }),
                usage: vec![block_usage()],
            }],
        },
        Answer::Nodes {
            revision,
            nodes: vec![NodeInfo {
                node: node("node1"),
                machine: MachineId(MACHINE.to_owned()),
                vtep: ip("198.18.0.11"),
                status: Some(status()),
                age: Some(120),
                alive: true,
                drained: true,
                left: false,
                usage: vec![block_usage()],
            }],
        },
        Answer::Endpoints {
            revision,
            endpoints: vec![endpoint()],
        },
        Answer::Waited {
            revision,
            waited: Waited {
                until: revision,
                lagging: [(node("node1"), Revision(40))].into(),
                unpublished: [(node("node3"), 2)].into(),
                silent: vec![node("node2")],
            },
        },
        Answer::Rejected {
            rejection: Rejection::NodeUnknown {
                node: node("node9"),
            },
            revision,
            text: None,
        },
        Answer::Behind {
            revision,
            reason: "still replaying".to_owned(),
        },
    ];
    all.extend(policy::answers());
    all
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
