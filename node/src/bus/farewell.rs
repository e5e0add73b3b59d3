//! Goodbye: a node that is leaving withdraws what it published.
//!
//! Containers that still run go on, and so does what is forwarded to them; only their names go.
//! Nothing is published again before netplugin starts anew. A stop or a restart without goodbye
//! withdraws nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// A little longer than one publish may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why nobody else was told.
#[derive(Debug, thiserror::Error)]
#[error(
    "the bus didn't take it within {} s: other nodes put the names of this one behind those of live nodes, and `netctl node rm` drops them",
    PATIENCE.as_secs()
)]
pub struct NotSaid;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Farewell {
    asked: Arc<watch::Sender<bool>>,
    said: Arc<watch::Sender<bool>>,
}

impl Default for Farewell {
    fn default() -> Self {
        Self {
            asked: Arc::new(watch::Sender::new(false)),
            said: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Farewell {
    /// Withdraws everything, and returns when the bus has it. Without the bus it is done as soon
    /// as it is back, should this process live so long.
    pub async fn say(&self) -> Result<(), NotSaid> {
        self.asked.send_replace(true);
        let mut said = self.said.subscribe();
        let done = said.wait_for(|said| *said);
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(NotSaid),
        }
    }

    pub(super) fn asked(&self) -> watch::Receiver<bool> {
        self.asked.subscribe()
    }

    pub(super) fn is_said(&self) {
        self.said.send_replace(true);
    }
}
