//! The facts as the feed folds them, and the objects that changed since the reconciler last took them.
//!
//! Each event is on disk before it is folded in, unless the disk refuses writes: then the kernel
//! follows the log all the same, and [`Facts::saved`] has the revision that a restart would start at.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bus_schema::Revision;
use bus_schema::healing::Steps;
use tokio::sync::watch;

use crate::steps::{Ring, Work};
use crate::store::{Disk, LogMessage, Saved};
use node_core::projection::{Projection, Touched};
use runtime::lock;

/// Holds the facts for the feed, which changes them, and the reconciler. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Facts {
    sender: watch::Sender<Projection>,
    touched: Arc<Mutex<Touched>>,
    steps: Arc<Mutex<Ring>>,
    disk: Arc<Disk>,
}

impl Facts {
    /// `projection` is the one on disk.
    pub fn new(projection: Projection, disk: Arc<Disk>) -> Self {
        Self {
            sender: watch::channel(projection).0,
            touched: Arc::default(),
            steps: Arc::default(),
            disk,
        }
    }

    /// The state of the facts on disk.
    pub fn saved(&self) -> watch::Receiver<Saved> {
        self.disk.saved()
    }

    /// Adds messages of the log, in their order: first to the disk, then to the facts.
    pub async fn append(&self, messages: Vec<LogMessage>) {
        self.disk.append(messages.clone()).await;
        for message in &messages {
            self.change(|facts| message.fold(facts));
        }
    }

    /// Resets the facts, because the node follows another log.
    pub async fn reset(&self) -> io::Result<()> {
        let forget = || {
            self.change(|facts| {
                *facts = Projection::default();
                Touched::cluster()
            });
        };
        self.disk.reset(forget).await
    }

    pub fn subscribe(&self) -> watch::Receiver<Projection> {
        self.sender.subscribe()
    }

    pub fn snapshot(&self) -> Projection {
        self.sender.borrow().clone()
    }

    /// Changes the facts. The touched objects are merged before any receiver wakes.
    pub(super) fn change(&self, fold: impl FnOnce(&mut Projection) -> Touched) {
        self.sender.send_modify(|projection| {
            let before = projection.applied;
            let touched = fold(projection);
            self.lock().merge(touched);
            let (now, mut steps) = (runtime::now_micros(), lock(&self.steps));
            match projection.applied {
                applied if applied > before => steps.read(applied, now),
                applied if applied < before => steps.clear(),
                _ => {}
            }
        });
    }

    /// Records that the kernel reflects the log up to here. Revisions that aren't on disk don't count.
    pub fn applied(&self, revision: Revision, work: &Work) {
        let on_disk = self.saved().borrow().revision;
        lock(&self.steps).applied(revision.min(on_disk), work, runtime::now_micros());
    }

    /// The times at which these revisions were read and applied here.
    pub fn steps(&self, revisions: &[Revision]) -> Steps {
        Steps {
            read: self.sender.borrow().applied,
            steps: lock(&self.steps).of(revisions),
        }
    }

    /// Takes the objects that were touched since the last call. Read the facts after this, not before.
    pub fn take_touched(&self) -> Touched {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Touched> {
        lock(&self.touched)
    }
}
