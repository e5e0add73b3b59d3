//! A log in memory, for tests of the shell: same fences, same atomicity, and faults on demand.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bus_schema::Revision;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};

use super::{AppendError, Journal, LoadError, NewRecord, Record};

/// How the next append fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Appended, but the acknowledgement is lost.
    LostAck,
    /// Not appended, without a refusal.
    LostAppend,
}

#[derive(Debug, Default)]
struct Inner {
    messages: Vec<(String, Bytes)>,
    faults: VecDeque<Fault>,
}

/// A log in memory.
#[derive(Debug, Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

impl Memory {
    /// The next appends have these faults.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().faults.extend(faults);
    }

    /// Writes a message that netmaster never writes.
    pub fn write_raw(&self, subject: &str, payload: &[u8]) {
        let message = (subject.to_owned(), Bytes::copy_from_slice(payload));
        self.lock().messages.push(message);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn last(&self, filter: &str) -> Revision {
        let found = self
            .messages
            .iter()
            .rposition(|(subject, _)| matches(filter, subject));
        revision(found.map_or(0, |i| i + 1))
    }

    fn append(&mut self, entries: &[NewRecord]) -> Result<Revision, AppendError> {
        let fault = self.faults.pop_front();
        if fault == Some(Fault::LostAppend) {
            return Err(AppendError::Unknown("lost".to_owned()));
        }
        let fences = entries.iter().filter_map(|entry| entry.fence.as_ref());
        for fence in fences {
            if self.last(&fence.filter) != fence.last {
                return Err(AppendError::Fenced);
            }
        }
        for entry in entries {
            self.messages
                .push((entry.subject.clone(), entry.payload.clone()));
        }
        match fault {
            Some(_) => Err(AppendError::Unknown("lost".to_owned())),
            None => Ok(revision(self.messages.len())),
        }
    }
}

fn revision(position: usize) -> Revision {
    Revision(u64::try_from(position).unwrap_or(u64::MAX))
}

/// Whether a subject matches a filter that may end in `>`.
fn matches(filter: &str, subject: &str) -> bool {
    match filter.strip_suffix('>') {
        Some(prefix) => subject.starts_with(prefix),
        None => filter == subject,
    }
}

impl Journal for Memory {
    fn load<'a>(
        &'a self,
        filter: &'a str,
        after: Revision,
        max: usize,
    ) -> BoxFuture<'a, Result<Vec<Record>, LoadError>> {
        let inner = self.lock();
        let records = inner
            .messages
            .iter()
            .enumerate()
            .map(|(i, (subject, payload))| (revision(i + 1), subject, payload))
            .filter(|(revision, subject, _)| *revision > after && matches(filter, subject))
            .take(max)
            .map(|(revision, subject, payload)| Record::new(revision, subject.clone(), payload))
            .collect();
        ready(Ok(records)).boxed()
    }

    fn append<'a>(
        &'a self,
        entries: &'a [NewRecord],
    ) -> BoxFuture<'a, Result<Revision, AppendError>> {
        ready(self.lock().append(entries)).boxed()
    }

    fn end(&self) -> BoxFuture<'_, Result<Revision, LoadError>> {
        ready(Ok(revision(self.lock().messages.len()))).boxed()
    }
}
