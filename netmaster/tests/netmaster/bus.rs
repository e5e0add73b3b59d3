//! Faults of the bus: garbage on every subject, servers that stop, logs that change.

use bus_schema::codec;
use bus_schema::command::BlockLease;
use bus_schema::{
    Answer, Command, Envelope, Event, EventId, Header, Query, Rejection, Reply, Revision, subject,
};
use bytes::Bytes;
use uuid::Uuid;

use crate::support::{
    Bus, create, create_tenant, id, network, node, now, request, request_within, tenant, until,
};

fn garbage() -> Vec<Vec<u8>> {
    let good = codec::to_bytes(&request(create_tenant("blue")));
    let cut = good[..good.len() / 2].to_vec();
    let longer = [good, b"more".to_vec()].concat();
    vec![
        vec![],
        b"\xff\xfe\x00garbage".to_vec(),
        b"{\"json\": true}".to_vec(),
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0x91; 10_000],
        cut,
        longer,
    ]
}

#[tokio::test]
async fn garbage_on_every_subject_is_refused_and_harms_nothing() {
    let bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    let api = bus.client().await;
    for (noun, verb) in Command::VERBS {
        for bytes in garbage() {
            let to = format!("{}.{noun}.{verb}", subject::API);
            let reply = api.raw(to, bytes.clone()).await.expect("an answer");
            let reply: Reply = codec::from_bytes(&reply).expect("a reply");
            let Reply::Rejected { rejection, .. } = reply else {
                panic!("{noun} {verb} {bytes:?}: {reply:?}");
            };
            assert!(
                matches!(rejection, Rejection::Malformed { .. }),
                "{rejection}"
            );
        }
    }
    for (noun, verb) in Query::VERBS {
        for bytes in garbage() {
            let to = format!("{}.{noun}.{verb}", subject::API);
            let answer = api.raw(to, bytes.clone()).await.expect("an answer");
            let answer: Answer = codec::from_bytes(&answer).expect("an answer");
            assert!(
                matches!(
                    answer,
                    Answer::Rejected {
                        rejection: Rejection::Malformed { .. },
                        ..
                    }
                ),
                "{noun} {verb} {bytes:?}: {answer:?}"
            );
        }
    }
    for to in ["contiv.status.n1", "contiv.endpoint.default.n1.e1"] {
        for bytes in garbage() {
            let sent = api.client.publish(to, Bytes::from(bytes)).await;
            sent.expect("connected");
        }
    }
    api.accepted(create("default", "web", "20.1.1.0/24", None))
        .await;
    assert!(master.runs());
    assert_eq!(api.log().await.len(), 6);
}

#[tokio::test]
async fn a_command_on_another_subject_is_refused() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let ask = codec::to_bytes(&request(create_tenant("blue")));
    let to = format!("{}.node.join", subject::API);
    let reply = api.raw(to, ask).await.expect("an answer");
    let reply: Reply = codec::from_bytes(&reply).expect("a reply");
    let Reply::Rejected { rejection, .. } = reply else {
        panic!("{reply:?}");
    };
    assert!(
        rejection
            .to_string()
            .contains("contiv.api.v1.tenant.create")
    );
}

#[tokio::test]
async fn a_bad_name_on_the_bus_is_refused() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    for bad in ["a.b", "a b", "", "*", ">", &"x".repeat(64)] {
        let good = codec::to_bytes(&request(create_tenant("NAME")));
        let at = good.windows(4).position(|w| w == b"NAME").expect("there");
        let mut bytes = good[..at - 1].to_vec();
        bytes.push(0xd9);
        bytes.push(u8::try_from(bad.len()).expect("short"));
        bytes.extend(bad.as_bytes());
        bytes.extend(&good[at + 4..]);
        let to = format!("{}.tenant.create", subject::API);
        let reply = api.raw(to, bytes).await.expect("an answer");
        let reply: Reply = codec::from_bytes(&reply).expect("a reply");
        let Reply::Rejected { rejection, .. } = reply else {
            panic!("{bad}: {reply:?}");
        };
        assert!(
            matches!(rejection, Rejection::Malformed { .. }),
            "{bad}: {rejection}"
        );
    }
}

/// Asks until netmaster answers with something else than "unknown".
async fn decided(bus: &Bus, command: Command) -> Reply {
    let api = bus.client().await;
    let ask = request_within(2_000, command);
    until("the command is decided", async || {
        match api.send(&ask).await {
            Ok(Reply::Unknown { .. }) | Err(_) => None,
            Ok(reply) => Some(reply),
        }
    })
    .await
}

#[tokio::test]
async fn a_bus_that_goes_and_comes_back_is_served_again() {
    let mut bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    let command = create("default", "web", "20.1.1.0/24", None);
    assert!(matches!(
        decided(&bus, command).await,
        Reply::Accepted { .. }
    ));
    bus.down();
    master.says("the bus is away").await;
    bus.up().await;
    let overlapping = create("default", "db", "20.1.0.0/16", None);
    let reply = decided(&bus, overlapping).await;
    assert!(
        matches!(
            reply,
            Reply::Rejected {
                rejection: Rejection::SubnetOverlaps { .. },
                ..
            }
        ),
        "{reply:?}"
    );
    let reply = decided(&bus, create("default", "db", "20.2.0.0/16", None)).await;
    assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
    let api = bus.client().await;
    let networks = api.networks(Revision(9)).await;
    assert_eq!(networks, ["default/db", "default/web"]);
    assert!(master.runs());
}

#[tokio::test]
async fn a_netmaster_started_before_the_bus_waits_for_it() {
    let mut bus = Bus::cluster().await;
    bus.down();
    let early = bus.spawn("early", &[]);
    early.says("no NATS server answers").await;
    bus.up().await;
    early.says("serving").await;
}

#[tokio::test]
async fn a_replaced_log_ends_a_netmaster_with_a_message() {
    let mut bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    let api = bus.client().await;
    api.accepted(create("default", "web", "20.1.1.0/24", None))
        .await;
    bus.down();
    bus.wipe();
    bus.up().await;
    let init = bus.netmaster(&["init"]);
    assert!(init.status.success());
    assert_eq!(master.exit().await, Some(70));
    assert!(
        master.log().contains("the log was replaced"),
        "{}",
        master.log()
    );
}

#[tokio::test]
async fn a_replaced_log_that_is_longer_ends_it_too() {
    let mut bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    master.stop();
    bus.down();
    bus.wipe();
    bus.up().await;
    assert!(bus.netmaster(&["init"]).status.success());
    let _other = bus.master("m2").await;
    let api = bus.client().await;
    for i in 0..5 {
        api.accepted(create_tenant(&format!("t{i}"))).await;
    }
    master.resume();
    assert_eq!(master.exit().await, Some(70));
    assert!(
        master.log().contains("the log was replaced"),
        "{}",
        master.log()
    );
}

#[tokio::test]
async fn emptied_bus_is_not_taken_for_the_truth() {
    let mut bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    bus.down();
    bus.wipe();
    bus.up().await;
    master.says("the stream LOG doesn't exist").await;
    assert!(master.runs());
    let api = bus.client().await;
    let ask = request_within(1_000, create_tenant("blue"));
    let reply = api.send(&ask).await.expect("an answer");
    assert!(matches!(reply, Reply::Unknown { .. }), "{reply:?}");
}

#[tokio::test]
async fn garbage_in_the_log_is_reported_and_closes_one_tenant_only() {
    let bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    let api = bus.client().await;
    api.accepted(create_tenant("blue")).await;
    let sent = api.raw(
        "contiv.log.blue.intent.network.x".to_owned(),
        b"\xffgarbage".to_vec(),
    );
    sent.await.expect("stored");
    master.says("can't be read").await;
    let rejection = api
        .rejected(create("blue", "web", "20.1.1.0/24", None))
        .await;
    assert!(
        matches!(
            rejection,
            Rejection::LogUnreadable {
                revision: Revision(6),
                ..
            }
        ),
        "{rejection}"
    );
    api.accepted(create("default", "web", "20.1.1.0/24", None))
        .await;
    let Answer::Tenants { tenants, .. } = api.query(Revision(9), Query::TenantList).await else {
        panic!("no tenants");
    };
    assert_eq!(tenants.len(), 2);
    assert!(master.runs());
    // A netmaster that starts on such a log serves, too.
    let second = bus.master("m2").await;
    assert!(second.log().contains("can't be read"));
}

#[tokio::test]
async fn an_event_for_newer_netmasters_closes_its_whole_tenant_and_no_other() {
    let bus = Bus::cluster().await;
    let mut master = bus.master("m1").await;
    let api = bus.client().await;
    api.accepted(create_tenant("blue")).await;
    api.accepted(create("blue", "web", "20.1.1.0/24", None))
        .await;
    api.join("n1", "198.18.0.1").await;
    let mut header = Header::new(EventId(Uuid::new_v4()), now(), "newer", id());
    header.schema = u16::MAX;
    header.min_reader = u16::MAX;
    let newer = codec::to_bytes(&Envelope {
        header,
        body: Event::Barrier,
    });
    let sent = api.raw("contiv.log.blue.intent.policy.p".to_owned(), newer);
    sent.await.expect("stored");
    master.says("newer than this netmaster").await;
    let revision = Revision(10);
    let lease = Command::BlockLease(BlockLease {
        tenant: tenant("blue"),
        network: network("web"),
        group: None,
        node: node("n1"),
        address: None,
        v6: false,
        ahead: false,
        waiting: 0,
    });
    let create_blue = create("blue", "db", "20.1.2.0/24", None);
    for command in [lease, create_blue] {
        let rejection = api.rejected(command).await;
        assert_eq!(rejection, Rejection::OlderThanLog { revision });
    }
    api.accepted(create("default", "web", "20.1.1.0/24", None))
        .await;
    assert!(master.runs());
}
