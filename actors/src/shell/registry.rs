//! The actors that run. Each is built when it is first needed; when there are many, the idle ones are
//! dropped.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_schema::command::Request;
use bus_schema::mark_rule::MarkRule;
use bus_schema::{
    AggregateId, Command, CommandId, PoolKey, Rejection, Reply, Revision, TenantName,
};
use tokio::sync::watch;

use super::cached_fold::{CachedFold, SharedFold};
use super::decider::{Decider, Execute};
use super::facts::Gather;
use super::log::{Log, Settings};
use super::proof::{Proof, Prover, Unproved};
use super::shelf::Shelf;
use super::supervise::{Supervised, supervise};
use crate::aggregate::{Cluster, ClusterFacts, Drained, Leases, Routed, Tenant, route};
use crate::journal::Journal;

/// Messages that wait for one actor; more are answered "busy".
const MAX_MAILBOX: usize = 256;

/// Facts that aren't in the log and come with a command.
#[derive(Debug, Clone, Default)]
pub struct External {
    pub cluster: ClusterFacts,
    pub drained: Drained,
    /// The nodes' routing rules by the packet mark.
    pub mark_rules: Vec<MarkRule>,
}

type Actor<A> = Supervised<Decider<A>>;

/// All actors of this process. It lives on one thread, inside an actix `System`.
#[derive(Debug)]
pub struct Registry {
    log: Rc<Log>,
    prover: Rc<Prover>,
    cluster: RefCell<Option<Actor<Cluster>>>,
    tenants: RefCell<Shelf<TenantName, Actor<Tenant>>>,
    leases: RefCell<Shelf<PoolKey, Actor<Leases>>>,
    /// Why nothing is decided.
    refusal: watch::Sender<Option<Rejection>>,
}

impl Registry {
    pub fn new(journal: Arc<dyn Journal>, settings: Settings) -> Rc<Self> {
        let log = Log::new(journal, settings);
        Rc::new(Self {
            prover: Prover::new(Rc::clone(&log)),
            log,
            cluster: RefCell::default(),
            tenants: RefCell::default(),
            leases: RefCell::default(),
            refusal: watch::Sender::new(None),
        })
    }

    pub fn log(&self) -> &Rc<Log> {
        &self.log
    }

    /// Proves the log's end for a request that arrived at `arrived`: by an earlier append, or by the
    /// next barrier.
    pub async fn prove(&self, arrived: Instant, within: Duration) -> Result<Proof, Unproved> {
        self.prover.prove(arrived, within).await
    }

    /// Has the command decided and carried out, at most once for its id. An answer for which nothing
    /// was appended holds at a proved end of the log.
    pub async fn execute(&self, request: Request<Command>, external: External) -> Reply {
        self.carry_out(request, external, true).await
    }

    /// As [`Registry::execute`], for commands whose answer nobody relies on: netmaster's own, which
    /// are due again while they aren't done. They append no barriers.
    pub async fn react(&self, request: Request<Command>, external: External) -> Reply {
        self.carry_out(request, external, false).await
    }

    async fn carry_out(
        &self,
        request: Request<Command>,
        external: External,
        proved: bool,
    ) -> Reply {
        let arrived = Instant::now();
        let accepts = matches!(request.body, Command::LogAccept(_));
        if let Some(why) = self.refusal().filter(|_| !accepts) {
            return Reply::rejected(why, self.log.fed());
        }
        // The messages that the client saw are on their way here, too.
        self.log.fed_to(request.seen).await;
        let Request {
            id,
            deadline,
            seen,
            body,
            ..
        } = request;
        let circumstances = Circumstances {
            id,
            deadline,
            seen,
            arrived,
            proved,
        };
        match route(body) {
            Routed::Cluster(command) => {
                let ask = circumstances.execute(command, external.cluster);
                answer(self.cluster(), ask).await
            }
            Routed::Tenant(tenant, command) => {
                let ask = circumstances.execute(command, (external.drained, external.mark_rules));
                answer(self.tenant(&tenant), ask).await
            }
            Routed::Leases(pool, command) => {
                let ask = circumstances.execute(command, ());
                answer(self.leases(&pool), ask).await
            }
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

    fn cluster(&self) -> Actor<Cluster> {
        let build = || self.build("cluster", AggregateId::Cluster, self.log.cluster());
        self.cluster.borrow_mut().get_or_insert_with(build).clone()
    }

    fn tenant(&self, tenant: &TenantName) -> Actor<Tenant> {
        let id = AggregateId::Tenant(tenant.clone());
        let build = || self.build("tenant", id, self.log.tenant(tenant));
        let mut tenants = self.tenants.borrow_mut();
        tenants.get_or_build(tenant, build).clone()
    }

    fn leases(&self, pool: &PoolKey) -> Actor<Leases> {
        let id = AggregateId::Leases(pool.clone());
        let build = || self.build("leases", id, self.log.leases(pool));
        let mut leases = self.leases.borrow_mut();
        leases.get_or_build(pool, build).clone()
    }

    fn build<A: Gather>(
        &self,
        name: &'static str,
        id: AggregateId,
        fold: SharedFold<A>,
    ) -> Actor<A> {
        let (prover, log) = (Rc::clone(&self.prover), Rc::clone(&self.log));
        supervise(name, MAX_MAILBOX, move |restarts| {
            if restarts > 0 {
                // The panic may have left it broken.
                fold.replace(CachedFold::default());
            }
            let (prover, log) = (Rc::clone(&prover), Rc::clone(&log));
            Decider::new(id.clone(), Rc::clone(&fold), prover, log)
        })
    }
}

/// A request without its command.
struct Circumstances {
    id: CommandId,
    deadline: u64,
    seen: Revision,
    arrived: Instant,
    proved: bool,
}

impl Circumstances {
    fn execute<A: Gather>(self, command: A::Command, external: A::External) -> Execute<A> {
        Execute {
            id: self.id,
            deadline: self.deadline,
            seen: self.seen,
            arrived: self.arrived,
            proved: self.proved,
            command,
            external,
        }
    }
}

/// Has the actor answer. If its mailbox is full, or if it just panicked, the outcome is unknown: the
/// same id again is safe.
async fn answer<A: Gather>(actor: Actor<A>, ask: Execute<A>) -> Reply {
    let id = ask.id;
    match actor.ask(ask).await {
        Ok(reply) => reply,
        Err(away) => Reply::Unknown {
            id,
            reason: away.to_string(),
        },
    }
}
