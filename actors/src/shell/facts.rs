//! Which snapshots of others an aggregate needs to decide, and where commands come in.

use std::rc::Rc;
use std::sync::Arc;

use bus_schema::{AggregateId, Event, Rejection, Revision};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, ready};

use super::decider::{Decider, Execute, Freshness, Snap, Trouble};
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
#[derive(Default)]
pub(super) struct Gathered<F> {
    pub(super) facts: F,
    pub(super) fences: Vec<(AggregateId, Revision)>,
}

impl<F> Gathered<F> {
    fn has(&self, id: &AggregateId) -> bool {
        self.fences.iter().any(|(other, _)| other == id)
    }
}

/// An aggregate that the shell can decide with.
pub(super) trait Gather: Aggregate<Facts: Default> {
    /// What a command brings along that isn't in the log.
    type External: Clone + Send + 'static;

    /// Adds what the command needs. `state`: what the aggregate will decide on.
    fn gather<'a>(
        registry: &'a Rc<Registry>,
        state: &'a Self,
        ask: &'a Execute<Self>,
        freshness: Freshness,
        into: &'a mut Gathered<Self::Facts>,
    ) -> LocalBoxFuture<'a, Result<(), Trouble>>;

    /// Folds another aggregate's event into the facts, decided but not yet appended.
    fn foresee(facts: &mut Self::Facts, of: &AggregateId, event: &Event);
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

    fn gather<'a>(
        _: &'a Rc<Registry>,
        _: &'a Self,
        ask: &'a Execute<Self>,
        _: Freshness,
        into: &'a mut Gathered<ClusterFacts>,
    ) -> LocalBoxFuture<'a, Result<(), Trouble>> {
        into.facts.clone_from(&ask.external);
        ready(Ok(())).boxed_local()
    }

    fn foresee(_: &mut ClusterFacts, _: &AggregateId, _: &Event) {}
}

impl Gather for Tenant {
    type External = Drained;

    fn gather<'a>(
        registry: &'a Rc<Registry>,
        state: &'a Self,
        ask: &'a Execute<Self>,
        freshness: Freshness,
        into: &'a mut Gathered<TenantFacts>,
    ) -> LocalBoxFuture<'a, Result<(), Trouble>> {
        async move {
            into.facts.drained = ask.external;
            if !into.has(&AggregateId::Cluster) {
                let cluster = snapshot(registry.cluster(), freshness).await?;
                into.facts.cluster = cluster.state;
                into.fences.push((AggregateId::Cluster, cluster.revision));
            }
            for pool in state.pools_of(&ask.command) {
                let id = AggregateId::Leases(pool.clone());
                if !into.has(&id) {
                    let leases = snapshot(registry.leases(&pool), freshness).await?;
                    into.facts.leases.insert(pool, leases.state);
                    into.fences.push((id, leases.revision));
                }
            }
            Ok(())
        }
        .boxed_local()
    }

    fn foresee(facts: &mut TenantFacts, of: &AggregateId, event: &Event) {
        match of {
            AggregateId::Cluster => Arc::make_mut(&mut facts.cluster).evolve(event),
            AggregateId::Leases(pool) => {
                if let Some(leases) = facts.leases.get_mut(pool) {
                    Arc::make_mut(leases).evolve(event);
                }
            }
            AggregateId::Tenant(_) => {}
        }
    }
}

impl Gather for Leases {
    type External = ();

    fn gather<'a>(
        registry: &'a Rc<Registry>,
        _: &'a Self,
        _: &'a Execute<Self>,
        freshness: Freshness,
        into: &'a mut Gathered<LeasesFacts>,
    ) -> LocalBoxFuture<'a, Result<(), Trouble>> {
        async move {
            let cluster = snapshot(registry.cluster(), freshness).await?;
            into.facts.cluster = cluster.state;
            Ok(())
        }
        .boxed_local()
    }

    fn foresee(_: &mut LeasesFacts, _: &AggregateId, _: &Event) {}
}
