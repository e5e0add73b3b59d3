//! Detaches endpoints in bare namespaces that are gone: after a reboot, or where somebody removed
//! a namespace without a word, nobody else is left to do it. Endpoints of an engine aren't looked
//! at; `docker` learns from the engine what became of them.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_schema::EndpointId;

use super::{EndpointsHandle, LocalEndpoint, Owner};
use crate::bus::pause;

/// Between two looks. What is missing at two of them is gone.
pub const LOOK: Duration = Duration::from_secs(5);

/// Runs for ever.
pub async fn run(endpoints: EndpointsHandle, look: Duration) {
    let mut missing = BTreeSet::new();
    loop {
        pause(look).await;
        let mut now = BTreeSet::new();
        for endpoint in endpoints.list() {
            if is_missing(&endpoint).await {
                now.insert(endpoint.id);
            }
        }
        for id in missing.intersection(&now) {
            detach(&endpoints, id).await;
        }
        missing = now;
    }
}

async fn is_missing(endpoint: &LocalEndpoint) -> bool {
    let Owner::Namespace { path, .. } = &endpoint.owner else {
        return false;
    };
    tokio::fs::try_exists(path).await.is_ok_and(|there| !there)
}

async fn detach(endpoints: &EndpointsHandle, id: &EndpointId) {
    tracing::warn!(%id, "its namespace is gone: detaching the endpoint");
    if let Err(error) = endpoints.detach(id).await {
        tracing::warn!(%id, %error, "can't detach an endpoint whose namespace is gone");
    }
}
