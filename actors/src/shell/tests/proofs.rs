//! An answer without an append holds at a proved end of the log.

use std::sync::atomic::AtomicBool;

use bus_schema::command::TenantRemove;
use tokio::sync::Semaphore;

use super::*;

/// The log as one server has it that may be cut off from the others, or slow.
#[derive(Debug)]
struct Server {
    log: Arc<Memory>,
    /// Reads show the log up to here.
    reads_to: Mutex<Option<Revision>>,
    acknowledges: AtomicBool,
    /// So many appends go on.
    appends: Semaphore,
    /// Appends that were asked for.
    sent: AtomicU32,
}

impl Server {
    fn of(log: &Arc<Memory>) -> (Arc<Self>, Rc<Registry>) {
        let server = Arc::new(Self {
            log: Arc::clone(log),
            reads_to: Mutex::default(),
            acknowledges: AtomicBool::new(true),
            appends: Semaphore::new(Semaphore::MAX_PERMITS),
            sent: AtomicU32::new(0),
        });
        let master = master_on(Arc::<Self>::clone(&server));
        (server, master)
    }

    /// From now on it answers reads by what it has.
    async fn goes_stale(&self) {
        let end = self.log.end().await.expect("in memory");
        *self.reads_to.lock().expect("no panic here") = Some(end);
    }

    /// It answers as the leader it was, and the others don't hear it.
    async fn is_cut_off(&self) {
        self.goes_stale().await;
        self.acknowledges.store(false, Relaxed);
    }

    fn reads_to(&self) -> Revision {
        let to = *self.reads_to.lock().expect("no panic here");
        to.unwrap_or(Revision(u64::MAX))
    }
}

impl Journal for Server {
    fn load<'a>(
        &'a self,
        filter: &'a str,
        after: Revision,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, LoadError>> {
        async move {
            let mut records = self.log.load(filter, after, max).await?;
            records.retain(|record| record.revision <= self.reads_to());
            Ok(records)
        }
        .boxed()
    }

    fn append<'a>(
        &'a self,
        entries: &'a [NewRecord],
    ) -> BoxFuture<'a, Result<Revision, AppendError>> {
        async move {
            self.sent.fetch_add(1, Relaxed);
            let permit = self.appends.acquire().await;
            permit.expect("never closed").forget();
            match self.acknowledges.load(Relaxed) {
                true => self.log.append(entries).await,
                false => Err(AppendError::Unknown("none within 3s".to_owned())),
            }
        }
        .boxed()
    }

    fn end(&self) -> BoxFuture<'_, Result<Revision, LoadError>> {
        async { Ok(self.log.end().await?.min(self.reads_to())) }.boxed()
    }
}

fn remove(name: &str) -> Command {
    Command::TenantRemove(TenantRemove {
        tenant: testing::name(name),
    })
}

async fn barriers(log: &Memory) -> usize {
    let all = log.load(subject::LOG_ALL, Revision(0), 10_000).await;
    let all = all.expect("in memory");
    let barriers = all.iter().filter_map(Record::envelope);
    barriers.filter(|it| it.body == Event::Barrier).count()
}

#[track_caller]
fn is_unknown(reply: &Reply) {
    assert!(matches!(reply, Reply::Unknown { .. }), "{reply:?}");
}

#[actix::test]
async fn a_cut_off_server_answers_neither_unchanged_nor_a_rejection() {
    let log = cluster().await;
    let (majority, (server, minority)) = (master(&log), Server::of(&log));
    accepted(ask(&minority, id(), tenant("blue")).await);
    server.is_cut_off().await;
    accepted(ask(&majority, id(), remove("blue")).await);
    accepted(ask(&majority, id(), tenant("red")).await);
    is_unknown(&ask(&minority, id(), tenant("blue")).await);
    is_unknown(&ask(&minority, id(), remove("red")).await);
    server.acknowledges.store(true, Relaxed);
    *server.reads_to.lock().expect("no panic here") = None;
    accepted(ask(&minority, id(), remove("red")).await);
}

#[actix::test]
async fn a_server_that_reads_old_messages_is_not_believed_after_a_proof() {
    let log = cluster().await;
    let (majority, (server, master)) = (master(&log), Server::of(&log));
    accepted(ask(&master, id(), tenant("blue")).await);
    server.goes_stale().await;
    accepted(ask(&majority, id(), remove("blue")).await);
    // The barrier is acknowledged by the new leader, the old one answers reads.
    is_unknown(&ask(&master, id(), tenant("blue")).await);
}

#[actix::test]
async fn requests_that_wait_share_one_barrier() {
    let log = cluster().await;
    let master = master(&log);
    let names: Vec<String> = (0..20).map(|i| format!("t{i}")).collect();
    for name in &names {
        accepted(ask(&master, id(), tenant(name)).await);
    }
    let asks = names.iter().map(|name| ask(&master, id(), tenant(name)));
    for reply in futures::future::join_all(asks).await {
        assert_eq!(accepted(reply).1, []);
    }
    assert_eq!(barriers(&log).await, 1);
}

#[actix::test]
async fn barriers_are_at_most_20_a_second() {
    let log = cluster().await;
    let master = master(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    let started = Instant::now();
    for _ in 0..5 {
        accepted(ask(&master, id(), tenant("blue")).await);
    }
    assert_eq!(barriers(&log).await, 5);
    let took = started.elapsed();
    assert!(took >= 4 * Duration::from_millis(50), "{took:?}");
}

#[actix::test]
async fn a_barrier_proves_nothing_to_a_request_that_arrived_after_it_was_sent() {
    let log = cluster().await;
    let (server, master) = Server::of(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    accepted(ask(&master, id(), tenant("red")).await);
    let sent = server.sent.load(Relaxed);
    server.appends.forget_permits(Semaphore::MAX_PERMITS);
    let ask = |name: &'static str| {
        let master = Rc::clone(&master);
        actix::spawn(async move { ask(&master, id(), tenant(name)).await })
    };
    let first = ask("blue");
    for _ in 0..1_000 {
        if server.sent.load(Relaxed) > sent {
            break;
        }
        tokio::task::yield_now().await;
    }
    let second = ask("red");
    tokio::task::yield_now().await;
    server.appends.add_permits(1);
    accepted(first.await.expect("no panic"));
    assert_eq!(barriers(&log).await, 1);
    server.appends.add_permits(1);
    accepted(second.await.expect("no panic"));
    assert_eq!(barriers(&log).await, 2);
}

#[actix::test]
async fn an_append_since_the_request_arrived_is_a_proof_too() {
    let log = cluster().await;
    let master = master(&log);
    accepted(ask(&master, id(), tenant("blue")).await);
    let wish = network("a", "20.1.0.0/24");
    let (first, second) = tokio::join!(ask(&master, id(), wish.clone()), ask(&master, id(), wish),);
    let first = accepted(first);
    assert_eq!(accepted(second), (first.0, vec![]));
    assert_eq!(barriers(&log).await, 0);
}

#[actix::test]
async fn a_request_that_saw_more_than_the_log_holds_changes_nothing() {
    let log = cluster().await;
    let master = master(&log);
    feed(&master, &log).await;
    let request = Request {
        seen: Revision(99),
        ..Request::new(
            id(),
            tenant("blue"),
            Duration::from_secs(2),
            master.log().now(),
        )
    };
    let reply = master.execute(request, External::default()).await;
    let (end, seen) = (Revision(1), Revision(99));
    assert_eq!(rejection(reply), Rejection::LogShorter { end, seen });
    assert_eq!(log.end().await, Ok(Revision(2)));
    assert_eq!(barriers(&log).await, 1);
}

#[actix::test]
async fn netmasters_own_commands_append_no_barriers() {
    let log = cluster().await;
    let master = master(&log);
    let command = network("a", "20.1.0.0/24");
    let request = Request::new(id(), command, Duration::from_secs(2), master.log().now());
    let reply = master.react(request, External::default()).await;
    assert!(matches!(rejection(reply), Rejection::TenantUnknown { .. }));
    assert_eq!(barriers(&log).await, 0);
}
