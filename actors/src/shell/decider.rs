//! One aggregate's actor: decides one command at a time, appends what it decided, folds it in.
//!
//! Acceptance stands on a fence, so the cached fold is good enough to try; a refused fence folds
//! the log to its end and decides again. Rejections and "nothing to do" append nothing, so they
//! are given only on a fold that was brought to the log's end for this command.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt, AtomicResponse, Context, Handler, Message, WrapFuture};
use bus_schema::{AggregateId, CommandId, Event, Rejection, Reply, Revision, subject};

use super::facts::{Gather, Snapshot};
use super::fold::{Fold, Panicked};
use super::registry::Registry;
use crate::journal::{self, AppendError, Entry, LoadError, Record};

/// Messages loaded at once while folding.
const PAGE: usize = 10_000;
/// No batch is longer than this; where one lies is found by looking around one of its events.
const LONGEST_BATCH: u64 = 16;
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
    /// Up to the log's end at the time of asking.
    End,
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

/// Another actor appended events of this aggregate, fenced on `after`: what it holds at `after`
/// is current with them.
#[derive(Clone)]
pub(super) struct Appended {
    pub(super) after: Revision,
    pub(super) records: Vec<Record>,
}

impl Message for Appended {
    type Result = ();
}

/// The actor.
pub(super) struct Decider<A> {
    id: AggregateId,
    registry: Rc<Registry>,
    fold: Fold<A>,
    /// The event on which `evolve` panicked last.
    panicked: Option<Revision>,
    loaded: bool,
}

impl<A: Gather> Decider<A> {
    pub(super) fn new(id: AggregateId, registry: Rc<Registry>) -> Self {
        Self {
            id,
            registry,
            fold: Fold::default(),
            panicked: None,
            loaded: false,
        }
    }

    /// Leaves an empty fold behind, not a copy: folds are big.
    fn take(&mut self) -> Self {
        Self {
            id: self.id.clone(),
            registry: Rc::clone(&self.registry),
            fold: std::mem::take(&mut self.fold),
            panicked: self.panicked,
            loaded: std::mem::take(&mut self.loaded),
        }
    }
}

impl<A: Gather> Actor for Decider<A> {
    type Context = Context<Self>;
}

/// Runs `work` on the actor's value, taken out of it, while its mailbox waits; puts it back.
macro_rules! one_at_a_time {
    ($self:ident, $work:expr) => {{
        let taken = $self.take();
        AtomicResponse::new(Box::pin($work(taken).into_actor($self).map(
            |(back, answer), actor, _| {
                *actor = back;
                answer
            },
        )))
    }};
}

impl<A: Gather> Handler<Execute<A>> for Decider<A> {
    type Result = AtomicResponse<Self, Reply>;

    fn handle(&mut self, ask: Execute<A>, _: &mut Context<Self>) -> Self::Result {
        one_at_a_time!(self, |mut taken: Self| async move {
            let reply = taken.execute(ask).await;
            (taken, reply)
        })
    }
}

impl<A: Gather> Handler<Snap<A>> for Decider<A> {
    type Result = AtomicResponse<Self, Result<Snapshot<A>, Trouble>>;

    fn handle(&mut self, ask: Snap<A>, _: &mut Context<Self>) -> Self::Result {
        one_at_a_time!(self, |mut taken: Self| async move {
            let answer = taken.refresh(ask.freshness).await.map(|()| Snapshot {
                state: taken.fold.state.clone(),
                revision: taken.fold.revision,
                blind: taken.fold.blind.clone(),
            });
            (taken, answer)
        })
    }
}

impl<A: Gather> Handler<Appended> for Decider<A> {
    type Result = ();

    fn handle(&mut self, appended: Appended, _: &mut Context<Self>) {
        if self.loaded && self.fold.revision == appended.after {
            self.take_in(&appended.records);
        }
    }
}

/// What one try came to.
enum Tried {
    Answered(Reply),
    /// Again, with folds brought to the log's end.
    Again(String),
}

impl<A: Gather> Decider<A> {
    async fn execute(&mut self, ask: Execute<A>) -> Reply {
        let mut freshness = Freshness::Cached;
        let mut away: Option<Instant> = None;
        loop {
            if self.registry.now() >= ask.deadline && freshness == Freshness::Cached {
                return self.rejected(Rejection::DeadlinePassed);
            }
            let again = match self.attempt(&ask, freshness).await {
                Ok(Tried::Answered(reply)) => return reply,
                Ok(Tried::Again(reason)) => {
                    away = None;
                    reason
                }
                Err(Trouble::Blind(rejection)) => return self.rejected(rejection),
                Err(Trouble::Unavailable(reason)) => {
                    away.get_or_insert_with(Instant::now);
                    reason
                }
            };
            freshness = Freshness::End;
            let hopeless = away.is_some_and(|since| since.elapsed() > PATIENCE);
            if hopeless || self.registry.now() >= ask.deadline {
                return Reply::Unknown {
                    id: ask.id,
                    reason: again,
                };
            }
            jitter(away.is_some()).await;
        }
    }

    async fn attempt(&mut self, ask: &Execute<A>, freshness: Freshness) -> Result<Tried, Trouble> {
        let end = match freshness {
            Freshness::Cached => None,
            Freshness::End => Some(self.registry.journal().end().await?),
        };
        self.refresh(freshness).await?;
        if let Some(first) = self.fold.done(ask.id) {
            return Ok(Tried::Answered(self.answer_from_log(ask.id, first).await?));
        }
        if let Some(why) = &self.fold.blind {
            return Err(Trouble::Blind(why.clone()));
        }
        let gathered = A::gather(
            Rc::clone(&self.registry),
            Arc::clone(&self.fold.state),
            ask.command.clone(),
            ask.external.clone(),
            freshness,
        )
        .await?;
        let decided = self.decide(&ask.command, &gathered.facts).await?;
        match (decided, end) {
            (Ok(events), _) if !events.is_empty() => {
                self.append(ask, events, &gathered.fences).await
            }
            (_, None) => Ok(Tried::Again("the log's end isn't known".to_owned())),
            (_, Some(end)) if end < ask.seen => {
                let reason = format!(
                    "the log ends at {end} here, before revision {} that was seen already",
                    ask.seen
                );
                Err(Trouble::Unavailable(reason))
            }
            (Ok(events), Some(revision)) => {
                Ok(Tried::Answered(Reply::Accepted { revision, events }))
            }
            (Err(rejection), Some(revision)) => Ok(Tried::Answered(Reply::Rejected {
                rejection,
                revision,
            })),
        }
    }

    /// Decides; a panic folds anew and decides once more, since the cached state may be broken.
    async fn decide(
        &mut self,
        command: &A::Command,
        facts: &A::Facts,
    ) -> Result<Result<Vec<Event>, Rejection>, Trouble> {
        for _ in 0..2 {
            let state = &self.fold.state;
            if let Ok(decided) = catch_unwind(AssertUnwindSafe(|| state.decide(command, facts))) {
                return Ok(decided);
            }
            tracing::error!(aggregate = ?self.id, ?command, "decide panicked, folding anew");
            self.forget();
            self.refresh(Freshness::End).await?;
        }
        Ok(Err(Rejection::Malformed {
            reason: "netmaster can't decide about this command: that is a defect, please report it"
                .to_owned(),
        }))
    }

    async fn append(
        &mut self,
        ask: &Execute<A>,
        events: Vec<Event>,
        fences: &[(AggregateId, Revision)],
    ) -> Result<Tried, Trouble> {
        let now = self.registry.now();
        if now >= ask.deadline {
            return Ok(Tried::Again("the deadline passed".to_owned()));
        }
        let last = |aggregate: &AggregateId| {
            if *aggregate == self.id {
                return Some(self.fold.revision);
            }
            let known = fences.iter().find(|(id, _)| id == aggregate);
            known.map(|(_, revision)| *revision)
        };
        let actor = &self.registry.settings().actor;
        let entries = journal::batch(&events, ask.id, actor, now, last);
        match self.registry.journal().append(&entries).await {
            Ok(revision) => {
                self.spread(&events, &entries, revision);
                self.registry.settings().pause_after_append().await;
                Ok(Tried::Answered(Reply::Accepted { revision, events }))
            }
            Err(e @ AppendError::Fenced) => Ok(Tried::Again(e.to_string())),
            // The same fences again: whichever lands first refuses the other.
            Err(e @ AppendError::Unknown(_)) => Ok(Tried::Again(e.to_string())),
            Err(e @ AppendError::Unavailable(_)) => Err(Trouble::Unavailable(e.to_string())),
        }
    }

    /// Folds what was appended into this fold and hands the others theirs.
    fn spread(&mut self, events: &[Event], entries: &[Entry], last: Revision) {
        let behind = u64::try_from(entries.len()).unwrap_or(0);
        let mut parts: Vec<(AggregateId, Appended)> = Vec::new();
        let mut revision = Revision(last.0.saturating_sub(behind));
        for (event, entry) in events.iter().zip(entries) {
            revision = revision.next();
            let Some(id) = event.aggregate() else {
                continue;
            };
            let record = Record::new(revision, entry.subject.clone(), &entry.payload);
            match parts.iter_mut().find(|(other, _)| *other == id) {
                Some((_, part)) => part.records.push(record),
                None => {
                    let after = entry.fence.as_ref().map_or(Revision(0), |fence| fence.last);
                    let records = vec![record];
                    parts.push((id, Appended { after, records }));
                }
            }
        }
        for (id, part) in parts {
            if id == self.id {
                self.take_in(&part.records);
            } else {
                self.registry.tell(&id, part);
            }
        }
    }

    /// The batch that the command wrote, as the log holds it.
    async fn answer_from_log(&self, id: CommandId, first: Revision) -> Result<Reply, Trouble> {
        let after = Revision(first.0.saturating_sub(LONGEST_BATCH));
        let max = usize::try_from(2 * LONGEST_BATCH).unwrap_or(usize::MAX);
        let around = self
            .registry
            .journal()
            .load(subject::LOG_ALL, after, max)
            .await?;
        let mut revision = first;
        let mut events = Vec::new();
        for record in around {
            if let Some(envelope) = record.envelope().filter(|e| e.header.cause == id) {
                revision = record.revision;
                events.push(envelope.body.clone());
            }
        }
        Ok(Reply::Accepted { revision, events })
    }

    fn rejected(&self, rejection: Rejection) -> Reply {
        Reply::Rejected {
            rejection,
            revision: self.fold.revision,
        }
    }
}

impl<A: Gather> Decider<A> {
    /// Folds the log in as far as asked; a panic folds it anew from its start.
    async fn refresh(&mut self, freshness: Freshness) -> Result<(), Trouble> {
        if self.loaded && freshness == Freshness::Cached {
            return Ok(());
        }
        let filter = subject::of_aggregate(&self.id);
        loop {
            let after = self.fold.revision;
            let records = self.registry.journal().load(&filter, after, PAGE).await?;
            let full = records.len() == PAGE;
            if self.take_in(&records) && !full {
                self.loaded = true;
                return Ok(());
            }
        }
    }

    /// Whether the records were folded in; else the fold starts over. The second panic on the
    /// same event is no accident: the process ends.
    fn take_in(&mut self, records: &[Record]) -> bool {
        for record in records {
            if let Err(Panicked(revision)) = self.fold.apply(record) {
                if self.panicked == Some(revision) {
                    self.registry.give_up(format!(
                        "folding the event at revision {revision} ({}) panicked twice: this netmaster can't go on with this log; run another version of it",
                        record.subject
                    ));
                }
                self.panicked = Some(revision);
                self.forget();
                return false;
            }
        }
        true
    }

    fn forget(&mut self) {
        self.fold = Fold::default();
        self.loaded = false;
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
