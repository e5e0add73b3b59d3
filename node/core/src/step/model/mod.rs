//! A model-based test of the step: generated histories of a node against a map that stands for the
//! kernel. The node is driven in the order in which the daemon's reconciler does it.

mod checks;
mod history;
mod kernel;

use std::collections::BTreeMap;
use std::time::Duration;

use bus_schema::node::{DomainKind, LogState};
use bus_schema::{ClusterId, EndpointId, NodeName, Revision};
use proptest::prelude::*;
use uuid::Uuid;

use self::checks::Checks;
use self::history::{Action, Moment, histories};
use self::kernel::Kernel;
use super::{FailedOp, Inputs, Memory, Mode, Observed, RETRY_INTERVAL, Trouble, plan};
use crate::desired::fixture::{Facts, params, red};
use crate::desired::{Programs, desired, domain_name};
use crate::endpoint::Locals;
use crate::projection::fixture::endpoint;
use crate::projection::{EndpointsView, Projection, Touched};
use crate::resource::{Key, Place, Resource, State};

/// The daemon's `--resync`.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

struct Node {
    kind: DomainKind,
    now: Duration,
    next_resync: Duration,
    memory: Memory,
    kernel: Kernel,
    /// The facts of the whole log; `facts` are those of a prefix.
    log: Facts,
    facts: Projection,
    locals: Locals,
    state: LogState,
    journal_incomplete: bool,
    is_readable: bool,
    view: EndpointsView,
    /// How many endpoints of the other node there were.
    others: usize,
    /// Every resource that was desired once.
    seen: BTreeMap<Key, Resource>,
    checks: Checks,
}

fn first_facts() -> Facts {
    let mut facts = Facts::two_nodes();
    facts.projection.cluster = Some(ClusterId(Uuid::from_u128(1)));
    facts.projection.applied = Revision(1);
    facts
}

impl Node {
    fn new(kind: DomainKind) -> Self {
        let log = first_facts();
        Self {
            kind,
            now: Duration::ZERO,
            next_resync: RESYNC_INTERVAL,
            memory: Memory::new(params(kind)),
            kernel: Kernel::default(),
            facts: log.projection.clone(),
            locals: Locals::default(),
            log,
            state: LogState::CatchingUp,
            journal_incomplete: false,
            is_readable: true,
            view: EndpointsView::default(),
            others: 0,
            seen: BTreeMap::new(),
            checks: Checks::default(),
        }
    }

    fn domain(&self) -> Place {
        Place::Domain(domain_name(self.kind, &red()))
    }

    fn desired(&self) -> State {
        let programs = &mut Programs::default();
        desired(&self.facts, &self.locals, self.memory.params(), programs)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Wait => {}
            Action::Attach { endpoint, address } => self.attach(endpoint, address),
            Action::Detach(endpoint) => {
                let id: EndpointId = endpoint.parse().expect("an endpoint's id");
                self.locals.remove(&id);
            }
            Action::Cede { address, holder } => {
                let block = format!("{address}/32");
                self.event(true, |log| log.block("net", &block, holder));
            }
            Action::Lease(holder) => {
                self.event(true, |log| log.block("net", "20.1.1.0/28", holder));
            }
            Action::MoveNode(vtep) => self.event(false, |log| log.node("n2", vtep)),
            Action::Network(true) => self.event(true, |log| {
                let log = log.network("back", 1002, "20.1.2.0/24", "20.1.2.254");
                log.block("back", "20.1.2.0/28", "n1")
            }),
            Action::Network(false) => self.event(true, |log| log.without_network("back")),
            Action::Reuse(address) => self.reuse(address),
            Action::Log(state) => self.follow(state),
            Action::JournalIncomplete(is) => self.journal_incomplete = is,
            Action::Refuse(refusal) => self.kernel.refusals.push(refusal),
            Action::Accept => self.kernel.refusals.clear(),
            Action::Readable(is) => self.is_readable = is,
            Action::Delete { index, is_heard } => {
                let key = self.kernel.keys().nth(index).cloned();
                key.iter().for_each(|key| self.kernel.remove(key));
                if is_heard && key.is_some() {
                    self.memory.want_resync();
                }
            }
            Action::Add(index) => {
                let seen = self.seen.values().nth(index);
                seen.into_iter().for_each(|it| self.kernel.add(it));
            }
            Action::Tear { host } => {
                let place = match host {
                    true => Place::Host,
                    false => self.domain().netfilter(),
                };
                self.kernel.tear(&place);
                self.memory.tear(place);
                self.memory.want_resync();
            }
            Action::Restart { is_older } => self.restart(is_older),
            Action::OtherLog => {
                let cluster = self.log.projection.cluster.map_or(0, |it| it.0.as_u128());
                self.log.projection.cluster = Some(ClusterId(Uuid::from_u128(cluster + 1)));
                self.event(true, |log| log);
            }
        }
    }

    fn attach(&mut self, endpoint: &str, address: &str) {
        let wanted: std::net::IpAddr = address.parse().expect("an address");
        let mut others = self.locals.values();
        let is_taken = others.any(|it| it.id.as_str() == endpoint || it.addresses == [wanted]);
        if is_taken || self.journal_incomplete {
            return;
        }
        let facts = Facts::default().endpoint(endpoint, address);
        self.locals.extend(facts.locals);
    }

    /// Appends to the log; a node that is connected reads it at once.
    fn event(&mut self, is_of_tenant: bool, change: impl FnOnce(Facts) -> Facts) {
        let mut log = change(std::mem::take(&mut self.log));
        log.projection.applied.0 += 1;
        let applied = log.projection.applied;
        match is_of_tenant {
            true => log.projection.open(&red()).changed = applied,
            false => log.projection.changed = applied,
        }
        self.log = log;
        if matches!(self.state, LogState::InSync | LogState::CatchingUp) {
            self.read(match is_of_tenant {
                true => Touched::tenant(&red()),
                false => Touched::node(&NodeName::new("n2").expect("valid")),
            });
        }
    }

    fn read(&mut self, touched: Touched) {
        self.facts = self.log.projection.clone();
        self.memory.touch(touched);
    }

    fn follow(&mut self, state: LogState) {
        self.state = state;
        if self.state == LogState::InSync {
            self.read(Touched::cluster());
        }
    }

    fn reuse(&mut self, address: &str) {
        let mut after = self.view.clone();
        let address: std::net::Ipv4Addr = address.parse().expect("an address");
        let before = self.view.at(&red(), address.into()).map(|it| it.id.clone());
        let node = NodeName::new("n2").expect("valid");
        if let Some(before) = &before {
            after.remove(before, &node);
        }
        self.others += 1;
        let id = format!("other-{}", self.others);
        after.show(endpoint(&id, &red(), node.as_str(), address).into());
        if self.memory.note_reuse(&self.view, &after, &self.facts) {
            self.checks.reused(self.domain(), address.into());
        }
        self.view = after;
    }

    fn restart(&mut self, is_older: bool) {
        if is_older {
            self.facts = first_facts().projection;
        }
        self.memory = Memory::new(params(self.kind));
        self.state = LogState::Disconnected {
            reason: "connecting to the bus".to_owned(),
        };
        self.next_resync = self.now + RESYNC_INTERVAL;
        // Pending flushes are lost with the process.
        self.checks = Checks::default();
    }

    /// One step, as the reconciler does it.
    fn step(&mut self) {
        if self.now >= self.next_resync {
            self.memory.want_resync();
        }
        if self.memory.wants_resync() {
            self.next_resync = self.now + RESYNC_INTERVAL;
        }
        let desired = self.desired();
        for (key, resource) in desired.iter() {
            self.seen.insert(key.clone(), resource.clone());
        }
        self.checks.begin(&desired, &self.facts, &self.state);
        let (facts, locals, state) = (self.facts.clone(), self.locals.clone(), self.state.clone());
        let inputs = Inputs {
            facts: &facts,
            locals: &locals,
            log: &state,
            journal_incomplete: self.journal_incomplete,
        };
        if self.memory.needs_kind(&inputs) {
            self.memory.found_other_kind(false);
        }
        let mode = self.memory.begin(&inputs, self.now);
        for place in self.memory.take_torn() {
            if self.memory.has_read_kernel() && self.is_readable {
                let rules = self.kernel.rules(&place);
                self.reconcile(&inputs, Observed::Rules(place, rules)).ok();
            }
        }
        let outcome = match mode {
            Mode::NoCluster | Mode::OtherKind => return,
            Mode::Resync if !self.is_readable => Err(Trouble::Kernel("unreadable".to_owned())),
            Mode::Resync => self.reconcile(&inputs, Observed::All(self.kernel.state())),
            Mode::Incremental => self.reconcile(&inputs, Observed::Nothing),
        };
        if outcome.is_ok() {
            self.memory.sweep(&inputs);
        }
        self.memory.end(outcome, self.now);
    }

    fn reconcile(&mut self, inputs: &Inputs<'_>, observed: Observed) -> Result<(), Trouble> {
        if matches!(observed, Observed::All(_)) {
            self.checks.read(&self.kernel);
        }
        let plan = plan(&mut self.memory, inputs, observed);
        let before = self.kernel.state();
        let outcomes = self.kernel.execute(&plan.ops);
        self.checks
            .executed(&plan.ops, &outcomes, (&before, &self.kernel));
        let results = plan.ops.iter().zip(outcomes);
        let failures = results.filter_map(|(op, outcome)| {
            let op = op.clone();
            outcome.err().map(|reason| FailedOp { op, reason })
        });
        let failures = failures.collect();
        self.memory.done(plan, failures).map(|_| ())
    }

    /// Connects the node, and lets it work until nothing is left to do but refused ops.
    fn settle(&mut self) {
        self.journal_incomplete = false;
        self.is_readable = true;
        self.follow(LogState::InSync);
        self.step();
        self.now += RESYNC_INTERVAL;
        self.step();
        self.retry();
    }

    /// Failed ops are tried again soon, not at the next resync only.
    fn retry(&mut self) {
        for _ in 0..3 {
            self.now += RETRY_INTERVAL;
            self.step();
        }
    }
}

fn run(kind: DomainKind, history: Vec<Moment>) {
    let mut node = Node::new(kind);
    node.step();
    for (action, pause) in history {
        node.act(action);
        if pause > 0 {
            node.now += Duration::from_millis(pause);
            node.step();
        }
    }
    node.settle();
    let desired = node.desired();
    node.checks.all_but_refused(&desired, &node.kernel);
    node.kernel.refusals.clear();
    node.retry();
    checks::same("the kernel", &node.kernel.state(), &desired);
    checks::same("what is known", node.memory.known(), &desired);
    node.checks.all_flushed();
    let report = node.memory.report();
    assert_eq!(report.trouble, None);
    assert!(report.failed.is_empty(), "{:?}", report.failed);
}

proptest! {
    #[test]
    fn step_keeps_its_promises_in_any_history(is_vrf in any::<bool>(), history in histories()) {
        let kind = if is_vrf { DomainKind::Vrf } else { DomainKind::Netns };
        run(kind, history);
    }
}
