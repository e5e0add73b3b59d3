//! Gives up blocks and addresses that this node doesn't need: blocks in which it has used no address
//! for a while, all of its unused blocks when it is drained or has left, and those of a network that
//! is being removed. An address that was ceded to this node is a block of one address here.
//!
//! The end of a return is journaled when the events that say so are on disk: with older facts a
//! restart would allocate from the block again. The daemon runs it.

use std::time::Duration;

use bus_schema::command::BlockLease;
use bus_schema::node::LogState;
use bus_schema::{Command, NodeName};
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;

use super::due::{BlockKey, Due, DueInputs, IdleTimes, due};
use super::give_up::{command, pool_around};
use super::ledger::NetworkKey;
use super::{EndpointsHandle, Snapshot};
use crate::requests::{BusError, BusHandle};
use crate::store::Saved;
use node_core::projection::Projection;
use runtime::pause;

/// The pause before work is tried again that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the kernel may take to drop an endpoint before that is logged.
const KERNEL_DROP_TIMEOUT: Duration = Duration::from_secs(2);

/// Gives up blocks whenever the facts, the endpoints or the bus change.
#[derive(Debug)]
pub struct Settler {
    pub endpoints: EndpointsHandle,
    pub bus: BusHandle,
    pub me: NodeName,
    pub facts: watch::Receiver<Projection>,
    pub saved: watch::Receiver<Saved>,
    pub log: watch::Receiver<LogState>,
    /// A block in which this node uses no address for so long is returned.
    pub block_idle: Duration,
}

impl Settler {
    /// Runs until a channel closes.
    pub async fn run(mut self) {
        let mut snapshots = self.endpoints.snapshots();
        let mut idle_times = IdleTimes::default();
        loop {
            let (next_run, next_idle) = self.work(&mut snapshots, &mut idle_times).await;
            if next_run == NextRun::Now {
                continue;
            }
            let retry = (next_run == NextRun::Later).then(|| Instant::now() + RETRY_PAUSE);
            let due_at = next_idle.into_iter().chain(retry).min();
            if self.wait(&mut snapshots, due_at).await.is_err() {
                return;
            }
        }
    }

    /// Does the work that is due. Returns when there is more, and when the next block will have been
    /// idle for long enough.
    async fn work(
        &mut self,
        snapshots: &mut watch::Receiver<Snapshot>,
        idle_times: &mut IdleTimes,
    ) -> (NextRun, Option<Instant>) {
        let ready = *self.log.borrow_and_update() == LogState::InSync;
        // In the order that `DueInputs` requires.
        let journaled = snapshots.borrow_and_update().ledger.clone();
        let facts = self.facts.borrow_and_update().clone();
        let (leasing, requested) = (self.endpoints.leasing.all(), self.endpoints.requested.all());
        let snapshot = snapshots.borrow_and_update().clone();
        let mut due = due(DueInputs {
            journaled: &journaled,
            facts: &facts,
            leasing: &leasing,
            requested: &requested,
            ledger: &snapshot.ledger,
            decisions: &self.endpoints.decisions.all(),
            me: &self.me,
        });
        let (expired, next_idle) = idle_times.expired(&due.idle, Instant::now(), self.block_idle);
        if !ready {
            return (NextRun::AfterChange, next_idle);
        }
        if self.saved.borrow_and_update().revision < facts.applied {
            due.ended.clear();
        }
        let run = Run {
            settler: self,
            facts: &facts,
            generation: snapshot.generation,
        };
        // No endpoint can use a block that is being returned, until netmaster has accepted the return.
        let mut answers = true;
        if let Some((key, block)) = expired.first() {
            answers = run.netmaster_answers(key, *block).await;
        }
        due.unused.extend(expired.into_iter().filter(|_| answers));
        let mut next_run = run.run(due).await;
        if !answers {
            next_run = next_run.max(NextRun::Later);
        }
        (next_run, next_idle)
    }

    async fn wait(
        &mut self,
        snapshots: &mut watch::Receiver<Snapshot>,
        due_at: Option<Instant>,
    ) -> Result<(), watch::error::RecvError> {
        let until_due = async {
            match due_at {
                Some(at) => pause(at.saturating_duration_since(Instant::now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.facts.changed() => changed,
            changed = snapshots.changed() => changed,
            changed = self.log.changed() => changed,
            changed = self.saved.changed() => changed,
            () = self.endpoints.operation_ended.notified() => Ok(()),
            () = until_due => Ok(()),
        }
    }
}

/// When there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NextRun {
    /// When the facts or the endpoints have changed.
    AfterChange,
    Later,
    /// The facts already include a new decision.
    Now,
}

/// Does the work that is due by these facts.
struct Run<'a> {
    settler: &'a Settler,
    facts: &'a Projection,
    /// The generation of the snapshot from which the work follows.
    generation: u64,
}

impl Run<'_> {
    /// Whether netmaster answers: asks it for an address of a block that this node holds, which changes
    /// nothing.
    async fn netmaster_answers(&self, (tenant, network): &NetworkKey, block: IpNet) -> bool {
        let command = Command::BlockLease(BlockLease {
            tenant: tenant.clone(),
            network: network.clone(),
            group: pool_around(self.facts, &(tenant.clone(), network.clone()), block),
            node: self.settler.me.clone(),
            address: Some(block.addr()),
            v6: block.addr().is_ipv6(),
            ahead: true,
            waiting: 0,
        });
        let outcome = self.settler.bus.command(command).await;
        !matches!(outcome, Err(BusError::Unreachable(_)))
    }

    async fn run(&self, due: Due) -> NextRun {
        let endpoints = &self.settler.endpoints;
        let mut next_run = NextRun::AfterChange;
        if !due.ended.is_empty() && endpoints.write_records(due.ended).await.is_err() {
            next_run = NextRun::Later;
        }
        let ceding = due.ceding.into_iter();
        let ceding = ceding.map(|(key, address, to)| ((key, IpNet::from(address)), Some(to)));
        let ceding: Vec<_> = ceding.collect();
        endpoints.decisions.retain(|held| {
            due.returning.contains(held) || ceding.iter().any(|(ceded, _)| ceded == held)
        });
        let mut generation = self.generation;
        let mut returning = due.returning;
        for (key, block) in due.unused {
            match endpoints.start_return(key.clone(), block).await {
                Ok(empty_at) => {
                    generation = generation.max(empty_at);
                    returning.push((key, block));
                }
                Err(error) => {
                    tracing::debug!(%block, %error, "a block isn't returned");
                    next_run = NextRun::Later;
                }
            }
        }
        let returning = returning.into_iter().map(|held| (held, None));
        let given_up: Vec<_> = returning.chain(ceding).collect();
        if given_up.is_empty() {
            return next_run;
        }
        let dropped = endpoints.wait_until_dropped(generation, KERNEL_DROP_TIMEOUT);
        if let Err(error) = dropped.await {
            tracing::warn!(%error, "addresses aren't given up yet");
            return NextRun::Later;
        }
        for (held, to) in given_up {
            next_run = next_run.max(self.give_up(held, to).await);
        }
        next_run
    }

    /// Asks netmaster, unless another task does.
    async fn give_up(&self, held: BlockKey, to: Option<NodeName>) -> NextRun {
        let Settler { endpoints, me, .. } = self.settler;
        // The end of the other task's operation wakes `Settler::run`.
        let Some(_guard) = endpoints.giving_up.try_begin(held.clone()) else {
            return NextRun::AfterChange;
        };
        let (network, block) = (&held.0.1, held.1);
        let command = command(self.facts, me, &held.0, block, to);
        let revision = match endpoints.send_give_up(&held, command).await {
            Ok(revision) => {
                tracing::info!(%network, %block, %revision, "given up");
                revision
            }
            // Mostly the log says that it isn't ours any more; the facts will have the event.
            Err(BusError::Rejected {
                rejection,
                revision,
                is_final: true,
            }) => {
                tracing::info!(%network, %block, %rejection, "not given up");
                revision
            }
            Err(BusError::Rejected { rejection, .. }) => {
                tracing::debug!(%network, %block, %rejection, "perhaps not given up");
                return NextRun::Later;
            }
            Err(BusError::Unreachable(reason)) => {
                tracing::debug!(%network, %block, reason, "not given up yet");
                return NextRun::Later;
            }
        };
        match revision <= self.facts.applied {
            true => NextRun::Now,
            false => NextRun::AfterChange,
        }
    }
}
