//! Proofs of the log's end: appends of this process that the log acknowledged.
//!
//! A leader that is cut off from the other servers answers reads for seconds as if it still led, but
//! it acknowledges no append. An acknowledged append at revision R proves that whatever was
//! acknowledged to anybody before it was sent lies below R. Requests share one barrier; those that
//! arrive after it was sent wait for the next one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bus_schema::{CommandId, Event, Revision};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use uuid::Uuid;

use super::registry::Registry;
use crate::journal::{self, AppendError, Record};

const NOT_ACKNOWLEDGED: &str = "its servers acknowledged no append in time: too few of them reach each other, or they can't write";
/// From one barrier to the next: at most 20 a second.
const BARRIER_INTERVAL: Duration = Duration::from_millis(50);

/// An append that the log acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    sent: Instant,
    /// The revision of the append. What was acknowledged before it was sent lies below.
    pub end: Revision,
}

impl Proof {
    /// The last revision that anybody can have seen when the append was sent.
    pub fn before(&self) -> Revision {
        Revision(self.end.0.saturating_sub(1))
    }

    /// Whether it was sent after this, so that it proves the end for a request that arrived then.
    pub fn covers(&self, arrived: Instant) -> bool {
        self.sent >= arrived
    }
}

/// Why the log's end couldn't be proved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log's end can't be proved: {0}")]
pub struct Unproved(String);

/// How the appends went.
#[derive(Debug, Default)]
struct Appended {
    proof: Option<Proof>,
    failed: Option<Failed>,
}

/// The last barrier that wasn't acknowledged.
#[derive(Debug)]
struct Failed {
    sent: Instant,
    known: Instant,
    why: Unproved,
}

/// What a registry knows of its appends.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    appended: watch::Sender<Appended>,
    /// When the youngest of the requests arrived that wait for a barrier.
    wanted: Cell<Option<Instant>>,
    last_sent: Cell<Option<Instant>>,
    appending: Cell<bool>,
}

impl Proofs {
    /// An append that was sent then was acknowledged at `end`.
    pub(super) fn acknowledged(&self, sent: Instant, end: Revision) {
        self.appended.send_if_modified(|appended| {
            let newer = appended.proof.is_none_or(|known| sent > known.sent);
            if newer {
                appended.proof = Some(Proof { sent, end });
            }
            newer
        });
    }

    fn failed(&self, sent: Instant, why: &AppendError) {
        self.appended.send_modify(|appended| {
            appended.failed = Some(Failed {
                sent,
                known: Instant::now(),
                why: Unproved(why.to_string()),
            });
        });
    }
}

impl Registry {
    /// The log's end for a request that arrived then: known already, or by the next barrier.
    pub async fn prove(
        self: &Rc<Self>,
        arrived: Instant,
        patience: Duration,
    ) -> Result<Proof, Unproved> {
        let proved = timeout(patience, self.proof(arrived)).await;
        proved.unwrap_or_else(|_| {
            let known = self.journal().unwritten().map(|(_, reason)| reason);
            let reason = known.unwrap_or_else(|| NOT_ACKNOWLEDGED.to_owned());
            Err(Unproved(reason))
        })
    }

    async fn proof(self: &Rc<Self>, arrived: Instant) -> Result<Proof, Unproved> {
        let asked = Instant::now();
        let mut appended = self.proofs().appended.subscribe();
        loop {
            {
                let last = appended.borrow_and_update();
                if let Some(proof) = last.proof.filter(|proof| proof.covers(arrived)) {
                    return Ok(proof);
                }
                // A failure that was known before is no answer to who asks again.
                let failed = last.failed.as_ref().filter(|it| it.known >= asked);
                if let Some(failed) = failed.filter(|it| it.sent >= arrived) {
                    return Err(failed.why.clone());
                }
            }
            self.want_barrier(arrived);
            // The registry holds the sender.
            let _ = appended.changed().await;
        }
    }

    fn want_barrier(self: &Rc<Self>, arrived: Instant) {
        let proofs = self.proofs();
        proofs.wanted.set(proofs.wanted.get().max(Some(arrived)));
        if !proofs.appending.replace(true) {
            let registry = Rc::clone(self);
            actix::spawn(async move { registry.append_barriers().await });
        }
    }

    /// Until nobody waits for one.
    async fn append_barriers(&self) {
        let proofs = self.proofs();
        while proofs.wanted.get().is_some() {
            if let Some(last) = proofs.last_sent.get() {
                sleep_until((last + BARRIER_INTERVAL).into()).await;
            }
            let wanted = proofs.wanted.take();
            let known = proofs.appended.borrow().proof;
            // The barrier before may cover it, or a command's append.
            if known.is_none_or(|proof| Some(proof.sent) < wanted) {
                self.append_barrier().await;
            }
        }
        proofs.appending.set(false);
    }

    async fn append_barrier(&self) {
        let (proofs, actor) = (self.proofs(), &self.settings().actor);
        let cause = CommandId(Uuid::now_v7());
        let barrier = [Event::Barrier];
        let (entries, _) = journal::batch(&barrier, cause, actor, self.now(), |_| None);
        let sent = Instant::now();
        proofs.last_sent.set(Some(sent));
        let appended = self.journal().append(&entries).await;
        match appended {
            Ok(end) => {
                let next = self.is_fed_to(Revision(end.0.saturating_sub(1)));
                for entry in entries.into_iter().filter(|_| next) {
                    self.feed(&Record::new(end, entry.subject, &entry.payload));
                }
                proofs.acknowledged(sent, end);
            }
            Err(error) => proofs.failed(sent, &error),
        }
    }
}
