//! Which endpoints are others than at the step before. Pure.

use std::sync::Arc;

use crate::endpoint::{LocalEndpoint, Locals};
use node_core::maps;

/// The endpoints that came, went or are known better, as they are or were last.
pub(super) type Changed = Vec<Arc<LocalEndpoint>>;

pub(super) fn changed(before: &Locals, after: &Locals) -> Changed {
    let changed = maps::changed(before, after);
    changed.map(|(_, endpoint)| endpoint.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_core::desired::fixture::Facts;

    #[test]
    fn what_came_went_or_is_known_better_has_changed() {
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
