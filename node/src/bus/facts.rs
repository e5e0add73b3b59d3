//! The facts as the feed folds them, and what of them nobody has worked off yet.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::projection::{Projection, Touched};

/// The feed's end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Facts {
    sender: watch::Sender<Projection>,
    touched: Arc<Mutex<Touched>>,
}

impl Facts {
    pub fn new(projection: Projection) -> Self {
        Self {
            sender: watch::channel(projection).0,
            touched: Arc::default(),
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
            let touched = fold(projection);
            self.lock().merge(touched);
        });
    }

    /// Takes what was touched since the last time. Read the facts after it, not before.
    pub fn take_touched(&self) -> Touched {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Touched> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
