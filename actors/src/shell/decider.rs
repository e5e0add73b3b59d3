//! One aggregate's actor: decides commands in turn, appends the events, folds them in.
//!
//! An accept is protected by the fence, so the actor decides on the cached state first; a refused fence
//! brings the fold to the log's end, and the actor decides again. Rejections and "nothing to do" append
//! nothing, so they are given only on a fold that holds the log up to an end that was proved since the
//! command arrived.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, ResponseFuture, WrapFuture,
};
use bus_schema::{AggregateId, CommandId, Reply, Revision};
use futures::future::ready;
use tokio::sync::oneshot;

use super::cached_fold::SharedFold;
use super::facts::Gather;
use super::log::Log;
use super::proof::Prover;
use super::refresh::Undecided;

/// Commands that wait for one actor; more are answered "busy". Netmaster takes less at a time.
const MAX_QUEUE: usize = 8_192;
/// Commands that are appended together; the server takes 1,000 messages in a batch.
const MAX_BATCH_COMMANDS: usize = 32;
/// The longest pause before deciding again.
const MAX_JITTER_MS: u64 = 20;
/// The pause before asking a log again that didn't answer.
const AWAY_PAUSE_MS: u64 = 100;
/// How long a log that doesn't answer is asked again: other commands wait in the mailbox behind.
const AWAY_TIMEOUT: Duration = Duration::from_secs(2);

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

/// How much the next attempt of a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    /// The fold as it is.
    Nothing,
    /// The log's end, as its leader reports it.
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

impl<A: Gather> Pending<A> {
    /// Notes why the attempt gave no answer, and returns it as a text.
    fn note(&mut self, open: Open) -> String {
        match open {
            Open::Again(reason) => {
                self.away = None;
                self.needs = self.needs.max(Needs::End);
                reason
            }
            Open::Needs(needs) => {
                self.needs = needs;
                "the log's end isn't proved".to_owned()
            }
            Open::Away(reason) => {
                self.away.get_or_insert_with(Instant::now);
                reason
            }
        }
    }
}

type Queue<A> = Rc<RefCell<VecDeque<Pending<A>>>>;

/// The actor.
pub(super) struct Decider<A: Gather> {
    worker: Rc<Worker<A>>,
    working: bool,
}

impl<A: Gather> Decider<A> {
    pub(super) fn new(
        id: AggregateId,
        fold: SharedFold<A>,
        prover: Rc<Prover>,
        log: Rc<Log>,
    ) -> Self {
        let worker = Worker {
            id,
            fold,
            prover,
            log,
            queue: Rc::default(),
        };
        Self {
            worker: Rc::new(worker),
            working: false,
        }
    }
}

impl<A: Gather> Actor for Decider<A> {
    type Context = Context<Self>;
}

impl<A: Gather> Handler<Execute<A>> for Decider<A> {
    type Result = ResponseFuture<Reply>;

    fn handle(&mut self, ask: Execute<A>, context: &mut Context<Self>) -> Self::Result {
        let queue = &self.worker.queue;
        let (id, full) = (ask.id, queue.borrow().len() >= MAX_QUEUE);
        let unknown = move |reason: &str| Reply::Unknown {
            id,
            reason: reason.to_owned(),
        };
        if full {
            return Box::pin(ready(unknown("netmaster is busy: try again")));
        }
        let (answer, answered) = oneshot::channel();
        queue.borrow_mut().push_back(Pending {
            ask,
            answer,
            tries: 0,
            needs: Needs::Nothing,
            away: None,
        });
        if !std::mem::replace(&mut self.working, true) {
            let worker = Rc::clone(&self.worker);
            let work = async move { worker.work().await }.into_actor(self);
            context.spawn(work.map(|(), actor, _| actor.working = false));
        }
        Box::pin(async move {
            answered
                .await
                .unwrap_or_else(|_| unknown("it isn't decided"))
        })
    }
}

/// How an attempt of a command ended.
pub(super) enum Outcome {
    Answered(Reply),
    Open(Open),
}

/// Why a command needs another attempt.
pub(super) enum Open {
    /// Its folds must be brought to the log's end.
    Again(String),
    /// It needs a fold that holds so much.
    Needs(Needs),
    /// The log doesn't answer.
    Away(String),
}

impl Outcome {
    pub(super) fn again(why: &str) -> Self {
        Self::Open(Open::Again(why.to_owned()))
    }
}

/// Works on the commands of one actor, while the actor's mailbox stays open.
pub(super) struct Worker<A: Gather> {
    pub(super) id: AggregateId,
    pub(super) fold: SharedFold<A>,
    pub(super) prover: Rc<Prover>,
    pub(super) log: Rc<Log>,
    queue: Queue<A>,
}

impl<A: Gather> Worker<A> {
    /// Works until the queue is empty. Commands that wait at the same time are appended together: an
    /// append takes the log some milliseconds, whatever its size.
    async fn work(&self) {
        loop {
            let group: Vec<_> = {
                let mut queue = self.queue.borrow_mut();
                let some = queue.len().min(MAX_BATCH_COMMANDS);
                queue.drain(..some).collect()
            };
            if group.is_empty() {
                return;
            }
            let outcomes = match self.attempt(&group).await {
                Ok(outcomes) => outcomes,
                Err(why) => group.iter().map(|_| self.undecided(&why)).collect(),
            };
            self.settle(group, outcomes).await;
        }
    }

    fn undecided(&self, why: &Undecided) -> Outcome {
        match why.clone() {
            Undecided::Blind(why) => Outcome::Answered(self.rejected(why)),
            Undecided::Unavailable(reason) => Outcome::Open(Open::Away(reason)),
        }
    }

    /// Answers the commands, or puts them back to the front of the queue.
    async fn settle(&self, group: Vec<Pending<A>>, outcomes: Vec<Outcome>) {
        let now = self.log.now();
        let (mut progress, mut pause) = (false, None);
        for (mut pending, outcome) in group.into_iter().zip(outcomes).rev() {
            let open = match outcome {
                Outcome::Answered(reply) => {
                    progress = true;
                    // The asker may be gone.
                    let _ = pending.answer.send(reply);
                    continue;
                }
                Outcome::Open(open) => open,
            };
            progress |= matches!(open, Open::Needs(_));
            let reason = pending.note(open);
            let hopeless = pending.away.is_some_and(|it| it.elapsed() > AWAY_TIMEOUT);
            if hopeless || now >= pending.ask.deadline {
                let id = pending.ask.id;
                let _ = pending.answer.send(Reply::Unknown { id, reason });
                continue;
            }
            // A command that was refused once most likely had an old fold, and races with nobody.
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
    reason = "a netmaster that lost a race pauses, or both lose the next one too"
)]
async fn jitter(away: bool) {
    let pause = fastrand::u64(1..=MAX_JITTER_MS);
    let pause = if away { pause + AWAY_PAUSE_MS } else { pause };
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
