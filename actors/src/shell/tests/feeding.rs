//! Folds are kept up to date by the feed and by own appends.

use super::*;

/// A log that counts what is asked of it.
#[derive(Debug)]
struct Counted {
    log: Arc<Memory>,
    loads: AtomicU32,
    appends: AtomicU32,
}

impl Counted {
    fn master(log: &Arc<Memory>) -> (Arc<Self>, Rc<Registry>) {
        let counted = Arc::new(Self {
            log: Arc::clone(log),
            loads: AtomicU32::new(0),
            appends: AtomicU32::new(0),
        });
        let master = master_on(Arc::<Self>::clone(&counted));
        (counted, master)
    }

    fn asked(&self) -> (u32, u32) {
        let (loads, appends) = (&self.loads, &self.appends);
        (loads.load(Relaxed), appends.load(Relaxed))
    }
}

impl Journal for Counted {
    fn load<'a>(
        &'a self,
        filter: &'a str,
        after: Revision,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, LoadError>> {
        self.loads.fetch_add(1, Relaxed);
        self.log.load(filter, after, max)
    }

    fn append<'a>(
        &'a self,
        entries: &'a [NewRecord],
    ) -> BoxFuture<'a, Result<Revision, AppendError>> {
        self.appends.fetch_add(1, Relaxed);
        self.log.append(entries)
    }

    fn end(&self) -> BoxFuture<'_, Result<Revision, LoadError>> {
        self.log.end()
    }
}

#[actix::test]
async fn fed_messages_are_neither_read_again_nor_refused() {
    let log = cluster().await;
    let (first, (counted, second)) = (master(&log), Counted::master(&log));
    feed(&second, &log).await;
    accepted(ask(&second, id(), tenant("blue")).await);
    feed(&second, &log).await;
    accepted(ask(&first, id(), network("a", "20.1.0.0/24")).await);
    feed(&second, &log).await;
    accepted(ask(&second, id(), network("b", "20.2.0.0/24")).await);
    assert_eq!(counted.asked(), (0, 2));
    feed(&second, &log).await;
    let overlapping = ask(&second, id(), network("c", "20.1.0.0/16")).await;
    assert!(overlaps(overlapping));
    // The barrier that proves the log's end is fed, too.
    assert_eq!(counted.asked(), (0, 3));
}

#[actix::test]
async fn messages_appended_here_need_no_feeding() {
    let log = cluster().await;
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = Rc::clone(&told);
    let first = master_with(Arc::<Memory>::clone(&log), move |record| {
        tell.borrow_mut().push(record.clone());
    });
    let second = master(&log);
    feed(&first, &log).await;
    accepted(ask(&first, id(), tenant("blue")).await);
    assert_eq!(first.log().fed(), Revision(3));
    accepted(ask(&second, id(), network("a", "20.1.0.0/24")).await);
    // Behind what wasn't fed yet.
    accepted(ask(&first, id(), network("b", "20.2.0.0/24")).await);
    assert_eq!(first.log().fed(), Revision(3));
    feed(&first, &log).await;
    accepted(ask(&first, id(), network("c", "20.3.0.0/24")).await);
    assert_eq!(log.end().await, Ok(Revision(12)));
    let all = log.load(subject::LOG_ALL, Revision(0), 1_000).await;
    // As whoever reads it has it, each once.
    assert_eq!(*told.borrow(), all.expect("in memory"));
}

#[actix::test]
async fn a_fold_that_missed_something_is_not_fed_behind_it() {
    let log = cluster().await;
    let (first, second) = (master(&log), master(&log));
    accepted(ask(&first, id(), tenant("blue")).await);
    accepted(ask(&first, id(), network("a", "20.1.0.0/24")).await);
    feed(&second, &log).await;
    // It is in memory from here on, and nothing was read into it.
    let _fold = second.log().tenant(&testing::name("blue"));
    accepted(ask(&first, id(), network("b", "20.2.0.0/24")).await);
    feed(&second, &log).await;
    let overlapping = ask(&second, id(), network("c", "20.1.0.0/16")).await;
    assert!(overlaps(overlapping));
}

#[actix::test]
async fn commands_that_wait_together_are_appended_together() {
    let log = cluster().await;
    let (counted, master) = Counted::master(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    // The first goes alone, the others wait for it; every fourth is in the way of the one before.
    let ids: Vec<CommandId> = (0..20).map(|_| id()).collect();
    let command = |i: usize| network(&format!("n{i}"), &format!("20.{}.0.0/16", i - i % 4 / 3));
    let asks = (0..20).map(|i| ask(&master, ids[i], command(i)));
    let replies = futures::future::join_all(asks).await;
    assert!(counted.asked().1 < 10, "{:?}", counted.asked());
    let all = log.load(subject::LOG_ALL, Revision(0), 1_000).await;
    let all = all.expect("in memory");
    for (i, reply) in replies.into_iter().enumerate() {
        if i % 4 == 3 {
            assert!(overlaps(reply), "{i}");
            continue;
        }
        // As a retry is answered, by whomever.
        let (revision, events) = accepted(reply);
        let own = all.iter().filter_map(Record::envelope);
        let own = own.filter(|it| it.header.cause == ids[i]);
        assert!(own.map(|it| &it.body).eq(&events), "{i}");
        let last = &all[usize::try_from(revision).expect("few") - 1];
        let last = last.envelope().map(|it| &it.body);
        assert_eq!(last, events.last(), "{i}");
        let retried = accepted(ask(&self::master(&log), ids[i], command(i)).await);
        assert_eq!(retried, (revision, events), "{i}");
    }
}

#[actix::test]
async fn a_command_asked_twice_at_a_time_is_carried_out_once() {
    let log = cluster().await;
    let master = master(&log);
    let node: NodeName = testing::name("n1");
    let join = Command::NodeJoin(NodeJoin {
        node: node.clone(),
        machine: MachineId("m1".to_owned()),
        vtep: testing::ip("198.18.1.1"),
    });
    accepted(ask(&master, id(), join).await);
    accepted(ask(&master, id(), tenant("blue")).await);
    accepted(ask(&master, id(), network("a", "20.1.0.0/16")).await);
    // Each lease is of another block, so only its id tells that it was asked before.
    let lease = Command::BlockLease(BlockLease {
        tenant: testing::name("blue"),
        network: testing::name("a"),
        group: None,
        node,
        address: None,
        v6: false,
        ahead: false,
        waiting: 0,
    });
    let (first, twice) = (id(), id());
    let (_, a, b) = tokio::join!(
        ask(&master, first, lease.clone()),
        ask(&master, twice, lease.clone()),
        ask(&master, twice, lease),
    );
    assert_eq!(accepted(a), accepted(b));
    assert_eq!(log.end().await, Ok(Revision(9)));
}

#[actix::test]
async fn a_feed_that_lags_is_not_waited_for_long() {
    let log = cluster().await;
    let (first, second) = (master(&log), master(&log));
    accepted(ask(&first, id(), tenant("blue")).await);
    feed(&second, &log).await;
    accepted(ask(&first, id(), network("a", "20.1.0.0/24")).await);
    let overlapping = ask(&second, id(), network("c", "20.1.0.0/16")).await;
    assert!(overlaps(overlapping));
    accepted(ask(&second, id(), network("b", "20.2.0.0/24")).await);
}
