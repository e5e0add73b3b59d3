//! What must hold of a cluster whenever it is left alone.

use lab::{Error, Lab, wait_until};

use crate::SOON;

/// Every live node has applied everything, and says so to whoever asks.
pub fn converged(lab: &Lab) -> Result<(), Error> {
    wait_until("every live node has applied everything", SOON, || {
        // Right after the bus came back, no netmaster answers yet.
        let waited = lab.netctl(&["wait", "--converged", "--timeout", "5s"]);
        waited.is_ok_and(|waited| waited.success())
    })?;
    for node in lab.nodes() {
        wait_until("the node is in sync", SOON, || {
            lab.log_state(&node).is_ok_and(|state| state == "in-sync")
        })?;
    }
    Ok(())
}
