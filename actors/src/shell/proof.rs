//! Proofs of the log's end: appends of this process that the log acknowledged.
//!
//! A leader that is cut off from the other servers answers reads for seconds as if it still led, but
//! it acknowledges no append. An acknowledged append at revision R proves that everything that was
//! acknowledged to anybody before it was sent lies below R. Requests share one barrier; those that
//! arrive after it was sent wait for the next one.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bus_schema::{CommandId, Event, Revision};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use uuid::Uuid;

use super::log::Log;
use crate::journal::{self, AppendError, Record};

const NOT_ACKNOWLEDGED: &str = "its servers acknowledged no append in time: too few of them reach each other, or they can't write";
/// The time from one barrier to the next: at most 20 a second.
const BARRIER_INTERVAL: Duration = Duration::from_millis(50);

/// An append that the log acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    sent: Instant,
    /// The revision of the append. Everything that was acknowledged before it was sent lies below.
    pub end: Revision,
}

impl Proof {
    /// The last revision that anybody can have seen when the append was sent.
    pub fn before(&self) -> Revision {
        Revision(self.end.0.saturating_sub(1))
    }

    /// Whether the append was sent after `arrived`, so that it proves the end for a request that
    /// arrived then.
    pub fn covers(&self, arrived: Instant) -> bool {
        self.sent >= arrived
    }
}

/// Why the log's end couldn't be proved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log's end can't be proved: {0}")]
pub struct Unproved(String);

/// The last proof, and the last barrier that failed.
#[derive(Debug, Default)]
struct Barriers {
    proof: Option<Proof>,
    failed: Option<Failed>,
}

/// A barrier that wasn't acknowledged.
#[derive(Debug)]
struct Failed {
    sent: Instant,
    known: Instant,
    why: Unproved,
}

/// Proves the log's end by the appends of this process.
#[derive(Debug)]
pub(super) struct Prover {
    log: Rc<Log>,
    barriers: watch::Sender<Barriers>,
    /// The arrival of the youngest request that waits for a barrier.
    wanted: Cell<Option<Instant>>,
    last_sent: Cell<Option<Instant>>,
    appending: Cell<bool>,
}

impl Prover {
    pub(super) fn new(log: Rc<Log>) -> Rc<Self> {
        Rc::new(Self {
            log,
            barriers: watch::Sender::default(),
            wanted: Cell::default(),
            last_sent: Cell::default(),
            appending: Cell::default(),
        })
    }

    /// An append that was sent at `sent` was acknowledged at `end`.
    pub(super) fn acknowledged(&self, sent: Instant, end: Revision) {
        self.barriers.send_if_modified(|barriers| {
            let newer = barriers.proof.is_none_or(|known| sent > known.sent);
            if newer {
                barriers.proof = Some(Proof { sent, end });
            }
            newer
        });
    }

    fn failed(&self, sent: Instant, why: &AppendError) {
        self.barriers.send_modify(|barriers| {
            barriers.failed = Some(Failed {
                sent,
                known: Instant::now(),
                why: Unproved(why.to_string()),
            });
        });
    }

    /// Proves the log's end for a request that arrived at `arrived`: by an earlier append, or by the
    /// next barrier.
    pub(super) async fn prove(
        self: &Rc<Self>,
        arrived: Instant,
        within: Duration,
    ) -> Result<Proof, Unproved> {
        let proved = timeout(within, self.proof(arrived)).await;
        proved.unwrap_or_else(|_| {
            let known = self.log.journal().unwritten().map(|(_, reason)| reason);
            let reason = known.unwrap_or_else(|| NOT_ACKNOWLEDGED.to_owned());
            Err(Unproved(reason))
        })
    }

    async fn proof(self: &Rc<Self>, arrived: Instant) -> Result<Proof, Unproved> {
        let asked = Instant::now();
        let mut barriers = self.barriers.subscribe();
        loop {
            {
                let last = barriers.borrow_and_update();
                if let Some(proof) = last.proof.filter(|proof| proof.covers(arrived)) {
                    return Ok(proof);
                }
                // A failure that was known before doesn't answer a new request.
                let failed = last.failed.as_ref().filter(|it| it.known >= asked);
                if let Some(failed) = failed.filter(|it| it.sent >= arrived) {
                    return Err(failed.why.clone());
                }
            }
            self.want_barrier(arrived);
            // `self` holds the sender.
            let _ = barriers.changed().await;
        }
    }

    fn want_barrier(self: &Rc<Self>, arrived: Instant) {
        self.wanted.set(self.wanted.get().max(Some(arrived)));
        if !self.appending.replace(true) {
            let prover = Rc::clone(self);
            actix::spawn(async move { prover.append_barriers().await });
        }
    }

    /// Appends barriers until no request waits for one.
    async fn append_barriers(&self) {
        while self.wanted.get().is_some() {
            if let Some(last) = self.last_sent.get() {
                sleep_until((last + BARRIER_INTERVAL).into()).await;
            }
            let wanted = self.wanted.take();
            let known = self.barriers.borrow().proof;
            // The barrier before may cover it, or a command's append.
            if known.is_none_or(|proof| Some(proof.sent) < wanted) {
                self.append_barrier().await;
            }
        }
        self.appending.set(false);
    }

    async fn append_barrier(&self) {
        let (log, actor) = (&self.log, &self.log.settings().actor);
        let cause = CommandId(Uuid::now_v7());
        let barrier = [Event::Barrier];
        let (entries, _) = journal::batch(&barrier, cause, actor, log.now(), |_| None);
        let sent = Instant::now();
        self.last_sent.set(Some(sent));
        let appended = log.journal().append(&entries).await;
        match appended {
            Ok(end) => {
                let next = log.is_fed_to(Revision(end.0.saturating_sub(1)));
                for entry in entries.into_iter().filter(|_| next) {
                    log.feed(&Record::new(end, entry.subject, &entry.payload));
                }
                self.acknowledged(sent, end);
            }
            Err(error) => self.failed(sent, &error),
        }
    }
}
