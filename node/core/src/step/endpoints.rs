//! This node's endpoints at the last step: which changed, failed or are closed. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bus_schema::{EndpointId, TenantName};

use crate::endpoint::{LocalEndpoint, Locals};
use crate::maps;
use crate::reconcile::Op;
use crate::resource::Object;

#[derive(Debug, Default)]
pub(super) struct Endpoints {
    pub(super) locals: Locals,
    /// The endpoints that came, went or changed since the step before, as they are or were last.
    pub(super) changed: Vec<Arc<LocalEndpoint>>,
    /// Endpoints that the kernel doesn't have, and why.
    pub(super) failed: BTreeMap<EndpointId, String>,
    /// Endpoints that the log closed, and why; known since this node was in sync.
    closed: BTreeMap<EndpointId, String>,
    /// Veths that were created for endpoints.
    made: BTreeSet<String>,
}

impl Endpoints {
    pub(super) fn follow(&mut self, locals: &Locals) {
        self.changed = changed(&self.locals, locals);
        self.locals = locals.clone();
    }

    /// Replaces the closed endpoints of these tenants.
    pub(super) fn close(
        &mut self,
        of: impl Fn(&TenantName) -> bool,
        found: BTreeMap<EndpointId, String>,
    ) {
        let locals = &self.locals;
        let stays = |id: &EndpointId| locals.get(id).is_some_and(|it| !of(&it.tenant));
        self.closed.retain(|id, _| stays(id));
        self.closed.extend(found);
    }

    pub(super) fn note_made(&mut self, ops: &[Op]) {
        let made = ops.iter().filter_map(|op| match op {
            Op::Put(it) => match &it.object {
                Object::Veth(it) => Some(it.name.clone()),
                _ => None,
            },
            _ => None,
        });
        self.made.extend(made);
    }

    /// The endpoints that changed, and those whose veth somebody had deleted; without failed ones.
    pub(super) fn take_fresh(&mut self) -> Vec<Arc<LocalEndpoint>> {
        let mut made = std::mem::take(&mut self.made);
        for endpoint in &self.changed {
            made.remove(&endpoint.host_interface);
        }
        let mut fresh = self.changed.clone();
        if !made.is_empty() {
            let locals = self.locals.values();
            fresh.extend(
                locals
                    .filter(|it| made.contains(&it.host_interface))
                    .cloned(),
            );
        }
        fresh.retain(|it| self.locals.contains_key(&it.id) && !self.failed.contains_key(&it.id));
        fresh
    }

    /// The failed endpoints, and all that can't be reached.
    pub(super) fn report(
        &mut self,
    ) -> (BTreeMap<EndpointId, String>, BTreeMap<EndpointId, String>) {
        let locals = &self.locals;
        self.failed.retain(|id, _| locals.contains_key(id));
        let mut closed = self.closed.clone();
        closed.extend(self.failed.clone());
        (self.failed.clone(), closed)
    }
}

fn changed(before: &Locals, after: &Locals) -> Vec<Arc<LocalEndpoint>> {
    let changed = maps::changed(before, after);
    changed.map(|(_, endpoint)| endpoint.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::fixture::Facts;

    #[test]
    fn endpoints_that_came_went_or_changed_are_found() {
        let before = Facts::two_nodes()
            .endpoint("gone", "20.1.1.1")
            .endpoint("same", "20.1.1.2")
            .endpoint("named", "20.1.1.3")
            .locals;
        let mut after = before.clone();
        let ids: Vec<_> = before.keys().cloned().collect();
        let [gone, named, _] = &ids[..] else {
            panic!("three endpoints");
        };
        after.remove(gone);
        Arc::make_mut(&mut after[named]).name = Some("db".to_owned());
        let changed: Vec<_> = changed(&before, &after)
            .iter()
            .map(|it| (it.id.clone(), it.name.clone()))
            .collect();
        let named = (named.clone(), Some("db".to_owned()));
        assert_eq!(changed, [(gone.clone(), before[gone].name.clone()), named]);
    }
}
