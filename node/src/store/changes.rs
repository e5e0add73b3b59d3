use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::SAVE_INTERVAL;
use runtime::pause;

/// Receives a value to save at most once in [`SAVE_INTERVAL`], and after the stop the last change.
pub(crate) struct Changes<T> {
    values: watch::Receiver<T>,
    stop: CancellationToken,
    begun: bool,
}

impl<T: Clone> Changes<T> {
    pub(crate) fn new(values: watch::Receiver<T>, stop: CancellationToken) -> Self {
        Self {
            values,
            stop,
            begun: false,
        }
    }

    pub(crate) async fn next(&mut self) -> Option<T> {
        if std::mem::replace(&mut self.begun, true) {
            self.stop.run_until_cancelled(pause(SAVE_INTERVAL)).await;
        }
        let changed = self.stop.run_until_cancelled(self.values.changed()).await;
        let is_more = match changed {
            Some(changed) => changed.is_ok(),
            None => self.values.has_changed().unwrap_or_default(),
        };
        is_more.then(|| self.values.borrow_and_update().clone())
    }
}
