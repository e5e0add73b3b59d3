//! The questions that a resolver didn't answer. Pure.
//!
//! A name may have servers that don't answer, so a resolver that is silent about it may be well. It
//! counts as silent for all questions only after several different ones.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A resolver that didn't answer is asked last for this long.
const SILENCE_MEMORY: Duration = Duration::from_secs(10);
/// A resolver is silent for all questions after so many different ones without any answer in between.
const SILENT_AFTER_QUESTIONS: usize = 4;
/// Limits the remembered questions; the oldest is forgotten.
const MAX_UNANSWERED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Health {
    answered: Option<Instant>,
    /// The time until which it counts as silent for a question.
    unanswered: BTreeMap<Vec<u8>, Instant>,
    /// The number of different questions since the last answer.
    missed: usize,
    silent_until: Option<Instant>,
}

impl Health {
    pub(super) fn is_silent(&self, question: &[u8], now: Instant) -> bool {
        let of_question = self.unanswered.get(&question.to_ascii_lowercase());
        let until = of_question.max(self.silent_until.as_ref());
        until.is_some_and(|until| now < *until)
    }

    /// It answered the question.
    pub(super) fn answer(&mut self, question: &[u8], now: Instant) {
        self.unanswered.remove(&question.to_ascii_lowercase());
        self.answered = Some(now);
        self.missed = 0;
        self.silent_until = None;
    }

    /// It didn't answer the question, which was asked at `since`.
    pub(super) fn miss(&mut self, question: &[u8], since: Instant, now: Instant) {
        self.unanswered.retain(|_, until| now < *until);
        if self.unanswered.len() >= MAX_UNANSWERED
            && let Some(oldest) = self.unanswered.iter().min_by_key(|it| it.1)
        {
            let oldest = oldest.0.clone();
            self.unanswered.remove(&oldest);
        }
        let until = now + SILENCE_MEMORY;
        let is_new = self
            .unanswered
            .insert(question.to_ascii_lowercase(), until)
            .is_none();
        if self.answered.is_some_and(|answered| answered >= since) {
            return;
        }
        self.missed += usize::from(is_new);
        if self.missed >= SILENT_AFTER_QUESTIONS {
            self.silent_until = Some(until);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_is_silent_for_the_question_it_did_not_answer() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.miss(b"dead.test", now, now);
        assert!(health.is_silent(b"DEAD.test", now));
        assert!(!health.is_silent(b"www.test", now));
        assert!(!health.is_silent(b"dead.test", now + SILENCE_MEMORY));
        // The same one again says nothing about others.
        for _ in 0..2 * SILENT_AFTER_QUESTIONS {
            health.miss(b"dead.test", now, now);
        }
        assert!(!health.is_silent(b"www.test", now));
    }

    #[test]
    fn resolver_is_silent_for_all_questions_after_several_different_ones() {
        let (mut health, now) = (Health::default(), Instant::now());
        for number in 0..SILENT_AFTER_QUESTIONS as u8 {
            assert!(!health.is_silent(b"www.test", now), "{number}");
            health.miss(&[number], now, now);
        }
        assert!(health.is_silent(b"www.test", now));
        health.answer(b"www.test", now);
        assert!(!health.is_silent(b"other.test", now));
        // It answered others after these were asked.
        for number in 100..200 {
            health.miss(&[number], now, now);
        }
        assert!(!health.is_silent(b"www.test", now));
    }

    #[test]
    fn remembered_questions_are_bounded() {
        let (mut health, now) = (Health::default(), Instant::now());
        for number in 0..2 * MAX_UNANSWERED as u32 {
            health.miss(&number.to_be_bytes(), now, now);
        }
        assert_eq!(health.unanswered.len(), MAX_UNANSWERED);
    }
}
