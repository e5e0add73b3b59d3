use super::*;

#[actix::test]
async fn a_command_is_carried_out_once() {
    let log = cluster().await;
    let (first, second) = (master(&log), master(&log));
    let command = id();
    let once = accepted(ask(&first, command, tenant("blue")).await);
    assert_eq!(once.0, 3);
    assert_eq!(accepted(ask(&first, command, tenant("blue")).await), once);
    assert_eq!(accepted(ask(&second, command, tenant("blue")).await), once);
    assert_eq!(log.end().await, Ok(Revision(3)));
}

#[actix::test]
async fn the_same_request_under_another_id_changes_nothing() {
    let log = cluster().await;
    let master = master(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    let (revision, events) = accepted(ask(&master, id(), tenant("blue")).await);
    // A barrier proved that it is so.
    assert_eq!((revision, events), (4, vec![]));
}

#[actix::test]
async fn two_masters_with_old_folds_decide_again() {
    let log = cluster().await;
    let (first, second) = (master(&log), master(&log));
    accepted(ask(&first, id(), tenant("blue")).await);
    accepted(ask(&second, id(), network("a", "20.1.0.0/24")).await);
    // `first` holds blue without networks: its fence is refused, then it sees `a`.
    let overlapping = ask(&first, id(), network("b", "20.1.0.0/16")).await;
    assert!(overlaps(overlapping));
    accepted(ask(&first, id(), network("c", "20.2.0.0/24")).await);
}

#[actix::test]
async fn a_rejection_never_rests_on_stale_facts() {
    let log = cluster().await;
    let (first, second) = (master(&log), master(&log));
    let unknown = ask(&first, id(), network("a", "20.1.0.0/24")).await;
    assert!(matches!(
        rejection(unknown),
        Rejection::TenantUnknown { .. }
    ));
    accepted(ask(&second, id(), tenant("blue")).await);
    accepted(ask(&first, id(), network("a", "20.1.0.0/24")).await);
}

#[actix::test]
async fn a_lost_acknowledgement_is_answered_from_the_log() {
    let log = cluster().await;
    let master = master(&log);
    log.fail_next([Fault::LostAck]);
    let (revision, events) = accepted(ask(&master, id(), tenant("blue")).await);
    assert_eq!((revision, events.len()), (3, 2));
    log.fail_next([Fault::LostAppend]);
    accepted(ask(&master, id(), network("a", "20.1.0.0/24")).await);
    assert_eq!(log.end().await, Ok(Revision(6)));
}

#[actix::test]
async fn a_passed_deadline_appends_nothing() {
    let log = cluster().await;
    let master = master(&log);
    let request = Request {
        deadline: master.log().now() - 1,
        ..Request::new(id(), tenant("blue"), Duration::ZERO, master.log().now())
    };
    let reply = master.execute(request, External::default()).await;
    assert_eq!(rejection(reply), Rejection::DeadlinePassed);
    assert_eq!(log.end().await, Ok(Revision(1)));
}

#[actix::test]
async fn a_log_that_ends_before_what_the_client_saw_is_named_and_nothing_is_done() {
    let log = cluster().await;
    let master = master(&log);
    let body = network("a", "20.1.0.0/24");
    let request = Request {
        seen: Revision(99),
        ..Request::new(id(), body, Duration::from_millis(100), master.log().now())
    };
    let reply = master.execute(request, External::default()).await;
    let (end, seen) = (Revision(1), Revision(99));
    assert_eq!(rejection(reply), Rejection::LogShorter { end, seen });
}

#[actix::test]
async fn garbage_in_the_log_is_reported_for_its_aggregate_only() {
    let log = cluster().await;
    let master = master(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    log.write_raw("contiv.log.blue.intent.network.x", b"\xff\xffgarbage");
    let reply = ask(&master, id(), network("a", "20.1.0.0/24")).await;
    assert!(matches!(
        rejection(reply),
        Rejection::LogUnreadable {
            revision: Revision(4),
            ..
        }
    ));
    accepted(ask(&master, id(), tenant("green")).await);
}

#[actix::test]
async fn a_tenant_with_events_of_a_newer_schema_is_refused() {
    let log = cluster().await;
    let master = master(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    let mut header = bus_schema::Header::new(bus_schema::EventId(Uuid::new_v4()), 1, "new", id());
    header.schema = 99;
    header.min_reader = 99;
    let newer = codec::to_bytes(&bus_schema::Envelope {
        header,
        body: Event::Barrier,
    });
    log.write_raw("contiv.log.blue.intent.policy.x", &newer);
    let reply = ask(&master, id(), network("a", "20.1.0.0/24")).await;
    assert_eq!(
        rejection(reply),
        Rejection::OlderThanLog {
            revision: Revision(4)
        }
    );
    accepted(ask(&master, id(), tenant("green")).await);
}

#[actix::test]
async fn many_commands_at_once_through_two_masters_all_end_and_none_overlaps() {
    let log = cluster().await;
    let masters = [master(&log), master(&log)];
    accepted(ask(&masters[0], id(), tenant("blue")).await);
    let replies = RefCell::new(Vec::new());
    let asks = (0..40_usize).map(|i| {
        let (masters, replies) = (&masters, &replies);
        async move {
            let command = network(&format!("n{i}"), &format!("20.{}.0.0/16", i / 2));
            let reply = ask(&masters[i % 2], id(), command).await;
            replies.borrow_mut().push((i / 2, reply));
        }
    });
    futures::future::join_all(asks).await;
    for pair in 0..20 {
        let accepted = replies
            .borrow()
            .iter()
            .filter(|(of, reply)| *of == pair && matches!(reply, Reply::Accepted { .. }))
            .count();
        assert_eq!(accepted, 1, "pair {pair}: {:?}", replies.borrow());
    }
    let vnis = log.load("contiv.log._cluster.>", Revision(0), 1_000).await;
    let subjects: std::collections::BTreeSet<_> = vnis
        .expect("in memory")
        .into_iter()
        .map(|record| record.subject)
        .filter(|subject| subject.contains(".vni."))
        .collect();
    assert_eq!(subjects.len(), 20);
}
