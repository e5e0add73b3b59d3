//! The facts as the feed folds them, and what of them nobody has worked off yet.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use bus_schema::Revision;
use bus_schema::healing::Steps;
use tokio::sync::watch;

use crate::lock::lock;
use crate::projection::{Projection, Touched};
use crate::steps::{Ring, Work};

/// The feed's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Facts {
    sender: watch::Sender<Projection>,
    touched: Arc<Mutex<Touched>>,
    steps: Arc<Mutex<Ring>>,
}

impl Facts {
    pub fn new(projection: Projection) -> Self {
        Self {
            sender: watch::channel(projection).0,
            touched: Arc::default(),
            steps: Arc::default(),
        }
    }

    pub fn subscribe(&self) -> watch::Receiver<Projection> {
        self.sender.subscribe()
    }

    pub fn snapshot(&self) -> Projection {
        self.sender.borrow().clone()
    }

    /// Folds something in. What it touched is there before anybody is woken.
    pub fn change(&self, fold: impl FnOnce(&mut Projection) -> Touched) {
        self.sender.send_modify(|projection| {
            let before = projection.applied;
            let touched = fold(projection);
            self.lock().merge(touched);
            let (now, mut steps) = (micros(), lock(&self.steps));
            match projection.applied {
                applied if applied > before => steps.read(applied, now),
                applied if applied < before => steps.clear(),
                _ => {}
            }
        });
    }

    /// The kernel reflects the log up to here.
    pub fn applied(&self, revision: Revision, work: &Work) {
        lock(&self.steps).applied(revision, work, micros());
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

/// Microseconds since 1970-01-01 UTC.
fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_micros()).unwrap_or(u64::MAX))
}
