//! Detaches endpoints in bare namespaces that are gone: after a reboot, or after another program
//! removed the namespace, no other part detaches them. Endpoints of an engine are left alone:
//! `docker` asks the engine about them.

use std::collections::BTreeSet;
use std::time::Duration;

use bus_schema::EndpointId;
use bus_schema::healing::Cleanup;

use super::{AttachError, EndpointsHandle, LocalEndpoint, Owner};
use runtime::pause;

/// The pause between two checks. A namespace that is missing at two of them is gone.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Runs for ever.
pub async fn run(endpoints: EndpointsHandle, interval: Duration) {
    let mut missing = BTreeSet::new();
    loop {
        pause(interval).await;
        let mut now = BTreeSet::new();
        for endpoint in endpoints.list() {
            if is_missing(&endpoint).await {
                now.insert(endpoint.id);
            }
        }
        for id in missing.intersection(&now) {
            // After a failure it is missing at the next check, too.
            detach(&endpoints, id).await.ok();
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

/// Detaches the endpoints whose namespaces are missing now (`netctl node cleanup`).
pub async fn sweep(endpoints: &EndpointsHandle) -> Cleanup {
    let mut all = Cleanup::default();
    for endpoint in endpoints.list() {
        if !is_missing(&endpoint).await {
            continue;
        }
        let what = endpoint.to_string();
        match detach(endpoints, &endpoint.id).await {
            Ok(()) => all.done.push(format!("- {what}: its namespace is gone")),
            Err(error) => all.failed.push(format!("{what}: {error}")),
        }
    }
    all
}

async fn detach(endpoints: &EndpointsHandle, id: &EndpointId) -> Result<(), AttachError> {
    tracing::warn!(%id, "its namespace is gone: detaching the endpoint");
    let detached = endpoints.detach(id).await;
    if let Err(error) = &detached {
        tracing::warn!(%id, %error, "can't detach an endpoint whose namespace is gone");
    }
    detached
}
