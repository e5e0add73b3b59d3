//! Which snapshots of others an aggregate needs to decide, and where commands come in.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bus_schema::{AggregateId, Rejection, Revision};
use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::decider::{Decider, Freshness, Snap, Trouble};
use super::registry::Registry;
use super::supervise::Supervised;
use crate::aggregate::{
    Aggregate, Cluster, ClusterFacts, Drained, Leases, LeasesFacts, Tenant, TenantFacts,
};

/// Another aggregate's state, and up to where it reaches.
#[derive(Debug, Clone)]
pub(super) struct Snapshot<A> {
    pub(super) state: Arc<A>,
    pub(super) revision: Revision,
    pub(super) blind: Option<Rejection>,
}

/// Facts, and the fences under which they hold.
pub(super) struct Gathered<F> {
    pub(super) facts: F,
    pub(super) fences: Vec<(AggregateId, Revision)>,
}

/// An aggregate that the shell can decide with.
pub(super) trait Gather: Aggregate {
    /// What a command brings along that isn't in the log.
    type External: Clone + Send + 'static;

    /// `state`: what the aggregate will decide on.
    fn gather(
        registry: Rc<Registry>,
        state: Arc<Self>,
        command: Self::Command,
        external: Self::External,
        freshness: Freshness,
    ) -> LocalBoxFuture<'static, Result<Gathered<Self::Facts>, Trouble>>;
}

async fn snapshot<A: Gather>(
    actor: Supervised<Decider<A>>,
    freshness: Freshness,
) -> Result<Snapshot<A>, Trouble> {
    let answer = actor.ask(Snap::new(freshness)).await;
    let snapshot: Snapshot<A> = answer.map_err(|away| Trouble::Unavailable(away.to_string()))??;
    match snapshot.blind {
        None => Ok(snapshot),
        Some(why) => Err(Trouble::Blind(why)),
    }
}

impl Gather for Cluster {
    type External = ClusterFacts;

    fn gather(
        _: Rc<Registry>,
        _: Arc<Self>,
        _: Self::Command,
        facts: ClusterFacts,
        _: Freshness,
    ) -> LocalBoxFuture<'static, Result<Gathered<ClusterFacts>, Trouble>> {
        let fences = vec![];
        futures::future::ready(Ok(Gathered { facts, fences })).boxed_local()
    }
}

impl Gather for Tenant {
    type External = Drained;

    fn gather(
        registry: Rc<Registry>,
        state: Arc<Self>,
        command: Self::Command,
        drained: Drained,
        freshness: Freshness,
    ) -> LocalBoxFuture<'static, Result<Gathered<TenantFacts>, Trouble>> {
        async move {
            let cluster = snapshot(registry.cluster(), freshness).await?;
            let mut facts = TenantFacts {
                cluster: cluster.state,
                leases: BTreeMap::new(),
                drained,
            };
            let mut fences = vec![(AggregateId::Cluster, cluster.revision)];
            for pool in state.pools_of(&command) {
                let leases = snapshot(registry.leases(&pool), freshness).await?;
                facts.leases.insert(pool.clone(), leases.state);
                fences.push((AggregateId::Leases(pool), leases.revision));
            }
            Ok(Gathered { facts, fences })
        }
        .boxed_local()
    }
}

impl Gather for Leases {
    type External = ();

    fn gather(
        registry: Rc<Registry>,
        _: Arc<Self>,
        _: Self::Command,
        (): (),
        freshness: Freshness,
    ) -> LocalBoxFuture<'static, Result<Gathered<LeasesFacts>, Trouble>> {
        async move {
            let cluster = snapshot(registry.cluster(), freshness).await?;
            let facts = LeasesFacts {
                cluster: cluster.state,
            };
            let fences = vec![];
            Ok(Gathered { facts, fences })
        }
        .boxed_local()
    }
}
