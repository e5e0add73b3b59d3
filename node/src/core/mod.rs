//! The one way to the kernel: facts and endpoints → desired → difference → ops.
//!
//! Works off what an event or an attach touched, and looks at all of it after a start, after a
//! failure and now and then. Nothing is deleted that this process didn't want itself before the
//! log is in sync for the first time, and while the log is replayed nothing is changed for it.
//! The daemon runs it; nothing else holds the datapath.

mod allowed;
mod blame;
mod changed;
mod cleanup;
mod drift;
mod ending;
mod heirs;
mod kept;
mod look;
mod neighbours;
mod peer;
mod servers;
mod tells;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus_schema::node::LogState;
use bus_schema::{ClusterId, EndpointId, Revision, TenantName};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::bus::Facts;
use crate::cleanup::CleanupReply;
use crate::endpoint::{EndpointsHandle, Kernel, Locals, Snapshot};
use crate::healing::Healings;
use crate::metrics;
use crate::steps::Work;
use allowed::{Allowed, Wanted};
use blame::{is_blamed, take_back};
use changed::{Changed, changed};
pub use ending::Ending;
use heirs::Heirs;
use kept::Kept;
use look::{Look, RETRY};
use neighbours::Neighbours;
use node_core::desired::{
    Params, Programs, closed, desired, desired_domain, desired_host, tenants,
};
use node_core::projection::{EndpointsView, Projection, Touched};
use node_core::reconcile::{Op, diff, flushes_of_vanished, order};
use node_core::resource::{Object, Place, Resource, State};
use node_datapath::{BatchError, Datapath, DatapathError, KernelChange, KernelChanges, Scope};
use node_dns::DnsHandle;
use runtime::pause;
use servers::Servers;
pub use tells::{Progress, Tells, Watching};

/// Between two looks for what nothing tells of: a namespace that lost its name.
const GLANCE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Core {
    params: Params,
    datapath: Datapath,
    facts: Facts,
    kernel: watch::Sender<Kernel>,
    progress: watch::Sender<Progress>,
    servers: Servers,
    /// What the kernel holds, as far as we know.
    known: State,
    wanted: Wanted,
    /// Places that stay as they are until this node is in sync; absent: nobody looked yet.
    kept: Option<Kept>,
    /// The journal lost endpoints that aren't restored yet.
    incomplete_journal: bool,
    /// Why a change was kept back.
    held_back: Option<String>,
    /// Which log the facts were of at the last step, and how far.
    read: (Option<ClusterId>, Revision),
    locals: Locals,
    programs: Programs,
    ending: Ending,
    neighbours: Neighbours,
    /// What is of no tenant has to be thought over.
    host_drifted: bool,
    /// Whether the domains are of the other kind; unknown until it was looked.
    other_kind: Option<bool>,
    /// Farewells that are still to be said: their routes are gone already.
    owed: Vec<Op>,
    heirs: Heirs,
    pending: Touched,
    failed: BTreeMap<EndpointId, String>,
    /// What the log closed; known since this node was in sync with it.
    closed: BTreeMap<EndpointId, String>,
    was_in_sync: bool,
    /// Everything has to be looked at: at the start, and when a change failed.
    look: Look,
    /// Something wasn't allowed yet; all is looked at when the log is in sync.
    incomplete: bool,
    watching: Watching,
    healings: Healings,
    /// Places in whose netfilter somebody changed our table.
    torn: BTreeSet<Place>,
    /// What was known before it was looked, until what differs is put right.
    before: Option<State>,
    /// What this step did in the kernel.
    work: Work,
    /// Endpoints' devices that it made.
    made: BTreeSet<String>,
    /// Who asked for a look at everything, and what was done in it.
    asked: Option<CleanupReply>,
    swept: Vec<String>,
    /// What went wrong since everything was looked at and well.
    unmended: Result<(), String>,
}

impl Core {
    pub fn new(
        params: Params,
        datapath: Datapath,
        facts: Facts,
        tells: Tells,
        dns: DnsHandle,
        ending: Ending,
        watching: Watching,
    ) -> Self {
        let Tells {
            kernel,
            progress,
            healings,
        } = tells;
        let now = Instant::now();
        Self {
            params,
            neighbours: Neighbours::new(datapath.clone(), now),
            host_drifted: false,
            other_kind: None,
            datapath,
            facts,
            kernel,
            progress,
            servers: Servers::new(dns),
            known: State::default(),
            wanted: Wanted::default(),
            kept: None,
            incomplete_journal: false,
            held_back: None,
            read: Default::default(),
            locals: Locals::default(),
            programs: Programs::default(),
            ending,
            owed: Vec::new(),
            heirs: Heirs::default(),
            pending: Touched::default(),
            failed: BTreeMap::new(),
            closed: BTreeMap::new(),
            was_in_sync: false,
            look: Look::wanted(now),
            incomplete: false,
            torn: BTreeSet::new(),
            watching,
            healings,
            before: None,
            work: Work::default(),
            made: BTreeSet::new(),
            asked: None,
            swept: Vec::new(),
            unmended: Ok(()),
        }
    }

    /// Runs until its channels close.
    pub async fn run(
        mut self,
        endpoints: EndpointsHandle,
        mut log: watch::Receiver<LogState>,
        mut cleanups: mpsc::Receiver<CleanupReply>,
        mut views: watch::Receiver<EndpointsView>,
    ) {
        let mut view = views.borrow_and_update().clone();
        let mut facts = self.facts.subscribe();
        let mut snapshots = endpoints.snapshots();
        drop(endpoints);
        let mut signs = match self.watching.listens {
            true => self.datapath.kernel_changes().await,
            false => None,
        };
        let resync = self.watching.resync;
        let mut next_look = Instant::now() + resync;
        let mut next_glance = Instant::now() + GLANCE;
        loop {
            if Instant::now() >= next_look {
                self.look.want();
            }
            let state = log.borrow_and_update().clone();
            self.pending.merge(self.facts.take_touched());
            let projection = facts.borrow_and_update().clone();
            let snapshot = snapshots.borrow_and_update().clone();
            if self.look.is_wanted() {
                next_look = Instant::now() + resync;
            }
            self.step(&state, &projection, &snapshot).await;
            self.answer(state.has_read_log());
            let retry = if self.look.is_wanted() { RETRY } else { resync };
            let retry = next_look.min(Instant::now() + retry);
            loop {
                let wake = tokio::select! {
                    changed = facts.changed() => Wake::of(&changed),
                    changed = snapshots.changed() => Wake::of(&changed),
                    changed = log.changed() => Wake::of(&changed),
                    changed = views.changed() => match changed {
                        Ok(()) => Wake::View,
                        Err(_) => Wake::Closed,
                    },
                    sign = next(signs.as_mut()) => Wake::KernelChange(sign),
                    () = until(next_glance) => Wake::Glance,
                    Some(asked) = cleanups.recv() => {
                        self.clean(asked);
                        Wake::Work
                    }
                    () = until(retry) => Wake::Work,
                };
                let drifted = match wake {
                    Wake::Closed => return,
                    Wake::Work => break,
                    Wake::View => {
                        let before = view;
                        view = views.borrow_and_update().clone();
                        if self.part_with(&before, &view, &projection) {
                            break;
                        }
                        false
                    }
                    Wake::KernelChange(KernelChange::HostFirewall) => {
                        self.neighbours.heard();
                        next_glance = next_glance.min(Instant::now() + neighbours::SETTLE);
                        false
                    }
                    Wake::KernelChange(sign) => self.is_drift(&sign).await,
                    Wake::Glance => {
                        next_glance = Instant::now() + GLANCE;
                        if self.glance().await {
                            break;
                        }
                        self.datapath.lost_a_domain().await
                    }
                };
                if drifted {
                    tracing::warn!("somebody changed what is ours; putting it right");
                    metrics::drift();
                    self.look.want();
                    // Whoever changes things changes more than one.
                    for sign in signs.as_mut().map(KernelChanges::clear).unwrap_or_default() {
                        self.is_drift(&sign).await;
                    }
                    break;
                }
            }
        }
    }

    async fn step(&mut self, log: &LogState, facts: &Projection, snapshot: &Snapshot) {
        self.notice_another_log(facts);
        // Nothing is known yet: neither what to want nor what is ours to keep.
        if facts.cluster.is_none() {
            self.kernel.send_replace(Kernel {
                generation: snapshot.generation,
                ..Kernel::default()
            });
            return;
        }
        self.work = Work::default();
        let replaying = *log == LogState::CatchingUp;
        let in_sync = log.has_read_log();
        self.was_in_sync |= in_sync;
        let incomplete = snapshot.ledger.is_incomplete();
        if std::mem::replace(&mut self.incomplete_journal, incomplete) && !incomplete {
            self.look.want();
        }
        if self.waits_to_move(in_sync).await {
            let waiting = "this node's tenants are in domains of the other kind; they move when it is in sync with the log";
            self.progress
                .send_modify(|progress| progress.trouble = Some(waiting.to_owned()));
            return;
        }
        let changed = changed(&self.locals, &snapshot.endpoints);
        self.locals = snapshot.endpoints.clone();
        if in_sync {
            self.keep_nothing();
            if !self.wanted.is_swept() || self.incomplete {
                self.look.want();
                self.incomplete = false;
            }
        }
        let allowed = Allowed {
            changes: !replaying,
            deletes_of_others: self.wanted.is_swept() || in_sync,
        };
        // What is there has to be known before anything is added to it.
        let look = (!replaying || self.kept.is_none()) && self.look.is_due(Instant::now());
        for place in std::mem::take(&mut self.torn) {
            self.mend_rules(&place, facts, &allowed).await;
        }
        let outcome = if look {
            self.everything(facts, &allowed).await
        } else {
            let touched = if replaying {
                Touched::default()
            } else {
                std::mem::take(&mut self.pending)
            };
            let mut concerned = self.concerned(facts, touched, &changed);
            concerned.host |= !replaying && std::mem::take(&mut self.host_drifted);
            self.part(facts, concerned, &allowed).await
        };
        let mut outcome = outcome;
        if in_sync && outcome.is_ok() && !incomplete {
            self.wanted.sweep();
            let (locals, params) = (&self.locals, &self.params);
            outcome = self.ending.run(facts, locals, params, &self.datapath).await;
        }
        if outcome.is_err() {
            self.look.failed(look, Instant::now());
            self.unmended = outcome.clone();
        } else if look {
            self.unmended = Ok(());
        }
        // Until a look found nothing wrong, this node isn't where the log is.
        let outcome = self.unmended.clone();
        self.place_peers(facts, &changed).await;
        self.report(facts, snapshot, log, outcome);
    }

    /// Observes the whole kernel and makes it as it should be.
    async fn everything(&mut self, facts: &Projection, allowed: &Allowed) -> Result<(), String> {
        self.pending = Touched::default();
        self.host_drifted = false;
        if self.was_in_sync {
            self.closed.clear();
            self.close(facts, |_| true);
        }
        let observed = match self.datapath.observe(&Scope::All).await {
            Ok(state) => state,
            Err(error) => return Err(error.to_string()),
        };
        let before = std::mem::replace(&mut self.known, observed);
        // A node that moves to the other kind of domain looks for the first time when it is in sync.
        self.kept.get_or_insert_with(|| match self.was_in_sync {
            true => Kept::default(),
            false => Kept::of(&self.known),
        });
        self.held_back = None;
        let want = desired(facts, &self.locals, &self.params, &mut self.programs);
        self.owed
            .extend(flushes_of_vanished(&before, &self.known, &want));
        self.before = Some(before);
        for tenant in tenants(facts, &self.locals, &self.params) {
            self.servers.place(self.params.kind, &tenant);
        }
        // After a restart names don't wait for what is to be done.
        self.servers.after(&self.known, &self.datapath);
        let have = self.known.clone();
        self.failed.clear();
        self.look.begin();
        let done = self.apply(&have, &want, allowed).await;
        self.servers.after(&self.known, &self.datapath);
        done
    }

    async fn part(
        &mut self,
        facts: &Projection,
        concerned: Concerned,
        allowed: &Allowed,
    ) -> Result<(), String> {
        let (mut have, mut want) = (State::default(), State::default());
        if self.was_in_sync {
            self.close(facts, |tenant| concerned.tenants.contains(tenant));
        }
        if concerned.host {
            have.merge(&self.known.of(&Place::Host));
            want.merge(&desired_host(facts, &self.params));
        }
        for tenant in &concerned.tenants {
            let place = self.servers.place(self.params.kind, tenant);
            have.merge(&self.known.of(&place));
            want.merge(&desired_domain(
                facts,
                tenant,
                &self.locals,
                &self.params,
                &mut self.programs,
            ));
        }
        self.apply(&have, &want, allowed).await
    }

    /// Which parts an event and the changed endpoints concern.
    fn concerned(&self, facts: &Projection, touched: Touched, changed: &Changed) -> Concerned {
        let host = touched.cluster || !touched.nodes.is_empty();
        let mut concerned: BTreeSet<TenantName> = touched.tenants;
        concerned.extend(touched.networks.into_iter().map(|(tenant, _)| tenant));
        concerned.extend(changed.iter().map(|endpoint| endpoint.tenant.clone()));
        if host {
            concerned.extend(tenants(facts, &self.locals, &self.params));
        }
        Concerned {
            host,
            tenants: concerned,
        }
    }

    async fn apply(&mut self, have: &State, want: &State, allowed: &Allowed) -> Result<(), String> {
        let all = diff(have, want);
        let count = all.len();
        let mut ops = allowed.of(self.keep(all, want), want, &self.wanted);
        let complete = ops.len() == count;
        if allowed.changes && !self.owed.is_empty() {
            ops.append(&mut self.owed);
            order(&mut ops);
        }
        self.incomplete |= !complete;
        if allowed.changes {
            self.wanted.remember(want);
        }
        if ops.is_empty() {
            self.note(&ops, complete.then_some((have, want)));
            return Ok(());
        }
        for op in &ops {
            tracing::debug!("{op}");
        }
        self.servers.before(&ops);
        let done = self.datapath.execute(&ops).await;
        let failed = done.as_ref().err().map_or(0, |error| error.failures.len());
        metrics::kernel_ops(ops.len(), failed);
        self.note(&ops, complete.then_some((have, want)));
        if let Err(error) = &done {
            take_back(&mut self.known, error);
        }
        if ops.iter().any(is_of_domain) {
            self.servers.after(&self.known, &self.datapath);
        }
        self.made.extend(ops.iter().filter_map(peer::made));
        self.work.ops += (ops.len() - failed) as u64;
        self.work.last = ops.last().map(ToString::to_string);
        let before = self.before.take();
        match done {
            Ok(()) => {
                let before = before.filter(|_| self.wanted.is_swept());
                let healed = before.map(|before| drift::healed(&before, &ops));
                self.healings.note(healed.unwrap_or_default());
                if self.asked.is_some() {
                    self.swept.extend(ops.iter().map(ToString::to_string));
                }
                Ok(())
            }
            Err(error) => {
                let failed = error.failures.iter().map(|it| &it.op);
                let forgets = failed.filter(|op| matches!(op, Op::FlushConntrack { .. }));
                self.owed.extend(forgets.cloned());
                self.blame(&error);
                tracing::error!("{error}");
                Err(error.to_string())
            }
        }
    }

    /// The kernel as it is after the ops. When all was done, its part is as wanted: what went with
    /// a device has no op of its own.
    fn note(&mut self, ops: &[Op], complete: Option<(&State, &State)>) {
        if let Some((have, want)) = complete {
            self.known.replace(have, want);
            return;
        }
        for op in ops {
            match op {
                Op::Put(resource) | Op::Change { to: resource, .. } => {
                    self.known.insert(resource.clone());
                }
                Op::Delete(resource) => self.known.remove(&resource.key()),
                Op::FlushConntrack { .. } => {}
            }
        }
    }

    /// Finds the endpoints of these tenants that the log closes now.
    fn close(&mut self, facts: &Projection, of: impl Fn(&TenantName) -> bool) {
        let locals = &self.locals;
        let kept = |id: &EndpointId| locals.get(id).is_some_and(|it| !of(&it.tenant));
        self.closed.retain(|id, _| kept(id));
        let concerned = locals.values().filter(|it| of(&it.tenant));
        let found = closed(facts, concerned.map(|it| &**it), &self.params);
        self.closed.extend(found);
    }

    /// Finds the endpoints whose changes failed.
    fn blame(&mut self, error: &BatchError) {
        for failure in &error.failures {
            let locals = self.locals.values();
            let blamed = locals.filter(|it| is_blamed(&failure.op, it, self.params.kind));
            let text = format!("{}: {}", failure.op, failure.error);
            for endpoint in blamed {
                // What failed first is what the rest failed for.
                let id = endpoint.id.clone();
                self.failed.entry(id).or_insert_with(|| text.clone());
            }
        }
    }

    fn report(
        &mut self,
        facts: &Projection,
        snapshot: &Snapshot,
        log: &LogState,
        outcome: Result<(), String>,
    ) {
        let (replaying, in_sync) = (*log == LogState::CatchingUp, log.has_read_log());
        let locals = &self.locals;
        self.failed.retain(|id, _| locals.contains_key(id));
        let mut closed = self.closed.clone();
        closed.extend(self.failed.clone());
        self.kernel.send_replace(Kernel {
            generation: snapshot.generation,
            failed: self.failed.clone(),
            closed,
            was_in_sync: self.was_in_sync,
            in_sync,
        });
        let trouble = outcome.err().or_else(|| self.held_back.clone());
        if !replaying && trouble.is_none() {
            self.facts.applied(facts.applied, &self.work);
        }
        self.progress.send_if_modified(|progress| {
            let applied = if replaying || trouble.is_some() {
                progress.applied
            } else {
                facts.applied
            };
            let foreign_drops = self.neighbours.foreign_drops().to_vec();
            let now = Progress {
                applied,
                trouble,
                foreign_drops,
            };
            let changed = *progress != now;
            *progress = now;
            changed
        });
    }
}

/// What wakes the core.
enum Wake {
    Closed,
    Work,
    View,
    KernelChange(KernelChange),
    Glance,
}

impl Wake {
    fn of(changed: &Result<(), watch::error::RecvError>) -> Self {
        match changed {
            Ok(()) => Self::Work,
            Err(_) => Self::Closed,
        }
    }
}

async fn next(signs: Option<&mut KernelChanges>) -> KernelChange {
    match signs {
        Some(signs) => signs.next().await,
        None => std::future::pending().await,
    }
}

async fn until(when: Instant) {
    pause(when.saturating_duration_since(Instant::now())).await;
}

/// What a step has to think over.
#[derive(Debug)]
struct Concerned {
    host: bool,
    tenants: BTreeSet<TenantName>,
}

fn is_of_domain(op: &Op) -> bool {
    let is_domain = |it: &Resource| matches!(it.object, Object::Domain(_));
    matches!(op, Op::Put(it) | Op::Delete(it) if is_domain(it))
}

/// The MTU of the underlay, by this node's outer address.
pub async fn underlay_mtu(
    datapath: &Datapath,
    vtep: std::net::IpAddr,
) -> Result<u32, DatapathError> {
    const ETHERNET: u32 = 1_500;
    Ok(datapath.link_mtu(vtep).await?.unwrap_or(ETHERNET))
}
