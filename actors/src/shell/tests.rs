mod proofs;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus_schema::codec;
use bus_schema::command::{BlockLease, NetworkCreate, NodeJoin, Request, TenantCreate};
use bus_schema::event::{ClusterCreated, Settings as ClusterSettings, TenantOpened};
use bus_schema::{
    AggregateId, ClusterId, Command, CommandId, Event, MachineId, NodeName, Rejection, Reply,
    Revision, subject,
};
use uuid::Uuid;

use futures::FutureExt;
use futures::future::{BoxFuture, LocalBoxFuture};

use super::decider::{Decider, Execute, Freshness, Snap};
use super::facts::{Gather, Gathered, Snapshot};
use super::supervise::Supervised;
use super::{External, Registry, Settings, supervise};
use crate::aggregate::Aggregate;
use crate::journal::{self, AppendError, Entry, Journal, LoadError, Memory, Record, Trouble};

async fn cluster() -> Arc<Memory> {
    let log = Arc::new(Memory::default());
    let created = Event::ClusterCreated(ClusterCreated {
        cluster: ClusterId(Uuid::new_v4()),
        settings: ClusterSettings::default(),
    });
    let (entries, _) = journal::batch(&[created], id(), "test", 0, |_| Some(Revision(0)));
    log.append(&entries).await.expect("an empty log");
    log
}

fn master(log: &Arc<Memory>) -> Rc<Registry> {
    master_on(Arc::<Memory>::clone(log))
}

fn master_on(log: Arc<dyn Journal>) -> Rc<Registry> {
    master_that_tells(log, |_| {})
}

fn master_that_tells(log: Arc<dyn Journal>, fed: impl Fn(&Record) + 'static) -> Rc<Registry> {
    let settings = Settings {
        actor: "test".to_owned(),
        give_up: Arc::new(|why| panic!("{why}")),
        fed: Rc::new(fed),
        pause_after_append: None,
    };
    Registry::new(log, settings)
}

fn id() -> CommandId {
    CommandId(Uuid::new_v4())
}

fn tenant(name: &str) -> Command {
    Command::TenantCreate(TenantCreate {
        tenant: name.parse().expect("a name"),
    })
}

fn network(name: &str, subnet: &str) -> Command {
    Command::NetworkCreate(NetworkCreate {
        tenant: "blue".parse().expect("a name"),
        network: name.parse().expect("a name"),
        subnet: subnet.parse().expect("a subnet"),
        range: None,
        gateway: None,
        subnet6: None,
        gateway6: None,
        vni: None,
        docker_name: None,
    })
}

async fn ask(master: &Rc<Registry>, id: CommandId, command: Command) -> Reply {
    let request = Request::new(id, command, Duration::from_secs(2), master.now());
    master.execute(request, External::default()).await
}

#[track_caller]
fn accepted(reply: Reply) -> (u64, Vec<Event>) {
    match reply {
        Reply::Accepted { revision, events } => (revision.0, events),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn rejection(reply: Reply) -> Rejection {
    match reply {
        Reply::Rejected { rejection, .. } => rejection,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn overlaps(reply: Reply) -> bool {
    matches!(rejection(reply), Rejection::SubnetOverlaps { .. })
}

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
async fn the_same_wish_under_another_id_changes_nothing() {
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
async fn no_rejection_stands_on_stale_facts() {
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
    log.trouble([Trouble::LostAck]);
    let (revision, events) = accepted(ask(&master, id(), tenant("blue")).await);
    assert_eq!((revision, events.len()), (3, 2));
    log.trouble([Trouble::LostAppend]);
    accepted(ask(&master, id(), network("a", "20.1.0.0/24")).await);
    assert_eq!(log.end().await, Ok(Revision(6)));
}

#[actix::test]
async fn a_passed_deadline_appends_nothing() {
    let log = cluster().await;
    let master = master(&log);
    let request = Request {
        deadline: master.now() - 1,
        ..Request::new(id(), tenant("blue"), Duration::ZERO, master.now())
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
        ..Request::new(id(), body, Duration::from_millis(100), master.now())
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
async fn many_at_once_through_two_masters_all_end_and_none_overlaps() {
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

    fn append<'a>(&'a self, entries: &'a [Entry]) -> BoxFuture<'a, Result<Revision, AppendError>> {
        self.appends.fetch_add(1, Relaxed);
        self.log.append(entries)
    }

    fn end(&self) -> BoxFuture<'_, Result<Revision, LoadError>> {
        self.log.end()
    }
}

/// Feeds a master what it wasn't fed yet.
async fn feed(master: &Registry, log: &Memory) {
    let all = log.load(subject::LOG_ALL, Revision(0), 1_000).await;
    for record in all.expect("in memory") {
        master.feed(&record);
    }
}

#[actix::test]
async fn what_was_fed_is_neither_read_nor_refused() {
    let log = cluster().await;
    let (first, (counted, second)) = (master(&log), Counted::master(&log));
    feed(&second, &log).await;
    accepted(ask(&second, id(), tenant("blue")).await);
    feed(&second, &log).await;
    accepted(ask(&first, id(), network("a", "20.1.0.0/24")).await);
    feed(&second, &log).await;
    accepted(ask(&second, id(), network("b", "20.2.0.0/24")).await);
    // The cluster's own beginning, before any actor ran.
    assert_eq!(counted.asked(), (1, 2));
    feed(&second, &log).await;
    let overlapping = ask(&second, id(), network("c", "20.1.0.0/16")).await;
    assert!(overlaps(overlapping));
    // The barrier that proves the log's end is fed, too.
    assert_eq!(counted.asked(), (1, 3));
}

#[actix::test]
async fn what_is_appended_here_needs_no_feeding() {
    let log = cluster().await;
    let told = Rc::new(RefCell::new(Vec::new()));
    let tell = Rc::clone(&told);
    let first = master_that_tells(Arc::<Memory>::clone(&log), move |record| {
        tell.borrow_mut().push(record.clone());
    });
    let second = master(&log);
    feed(&first, &log).await;
    accepted(ask(&first, id(), tenant("blue")).await);
    assert_eq!(first.fed(), Revision(3));
    accepted(ask(&second, id(), network("a", "20.1.0.0/24")).await);
    // Behind what wasn't fed yet.
    accepted(ask(&first, id(), network("b", "20.2.0.0/24")).await);
    assert_eq!(first.fed(), Revision(3));
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
    // It runs from here on, and hasn't read anything.
    let _actor = second.tenant(&"blue".parse().expect("a name"));
    accepted(ask(&first, id(), network("b", "20.2.0.0/24")).await);
    feed(&second, &log).await;
    let overlapping = ask(&second, id(), network("c", "20.1.0.0/16")).await;
    assert!(overlaps(overlapping));
}

#[actix::test]
async fn what_waits_together_is_appended_together() {
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
async fn asked_twice_at_a_time_it_is_carried_out_once() {
    let log = cluster().await;
    let master = master(&log);
    let node: NodeName = "n1".parse().expect("a name");
    let join = Command::NodeJoin(NodeJoin {
        node: node.clone(),
        machine: MachineId("m1".to_owned()),
        vtep: "198.18.1.1".parse().expect("an address"),
    });
    accepted(ask(&master, id(), join).await);
    accepted(ask(&master, id(), tenant("blue")).await);
    accepted(ask(&master, id(), network("a", "20.1.0.0/16")).await);
    // Each lease is of another block, so only its id tells that it was asked before.
    let lease = Command::BlockLease(BlockLease {
        tenant: "blue".parse().expect("a name"),
        network: "a".parse().expect("a name"),
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

/// Panics as often as told while folding the second event it sees, or while deciding.
#[derive(Debug, Clone, Default)]
struct Fussy {
    seen: u32,
}

thread_local! {
    static FOLDS: Cell<u32> = const { Cell::new(0) };
    static DECISIONS: Cell<u32> = const { Cell::new(0) };
}

/// Takes one of the panics that are left.
fn panic_if_any(left: &'static std::thread::LocalKey<Cell<u32>>) {
    if left.get() > 0 {
        left.set(left.get() - 1);
        panic!("on demand");
    }
}

impl Aggregate for Fussy {
    type Command = String;
    type Facts = ();

    fn decide(&self, tenant: &String, (): &()) -> Result<Vec<Event>, Rejection> {
        panic_if_any(&DECISIONS);
        Ok(vec![Event::TenantOpened(TenantOpened {
            tenant: tenant.parse().expect("a name"),
        })])
    }

    fn evolve(&mut self, _: &Event) {
        self.seen += 1;
        if self.seen == 2 {
            panic_if_any(&FOLDS);
        }
    }
}

impl Gather for Fussy {
    type External = ();

    fn gather<'a>(
        _: &'a Rc<Registry>,
        _: &'a Self,
        _: &'a Execute<Self>,
        _: Freshness,
        _: &'a mut Gathered<()>,
    ) -> LocalBoxFuture<'a, Result<(), super::decider::Trouble>> {
        futures::future::ready(Ok(())).boxed_local()
    }

    fn foresee((): &mut (), _: &AggregateId, _: &Event) {}
}

struct Fussiness {
    actor: Supervised<Decider<Fussy>>,
    gave_up: Arc<Mutex<Vec<String>>>,
    log: Arc<Memory>,
}

impl Fussiness {
    fn new(log: Arc<Memory>) -> Self {
        let gave_up: Arc<Mutex<Vec<String>>> = Arc::default();
        let said = Arc::clone(&gave_up);
        let settings = Settings {
            actor: "test".to_owned(),
            give_up: Arc::new(move |why| said.lock().expect("no panic here").push(why)),
            fed: Rc::new(|_| {}),
            pause_after_append: None,
        };
        let journal: Arc<dyn Journal> = Arc::<Memory>::clone(&log);
        let registry = Registry::new(journal, settings);
        let blue = AggregateId::Tenant("blue".parse().expect("a name"));
        let actor = supervise("fussy", 8, move |_| {
            Decider::new(blue.clone(), Rc::clone(&registry), Rc::default())
        });
        Self {
            actor,
            gave_up,
            log,
        }
    }

    async fn ask(&self) -> Reply {
        let ask = Execute {
            id: id(),
            deadline: u64::MAX,
            seen: Revision(0),
            arrived: Instant::now(),
            proved: true,
            command: "blue".to_owned(),
            external: (),
        };
        self.actor.ask(ask).await.expect("the actor itself lives")
    }

    async fn seen(&self) -> u32 {
        let snap = self.actor.ask(Snap::new(Freshness::Cached)).await;
        let snapshot: Snapshot<Fussy> = snap.expect("alive").expect("folded");
        snapshot.state.seen
    }

    fn gave_up(&self) -> Vec<String> {
        self.gave_up.lock().expect("no panic here").clone()
    }
}

#[actix::test]
async fn a_panic_while_folding_folds_anew_before_answering() {
    let fussy = Fussiness::new(Arc::default());
    accepted(fussy.ask().await);
    FOLDS.set(1);
    accepted(fussy.ask().await);
    accepted(fussy.ask().await);
    assert_eq!(fussy.seen().await, 3);
    assert_eq!(fussy.log.end().await, Ok(Revision(3)));
    assert_eq!(fussy.gave_up(), Vec::<String>::new());
}

#[actix::test]
async fn a_second_panic_on_the_same_event_ends_the_process() {
    let fussy = Fussiness::new(Arc::default());
    accepted(fussy.ask().await);
    accepted(fussy.ask().await);
    FOLDS.set(2);
    let late = Fussiness::new(Arc::clone(&fussy.log));
    let _ = late.ask().await;
    let gave_up = late.gave_up();
    assert_eq!(gave_up.len(), 1, "{gave_up:?}");
    assert!(gave_up[0].contains("revision 2"), "{gave_up:?}");
}

#[actix::test]
async fn a_panic_while_deciding_decides_again_on_a_new_fold() {
    let fussy = Fussiness::new(Arc::default());
    DECISIONS.set(1);
    accepted(fussy.ask().await);
    // Twice on the cached fold, twice at the end of the log.
    DECISIONS.set(4);
    assert!(matches!(
        rejection(fussy.ask().await),
        Rejection::Malformed { .. }
    ));
    accepted(fussy.ask().await);
    assert_eq!(fussy.seen().await, 2);
}
