//! The facts that a decision needs: those of other aggregates, and those that came with the command.

use std::sync::Arc;

use bus_schema::mark_rule::MarkRule;
use bus_schema::{AggregateId, Event, PoolKey, Revision};

use super::log::Log;
use super::refresh::{Freshness, Undecided};
use crate::aggregate::{
    Aggregate, Cluster, ClusterFacts, Drained, Leases, LeasesFacts, Tenant, TenantFacts,
};

/// Facts, and the fences under which they hold.
#[derive(Default)]
pub(super) struct Gathered<F> {
    pub(super) facts: F,
    pub(super) fences: Vec<(AggregateId, Revision)>,
}

/// An aggregate on whose state others decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    Cluster,
    Leases(PoolKey),
}

/// The state of a [`Source`].
pub(super) enum SourceState {
    Cluster(Arc<Cluster>),
    Leases(PoolKey, Arc<Leases>),
}

/// An aggregate that a decider can decide with.
pub(super) trait Gather: Aggregate<Facts: Default> {
    /// Facts that aren't in the log and come with a command.
    type External: Clone + Send + 'static;

    fn add_external(facts: &mut Self::Facts, external: &Self::External);

    /// The aggregates on whose state the decision about `command` depends.
    fn sources(&self, command: &Self::Command) -> Vec<Source>;

    fn add(facts: &mut Self::Facts, state: SourceState);

    /// Folds another aggregate's event into the facts, decided but not yet appended.
    fn foresee(facts: &mut Self::Facts, of: &AggregateId, event: &Event);
}

impl<F> Gathered<F> {
    /// Adds the facts that are needed to decide about `command` on `state` and that aren't there yet.
    pub(super) async fn gather<A: Gather<Facts = F>>(
        &mut self,
        log: &Log,
        state: &A,
        command: &A::Command,
        freshness: Freshness,
    ) -> Result<(), Undecided> {
        for source in state.sources(command) {
            let id = AggregateId::from(source.clone());
            if self.fences.iter().any(|(other, _)| *other == id) {
                continue;
            }
            let (state, revision) = state_of(log, source, freshness).await?;
            A::add(&mut self.facts, state);
            self.fences.push((id, revision));
        }
        Ok(())
    }
}

async fn state_of(
    log: &Log,
    source: Source,
    freshness: Freshness,
) -> Result<(SourceState, Revision), Undecided> {
    let id = AggregateId::from(source.clone());
    let (state, revision, blind) = match source {
        Source::Cluster => {
            let read = log.refresh(&id, &log.cluster(), freshness).await?;
            (SourceState::Cluster(read.state), read.revision, read.blind)
        }
        Source::Leases(pool) => {
            let read = log.refresh(&id, &log.leases(&pool), freshness).await?;
            let state = SourceState::Leases(pool, read.state);
            (state, read.revision, read.blind)
        }
    };
    match blind {
        None => Ok((state, revision)),
        Some(why) => Err(Undecided::Blind(why)),
    }
}

impl From<Source> for AggregateId {
    fn from(source: Source) -> Self {
        match source {
            Source::Cluster => Self::Cluster,
            Source::Leases(pool) => Self::Leases(pool),
        }
    }
}

impl Gather for Cluster {
    type External = ClusterFacts;

    fn add_external(facts: &mut ClusterFacts, external: &ClusterFacts) {
        facts.clone_from(external);
    }

    fn sources(&self, _: &Self::Command) -> Vec<Source> {
        vec![]
    }

    fn add(_: &mut ClusterFacts, _: SourceState) {}

    fn foresee(_: &mut ClusterFacts, _: &AggregateId, _: &Event) {}
}

impl Gather for Tenant {
    type External = (Drained, Vec<MarkRule>);

    fn add_external(facts: &mut TenantFacts, (drained, mark_rules): &Self::External) {
        facts.drained = *drained;
        facts.mark_rules.clone_from(mark_rules);
    }

    fn sources(&self, command: &Self::Command) -> Vec<Source> {
        let pools = self.pools_of(command).into_iter().map(Source::Leases);
        std::iter::once(Source::Cluster).chain(pools).collect()
    }

    fn add(facts: &mut TenantFacts, state: SourceState) {
        match state {
            SourceState::Cluster(cluster) => facts.cluster = cluster,
            SourceState::Leases(pool, leases) => {
                facts.leases.insert(pool, leases);
            }
        }
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

    fn add_external(_: &mut LeasesFacts, (): &()) {}

    fn sources(&self, _: &Self::Command) -> Vec<Source> {
        vec![Source::Cluster]
    }

    fn add(facts: &mut LeasesFacts, state: SourceState) {
        if let SourceState::Cluster(cluster) = state {
            facts.cluster = cluster;
        }
    }

    fn foresee(_: &mut LeasesFacts, _: &AggregateId, _: &Event) {}
}
