//! Two netmasters side by side, and netmasters that die: every command happens once.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_schema::command::Request;
use bus_schema::{Answer, Event, Query, Rejection, Reply, Revision};

use crate::support::{
    Bus, create, create_tenant, join, now, request, request_within, tenant, until,
};

const ROUNDS: usize = 60;

/// Which of two replies was accepted, and why the other wasn't.
#[track_caller]
fn one_of(a: Reply, b: Reply) -> Rejection {
    match (a, b) {
        (Reply::Accepted { .. }, Reply::Rejected { rejection, .. })
        | (Reply::Rejected { rejection, .. }, Reply::Accepted { .. }) => rejection,
        (a, b) => panic!("not exactly one was accepted: {a:?}, {b:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_networks_through_two_masters_never_both_are_accepted() {
    let bus = Bus::cluster().await;
    let _masters = (bus.master("m1").await, bus.master("m2").await);
    let (a, b) = (bus.client().await, bus.client().await);
    for i in 0..ROUNDS {
        let wide = create(
            "default",
            &format!("wide{i}"),
            &format!("10.{i}.0.0/16"),
            None,
        );
        let small = create(
            "default",
            &format!("small{i}"),
            &format!("10.{i}.7.0/24"),
            None,
        );
        let replies = tokio::join!(a.command(wide), b.command(small));
        let rejection = one_of(replies.0, replies.1);
        assert!(
            matches!(rejection, Rejection::SubnetOverlaps { .. }),
            "{rejection}"
        );
    }
    let log = a.log().await;
    let created = log
        .iter()
        .filter(|e| matches!(e.body, Event::NetworkCreated(_)));
    let writers: BTreeSet<_> = created.clone().map(|e| e.header.actor.as_str()).collect();
    assert_eq!(created.count(), ROUNDS);
    assert_eq!(writers, BTreeSet::from(["m1", "m2"]), "both took part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_tags_through_two_masters_never_both_are_accepted() {
    let bus = Bus::cluster().await;
    let _masters = (bus.master("m1").await, bus.master("m2").await);
    let (a, b) = (bus.client().await, bus.client().await);
    // Of two tenants, so that only the tags' own fence stands between them.
    a.accepted(create_tenant("blue")).await;
    a.accepted(create_tenant("green")).await;
    for i in 0..ROUNDS {
        let tag = Some(5_000 + u32::try_from(i).expect("few"));
        let subnet = format!("10.{i}.0.0/16");
        let blue = create("blue", &format!("n{i}"), &subnet, tag);
        let green = create("green", &format!("n{i}"), &subnet, tag);
        let replies = tokio::join!(a.command(blue), b.command(green));
        let rejection = one_of(replies.0, replies.1);
        assert!(
            matches!(rejection, Rejection::VniInUse { .. }),
            "{rejection}"
        );
    }
    // Given from the pool, all differ.
    let pool = (0..20).map(|i| {
        let of = if i % 2 == 0 { "blue" } else { "green" };
        let subnet = format!("11.{i}.0.0/16");
        let client = if i % 3 == 0 { &a } else { &b };
        client.accepted(create(of, &format!("p{i}"), &subnet, None))
    });
    futures::future::join_all(pool).await;
    let log = a.log().await;
    let writers: BTreeSet<_> = log.iter().map(|e| e.header.actor.clone()).collect();
    assert!(
        writers.contains("m1") && writers.contains("m2"),
        "{writers:?}"
    );
    let mut tags: Vec<_> = log
        .iter()
        .filter_map(|e| match &e.body {
            Event::VniAssigned(assigned) => Some(assigned.vni),
            _ => None,
        })
        .collect();
    tags.sort();
    assert_eq!(tags.len(), ROUNDS + 20);
    tags.dedup();
    assert_eq!(tags.len(), ROUNDS + 20);
}

#[tokio::test]
async fn a_retry_is_answered_from_the_log_when_netmaster_was_killed_before_its_reply() {
    let bus = Bus::cluster().await;
    let doomed = bus.spawn("doomed", &[("CONTIV_TEST_PAUSE_AFTER_APPEND", "60000")]);
    doomed.says("serving").await;
    let api = bus.client().await;
    let ask = request(create("default", "web", "20.1.1.0/24", Some(1001)));
    let waiting = {
        let (api, ask) = (api.clone(), ask.clone());
        tokio::spawn(async move { api.send(&ask).await })
    };
    doomed.says("appended; pausing").await;
    let appended = api.log().await;
    assert_eq!(
        appended.last().map(|e| e.body.kind()),
        Some("leases-opened")
    );
    doomed.kill();
    waiting.abort();

    let _heir = bus.master("heir").await;
    let again = api.send(&ask).await.expect("the heir answers");
    let Reply::Accepted { revision, events } = again else {
        panic!("{again:?}");
    };
    assert_eq!(revision, Revision(6));
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, ["network-created", "vni-assigned", "leases-opened"]);
    assert_eq!(api.log().await.len(), appended.len(), "applied once");
}

#[tokio::test]
async fn a_new_netmaster_knows_what_the_log_says() {
    let bus = Bus::cluster().await;
    let first = bus.master("first").await;
    let api = bus.client().await;
    api.accepted(create_tenant("blue")).await;
    let mut seen = Revision(0);
    for i in 0..20 {
        let command = create("blue", &format!("n{i}"), &format!("10.{i}.0.0/16"), None);
        seen = api.accepted(command).await.0;
    }
    let known = api.networks(seen).await;
    assert_eq!(known.len(), 20);
    first.kill();
    let _second = bus.master("second").await;
    assert_eq!(api.networks(seen).await, known);
    let overlapping = create("blue", "late", "10.3.4.0/24", None);
    let rejection = api.rejected(overlapping).await;
    assert!(
        matches!(rejection, Rejection::SubnetOverlaps { .. }),
        "{rejection}"
    );
}

#[tokio::test]
async fn reads_see_what_their_client_has_seen_or_say_so() {
    let bus = Bus::cluster().await;
    let _masters = (bus.master("m1").await, bus.master("m2").await);
    let api = bus.client().await;
    for i in 0..40 {
        let name = format!("t{i}");
        let (seen, _) = api.accepted(create_tenant(&name)).await;
        let Answer::Tenants { revision, tenants } = api.query(seen, Query::TenantList).await else {
            panic!("no tenants");
        };
        assert!(revision >= seen);
        assert!(tenants.iter().any(|t| t.tenant == tenant(&name)), "{name}");
    }
    let ahead = Request {
        seen: Revision(1_000_000),
        ..request_within(500, Query::TenantList)
    };
    match api.ask(&ahead).await {
        Answer::Rejected {
            rejection: Rejection::LogShorter { end, seen },
            ..
        } => assert!(end < seen && end.0 > 40, "{end} {seen}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_linearizable_read_proves_the_logs_end_and_others_append_nothing() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let (seen, _) = api.accepted(create_tenant("blue")).await;
    api.query(seen, Query::TenantList).await;
    assert_eq!(Revision(api.log().await.len() as u64), seen);
    let linearizable = Request {
        linearizable: true,
        ..request_within(2_000, Query::TenantList)
    };
    let Answer::Tenants { revision, .. } = api.ask(&linearizable).await else {
        panic!("no tenants");
    };
    let log = api.log().await;
    assert_eq!(log.last().map(|it| &it.body), Some(&Event::Barrier));
    assert_eq!((revision, log.len() as u64), (seen.next(), seen.0 + 1));
}

#[tokio::test]
async fn a_barrier_refuses_nobody_and_leads_to_no_other() {
    let bus = Bus::cluster().await;
    let (_m1, _m2) = (bus.master("m1").await, bus.master("m2").await);
    let api = bus.client().await;
    api.accepted(create_tenant("blue")).await;
    let (unchanged, events) = api.accepted(create_tenant("blue")).await;
    assert_eq!(events, []);
    let mut last = unchanged;
    for i in 0..20 {
        let subnet = format!("20.{i}.0.0/16");
        (last, _) = api
            .accepted(create("blue", &format!("n{i}"), &subnet, None))
            .await;
    }
    let log = api.log().await;
    let barriers = log.iter().filter(|it| it.body == Event::Barrier).count();
    assert_eq!((barriers, log.len() as u64), (1, last.0));
}

#[tokio::test]
async fn a_second_machine_with_a_name_or_a_vtep_is_refused() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    api.accepted(join("n1", "machine-1", "198.18.1.1")).await;
    let named = api.rejected(join("n1", "machine-2", "198.18.1.2")).await;
    assert!(matches!(named, Rejection::NodeNameTaken { .. }), "{named}");
    let vtep = api.rejected(join("n2", "machine-2", "198.18.1.1")).await;
    assert!(matches!(vtep, Rejection::VtepTaken { .. }), "{vtep}");
    let (_, events) = api.accepted(join("n1", "machine-1", "198.18.1.1")).await;
    assert_eq!(events, []);
}

#[tokio::test]
async fn sigterm_ends_it_after_its_answers() {
    let bus = Bus::cluster().await;
    let mut master = bus.spawn("m1", &[("CONTIV_TEST_PAUSE_AFTER_APPEND", "300")]);
    master.says("serving").await;
    let api = bus.client().await;
    let ask = request(create_tenant("blue"));
    let waiting = {
        let (api, ask) = (api.clone(), ask.clone());
        tokio::spawn(async move { api.send(&ask).await })
    };
    master.says("appended; pausing").await;
    master.terminate();
    let reply = waiting.await.expect("no panic").expect("an answer");
    assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
    assert_eq!(master.exit().await, Some(0));
}

#[tokio::test]
async fn a_request_is_given_the_time_that_its_asker_waits_whatever_the_askers_clock_says() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    let minute = 60_000;
    let behind = Request {
        deadline: now() - minute,
        ..request(create_tenant("behind"))
    };
    let reply = api.send(&behind).await.expect("an answer");
    assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
    let query = Request {
        deadline: now() - minute,
        seen: Revision(1),
        ..request(Query::TenantList)
    };
    let answer = api.ask(&query).await;
    assert!(matches!(answer, Answer::Tenants { .. }), "{answer:?}");

    let before = api.log().await.len();
    let ahead = Request {
        deadline: now() + minute,
        ..request_within(0, create_tenant("ahead"))
    };
    let of_an_older_build = Request {
        deadline: now() - 1,
        within: None,
        ..request(create_tenant("older"))
    };
    for late in [ahead, of_an_older_build] {
        let reply = api.send(&late).await.expect("an answer");
        let passed = matches!(
            reply,
            Reply::Rejected {
                rejection: Rejection::DeadlinePassed,
                ..
            }
        );
        assert!(passed, "{reply:?}");
    }
    assert_eq!(api.log().await.len(), before, "nothing is appended");
}

#[tokio::test]
async fn a_frozen_netmaster_does_not_carry_out_what_nobody_waits_for_any_more() {
    let bus = Bus::cluster().await;
    let master = bus.master("m1").await;
    let api = bus.client().await;
    master.stop();
    let late = request_within(500, create_tenant("late"));
    let asked = tokio::time::timeout(Duration::from_secs(2), api.send(&late)).await;
    assert!(asked.is_err(), "the asker gives up: {asked:?}");
    master.resume();
    // Read behind the other one.
    until("it answers again", async || {
        let reply = api.send(&request(create_tenant("next"))).await;
        matches!(reply, Ok(Reply::Accepted { .. })).then_some(())
    })
    .await;
    let log = api.log().await;
    let opened = |name: &str| {
        let name = tenant(name);
        let of = |event: &Event| matches!(event, Event::TenantCreated(e) if e.tenant == name);
        log.iter().any(|envelope| of(&envelope.body))
    };
    assert!(opened("next"));
    assert!(!opened("late"));
}
