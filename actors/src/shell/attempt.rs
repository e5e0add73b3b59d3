//! One attempt of an actor: it decides its commands in turn, and appends their events as one batch.
//!
//! Each command is decided as if the events of those before it were in the log, which they are if the
//! batch is. A command that is refused, or that has nothing to append, is answered only when no other
//! is before it: on the state that the log holds.

use std::time::Duration;

use bus_schema::{CommandId, Event, Rejection, Reply, Revision, subject};

use super::cached_fold::Snapshot;
use super::decider::{Execute, Needs, Open, Outcome, Pending, Worker};
use super::draft::Draft;
use super::facts::Gather;
use super::proof::Proof;
use super::refresh::{Freshness, Undecided};

/// How long a proof of the log's end is awaited; the asker is answered "unknown" a little later.
const PROOF_TIMEOUT: Duration = Duration::from_secs(3);
/// No command writes more messages than this; its events are found by reading around one of them.
const MAX_COMMAND_MESSAGES: u64 = 16;

/// The part of the log on which an attempt rests.
#[derive(Debug, Clone, Copy)]
struct Basis {
    freshness: Freshness,
    proof: Option<Proof>,
}

impl<A: Gather> Worker<A> {
    /// Attempts all commands of the group, on as much as the most demanding one needs.
    pub(super) async fn attempt(&self, group: &[Pending<A>]) -> Result<Vec<Outcome>, Undecided> {
        let basis = self.basis(group).await?;
        let own = self.refresh(basis).await?;
        if let Some(why) = &own.blind {
            return Err(Undecided::Blind(why.clone()));
        }
        let mut draft = Draft::new(own);
        // `None`: the command is in the draft.
        let mut outcomes = Vec::with_capacity(group.len());
        for pending in group {
            outcomes.push(self.decide(&mut draft, pending, basis).await?);
        }
        let appended = match draft.decided.is_empty() {
            true => vec![],
            false => self.append(draft).await?,
        };
        let mut appended = appended.into_iter();
        let outcomes = outcomes
            .into_iter()
            .map(|it| it.or_else(|| appended.next()));
        let lost = || Outcome::again("it isn't decided");
        Ok(outcomes.map(|it| it.unwrap_or_else(lost)).collect())
    }

    async fn basis(&self, group: &[Pending<A>]) -> Result<Basis, Undecided> {
        let unproved = group.iter().filter(|it| it.needs == Needs::Proof);
        if let Some(arrived) = unproved.map(|it| it.ask.arrived).max() {
            let proof = self.prover.prove(arrived, PROOF_TIMEOUT).await;
            let proof = proof.map_err(|e| Undecided::Unavailable(e.to_string()))?;
            // A command that was refused after a proof lacks what others appended since.
            let refused = group.iter().any(|it| it.tries > 1);
            let end = match refused {
                true => self.log.journal().end().await?.max(proof.end),
                false => proof.end,
            };
            return Ok(Basis {
                freshness: Freshness::End(end),
                proof: Some(proof),
            });
        }
        let freshness = match group.iter().any(|it| it.needs == Needs::End) {
            true => Freshness::End(self.log.journal().end().await?),
            false => Freshness::Cached,
        };
        Ok(Basis {
            freshness,
            proof: None,
        })
    }

    async fn refresh(&self, basis: Basis) -> Result<Snapshot<A>, Undecided> {
        let refreshed = self.log.refresh(&self.id, &self.fold, basis.freshness);
        refreshed.await
    }

    /// Decides behind the commands in the draft, and adds to them.
    async fn decide(
        &self,
        draft: &mut Draft<A>,
        pending: &Pending<A>,
        basis: Basis,
    ) -> Result<Option<Outcome>, Undecided> {
        let ask = &pending.ask;
        if let Some(outcome) = self.without_deciding(draft, pending, basis).await? {
            return Ok(Some(outcome));
        }
        let alone = draft.decided.is_empty();
        if !draft.fold(&self.id) {
            return Ok(Some(Outcome::again(
                "the events of the commands before it can't be folded",
            )));
        }
        A::add_external(&mut draft.gathered.facts, &ask.external);
        let (log, state) = (&self.log, &*draft.own.state);
        let gathered = draft
            .gathered
            .gather(log, state, &ask.command, basis.freshness);
        match gathered.await {
            Ok(()) => {}
            Err(Undecided::Blind(why)) => return Ok(Some(Outcome::Answered(self.rejected(why)))),
            Err(away) => return Err(away),
        }
        let decided = match draft.decide(&ask.command) {
            Some(decided) => decided,
            None if alone => self.decide_anew(draft, ask, basis).await?,
            None => return Ok(Some(Outcome::again("it panicked"))),
        };
        if let Some(events) = decided.as_ref().ok().filter(|events| !events.is_empty()) {
            draft.add(ask.id, events.clone(), ask.deadline);
            return Ok(None);
        }
        Ok(Some(match alone {
            true => answer(decided, ask, basis),
            false => Outcome::again("the events on which it depends aren't in the log yet"),
        }))
    }

    /// The outcome of a command about which there is nothing to decide; `None`: there is.
    async fn without_deciding(
        &self,
        draft: &Draft<A>,
        pending: &Pending<A>,
        basis: Basis,
    ) -> Result<Option<Outcome>, Undecided> {
        let ask = &pending.ask;
        if self.log.now() >= ask.deadline {
            return Ok(Some(match pending.tries {
                0 => Outcome::Answered(self.rejected(Rejection::DeadlinePassed)),
                _ => Outcome::again("the deadline passed"),
            }));
        }
        match basis.proof.filter(|it| it.covers(ask.arrived)) {
            Some(proof) if proof.before() < ask.seen => {
                let (end, seen) = (proof.before(), ask.seen);
                let shorter = Rejection::LogShorter { end, seen };
                return Ok(Some(Outcome::Answered(Reply::rejected(shorter, end))));
            }
            None if ask.seen > self.log.fed() => {
                return Ok(Some(Outcome::Open(Open::Needs(Needs::Proof))));
            }
            Some(_) | None => {}
        }
        let done = self.fold.borrow().done(ask.id);
        if let Some(first) = done {
            let answer = self.answer_from_log(ask.id, first).await?;
            return Ok(Some(Outcome::Answered(answer)));
        }
        let twice = draft.holds(ask.id);
        Ok(twice.then(|| Outcome::again("it was asked twice")))
    }

    /// Decides on a new fold: `decide` panicked, so the cached state may be broken.
    async fn decide_anew(
        &self,
        draft: &mut Draft<A>,
        ask: &Execute<A>,
        basis: Basis,
    ) -> Result<Result<Vec<Event>, Rejection>, Undecided> {
        self.fold.borrow_mut().forget();
        draft.own = self.refresh(basis).await?;
        Ok(draft.decide(&ask.command).unwrap_or_else(|| {
            self.fold.borrow_mut().forget();
            Err(Rejection::Defect)
        }))
    }

    /// Reads the batch that the command wrote from the log.
    async fn answer_from_log(&self, id: CommandId, first: Revision) -> Result<Reply, Undecided> {
        let after = Revision(first.0.saturating_sub(MAX_COMMAND_MESSAGES));
        let max = usize::try_from(2 * MAX_COMMAND_MESSAGES).unwrap_or(usize::MAX);
        let journal = self.log.journal();
        let around = journal.load(subject::LOG_ALL, after, max).await?;
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

    pub(super) fn rejected(&self, rejection: Rejection) -> Reply {
        Reply::rejected(rejection, self.fold.borrow().revision())
    }
}

/// Answers a command that appends nothing, if the basis is as good as the command needs.
fn answer<A: Gather>(
    decided: Result<Vec<Event>, Rejection>,
    ask: &Execute<A>,
    basis: Basis,
) -> Outcome {
    let proof = basis.proof.filter(|it| it.covers(ask.arrived));
    let end = match (proof, basis.freshness) {
        (Some(proof), _) => proof.end,
        (None, Freshness::End(end)) if !ask.proved => end,
        (None, _) if ask.proved => return Outcome::Open(Open::Needs(Needs::Proof)),
        (None, _) => return Outcome::Open(Open::Needs(Needs::End)),
    };
    Outcome::Answered(match decided {
        Ok(events) => Reply::Accepted {
            revision: end,
            events,
        },
        Err(rejection) => Reply::rejected(rejection, end),
    })
}
