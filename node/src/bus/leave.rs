//! The leave of a node that is taken away: it writes so to the log, and withdraws its published names.
//!
//! Its containers still run, and packets are still forwarded to them. The next start of netplugin ends
//! it: the node joins again. A stop or a restart without a leave withdraws nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// A little longer than one command and one publication may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why a leave isn't complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaveError {
    #[error(
        "the bus or netmaster didn't accept it within {} s; it is done as soon as they do, if netplugin runs until then. Otherwise other nodes list the names of this one behind those of live nodes, and `netctl node rm` drops them",
        LEAVE_TIMEOUT.as_secs()
    )]
    Unreachable,
    #[error("this node can't leave the cluster: {0}")]
    Refused(String),
}

/// The state of the leave. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Leave {
    requested: Arc<watch::Sender<bool>>,
    withdrawn: Arc<watch::Sender<bool>>,
    /// Netmaster's decision; `None`: none yet.
    decision: Arc<watch::Sender<Option<Result<(), LeaveError>>>>,
}

impl Default for Leave {
    fn default() -> Self {
        Self {
            requested: Arc::new(watch::Sender::new(false)),
            withdrawn: Arc::new(watch::Sender::new(false)),
            decision: Arc::new(watch::Sender::new(None)),
        }
    }
}

impl Leave {
    /// Requests the leave, and returns when the log has it and the endpoints are withdrawn. Without the
    /// bus this happens as soon as it is back, if this process still runs then.
    pub async fn complete(&self) -> Result<(), LeaveError> {
        self.requested.send_replace(true);
        let (mut withdrawn, mut decision) = (self.withdrawn.subscribe(), self.decision.subscribe());
        let done = async {
            let decided = decision.wait_for(Option::is_some).await;
            let decided = decided.map_or(None, |it| it.clone());
            decided.unwrap_or(Err(LeaveError::Unreachable))?;
            let withdrawn = withdrawn.wait_for(|withdrawn| *withdrawn).await;
            withdrawn.map(drop).map_err(|_| LeaveError::Unreachable)
        };
        let done = tokio::time::timeout(LEAVE_TIMEOUT, done).await;
        done.unwrap_or(Err(LeaveError::Unreachable))
    }

    pub(super) fn requested(&self) -> watch::Receiver<bool> {
        self.requested.subscribe()
    }

    pub(super) fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    pub(super) fn set_withdrawn(&self) {
        self.withdrawn.send_replace(true);
    }

    pub(super) fn is_logged(&self) -> bool {
        *self.decision.borrow() == Some(Ok(()))
    }

    /// Sets netmaster's decision: it has appended the event, or refused.
    pub(super) fn set_decision(&self, decision: Result<(), LeaveError>) {
        self.decision.send_replace(Some(decision));
    }
}
