//! One step: reads the kernel, executes the plan and reports.

use bus_schema::node::LogState;

use super::Reconciler;
use crate::endpoint::{Kernel, Snapshot};
use crate::metrics;
use crate::steps::Work;
use node_core::projection::Projection;
use node_core::reconcile::Op;
use node_core::resource::{Object, Place, Resource};
use node_core::step::{FailedOp, Inputs, Mode, Observed, Plan, Trouble, plan};
use node_datapath::{BatchError, Scope};

impl Reconciler {
    pub(super) async fn step(&mut self, log: &LogState, facts: &Projection, snapshot: &Snapshot) {
        let inputs = Inputs {
            facts,
            locals: &snapshot.endpoints,
            log,
            journal_incomplete: snapshot.ledger.is_incomplete(),
        };
        self.work = Work::default();
        if self.memory.needs_kind(&inputs)
            && let Ok(is_other) = self.datapath.has_other_kind().await
        {
            self.memory.found_other_kind(is_other);
        }
        let resyncs = match self.memory.begin(&inputs, self.started.elapsed()) {
            Mode::NoCluster => return self.report_no_cluster(snapshot),
            Mode::OtherKind => return self.report_trouble(Trouble::OtherKind),
            Mode::Resync => true,
            Mode::Incremental => false,
        };
        for place in self.memory.take_torn() {
            self.repair_rules(&place, &inputs).await;
        }
        let mut outcome = match resyncs {
            true => self.resync(&inputs).await,
            false => self.reconcile(&inputs, Observed::Nothing).await,
        };
        if outcome.is_ok() && self.memory.sweep(&inputs) {
            let (locals, params) = (self.memory.locals(), self.memory.params());
            let enforced = self.enforcement.run(facts, locals, params, &self.datapath);
            outcome = enforced.await;
        }
        self.memory.end(outcome, self.started.elapsed());
        self.place_peers(facts).await;
        self.report(facts, snapshot, log);
    }

    async fn resync(&mut self, inputs: &Inputs<'_>) -> Result<(), Trouble> {
        let observed = self.datapath.observe(&Scope::All).await;
        let observed = observed.map_err(|error| Trouble::Kernel(error.to_string()))?;
        self.reconcile(inputs, Observed::All(observed)).await
    }

    /// Repairs our table in one netfilter before everything is read, which takes several times as
    /// long: denied traffic may pass meanwhile. Then ends the connections that were opened in
    /// between. The resync that follows retries failures.
    async fn repair_rules(&mut self, place: &Place, inputs: &Inputs<'_>) {
        if !self.memory.has_read_kernel() {
            return;
        }
        let Ok(rules) = self.datapath.rules(place).await else {
            return;
        };
        let observed = Observed::Rules(place.clone(), rules);
        let repaired = self.reconcile(inputs, observed).await;
        if repaired.is_ok() && self.memory.was_in_sync() {
            let tenants = self.memory.tenants_in(place, inputs.facts);
            let (locals, params) = (self.memory.locals(), self.memory.params());
            let ended = self
                .enforcement
                .end_unchecked((inputs.facts, &tenants), locals, params, &self.datapath)
                .await;
            if let Err(error) = ended {
                tracing::warn!(%error, "can't end connections that were opened while our rules were gone");
            }
        }
    }

    /// Plans, executes and takes in the result.
    async fn reconcile(&mut self, inputs: &Inputs<'_>, observed: Observed) -> Result<(), Trouble> {
        let has_read_all = matches!(observed, Observed::All(_));
        let plan = plan(&mut self.memory, inputs, observed);
        self.servers.remember(&plan.domains);
        if has_read_all {
            // After a restart names don't wait for the ops.
            self.servers.serve(self.memory.known(), &self.datapath);
        }
        let serves = has_read_all || plan.ops.iter().any(is_of_domain);
        let done = self.execute(plan).await;
        if serves {
            self.servers.serve(self.memory.known(), &self.datapath);
        }
        done
    }

    async fn execute(&mut self, plan: Plan) -> Result<(), Trouble> {
        if plan.ops.is_empty() {
            return self.memory.done(plan, Vec::new()).map(|_| ());
        }
        for op in &plan.ops {
            tracing::debug!("{op}");
        }
        self.servers.stop(&plan.ops);
        let executed = self.datapath.execute(&plan.ops).await;
        let failures = executed.map_err(failures).err().unwrap_or_default();
        metrics::kernel_ops(plan.ops.len(), failures.len());
        self.work.ops += (plan.ops.len() - failures.len()) as u64;
        self.work.last = plan.ops.last().map(ToString::to_string);
        let lines = self.cleaning.is_some().then(|| {
            let lines = plan.ops.iter().map(ToString::to_string);
            lines.collect::<Vec<_>>()
        });
        let healed = self.memory.done(plan, failures);
        let healed = healed.inspect_err(|trouble| tracing::error!("{trouble}"))?;
        let healed = healed.into_iter().map(|it| (it.kind, it.resource));
        self.reports.healings.note(healed.collect());
        if let Some(cleaning) = &mut self.cleaning {
            cleaning.done.extend(lines.unwrap_or_default());
        }
        Ok(())
    }

    fn report_no_cluster(&self, snapshot: &Snapshot) {
        self.reports.kernel.send_replace(Kernel {
            generation: snapshot.generation,
            ..Kernel::default()
        });
    }

    pub(super) fn report_trouble(&self, trouble: Trouble) {
        let progress = &self.reports.progress;
        progress.send_modify(|progress| progress.trouble = Some(trouble));
    }

    fn report(&mut self, facts: &Projection, snapshot: &Snapshot, log: &LogState) {
        let report = self.memory.report();
        self.reports.kernel.send_replace(Kernel {
            generation: snapshot.generation,
            failed: report.failed,
            closed: report.closed,
            was_in_sync: report.was_in_sync,
            in_sync: log.has_read_log(),
        });
        let is_applied = *log != LogState::CatchingUp && report.trouble.is_none();
        if is_applied {
            self.facts.applied(facts.applied, &self.work);
        }
        let foreign_drops = self.host_firewall.foreign_drops();
        self.reports.progress.send_if_modified(|progress| {
            let now = super::Progress {
                applied: match is_applied {
                    true => facts.applied,
                    false => progress.applied,
                },
                trouble: report.trouble,
                foreign_drops: foreign_drops.to_vec(),
            };
            let changed = *progress != now;
            *progress = now;
            changed
        });
    }
}

fn failures(error: BatchError) -> Vec<FailedOp> {
    let failures = error.failures.into_iter().map(|it| FailedOp {
        op: it.op,
        reason: it.error.to_string(),
    });
    failures.collect()
}

fn is_of_domain(op: &Op) -> bool {
    let is_domain = |it: &Resource| matches!(it.object, Object::Domain(_));
    matches!(op, Op::Put(it) | Op::Delete(it) if is_domain(it))
}
