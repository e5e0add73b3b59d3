//! One aggregate's actor: decides one command after the other, appends what it decided, folds it in.
//!
//! Acceptance stands on a fence, so the cached fold is good enough to try; a refused fence brings it
//! to the log's end and decides again. Rejections and "nothing to do" append nothing, so they are
//! given only on a fold that holds the log up to an end that was proved since the command arrived.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use bus_schema::{AggregateId, CommandId, Rejection, Reply, Revision};
use futures::future::ready;
use tokio::sync::oneshot;

use super::facts::{Gather, Snapshot};
use super::ledger::Shared;
use super::registry::Registry;
use crate::journal::LoadError;

/// Commands that wait for one actor; more are answered "busy". Netmaster takes less at a time.
const QUEUE: usize = 8_192;
/// Commands appended together; the server takes 1,000 messages in a batch.
const TOGETHER: usize = 32;
/// The longest pause before deciding again.
const JITTER_MS: u64 = 20;
/// The pause before asking a log again that didn't answer, in milliseconds.
const AWAY_MS: u64 = 100;
/// How long a log that doesn't answer is asked again: others wait in the mailbox behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much of the log a fold must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Whatever it holds; an append is fenced anyway.
    Cached,
    /// Up to here, which was the log's end when it was asked for.
    End(Revision),
}

/// Why nothing was decided.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Blind(Rejection),
}

impl From<LoadError> for Trouble {
    fn from(e: LoadError) -> Self {
        Self::Unavailable(e.to_string())
    }
}

/// A command for this aggregate.
pub(super) struct Execute<A: Gather> {
    pub(super) id: CommandId,
    pub(super) deadline: u64,
    pub(super) seen: Revision,
    pub(super) arrived: Instant,
    /// Whether an answer for which nothing is appended needs a proved end of the log.
    pub(super) proved: bool,
    pub(super) command: A::Command,
    pub(super) external: A::External,
}

impl<A: Gather> Message for Execute<A> {
    type Result = Reply;
}

/// Asks for the aggregate's state.
pub(super) struct Snap<A> {
    freshness: Freshness,
    of: std::marker::PhantomData<fn() -> A>,
}

impl<A> Snap<A> {
    pub(super) fn new(freshness: Freshness) -> Self {
        Self {
            freshness,
            of: std::marker::PhantomData,
        }
    }
}

impl<A: Gather> Message for Snap<A> {
    type Result = Result<Snapshot<A>, Trouble>;
}

/// What the next try of a command must rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    /// Whatever the fold holds.
    Nothing,
    /// The log's end, as whoever leads it says.
    End,
    /// An end that was proved since the command arrived.
    Proof,
}

/// A command that waits for its answer.
pub(super) struct Pending<A: Gather> {
    pub(super) ask: Execute<A>,
    answer: oneshot::Sender<Reply>,
    pub(super) tries: u32,
    pub(super) needs: Needs,
    /// Since when the log didn't answer.
    away: Option<Instant>,
}

type Queue<A> = Rc<RefCell<VecDeque<Pending<A>>>>;

/// The actor.
pub(super) struct Decider<A: Gather> {
    id: AggregateId,
    registry: Rc<Registry>,
    ledger: Shared<A>,
    queue: Queue<A>,
    working: bool,
}

impl<A: Gather> Decider<A> {
    pub(super) fn new(id: AggregateId, registry: Rc<Registry>, ledger: Shared<A>) -> Self {
        Self {
            id,
            registry,
            ledger,
            queue: Rc::default(),
            working: false,
        }
    }

    fn desk(&self) -> Desk<A> {
        Desk {
            id: self.id.clone(),
            registry: Rc::clone(&self.registry),
            ledger: Rc::clone(&self.ledger),
            queue: Rc::clone(&self.queue),
        }
    }
}

impl<A: Gather> Actor for Decider<A> {
    type Context = Context<Self>;
}

impl<A: Gather> Handler<Execute<A>> for Decider<A> {
    type Result = ResponseFuture<Reply>;

    fn handle(&mut self, ask: Execute<A>, context: &mut Context<Self>) -> Self::Result {
        let (id, full) = (ask.id, self.queue.borrow().len() >= QUEUE);
        let unknown = move |reason: &str| Reply::Unknown {
            id,
            reason: reason.to_owned(),
        };
        if full {
            return Box::pin(ready(unknown("netmaster is busy: try again")));
        }
        let (answer, answered) = oneshot::channel();
        self.queue.borrow_mut().push_back(Pending {
            ask,
            answer,
            tries: 0,
            needs: Needs::Nothing,
            away: None,
        });
        if !std::mem::replace(&mut self.working, true) {
            let desk = self.desk();
            let work = async move { desk.work().await }.into_actor(self);
            context.spawn(work.map(|(), actor, _| actor.working = false));
        }
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| unknown("it isn't decided"))
        })
    }
}

impl<A: Gather> Handler<Snap<A>> for Decider<A> {
    type Result = ResponseFuture<Result<Snapshot<A>, Trouble>>;

    fn handle(&mut self, ask: Snap<A>, _: &mut Context<Self>) -> Self::Result {
        let desk = self.desk();
        Box::pin(async move { desk.refresh(ask.freshness).await })
    }
}

/// What one try came to.
pub(super) enum Tried {
    Answered(Reply),
    /// Again, with folds brought to the log's end.
    Again(String),
    /// Again, on a fold that holds so much.
    Needs(Needs),
    Away(String),
}

/// What the actor works with while its mailbox is open.
pub(super) struct Desk<A: Gather> {
    pub(super) id: AggregateId,
    pub(super) registry: Rc<Registry>,
    pub(super) ledger: Shared<A>,
    pub(super) queue: Queue<A>,
}

impl<A: Gather> Desk<A> {
    /// Until nobody waits. What waits at the same time is appended at once: an append takes the log
    /// some milliseconds, whatever is in it.
    async fn work(&self) {
        loop {
            let group: Vec<_> = {
                let mut queue = self.queue.borrow_mut();
                let some = queue.len().min(TOGETHER);
                queue.drain(..some).collect()
            };
            if group.is_empty() {
                return;
            }
            let tried = match self.attempt(&group).await {
                Ok(tried) => tried,
                Err(Trouble::Blind(why)) => group
                    .iter()
                    .map(|_| Tried::Answered(self.rejected(why.clone())))
                    .collect(),
                Err(Trouble::Unavailable(reason)) => {
                    group.iter().map(|_| Tried::Away(reason.clone())).collect()
                }
            };
            self.settle(group, tried).await;
        }
    }

    /// Answers, or puts back to the front of the queue.
    async fn settle(&self, group: Vec<Pending<A>>, tried: Vec<Tried>) {
        let now = self.registry.now();
        let (mut progress, mut pause) = (false, None);
        for (mut pending, tried) in group.into_iter().zip(tried).rev() {
            let reason = match tried {
                Tried::Answered(reply) => {
                    progress = true;
                    // Whoever asked may be gone.
                    let _ = pending.answer.send(reply);
                    continue;
                }
                Tried::Again(reason) => {
                    pending.away = None;
                    pending.needs = pending.needs.max(Needs::End);
                    reason
                }
                Tried::Needs(needs) => {
                    pending.needs = needs;
                    progress = true;
                    "the log's end isn't proved".to_owned()
                }
                Tried::Away(reason) => {
                    pending.away.get_or_insert_with(Instant::now);
                    reason
                }
            };
            let hopeless = pending.away.is_some_and(|it| it.elapsed() > PATIENCE);
            if hopeless || now >= pending.ask.deadline {
                let id = pending.ask.id;
                let _ = pending.answer.send(Reply::Unknown { id, reason });
                continue;
            }
            // Who was refused once most likely knew too little, and doesn't race with anybody.
            if pending.tries > 0 || pending.away.is_some() {
                pause = Some(pending.away.is_some());
            }
            pending.tries += 1;
            tracing::debug!(command = %pending.ask.id, tries = pending.tries, reason, "decided again");
            self.queue.borrow_mut().push_front(pending);
        }
        if let Some(away) = pause.filter(|_| !progress) {
            jitter(away).await;
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever lost a race pauses, or both lose the next one too"
)]
async fn jitter(away: bool) {
    let pause = fastrand::u64(1..=JITTER_MS);
    let pause = if away { pause + AWAY_MS } else { pause };
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
