//! A network, and the comparison with one that is asked for again.

use bus_schema::command::NetworkCreate;
use bus_schema::{NetworkSpec, Pool, Rejection};

use super::update::first_difference;

/// A network as its tenant wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkIntent {
    pub spec: NetworkSpec,
    pub closing: bool,
}

impl NetworkIntent {
    /// Checks that it is as the command asks; a rejection names the difference.
    pub(super) fn same_again(&self, c: &NetworkCreate, pool: &Pool) -> Result<(), Rejection> {
        let (tenant, network) = (c.tenant.clone(), c.network.clone());
        if self.closing {
            return Err(Rejection::NetworkClosing { tenant, network });
        }
        let spec = &self.spec;
        let differences = [
            (spec.v4.subnet != pool.subnet, "subnet"),
            (spec.v4.range != pool.range, "range"),
            (spec.v4.gateway != pool.gateway, "gateway"),
            (c.vni.is_some_and(|vni| vni != spec.vni), "packet tag"),
            (c.docker_name != spec.docker_name, "Docker name"),
            (
                c.max_connections
                    .is_some_and(|max| max != spec.max_connections.unwrap_or_default()),
                "limit of connections",
            ),
            (c.egress.is_some_and(|it| it != spec.egress()), "way out"),
            (
                c.allow_metadata.is_some_and(|it| it != spec.allow_metadata),
                "access to metadata services",
            ),
        ];
        match first_difference(&differences) {
            None => Ok(()),
            Some(differs) => Err(Rejection::NetworkDiffers {
                tenant,
                network,
                differs,
            }),
        }
    }
}
