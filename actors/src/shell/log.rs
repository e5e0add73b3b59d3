//! The log as the actors of this process share it: how far it was fed, and the folds of its
//! aggregates, which the feed keeps up to date.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bus_schema::{AggregateId, EventId, PoolKey, Revision, TenantName, subject};
use tokio::sync::watch;
use tokio::time::timeout;

use super::cached_fold::{SharedFold, TakenIn};
use super::shelf::Shelf;
use crate::aggregate::{Aggregate, Cluster, Leases, Tenant};
use crate::journal::{Journal, LoadError, Record};

/// How long a revision is awaited from the feed. It comes within a few milliseconds, or not before the
/// feed is made anew; then the log is read.
const FEED_TIMEOUT: Duration = Duration::from_millis(50);

/// The settings of a process that its actors share.
#[derive(Clone)]
pub struct Settings {
    /// The name of this netmaster, which writes the events.
    pub actor: String,
    /// Called when the process can't go on; it must end it.
    pub give_up: Arc<dyn Fn(String)>,
    /// Called with each message that is fed, those included that were appended here.
    pub fed: Rc<dyn Fn(&Record)>,
    /// The time between an append and its reply, for tests that kill the process there.
    pub pause_after_append: Option<Duration>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("actor", &self.actor)
            .field("pause_after_append", &self.pause_after_append)
            .finish_non_exhaustive()
    }
}

impl Settings {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test kills the process while it pauses"
    )]
    pub(super) async fn pause_after_append(&self) {
        if let Some(pause) = self.pause_after_append {
            tracing::warn!(
                "appended; pausing before the reply, as CONTIV_TEST_PAUSE_AFTER_APPEND says"
            );
            tokio::time::sleep(pause).await;
        }
    }
}

/// The log of this process. It lives on one thread.
#[derive(Debug)]
pub struct Log {
    journal: Arc<dyn Journal>,
    settings: Settings,
    folds: Folds,
    /// The last fed revision.
    fed: watch::Sender<Revision>,
    /// The id of the event that was fed last; `None`: it can't be read.
    last_event: Cell<Option<EventId>>,
    /// The last fed message of each aggregate, and how many there were.
    last: RefCell<BTreeMap<AggregateId, (Revision, u64)>>,
    given_up: Cell<bool>,
}

/// The folds in memory. A fold that was dropped is read again when it is needed.
#[derive(Debug, Default)]
struct Folds {
    cluster: SharedFold<Cluster>,
    tenants: RefCell<Shelf<TenantName, SharedFold<Tenant>>>,
    leases: RefCell<Shelf<PoolKey, SharedFold<Leases>>>,
}

impl Log {
    pub(super) fn new(journal: Arc<dyn Journal>, settings: Settings) -> Rc<Self> {
        Rc::new(Self {
            journal,
            settings,
            folds: Folds::default(),
            fed: watch::Sender::new(Revision(0)),
            last_event: Cell::default(),
            last: RefCell::default(),
            given_up: Cell::new(false),
        })
    }

    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    /// Takes the log's next message. The caller begins at the log's start and leaves out none;
    /// messages that were appended here are fed already.
    pub fn feed(&self, record: &Record) {
        if record.revision <= self.fed() {
            return;
        }
        if let Some(id) = subject::aggregate_of(&record.subject) {
            let after = {
                let mut all = self.last.borrow_mut();
                let last = all.entry(id.clone()).or_default();
                let count = last.1 + 1;
                std::mem::replace(last, (record.revision, count)).0
            };
            self.fold_in(&id, after, std::slice::from_ref(record));
        }
        self.last_event
            .set(record.envelope().map(|it| it.header.id));
        (self.settings.fed)(record);
        self.fed.send_replace(record.revision);
    }

    /// The last fed revision; 0: nobody feeds.
    pub fn fed(&self) -> Revision {
        *self.fed.borrow()
    }

    /// The id of the event that was fed last; `None`: none was, or it can't be read.
    pub fn last_event(&self) -> Option<EventId> {
        self.last_event.get()
    }

    /// Checks that the server that answered a load just now holds the message at `end`: one that is cut
    /// off or behind doesn't.
    pub(super) async fn must_hold(&self, end: Revision) -> Result<(), LoadError> {
        if end == Revision(0) {
            return Ok(());
        }
        let before = Revision(end.0.saturating_sub(1));
        let last = self.journal.load(subject::LOG_ALL, before, 1).await?;
        if last.iter().any(|record| record.revision == end) {
            return Ok(());
        }
        let reason = format!("the server that answers doesn't hold the log's revision {end}");
        Err(LoadError::Unavailable(reason))
    }

    /// Whether the message behind `revision` is the next to be fed.
    pub(super) fn is_fed_to(&self, revision: Revision) -> bool {
        let fed = self.fed();
        fed > Revision(0) && fed == revision
    }

    /// Waits for a moment until `revision` was fed, and answers whether it was; never where nobody
    /// feeds.
    pub(super) async fn fed_to(&self, revision: Revision) -> bool {
        let fed = self.fed();
        if fed == Revision(0) || fed >= revision {
            return fed > Revision(0);
        }
        let mut feed = self.fed.subscribe();
        let reached = feed.wait_for(|fed| *fed >= revision);
        timeout(FEED_TIMEOUT, reached)
            .await
            .is_ok_and(|it| it.is_ok())
    }

    /// The last message of an aggregate that was fed, and how many there were; 0: none.
    pub(super) fn last_fed(&self, id: &AggregateId) -> (Revision, u64) {
        self.last.borrow().get(id).copied().unwrap_or_default()
    }

    pub(super) fn cluster(&self) -> SharedFold<Cluster> {
        Rc::clone(&self.folds.cluster)
    }

    pub(super) fn tenant(&self, tenant: &TenantName) -> SharedFold<Tenant> {
        let mut tenants = self.folds.tenants.borrow_mut();
        Rc::clone(tenants.get_or_build(tenant, Rc::default))
    }

    pub(super) fn leases(&self, pool: &PoolKey) -> SharedFold<Leases> {
        let mut leases = self.folds.leases.borrow_mut();
        Rc::clone(leases.get_or_build(pool, Rc::default))
    }

    /// Folds in appended messages where the aggregate's fold is in memory. A fold that misses them is
    /// read on when it is needed.
    pub(super) fn fold_in(&self, id: &AggregateId, after: Revision, records: &[Record]) {
        fn peek<K: Ord + Clone, V: Clone>(shelf: &RefCell<Shelf<K, V>>, key: &K) -> Option<V> {
            shelf.borrow().peek(key).cloned()
        }
        match id {
            AggregateId::Cluster => {
                self.take_in(&self.folds.cluster, after, records);
            }
            AggregateId::Tenant(tenant) => {
                if let Some(fold) = peek(&self.folds.tenants, tenant) {
                    self.take_in(&fold, after, records);
                }
            }
            AggregateId::Leases(pool) => {
                if let Some(fold) = peek(&self.folds.leases, pool) {
                    self.take_in(&fold, after, records);
                }
            }
        }
    }

    /// Folds `records` into `fold`, and answers whether all are in now. The second panic on the same
    /// event ends the process.
    pub(super) fn take_in<A: Aggregate>(
        &self,
        fold: &SharedFold<A>,
        after: Revision,
        records: &[Record],
    ) -> bool {
        match fold.borrow_mut().take_in(after, records) {
            TakenIn::All => true,
            TakenIn::Gap | TakenIn::Panicked => false,
            TakenIn::PanickedAgain { revision, subject } => {
                self.give_up(format!(
                    "folding the event at revision {revision} ({subject}) panicked twice: this netmaster can't go on with this log; run another version of it"
                ));
                false
            }
        }
    }

    fn give_up(&self, why: String) {
        if !self.given_up.replace(true) {
            (self.settings.give_up)(why);
        }
    }
}
