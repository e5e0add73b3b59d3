//! What must hold of a cluster whenever it is left alone.

use lab::{Error, Lab, wait_until};

use crate::SOON;

/// Every live node has applied everything, and says so to whoever asks.
pub fn converged(lab: &Lab) -> Result<(), Error> {
    lab.netctl_ok(&["wait", "--converged", "--timeout", "15s"])?;
    for node in lab.nodes() {
        wait_until("the node is in sync", SOON, || {
            lab.log_state(&node).is_ok_and(|state| state == "in-sync")
        })?;
    }
    Ok(())
}
