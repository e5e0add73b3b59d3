//! Leaving: a node that is taken away says so in the log, and withdraws the names that it published.
//!
//! Containers that still run go on, and so does what is forwarded to them. It ends with the next start
//! of netplugin, which joins again; a stop or a restart without it withdraws nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// A little longer than one command and one publish may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why nobody else knows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotSaid {
    #[error(
        "the bus or netmaster didn't take it within {} s; it is done as soon as they do, if netplugin runs until then. Otherwise other nodes put the names of this one behind those of live nodes, and `netctl node rm` drops them",
        LEAVE_TIMEOUT.as_secs()
    )]
    Unreachable,
    #[error("this node can't leave the cluster: {0}")]
    Refused(String),
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Farewell {
    asked: Arc<watch::Sender<bool>>,
    said: Arc<watch::Sender<bool>>,
    /// What netmaster decided; `None`: nothing yet.
    logged: Arc<watch::Sender<Option<Result<(), NotSaid>>>>,
}

impl Default for Farewell {
    fn default() -> Self {
        Self {
            asked: Arc::new(watch::Sender::new(false)),
            said: Arc::new(watch::Sender::new(false)),
            logged: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Farewell {
    /// Withdraws everything, and returns when the bus and the log have it. Without the bus it is done
    /// as soon as it is back, should this process live so long.
    pub async fn say(&self) -> Result<(), NotSaid> {
        self.asked.send_replace(true);
        let (mut said, mut logged) = (self.said.subscribe(), self.logged.subscribe());
        let done = async {
            let decided = logged.wait_for(Option::is_some).await;
            let decided = decided.map_or(None, |it| it.clone());
            decided.unwrap_or(Err(NotSaid::Unreachable))?;
            let said = said.wait_for(|said| *said).await;
            said.map(drop).map_err(|_| NotSaid::Unreachable)
        };
        let done = tokio::time::timeout(LEAVE_TIMEOUT, done).await;
        done.unwrap_or(Err(NotSaid::Unreachable))
    }

    pub(super) fn asked(&self) -> watch::Receiver<bool> {
        self.asked.subscribe()
    }

    pub(super) fn is_asked(&self) -> bool {
        *self.asked.borrow()
    }

    pub(super) fn is_said(&self) {
        self.said.send_replace(true);
    }

    pub(super) fn is_logged(&self) -> bool {
        *self.logged.borrow() == Some(Ok(()))
    }

    /// Netmaster has put it into the log, or says why not.
    pub(super) fn decided(&self, outcome: Result<(), String>) {
        let outcome = outcome.map_err(NotSaid::Refused);
        self.logged.send_replace(Some(outcome));
    }
}
