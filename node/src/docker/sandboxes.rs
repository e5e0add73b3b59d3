//! The network namespaces (the engine's *sandboxes*) of the containers that our endpoints are in.
//!
//! The engine's calls name no container, but `Join` names the sandbox. A restarted netplugin reads
//! the sandboxes of running containers from the engine.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bus_schema::EndpointId;

use runtime::lock;

/// The path of each endpoint's sandbox, which is unique for each start of a container.
#[derive(Debug, Default)]
pub(super) struct Sandboxes(Mutex<BTreeMap<EndpointId, String>>);

impl Sandboxes {
    /// Notes an endpoint's sandbox; an empty path is none.
    pub(super) fn note(&self, id: &EndpointId, path: &str) {
        if !path.is_empty() {
            lock(&self.0).insert(id.clone(), path.to_owned());
        }
    }

    pub(super) fn forget(&self, id: &EndpointId) {
        lock(&self.0).remove(id);
    }

    /// The other endpoints in the sandbox.
    pub(super) fn others(&self, id: &EndpointId, path: &str) -> Vec<EndpointId> {
        let sandboxes = lock(&self.0);
        let same = sandboxes
            .iter()
            .filter(|(other, it)| *it == path && *other != id);
        same.map(|(other, _)| other.clone()).collect()
    }
}
