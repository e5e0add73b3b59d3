//! The actors that run, built when first asked for; the idle ones go when there are many.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bus_schema::command::Request;
use bus_schema::{
    AggregateId, Command, CommandId, EventId, PoolKey, Rejection, Reply, Revision, TenantName,
    subject,
};
use tokio::sync::watch;
use tokio::time::timeout;

use super::decider::{Decider, Execute};
use super::facts::Gather;
use super::ledger::{Ledger, Shared};
use super::proof::Proofs;
use super::supervise::{Supervised, supervise};
use crate::aggregate::{Cluster, ClusterFacts, Drained, Leases, Routed, Tenant, route};
use crate::journal::{Journal, LoadError, Record};

/// Commands and questions that wait for one actor. Beyond, they are answered "busy".
const MAILBOX: usize = 256;
/// Actors of one kind that are kept; beyond, the one asked longest ago goes, and is folded anew
/// when it is asked again.
const KEPT: usize = 4_096;

/// How long the feed is waited for. It comes within a few milliseconds, or not before it is made anew;
/// then the log is read.
const FEED: Duration = Duration::from_millis(50);

/// What actors need to know of their process.
#[derive(Clone)]
pub struct Settings {
    /// Who writes the events: this netmaster's name.
    pub actor: String,
    /// Called when the process can't go on; it must end it.
    pub give_up: Arc<dyn Fn(String)>,
    /// Called with each message that is fed, those included that were appended here.
    pub fed: Rc<dyn Fn(&Record)>,
    /// For tests that kill the process there: how long to wait between an append and its reply.
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

/// What isn't in the log and comes with a command.
#[derive(Debug, Clone, Default)]
pub struct External {
    pub cluster: ClusterFacts,
    pub drained: Drained,
}

/// All actors of this process. Lives on one thread, inside an actix `System`.
#[derive(Debug)]
pub struct Registry {
    journal: Arc<dyn Journal>,
    settings: Settings,
    proofs: Proofs,
    cluster: RefCell<Option<Running<Cluster>>>,
    tenants: RefCell<Shelf<TenantName, Tenant>>,
    leases: RefCell<Shelf<PoolKey, Leases>>,
    /// Up to where the log was fed.
    fed: watch::Sender<Revision>,
    /// The id of the event that was fed last; `None`: it can't be read.
    last_event: Cell<Option<EventId>>,
    /// The last fed message of each aggregate, and how many there were.
    last: RefCell<BTreeMap<AggregateId, (Revision, u64)>>,
    given_up: Cell<bool>,
    /// Why nothing is decided.
    refusal: watch::Sender<Option<Rejection>>,
}

impl Registry {
    pub fn new(journal: Arc<dyn Journal>, settings: Settings) -> Rc<Self> {
        Rc::new(Self {
            journal,
            settings,
            proofs: Proofs::default(),
            cluster: RefCell::default(),
            tenants: RefCell::default(),
            leases: RefCell::default(),
            fed: watch::Sender::new(Revision(0)),
            last_event: Cell::default(),
            last: RefCell::default(),
            given_up: Cell::new(false),
            refusal: watch::Sender::new(None),
        })
    }

    /// Has the command decided and carried out, at most once for its id. An answer for which nothing
    /// was appended holds at a proved end of the log.
    pub async fn execute(self: &Rc<Self>, request: Request<Command>, external: External) -> Reply {
        self.carry_out(request, external, true).await
    }

    /// As [`Registry::execute`], for commands whose answer nobody relies on: netmaster's own, which
    /// are due again while they aren't done. They append no barriers.
    pub async fn react(self: &Rc<Self>, request: Request<Command>, external: External) -> Reply {
        self.carry_out(request, external, false).await
    }

    async fn carry_out(
        self: &Rc<Self>,
        request: Request<Command>,
        external: External,
        proved: bool,
    ) -> Reply {
        let arrived = Instant::now();
        let accepts = matches!(request.body, Command::LogAccept(_));
        if let Some(why) = self.refusal().filter(|_| !accepts) {
            return Reply::rejected(why, self.fed());
        }
        let Request {
            id,
            deadline,
            seen,
            body,
            ..
        } = request;
        // What the client saw is on its way here, too.
        self.fed_to(seen).await;
        let ask = Ask {
            id,
            deadline,
            seen,
            arrived,
            proved,
        };
        match route(body) {
            Routed::Cluster(command) => ask.put(self.cluster(), command, external.cluster).await,
            Routed::Tenant(tenant, command) => {
                ask.put(self.tenant(&tenant), command, external.drained)
                    .await
            }
            Routed::Leases(pool, command) => ask.put(self.leases(&pool), command, ()).await,
        }
    }

    /// Decides nothing for this reason, or decides again; an operator's acceptance of the log excepted.
    pub fn refuse(&self, why: Option<Rejection>) {
        self.refusal.send_if_modified(|refusal| {
            let changed = *refusal != why;
            *refusal = why;
            changed
        });
    }

    /// Why nothing is decided.
    pub fn refusal(&self) -> Option<Rejection> {
        self.refusal.borrow().clone()
    }

    /// As [`Registry::refusal`], for other threads.
    pub fn refusals(&self) -> watch::Receiver<Option<Rejection>> {
        self.refusal.subscribe()
    }

    pub fn journal(&self) -> &Arc<dyn Journal> {
        &self.journal
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn proofs(&self) -> &Proofs {
        &self.proofs
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn give_up(&self, why: String) {
        if !self.given_up.replace(true) {
            (self.settings.give_up)(why);
        }
    }

    /// Takes the log's next message. Who feeds does so from the log's start and leaves out none; what
    /// is appended here needs no feeding.
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
            self.tell(&id, after, std::slice::from_ref(record));
        }
        self.last_event
            .set(record.envelope().map(|it| it.header.id));
        (self.settings.fed)(record);
        self.fed.send_replace(record.revision);
    }

    /// Up to where the log was fed; 0: nobody feeds.
    pub fn fed(&self) -> Revision {
        *self.fed.borrow()
    }

    /// The id of the event that was fed last; `None`: none was, or it can't be read.
    pub fn last_event(&self) -> Option<EventId> {
        self.last_event.get()
    }

    /// Asks whoever answered a load just now for the message at `end`: a server that is cut off or
    /// behind doesn't hold it.
    pub(super) async fn holds(&self, end: Revision) -> Result<(), LoadError> {
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

    /// Whether what lies behind `revision` is what is to be fed next.
    pub(super) fn is_fed_to(&self, revision: Revision) -> bool {
        let fed = self.fed();
        fed > Revision(0) && fed == revision
    }

    /// Waits a little until the log was fed up to there. Whether it was; never where nobody feeds.
    pub(super) async fn fed_to(&self, revision: Revision) -> bool {
        let fed = self.fed();
        if fed == Revision(0) || fed >= revision {
            return fed > Revision(0);
        }
        let mut feed = self.fed.subscribe();
        let reached = feed.wait_for(|fed| *fed >= revision);
        timeout(FEED, reached).await.is_ok_and(|it| it.is_ok())
    }

    /// The last message of an aggregate that was fed, and how many there were; 0: none.
    pub(super) fn last_fed(&self, id: &AggregateId) -> (Revision, u64) {
        self.last.borrow().get(id).copied().unwrap_or_default()
    }

    pub(super) fn cluster(self: &Rc<Self>) -> Supervised<Decider<Cluster>> {
        let mut slot = self.cluster.borrow_mut();
        let running = slot.get_or_insert_with(|| self.build("cluster", AggregateId::Cluster));
        running.actor.clone()
    }

    pub(super) fn tenant(self: &Rc<Self>, tenant: &TenantName) -> Supervised<Decider<Tenant>> {
        let id = AggregateId::Tenant(tenant.clone());
        let mut shelf = self.tenants.borrow_mut();
        shelf.take(tenant.clone(), || self.build("tenant", id))
    }

    pub(super) fn leases(self: &Rc<Self>, pool: &PoolKey) -> Supervised<Decider<Leases>> {
        let id = AggregateId::Leases(pool.clone());
        let mut shelf = self.leases.borrow_mut();
        shelf.take(pool.clone(), || self.build("leases", id))
    }

    /// Folds in what was appended, where its actor runs; a fold that misses it is read on when it is
    /// asked for.
    pub(super) fn tell(&self, id: &AggregateId, after: Revision, records: &[Record]) {
        fn into<A: Gather>(
            running: Option<&Running<A>>,
            after: Revision,
            records: &[Record],
            of: &Registry,
        ) {
            if let Some(running) = running {
                let mut ledger = running.ledger.borrow_mut();
                ledger.take_in(after, records, of);
            }
        }
        match id {
            AggregateId::Cluster => into(self.cluster.borrow().as_ref(), after, records, self),
            AggregateId::Tenant(tenant) => {
                into(self.tenants.borrow().get(tenant), after, records, self);
            }
            AggregateId::Leases(pool) => into(self.leases.borrow().get(pool), after, records, self),
        }
    }

    fn build<A: Gather>(self: &Rc<Self>, name: &'static str, id: AggregateId) -> Running<A> {
        let registry = Rc::clone(self);
        let ledger = Shared::<A>::default();
        let shared = Rc::clone(&ledger);
        let actor = supervise(name, MAILBOX, move |_| {
            // Started again after a panic, it trusts nothing of before.
            shared.replace(Ledger::default());
            Decider::new(id.clone(), Rc::clone(&registry), Rc::clone(&shared))
        });
        Running { actor, ledger }
    }
}

/// An actor and its fold.
#[derive(Debug)]
struct Running<A: Gather> {
    actor: Supervised<Decider<A>>,
    ledger: Shared<A>,
}

struct Ask {
    id: CommandId,
    deadline: u64,
    seen: Revision,
    arrived: Instant,
    proved: bool,
}

impl Ask {
    /// A mailbox that is full or an actor that just panicked is an unknown outcome: the same id
    /// again is safe.
    async fn put<A: Gather>(
        self,
        actor: Supervised<Decider<A>>,
        command: A::Command,
        external: A::External,
    ) -> Reply {
        let id = self.id;
        let ask = Execute {
            id,
            deadline: self.deadline,
            seen: self.seen,
            arrived: self.arrived,
            proved: self.proved,
            command,
            external,
        };
        match actor.ask(ask).await {
            Ok(reply) => reply,
            Err(away) => Reply::Unknown {
                id,
                reason: away.to_string(),
            },
        }
    }
}

/// Actors of one kind, and when each was asked last.
#[derive(Debug)]
struct Shelf<K, A: Gather> {
    actors: BTreeMap<K, (u64, Running<A>)>,
    clock: u64,
}

impl<K, A: Gather> Default for Shelf<K, A> {
    fn default() -> Self {
        Self {
            actors: BTreeMap::new(),
            clock: 0,
        }
    }
}

impl<K: Ord + Clone, A: Gather> Shelf<K, A> {
    fn get(&self, key: &K) -> Option<&Running<A>> {
        self.actors.get(key).map(|(_, running)| running)
    }

    fn take(&mut self, key: K, build: impl FnOnce() -> Running<A>) -> Supervised<Decider<A>> {
        self.clock += 1;
        if self.actors.len() >= KEPT && !self.actors.contains_key(&key) {
            let oldest = self.actors.iter().min_by_key(|(_, (asked, _))| *asked);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.actors.remove(&oldest);
            }
        }
        let entry = self.actors.entry(key).or_insert_with(|| (0, build()));
        entry.0 = self.clock;
        entry.1.actor.clone()
    }
}
