//! Equal questions share one query to the host's resolvers.
//!
//! Each further query in flight about one question would be one more id that a forged reply may hit
//! (RFC 5452 §5), and more work for the resolver.

#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use hickory_server::net::xfer::Protocol;
use tokio::sync::oneshot;

use super::cache::CacheKey;
use super::message::HEADER_BYTES;
use super::relay::ForwardedQuery;
use super::upstream::{Forward, ForwardError};
use runtime::lock;

/// The parts of a question that its answer depends on.
type SharedKey = (CacheKey, Protocol);
/// The result for those who wait; absent: no resolver answered.
type SharedReply = Option<Arc<[u8]>>;

/// The questions that are being asked, with those who wait for their answers.
#[derive(Debug, Default)]
#[expect(
    clippy::disallowed_types,
    reason = "looked up and never listed: its order shows nowhere"
)]
pub(super) struct SharedQuestions {
    asked: Mutex<HashMap<SharedKey, Vec<oneshot::Sender<SharedReply>>>>,
}

/// The query that asks a question.
pub(super) enum Lead<'a> {
    /// This query, and others may wait for its answer.
    Taken(Forward<'a>),
    /// Another query.
    Others(Followed),
}

/// An equal question that another query asks.
#[derive(Debug)]
pub(super) struct Followed(oneshot::Receiver<SharedReply>);

/// The duty to answer those who wait for this question. Those who wait ask themselves if it is dropped.
#[derive(Debug)]
pub(super) struct Leading {
    questions: Arc<SharedQuestions>,
    key: SharedKey,
    is_answered: bool,
}

impl SharedQuestions {
    /// Begins a question; an error: another query asks it already.
    pub(super) fn begin(self: &Arc<Self>, key: SharedKey) -> Result<Leading, Followed> {
        let mut asked = lock(&self.asked);
        if let Some(waiting) = asked.get_mut(&key) {
            let (reply, reply_rx) = oneshot::channel();
            // Those whose server ended.
            waiting.retain(|it| !it.is_closed());
            waiting.push(reply);
            return Err(Followed(reply_rx));
        }
        asked.insert(key.clone(), Vec::new());
        Ok(Leading {
            questions: self.clone(),
            key,
            is_answered: false,
        })
    }
}

impl Leading {
    pub(super) fn key(&self) -> &CacheKey {
        &self.key.0
    }

    /// Answers those who wait; absent: no resolver answered.
    pub(super) fn answer(mut self, reply: Option<&[u8]>) {
        self.is_answered = true;
        let waiting = lock(&self.questions.asked).remove(&self.key);
        let waiting = waiting.unwrap_or_default();
        if waiting.is_empty() {
            return;
        }
        let reply = reply.map(Arc::<[u8]>::from);
        for asker in waiting {
            // The asker may be gone.
            let _ = asker.send(reply.clone());
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        if !self.is_answered {
            lock(&self.questions.asked).remove(&self.key);
        }
    }
}

impl Followed {
    /// The reply with this query's spelling of the name; `None`: the other query was given up.
    pub(super) async fn reply(
        self,
        query: ForwardedQuery<'_>,
    ) -> Option<Result<Vec<u8>, ForwardError>> {
        let Some(reply) = self.0.await.ok()? else {
            return Some(Err(ForwardError::Silent));
        };
        let mut reply = reply.to_vec();
        // Both questions have the same length: they differ in case at most.
        let question = reply.get_mut(HEADER_BYTES..HEADER_BYTES + query.question.len())?;
        question.copy_from_slice(query.question);
        Some(Ok(reply))
    }
}
