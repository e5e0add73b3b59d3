//! The facts as the feed folds them, and what of them nobody has worked off yet.
//!
//! Each event is on disk before it is folded in, unless the disk takes no writes: then the kernel
//! follows all the same, and [`Facts::saved`] says how far a restart would know the log.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bus_schema::Revision;
use bus_schema::healing::Steps;
use tokio::sync::watch;

use crate::steps::{Ring, Work};
use crate::store::{Disk, Message, Saved};
use node_core::projection::{Projection, Touched};
use runtime::lock;

/// The feed's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Facts {
    sender: watch::Sender<Projection>,
    touched: Arc<Mutex<Touched>>,
    steps: Arc<Mutex<Ring>>,
    disk: Arc<Disk>,
}

impl Facts {
    /// `projection` is what the disk holds.
    pub fn new(projection: Projection, disk: Arc<Disk>) -> Self {
        Self {
            sender: watch::channel(projection).0,
            touched: Arc::default(),
            steps: Arc::default(),
            disk,
        }
    }

    /// How far the facts are on disk.
    pub fn saved(&self) -> watch::Receiver<Saved> {
        self.disk.saved()
    }

    /// Takes in messages of the log, in their order: to disk first, then to everybody.
    pub async fn take_in(&self, messages: Vec<Message>) {
        self.disk.append(messages.clone()).await;
        for message in &messages {
            self.change(|facts| message.fold(facts));
        }
    }

    /// Forgets everything: the log to follow is another one.
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

    /// Folds something in. What it touched is there before anybody is woken.
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

    /// The kernel reflects the log up to here. What a restart forgets doesn't count.
    pub fn applied(&self, revision: Revision, work: &Work) {
        let on_disk = self.saved().borrow().revision;
        lock(&self.steps).applied(revision.min(on_disk), work, runtime::now_micros());
    }

    /// What became of these revisions here.
    pub fn steps(&self, revisions: &[Revision]) -> Steps {
        Steps {
            read: self.sender.borrow().applied,
            steps: lock(&self.steps).of(revisions),
        }
    }

    /// Takes what was touched since the last time. Read the facts after it, not before.
    pub fn take_touched(&self) -> Touched {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Touched> {
        lock(&self.touched)
    }
}
