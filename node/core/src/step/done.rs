//! The known state after a plan's ops were executed. Pure.

use super::failures::{dependents, is_blamed, take_back};
use super::repairs::{Repair, repairs};
use super::{FailedOp, Memory, Plan, Trouble};
use crate::reconcile::Op;
use crate::resource::State;

impl Memory {
    /// Takes in the result of a plan: all of its ops succeeded but these. Says which of them repaired
    /// changes of others.
    pub fn done(&mut self, plan: Plan, failures: Vec<FailedOp>) -> Result<Vec<Repair>, Trouble> {
        let Plan { ops, complete, .. } = plan;
        let have = self.assume(&ops, complete);
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        take_back(&mut self.known, &have, &failures);
        self.endpoints.note_made(&ops);
        let before = self.before.take();
        if failures.is_empty() {
            let before = before.filter(|_| self.own.is_swept());
            return Ok(before.map_or_else(Vec::new, |before| repairs(&before, &ops)));
        }
        let failed = failures.iter().map(|it| &it.op);
        let flushes = failed.filter(|op| matches!(op, Op::FlushConntrack { .. }));
        self.pending.flushes.extend(flushes.cloned());
        self.blame(&failures);
        Err(Trouble::Refused {
            attempted: ops.len(),
            failures,
        })
    }

    /// The kernel as it is after the ops. If the plan was complete, its places are as desired:
    /// resources that vanish together with a device have no op of their own. Returns the state of
    /// these places before.
    fn assume(&mut self, ops: &[Op], complete: Option<(State, State)>) -> State {
        if let Some((have, want)) = complete {
            self.known.replace(&have, &want);
            return have;
        }
        let have = self.known.clone();
        for op in ops {
            match op {
                Op::Put(resource) => self.known.insert(resource.clone()),
                Op::Change { from, to } => {
                    self.known.remove(&from.key());
                    self.known.insert(to.clone());
                }
                Op::Delete(resource) => {
                    let on_it = dependents(resource, &self.known);
                    self.known.remove(&resource.key());
                    on_it.iter().for_each(|it| self.known.remove(&it.key()));
                }
                Op::FlushConntrack { .. } => {}
            }
        }
        have
    }

    /// Finds the endpoints whose ops failed.
    fn blame(&mut self, failures: &[FailedOp]) {
        let kind = self.params.kind;
        let locals = &self.endpoints.locals;
        for FailedOp { op, reason } in failures {
            let blamed = locals.values().filter(|it| is_blamed(op, it, kind));
            for endpoint in blamed {
                // Later failures mostly follow from the first.
                let failed = self.endpoints.failed.entry(endpoint.id.clone());
                failed.or_insert_with(|| format!("{op}: {reason}"));
            }
        }
    }
}
