use bus_schema::event::{
    BlockCeded, BlockLeased, BlockReturned, GroupClosing, GroupCreated, GroupReopened,
    GroupUpdated, NetworkClosing, NetworkCreated, NodeJoined, PolicyCreated, TenantCreated,
};
use bus_schema::node::{DomainKind, EngineStatus, LogState};
use bus_schema::testing;
use bus_schema::{Answer, MacAddr, Pool, Query, Rejection, Vni};

use super::*;

pub(super) fn tenant() -> TenantName {
    TenantName::default_tenant()
}

pub(super) fn web() -> NetworkName {
    testing::name("web")
}

pub(super) fn node(name: &str) -> NodeName {
    testing::name(name)
}

pub(super) fn net(text: &str) -> IpNet {
    testing::subnet(text)
}

pub(super) fn ip(text: &str) -> IpAddr {
    testing::ip(text)
}

fn events() -> Vec<Event> {
    let joined = |name: &str, vtep: &str| {
        Event::NodeJoined(NodeJoined {
            node: node(name),
            machine: MachineId(name.to_owned()),
            vtep: ip(vtep),
        })
    };
    vec![
        Event::TenantCreated(TenantCreated { tenant: tenant() }),
        joined("n1", "198.18.0.1"),
        joined("n2", "198.18.0.2"),
        Event::NetworkCreated(NetworkCreated {
            network: NetworkSpec::new(
                tenant(),
                web(),
                Vni(1001),
                Pool {
                    subnet: net("20.1.1.0/24"),
                    gateway: ip("20.1.1.254"),
                    range: None,
                },
            ),
        }),
        Event::BlockLeased(BlockLeased {
            tenant: tenant(),
            network: web(),
            group: None,
            block: net("20.1.1.0/28"),
            node: node("n1"),
        }),
        Event::BlockCeded(BlockCeded {
            tenant: tenant(),
            network: web(),
            group: None,
            address: ip("20.1.1.7"),
            from: node("n1"),
            to: node("n2"),
        }),
    ]
}

pub(super) fn view() -> View {
    let mut view = View::default();
    for (revision, event) in (1..).zip(events()) {
        view.apply(Revision(revision), Some(&event));
    }
    view
}

pub(super) fn status(name: &str, applied: u64) -> NodeStatus {
    NodeStatus {
        node: node(name),
        machine: MachineId(name.to_owned()),
        vtep: ip("198.18.0.1"),
        version: "1".to_owned(),
        applied: Revision(applied),
        log: LogState::InSync,
        engine: None,
        domain: DomainKind::Netns,
        endpoints: 0,
        unpublished: 0,
        blocks: 0,
        drained: false,
        left: false,
        alarms: vec![],
        dns: None,
        healing: None,
        at: None,
        surroundings: None,
        carries: vec![],
    }
}

#[test]
fn events_come_in_once_and_unreadable_ones_count() {
    let mut again = view();
    for (revision, event) in (1..).zip(events()) {
        again.apply(Revision(revision), Some(&event));
    }
    assert_eq!(again, view());
    again.apply(Revision(7), None);
    assert_eq!(again.applied, Revision(7));
}

#[test]
fn a_network_shows_its_blocks_with_ceded_addresses() {
    let query = Query::NetworkList {
        tenant: None,
        network: Some(web()),
    };
    let Some(Answer::Networks { revision, networks }) = view().answer(&query, 0) else {
        panic!("no networks");
    };
    assert_eq!(revision, Revision(6));
    let blocks: Vec<String> = networks[0]
        .blocks
        .iter()
        .map(|(block, node)| format!("{block} {node}"))
        .collect();
    assert_eq!(blocks, ["20.1.1.0/28 n1", "20.1.1.7/32 n2"]);
    assert!(!networks[0].closing);
}

#[test]
fn a_returned_block_is_gone_and_a_closing_network_says_so() {
    let mut view = view();
    view.apply(
        Revision(7),
        Some(&Event::NetworkClosing(NetworkClosing {
            tenant: tenant(),
            network: web(),
        })),
    );
    view.apply(
        Revision(8),
        Some(&Event::BlockReturned(BlockReturned {
            tenant: tenant(),
            network: web(),
            group: None,
            block: net("20.1.1.0/28"),
            node: node("n1"),
        })),
    );
    let network = view.network(&tenant(), &web()).expect("there");
    assert_eq!(network.closing, Some(Revision(7)));
    assert_eq!(network.holders(None), [node("n2")]);
    assert_eq!(view.held_by(&node("n1")), []);
}

#[test]
fn unknown_names_are_in_the_rejection() {
    let ghost: TenantName = testing::name("ghost");
    for query in [
        Query::NetworkList {
            tenant: Some(ghost.clone()),
            network: None,
        },
        Query::EndpointList {
            tenant: Some(ghost.clone()),
        },
    ] {
        let answer = view().answer(&query, 0);
        let Some(Answer::Rejected { rejection, .. }) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(
            rejection,
            Rejection::TenantUnknown {
                tenant: ghost.clone()
            }
        );
    }
}

#[test]
fn a_wait_ignores_silent_nodes() {
    let mut view = view();
    let over = |view: &View, now| view.waiting(Revision(6), false, now).1;
    view.hear(status("n1", 5), 1_000);
    let (waited, _) = view.waiting(Revision(6), false, 1_000);
    assert_eq!(waited.lagging.get(&node("n1")), Some(&Revision(5)));
    assert_eq!(waited.silent, [node("n2")]);
    let publishing = NodeStatus {
        unpublished: 2,
        ..status("n1", 6)
    };
    view.hear(publishing, 1_050);
    assert!(over(&view, 1_050), "a revision is applied");
    let (waited, over_all) = view.waiting(Revision(6), true, 1_050);
    assert_eq!(waited.unpublished.get(&node("n1")), Some(&2));
    assert!(!over_all, "but not all there is");
    view.hear(status("n1", 6), 1_100);
    assert!(view.waiting(Revision(6), true, 1_100).1);
    assert!(over(&view, 1_100));
    let mut with_engine = status("n2", 6);
    with_engine.engine = Some(EngineStatus {
        answers: true,
        applied: Revision(5),
        version: None,
    });
    view.hear(with_engine, 1_100);
    assert!(!over(&view, 1_100));
    assert!(over(&view, 1_100 + ALIVE_MS + 1), "silent by then");
}

#[test]
fn nodes_outside_the_cluster_are_not_alive() {
    let mut view = view();
    view.hear(status("n9", 6), 1_000);
    assert!(!view.alive(&node("n9"), 1_000));
}

#[test]
fn the_last_event_of_an_endpoint_counts() {
    let endpoint = Endpoint {
        id: testing::name("e1"),
        tenant: tenant(),
        network: web(),
        group: None,
        node: node("n1"),
        v4: Some(std::net::Ipv4Addr::new(20, 1, 1, 3)),
        v6: None,
        mac: MacAddr::of_endpoint(ip("20.1.1.3")),
        name: Some("db".to_owned()),
        aliases: vec![],
        container: None,
        interface: "cv1".to_owned(),
        closed: None,
        vtep: ip("198.18.0.1"),
    };
    let mut view = view();
    let up = EndpointEvent::Up {
        endpoint: endpoint.clone(),
        applied: Revision(6),
    };
    publish(&mut view.endpoints, &up);
    let users = view.users(&tenant(), &web());
    assert_eq!(users[0].to_string(), "db (20.1.1.3) on n1");
    let down = EndpointEvent::Down {
        tenant: tenant(),
        network: web(),
        node: node("n1"),
        id: endpoint.id,
        applied: Revision(6),
    };
    publish(&mut view.endpoints, &down);
    assert_eq!(view.users(&tenant(), &web()), []);
}

pub(super) fn web_group(policies: &[&str]) -> GroupSpec {
    let names = policies.iter().map(|name| testing::name(name));
    GroupSpec {
        tenant: tenant(),
        network: web(),
        name: testing::name("lb"),
        id: bus_schema::GroupId(2),
        policies: names.collect(),
        docker_name: None,
        pool: None,
    }
}

#[test]
fn groups_and_policies_list_each_other() {
    let policy: PolicyName = testing::name("p");
    let lb: GroupName = testing::name("lb");
    let mut view = view();
    let start = view.applied.0;
    let events = [
        Event::PolicyCreated(PolicyCreated {
            tenant: tenant(),
            policy: policy.clone(),
        }),
        Event::GroupCreated(GroupCreated {
            group: web_group(&[]),
        }),
        Event::GroupUpdated(GroupUpdated {
            tenant: tenant(),
            group: lb.clone(),
            policies: vec![policy.clone()],
        }),
    ];
    for (revision, event) in (start + 1..).zip(&events) {
        view.apply(Revision(revision), Some(event));
    }
    let query = Query::PolicyList {
        tenant: None,
        policy: Some(policy),
    };
    let Some(Answer::Policies { policies, .. }) = view.answer(&query, 0) else {
        panic!("no policies");
    };
    assert_eq!(policies[0].groups, std::slice::from_ref(&lb));
    assert_eq!(policies[0].created, Revision(start + 1));
    let query = Query::GroupList {
        tenant: Some(tenant()),
        group: Some(lb),
    };
    let Some(Answer::Groups { groups, .. }) = view.answer(&query, 0) else {
        panic!("no groups");
    };
    assert_eq!(groups[0].spec, web_group(&["p"]));
    let unknown = Query::GroupList {
        tenant: None,
        group: Some(testing::name("nope")),
    };
    let answer = view.answer(&unknown, 0);
    assert!(matches!(
        answer,
        Some(Answer::Rejected {
            rejection: Rejection::GroupUnknown { .. },
            ..
        })
    ));
}

#[test]
fn closings_of_a_group_are_counted() {
    let lb: GroupName = testing::name("lb");
    let closing = Event::GroupClosing(GroupClosing {
        tenant: tenant(),
        group: lb.clone(),
    });
    let reopened = Event::GroupReopened(GroupReopened {
        tenant: tenant(),
        group: lb.clone(),
    });
    let created = Event::GroupCreated(GroupCreated {
        group: web_group(&[]),
    });
    let mut view = view();
    let start = view.applied.0;
    for (revision, event) in (start + 1..).zip([&created, &closing, &reopened, &closing]) {
        view.apply(Revision(revision), Some(event));
    }
    let group = view.group(&tenant(), &lb).expect("a group");
    assert_eq!(
        (group.closing, group.closings),
        (Some(Revision(start + 4)), 2)
    );
}
