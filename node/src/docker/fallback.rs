//! The default route of containers in networks without a way out, which holds while the engine gives
//! them no other ([`FallbackRoute`]).

use bus_schema::{Egress, EndpointId};

use super::driver::Driver;
use super::endpoints::Endpoints;
use node_datapath::{FallbackRoute, fallback_metric};

impl<E: Endpoints> Driver<E> {
    /// Adds the route to the container of an endpoint, whose start has finished. `sandbox` is the path
    /// of its namespace, empty if it doesn't run.
    pub(super) async fn ensure_fallback_route(&self, id: &EndpointId, sandbox: &str) {
        let Some(route) = self.fallback_route(id, sandbox) else {
            return;
        };
        if let Err(error) = route.ensure().await {
            tracing::debug!(%id, %error, "the container has ended, or takes no route");
        }
    }

    fn fallback_route(&self, id: &EndpointId, sandbox: &str) -> Option<FallbackRoute> {
        let endpoint = self
            .endpoints
            .endpoint(id)
            .filter(|_| !sandbox.is_empty())?;
        let projection = self.projection.borrow();
        let spec = &projection
            .network(&endpoint.tenant, &endpoint.network)?
            .spec;
        (spec.egress() == Egress::None).then(|| FallbackRoute {
            netns: sandbox.into(),
            mac: endpoint.mac,
            gateway: spec.v4.gateway,
            metric: fallback_metric(spec.vni),
        })
    }
}
