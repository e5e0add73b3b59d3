//! One step of a node: which ops lead from the kernel's state to the desired one, and what is known
//! after them.
//!
//! Pure; the time is an argument. The daemon reads the kernel, executes a plan's ops and reports
//! their failures:
//!
//! ```text
//! begin ─▶ for each torn table: read its rules ─▶ plan ─▶ execute ─▶ done
//!       ─▶ resync: read everything; else nothing ─▶ plan ─▶ execute ─▶ done ─▶ end
//! ```
//!
//! Before the node is in sync with the log for the first time, it deletes only resources that this
//! process itself wanted. While the log is replayed, it only adds resources.

mod address_reuse;
mod allowed;
mod done;
mod endpoints;
mod failures;
#[cfg(test)]
mod model;
mod newer_rules;
mod plan;
mod repairs;
mod resync;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bus_schema::node::LogState;
use bus_schema::{ClusterId, EndpointId, Revision};

use crate::desired::{Params, Programs, Resolvers, desired};
use crate::endpoint::{LocalEndpoint, Locals};
use crate::projection::{Projection, Touched};
use crate::reconcile::Op;
use crate::resource::{Key, Kind, Place, Resource, State};

use address_reuse::AddressReuse;
use allowed::OwnKeys;
use endpoints::Endpoints;
use newer_rules::Protection;
use resync::Resync;

pub use plan::{Observed, Plan, plan};
pub use repairs::Repair;
pub use resync::RETRY_INTERVAL;
pub use trouble::{FailedOp, Trouble};

/// The facts that a step depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub facts: &'a Projection,
    pub locals: &'a Locals,
    pub log: &'a LogState,
    /// The journal lost endpoints that aren't restored yet.
    pub journal_incomplete: bool,
}

impl Inputs<'_> {
    fn is_replaying(&self) -> bool {
        *self.log == LogState::CatchingUp
    }

    fn is_in_sync(&self) -> bool {
        self.log.has_read_log()
    }
}

/// The next input of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// There are no facts yet: neither is anything desired, nor is it known which resources to keep.
    NoCluster,
    /// The domains are of the other kind and may not be deleted yet. Two domains of one tenant
    /// would conflict.
    OtherKind,
    /// Read everything, then plan.
    Resync,
    /// Plan from what is known.
    Incremental,
}

/// All that is remembered from one step to the next.
#[derive(Debug)]
pub struct Memory {
    params: Params,
    /// The kernel's state, as far as this process knows it.
    known: State,
    /// The known state before the kernel was read, until the difference is repaired.
    before: Option<State>,
    own: OwnKeys,
    protection: Protection,
    /// Whether the domains are of the other kind; absent: not read yet.
    other_kind: Option<bool>,
    /// Which log the facts were of at the last step, and how far.
    read: (Option<ClusterId>, Revision),
    was_in_sync: bool,
    programs: Programs,
    endpoints: Endpoints,
    reuse: AddressReuse,
    resync: Resync,
    pending: Pending,
    /// The last failure since a resync succeeded.
    failure: Option<Trouble>,
}

/// Work that waits for the next plan.
#[derive(Debug, Default)]
struct Pending {
    touched: Touched,
    /// A resource of the host, which belongs to no tenant, is missing.
    host: bool,
    /// Places in whose netfilter somebody changed our table.
    torn: BTreeSet<Place>,
    /// Conntrack flushes that no diff yields again.
    flushes: Vec<Op>,
    /// Endpoint routes that vanished from the kernel, and their flushes. A flush is due if the
    /// endpoint goes before its route is restored.
    lost_routes: Vec<(Resource, Op)>,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Endpoints that the kernel doesn't have, and why.
    pub failed: BTreeMap<EndpointId, String>,
    /// Endpoints that nobody can reach, and why: the failed ones, and those that the log closed.
    pub closed: BTreeMap<EndpointId, String>,
    pub was_in_sync: bool,
    /// Absent: the kernel is as desired.
    pub trouble: Option<Trouble>,
}

impl Memory {
    pub fn new(params: Params) -> Self {
        Self {
            params,
            known: State::default(),
            before: None,
            own: OwnKeys::default(),
            protection: Protection::default(),
            other_kind: None,
            read: Default::default(),
            was_in_sync: false,
            programs: Programs::default(),
            endpoints: Endpoints::default(),
            reuse: AddressReuse::default(),
            resync: Resync::default(),
            pending: Pending::default(),
            failure: None,
        }
    }

    pub fn params(&self) -> &Params {
        &self.params
    }

    pub fn known(&self) -> &State {
        &self.known
    }

    pub fn locals(&self) -> &Locals {
        &self.endpoints.locals
    }

    pub fn was_in_sync(&self) -> bool {
        self.was_in_sync
    }

    /// Nothing was read yet, so it isn't known which rules to keep.
    pub fn has_read_kernel(&self) -> bool {
        self.protection.has_begun()
    }

    /// Whether the shell must find out which kind the domains are of.
    pub fn needs_kind(&self, inputs: &Inputs<'_>) -> bool {
        inputs.facts.cluster.is_some() && self.other_kind.is_none()
    }

    pub fn found_other_kind(&mut self, is_other: bool) {
        self.other_kind = Some(is_other);
    }

    pub fn touch(&mut self, touched: Touched) {
        self.pending.touched.merge(touched);
    }

    pub fn want_resync(&mut self) {
        self.resync.want();
    }

    pub fn wants_resync(&self) -> bool {
        self.resync.is_wanted()
    }

    /// Follows the host's resolvers and the endpoints that have their addresses; whether they changed.
    pub fn follow_resolvers(&mut self, resolvers: Resolvers) -> bool {
        let changed = self.params.resolvers != resolvers;
        if changed {
            self.params.resolvers = resolvers;
            self.pending.touched.merge(Touched::cluster());
        }
        changed
    }

    /// Follows the mark by which outer packets are routed; whether it changed.
    pub fn follow_outer_mark(&mut self, mark: Option<u32>) -> bool {
        let changed = self.params.outer_mark != mark;
        if changed {
            self.params.outer_mark = mark;
            self.pending.touched.merge(Touched::cluster());
        }
        changed
    }

    /// Our table in this netfilter was changed.
    pub fn tear(&mut self, place: Place) {
        self.pending.torn.insert(place);
    }

    pub fn take_torn(&mut self) -> BTreeSet<Place> {
        std::mem::take(&mut self.pending.torn)
    }

    /// These resources of the host are gone.
    pub fn lose(&mut self, keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        self.before = Some(self.known.clone());
        keys.iter().for_each(|key| self.known.remove(key));
        self.pending.host = true;
    }

    /// A resource that is known under this name.
    pub fn find(&self, kind: Kind, id: &str) -> Option<&Resource> {
        self.known.find(kind, id)
    }

    /// Where a device of this name is desired. A device that was renamed may not be known any more:
    /// a resync may have missed it, and its replacement was refused.
    pub fn place_of_desired(&mut self, device: &str, facts: &Projection) -> Option<Place> {
        let locals = &self.endpoints.locals;
        let want = desired(facts, locals, &self.params, &mut self.programs);
        want.find(Kind::Device, device).map(|it| it.place.clone())
    }

    /// Begins a step.
    pub fn begin(&mut self, inputs: &Inputs<'_>, now: Duration) -> Mode {
        self.notice_another_log(inputs.facts);
        if inputs.facts.cluster.is_none() {
            return Mode::NoCluster;
        }
        let in_sync = inputs.is_in_sync();
        self.was_in_sync |= in_sync;
        if self.protection.follow_journal(inputs.journal_incomplete) {
            self.resync.want();
        }
        if in_sync {
            self.other_kind = Some(false);
        }
        if self.other_kind.unwrap_or(true) {
            return Mode::OtherKind;
        }
        self.endpoints.follow(inputs.locals);
        if in_sync {
            self.protection.clear();
            self.resync.in_sync(!self.own.is_swept());
        }
        // Nothing is added to a kernel that wasn't read.
        let may_read = !inputs.is_replaying() || !self.has_read_kernel();
        if !may_read || !self.resync.is_due(now) {
            return Mode::Incremental;
        }
        self.resync.begin();
        self.pending.touched = Touched::default();
        self.pending.host = false;
        self.close(inputs.facts, |_| true);
        Mode::Resync
    }

    /// A step succeeded. If the node is in sync, resources of others may be deleted from now on;
    /// whether it is.
    pub fn sweep(&mut self, inputs: &Inputs<'_>) -> bool {
        let sweeps = inputs.is_in_sync() && !inputs.journal_incomplete;
        if sweeps {
            self.own.sweep();
        }
        sweeps
    }

    /// Ends a step. A failure is kept until a resync succeeds: until then the kernel doesn't reflect
    /// the log.
    pub fn end(&mut self, outcome: Result<(), Trouble>, now: Duration) {
        let was_resync = self.resync.is_running();
        self.resync.end(outcome.is_ok(), now);
        match outcome {
            Err(trouble) => self.failure = Some(trouble),
            Ok(()) if was_resync => self.failure = None,
            Ok(()) => {}
        }
    }

    /// The endpoints whose container's end may have to be set up: those that changed, and those
    /// whose veth was created anew.
    pub fn take_fresh(&mut self) -> Vec<Arc<LocalEndpoint>> {
        self.endpoints.take_fresh()
    }

    /// An endpoint can't be used, beside what its ops reported.
    pub fn fail(&mut self, endpoint: &EndpointId, reason: String) {
        self.endpoints.failed.insert(endpoint.clone(), reason);
    }

    pub fn report(&mut self) -> Report {
        let (failed, closed) = self.endpoints.report();
        let held_back = self.protection.held_back();
        Report {
            failed,
            closed,
            was_in_sync: self.was_in_sync,
            trouble: self.failure.clone().or_else(|| held_back.cloned()),
        }
    }

    /// If the facts begin anew with another log, the kernel's state is that of the log before.
    fn notice_another_log(&mut self, facts: &Projection) {
        let now = (facts.cluster, facts.applied);
        let before = std::mem::replace(&mut self.read, now);
        if before.0.is_none() || before.0 == now.0 && before.1 <= now.1 {
            return;
        }
        self.protection.begin_anew(&self.known);
        self.own = OwnKeys::default();
        self.was_in_sync = false;
        self.resync.want();
    }
}
