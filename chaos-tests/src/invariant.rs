//! The invariants of a cluster without further changes.

use std::time::Duration;

use lab::{Error, Lab, wait_until};

use crate::WAIT_TIMEOUT;

/// Waits until every live node has applied everything.
pub fn converged(lab: &Lab) -> Result<(), Error> {
    converged_within(lab, WAIT_TIMEOUT)
}

/// Like [`converged`], with a timeout for tests where the bus itself needs time to come back.
pub fn converged_within(lab: &Lab, timeout: Duration) -> Result<(), Error> {
    wait_until("every live node has applied everything", timeout, || {
        // Right after the bus came back, no netmaster answers yet.
        let waited = lab.netctl(&["wait", "--converged", "--timeout", "5s"]);
        waited.is_ok_and(|waited| waited.success())
    })?;
    for node in lab.nodes() {
        wait_until("the node is in sync", timeout, || {
            lab.log_state(&node).is_ok_and(|state| state == "in-sync")
        })?;
    }
    Ok(())
}
