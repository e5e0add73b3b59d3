//! One try of an actor: its commands decided one after the other, and appended as one batch.
//!
//! Each is decided as if those before it were in the log, which they are if the batch is. Whoever
//! is refused, or has nothing to append, is answered only when it stands at the front: on what the
//! log holds.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus_schema::codec::Decoded;
use bus_schema::{AggregateId, CommandId, Envelope, Event, Rejection, Reply, Revision, subject};

use super::decider::{Desk, Execute, Freshness, Needs, Pending, Tried, Trouble};
use super::facts::{Gather, Gathered, Snapshot};
use super::proof::Proof;
use crate::journal::{self, AppendError, Entry, Record};

/// Messages loaded at once while folding.
const PAGE: usize = 10_000;
/// How long a proof of the log's end is waited for; who asked is answered "unknown" a little later.
const PROOF: Duration = Duration::from_secs(3);
/// No command writes more than this; where its events lie is found by looking around one of them.
const LONGEST_BATCH: u64 = 16;

/// What commands came to one after the other, each decided as if those before it were in the log.
struct Draft<A: Gather> {
    own: Snapshot<A>,
    gathered: Gathered<A::Facts>,
    decided: Vec<(CommandId, Vec<Event>)>,
    /// So many of `decided` are folded into `own` and the facts.
    folded: usize,
    /// When the first of them isn't to be appended any more.
    deadline: u64,
}

impl<A: Gather> Draft<A> {
    /// Folds in what was decided; whether `evolve` let it.
    fn fold(&mut self, id: &AggregateId) -> bool {
        let events = self.decided[self.folded..].iter().flat_map(|(_, it)| it);
        let (state, facts) = (&mut self.own.state, &mut self.gathered.facts);
        let folded = catch_unwind(AssertUnwindSafe(|| {
            for event in events {
                match event.aggregate() {
                    Some(of) if of == *id => Arc::make_mut(state).evolve(event),
                    Some(of) => A::foresee(facts, &of, event),
                    None => {}
                }
            }
        }));
        self.folded = self.decided.len();
        folded.is_ok()
    }
}

/// What a try rests on.
#[derive(Debug, Clone, Copy)]
struct Basis {
    freshness: Freshness,
    proof: Option<Proof>,
}

impl<A: Gather> Desk<A> {
    /// As much as the one that needs most.
    async fn basis(&self, group: &[Pending<A>]) -> Result<Basis, Trouble> {
        let unproved = group.iter().filter(|it| it.needs == Needs::Proof);
        if let Some(arrived) = unproved.map(|it| it.ask.arrived).max() {
            let proof = self.registry.prove(arrived, PROOF).await;
            let proof = proof.map_err(|e| Trouble::Unavailable(e.to_string()))?;
            // Who was refused after a proof lacks what others appended since.
            let refused = group.iter().any(|it| it.tries > 1);
            let end = match refused {
                true => self.registry.journal().end().await?.max(proof.end),
                false => proof.end,
            };
            return Ok(Basis {
                freshness: Freshness::End(end),
                proof: Some(proof),
            });
        }
        let freshness = match group.iter().any(|it| it.needs == Needs::End) {
            true => Freshness::End(self.registry.journal().end().await?),
            false => Freshness::Cached,
        };
        Ok(Basis {
            freshness,
            proof: None,
        })
    }

    pub(super) async fn attempt(&self, group: &[Pending<A>]) -> Result<Vec<Tried>, Trouble> {
        let basis = self.basis(group).await?;
        let mut draft = Draft {
            own: self.refresh(basis.freshness).await?,
            gathered: Gathered::default(),
            decided: vec![],
            folded: 0,
            deadline: u64::MAX,
        };
        if let Some(why) = &draft.own.blind {
            return Err(Trouble::Blind(why.clone()));
        }
        // `None`: it is in the draft.
        let mut tried = Vec::with_capacity(group.len());
        for pending in group {
            let first = pending.tries == 0;
            tried.push(self.decide(&mut draft, &pending.ask, first, basis).await?);
        }
        let appended = match draft.decided.is_empty() {
            true => vec![],
            false => self.append(draft).await?,
        };
        let mut appended = appended.into_iter();
        let tried = tried.into_iter().map(|it| it.or_else(|| appended.next()));
        let lost = || Tried::Again("it isn't decided".to_owned());
        Ok(tried.map(|it| it.unwrap_or_else(lost)).collect())
    }

    /// Decides behind what is in the draft already, and adds to it.
    async fn decide(
        &self,
        draft: &mut Draft<A>,
        ask: &Execute<A>,
        first: bool,
        basis: Basis,
    ) -> Result<Option<Tried>, Trouble> {
        let again = |why: &str| Ok(Some(Tried::Again(why.to_owned())));
        if self.registry.now() >= ask.deadline {
            if first {
                return Ok(Some(Tried::Answered(
                    self.rejected(Rejection::DeadlinePassed),
                )));
            }
            return again("the deadline passed");
        }
        let proof = basis.proof.filter(|it| it.covers(ask.arrived));
        match proof {
            Some(proof) if proof.before() < ask.seen => {
                let (end, seen) = (proof.before(), ask.seen);
                let shorter = Rejection::LogShorter { end, seen };
                return Ok(Some(Tried::Answered(Reply::rejected(shorter, end))));
            }
            None if ask.seen > self.registry.fed() => {
                return Ok(Some(Tried::Needs(Needs::Proof)));
            }
            Some(_) | None => {}
        }
        let done = self.ledger.borrow().done(ask.id);
        if let Some(first) = done {
            let answer = self.answer_from_log(ask.id, first).await?;
            return Ok(Some(Tried::Answered(answer)));
        }
        if draft.decided.iter().any(|(id, _)| *id == ask.id) {
            return again("it was asked twice");
        }
        let alone = draft.decided.is_empty();
        if !draft.fold(&self.id) {
            return again("what comes before it can't be folded");
        }
        match A::gather(
            &self.registry,
            &draft.own.state,
            ask,
            basis.freshness,
            &mut draft.gathered,
        )
        .await
        {
            Ok(()) => {}
            Err(Trouble::Blind(why)) => return Ok(Some(Tried::Answered(self.rejected(why)))),
            Err(away) => return Err(away),
        }
        let mut decided = decide(draft, &ask.command);
        if decided.is_none() && alone {
            // The cached state may be broken.
            self.ledger.borrow_mut().forget();
            draft.own = self.refresh(basis.freshness).await?;
            decided = decide(draft, &ask.command);
        }
        let decided = match decided {
            Some(decided) => decided,
            None if alone => {
                self.ledger.borrow_mut().forget();
                let reason =
                    "netmaster can't decide about this command: that is a defect, please report it";
                Err(Rejection::Malformed {
                    reason: reason.to_owned(),
                })
            }
            None => return again("it panicked"),
        };
        if let Some(events) = decided.as_ref().ok().filter(|events| !events.is_empty()) {
            draft.decided.push((ask.id, events.clone()));
            draft.deadline = draft.deadline.min(ask.deadline);
            return Ok(None);
        }
        if !alone {
            return again("what it follows from isn't in the log yet");
        }
        let end = match (proof, basis.freshness) {
            (Some(proof), _) => proof.end,
            (None, Freshness::End(end)) if !ask.proved => end,
            (None, _) if ask.proved => return Ok(Some(Tried::Needs(Needs::Proof))),
            (None, _) => return Ok(Some(Tried::Needs(Needs::End))),
        };
        Ok(Some(Tried::Answered(match decided {
            Ok(events) => Reply::Accepted {
                revision: end,
                events,
            },
            Err(rejection) => Reply::rejected(rejection, end),
        })))
    }

    /// What became of each decided command.
    async fn append(&self, draft: Draft<A>) -> Result<Vec<Tried>, Trouble> {
        let Draft {
            own,
            gathered: Gathered { facts, fences },
            decided,
            deadline,
            ..
        } = draft;
        let mut fences: BTreeMap<_, _> = fences.into_iter().collect();
        fences.insert(self.id.clone(), own.revision);
        // Folds change in place when nobody holds them.
        drop((own, facts));
        let again = |why: &dyn Display| {
            let again = |_: &(CommandId, Vec<Event>)| Tried::Again(why.to_string());
            Ok(decided.iter().map(again).collect())
        };
        let (actor, now) = (&self.registry.settings().actor, self.registry.now());
        if now >= deadline {
            return again(&"the deadline passed");
        }
        let (mut entries, mut envelopes) = (Vec::new(), Vec::new());
        for (id, events) in &decided {
            let last = |aggregate: &AggregateId| fences.remove(aggregate);
            let (some, read) = journal::batch(events, *id, actor, now, last);
            entries.extend(some);
            envelopes.extend(read);
        }
        let sent = Instant::now();
        match self.registry.journal().append(&entries).await {
            Ok(last) => {
                self.registry.proofs().acknowledged(sent, last);
                let behind = u64::try_from(entries.len()).unwrap_or(0);
                let mut revision = Revision(last.0.saturating_sub(behind));
                self.spread(entries, envelopes, revision);
                self.registry.settings().pause_after_append().await;
                let answers = decided.into_iter().map(|(_, events)| {
                    revision.0 += u64::try_from(events.len()).unwrap_or(0);
                    Tried::Answered(Reply::Accepted { revision, events })
                });
                Ok(answers.collect())
            }
            Err(e @ AppendError::Fenced) => again(&e),
            // The same fences again: whichever lands first refuses the other.
            Err(e @ AppendError::Unknown(_)) => again(&e),
            Err(e @ AppendError::Unavailable(_)) => Err(Trouble::Unavailable(e.to_string())),
        }
    }

    /// Folds in what was appended behind `before`: as what the feed tells next, or, where it isn't
    /// that far yet, for each aggregate behind its fence.
    fn spread(&self, entries: Vec<Entry>, envelopes: Vec<Envelope<Event>>, before: Revision) {
        let mut revision = before;
        let written = entries.into_iter().zip(envelopes).map(|(entry, envelope)| {
            revision = revision.next();
            let (subject, event) = (entry.subject, Ok(Decoded::Known(envelope)));
            let record = Record {
                revision,
                subject,
                event,
            };
            (entry.fence, record)
        });
        if self.registry.is_fed_to(before) {
            return written.for_each(|(_, record)| self.registry.feed(&record));
        }
        let mut parts: Vec<(AggregateId, Revision, Vec<Record>)> = Vec::new();
        for (fence, record) in written {
            let Some(id) = subject::aggregate_of(&record.subject) else {
                continue;
            };
            match parts.iter_mut().find(|(other, ..)| *other == id) {
                Some((.., records)) => records.push(record),
                // Without a fence nobody knows what lies before it.
                None => parts.extend(fence.map(|fence| (id, fence.last, vec![record]))),
            }
        }
        for (id, after, records) in parts {
            if id == self.id {
                let mut ledger = self.ledger.borrow_mut();
                ledger.take_in(after, &records, &self.registry);
            } else {
                self.registry.tell(&id, after, &records);
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

    pub(super) fn rejected(&self, rejection: Rejection) -> Reply {
        Reply::rejected(rejection, self.ledger.borrow().revision())
    }
}

/// `None`: it panicked.
fn decide<A: Gather>(
    draft: &Draft<A>,
    command: &A::Command,
) -> Option<Result<Vec<Event>, Rejection>> {
    let (state, facts) = (&draft.own.state, &draft.gathered.facts);
    let decided = catch_unwind(AssertUnwindSafe(|| state.decide(command, facts)));
    if decided.is_err() {
        tracing::error!(?command, "decide panicked");
    }
    decided.ok()
}

impl<A: Gather> Desk<A> {
    /// Brings the fold as far as asked: what the feed told is there already, the rest is read.
    pub(super) async fn refresh(&self, freshness: Freshness) -> Result<Snapshot<A>, Trouble> {
        let wanted = match freshness {
            Freshness::Cached => Revision(0),
            Freshness::End(end) => end,
        };
        let fed = self.registry.fed_to(wanted).await;
        let complete = fed && self.ledger.borrow().revision() >= self.registry.last_fed(&self.id).0;
        let cached = freshness == Freshness::Cached && self.ledger.borrow().loaded;
        if !complete && !cached {
            self.load().await?;
            self.registry.holds(wanted).await?;
            self.is_whole()?;
        }
        Ok(self.ledger.borrow().snapshot())
    }

    /// Whether what was loaded holds what was fed: a server whose copy has holes may have sent it.
    fn is_whole(&self) -> Result<(), Trouble> {
        let (_, fed) = self.registry.last_fed(&self.id);
        let mut ledger = self.ledger.borrow_mut();
        if ledger.count() >= fed {
            return Ok(());
        }
        ledger.forget();
        let reason = "the server that answers lacks messages of the log: see `netctl doctor`";
        Err(Trouble::Unavailable(reason.to_owned()))
    }

    /// A panic folds anew from the log's start.
    async fn load(&self) -> Result<(), Trouble> {
        let filter = subject::of_aggregate(&self.id);
        loop {
            let after = self.ledger.borrow().revision();
            let records = self.registry.journal().load(&filter, after, PAGE).await?;
            let full = records.len() == PAGE;
            let mut ledger = self.ledger.borrow_mut();
            if ledger.take_in(after, &records, &self.registry) && !full {
                ledger.loaded = true;
                return Ok(());
            }
        }
    }
}
