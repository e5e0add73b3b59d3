//! Appends the events of an attempt's commands as one batch, and folds them in.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Instant;

use bus_schema::codec::Decoded;
use bus_schema::{AggregateId, CommandId, Envelope, Event, Reply, Revision, subject};

use super::decider::{Open, Outcome, Worker};
use super::draft::Draft;
use super::facts::{Gather, Gathered};
use super::refresh::Undecided;
use crate::journal::{self, AppendError, NewRecord, Record};

impl<A: Gather> Worker<A> {
    /// Appends the draft; answers the outcome of each of its commands.
    pub(super) async fn append(&self, draft: Draft<A>) -> Result<Vec<Outcome>, Undecided> {
        let Draft {
            own,
            gathered: Gathered { facts, fences },
            decided,
            deadline,
            ..
        } = draft;
        let mut fences: BTreeMap<_, _> = fences.into_iter().collect();
        fences.insert(self.id.clone(), own.revision);
        // Folds change in place when nobody else holds them.
        drop((own, facts));
        let again = |why: &dyn Display| {
            let again = |_: &(CommandId, Vec<Event>)| Outcome::Open(Open::Again(why.to_string()));
            Ok(decided.iter().map(again).collect())
        };
        let (actor, now) = (&self.log.settings().actor, self.log.now());
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
        match self.log.journal().append(&entries).await {
            Ok(last) => {
                self.prover.acknowledged(sent, last);
                let behind = u64::try_from(entries.len()).unwrap_or(0);
                let before = Revision(last.0.saturating_sub(behind));
                self.spread(entries, envelopes, before);
                self.log.settings().pause_after_append().await;
                Ok(accepted(decided, before))
            }
            Err(e @ AppendError::Fenced) => again(&e),
            // The same fences again: the append that lands first refuses the other.
            Err(e @ AppendError::Unknown(_)) => again(&e),
            Err(e @ AppendError::Unavailable(_)) => Err(Undecided::Unavailable(e.to_string())),
        }
    }

    /// Folds in the messages that were appended behind `before`: as the next ones of the feed, or, where
    /// the feed isn't that far yet, for each aggregate behind its fence.
    fn spread(&self, entries: Vec<NewRecord>, envelopes: Vec<Envelope<Event>>, before: Revision) {
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
        if self.log.is_fed_to(before) {
            return written.for_each(|(_, record)| self.log.feed(&record));
        }
        let mut parts: Vec<(AggregateId, Revision, Vec<Record>)> = Vec::new();
        for (fence, record) in written {
            let Some(id) = subject::aggregate_of(&record.subject) else {
                continue;
            };
            match parts.iter_mut().find(|(other, ..)| *other == id) {
                Some((.., records)) => records.push(record),
                // Without a fence nobody knows which messages lie before it.
                None => parts.extend(fence.map(|fence| (id, fence.last, vec![record]))),
            }
        }
        for (id, after, records) in parts {
            if id == self.id {
                self.log.take_in(&self.fold, after, &records);
            } else {
                self.log.fold_in(&id, after, &records);
            }
        }
    }
}

/// The answers to commands whose events were appended behind `before`.
fn accepted(decided: Vec<(CommandId, Vec<Event>)>, before: Revision) -> Vec<Outcome> {
    let mut revision = before;
    let answers = decided.into_iter().map(|(_, events)| {
        revision.0 += u64::try_from(events.len()).unwrap_or(0);
        Outcome::Answered(Reply::Accepted { revision, events })
    });
    answers.collect()
}
