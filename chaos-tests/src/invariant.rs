//! What must hold of a cluster whenever it is left alone.

use std::time::Duration;

use lab::{Error, Lab, wait_until};

use crate::SOON;

/// Every live node has applied everything, and says so to whoever asks.
pub fn converged(lab: &Lab) -> Result<(), Error> {
    converged_within(lab, SOON)
}

/// The same, where the bus itself needs time to come back.
pub fn converged_within(lab: &Lab, patience: Duration) -> Result<(), Error> {
    wait_until("every live node has applied everything", patience, || {
        // Right after the bus came back, no netmaster answers yet.
        let waited = lab.netctl(&["wait", "--converged", "--timeout", "5s"]);
        waited.is_ok_and(|waited| waited.success())
    })?;
    for node in lab.nodes() {
        wait_until("the node is in sync", patience, || {
            lab.log_state(&node).is_ok_and(|state| state == "in-sync")
        })?;
    }
    Ok(())
}
