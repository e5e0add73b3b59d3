//! A panic in an aggregate ends neither its actor nor, the first time, the process.

use super::*;

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
            tenant: testing::name(tenant),
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

    fn add_external((): &mut (), (): &()) {}

    fn sources(&self, _: &String) -> Vec<Source> {
        vec![]
    }

    fn add((): &mut (), _: SourceState) {}

    fn foresee((): &mut (), _: &AggregateId, _: &Event) {}
}

fn blue() -> AggregateId {
    AggregateId::Tenant(testing::name("blue"))
}

struct Fussiness {
    actor: Supervised<Decider<Fussy>>,
    fold: SharedFold<Fussy>,
    shell: Rc<Log>,
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
        let shell = Log::new(journal, settings);
        let (fold, prover) = (SharedFold::default(), Prover::new(Rc::clone(&shell)));
        let actor = supervise("fussy", 8, {
            let (fold, shell) = (Rc::clone(&fold), Rc::clone(&shell));
            move |_| {
                Decider::new(
                    blue(),
                    Rc::clone(&fold),
                    Rc::clone(&prover),
                    Rc::clone(&shell),
                )
            }
        });
        Self {
            actor,
            fold,
            shell,
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
        let blue = blue();
        let snapshot = self.shell.refresh(&blue, &self.fold, Freshness::Cached);
        snapshot.await.expect("folded").state.seen
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
    assert_eq!(rejection(fussy.ask().await), Rejection::Defect);
    accepted(fussy.ask().await);
    assert_eq!(fussy.seen().await, 2);
}
