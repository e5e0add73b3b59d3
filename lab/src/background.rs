//! A process that a test starts in addition to the lab's own, and that ends with its handle.

use std::process::Child;

use nix::sys::signal::Signal;

use crate::state::Pid;
use crate::{Result, process};

/// Killed when dropped.
#[derive(Debug)]
pub(crate) struct Background {
    child: Option<Child>,
    pid: Pid,
}

impl Background {
    pub(crate) fn of(child: Child) -> Self {
        Self {
            pid: Pid::of(child.id()),
            child: Some(child),
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.pid.is_alive()
    }

    /// Sends SIGINT, and waits until the process has ended.
    pub(crate) fn interrupt(mut self) -> Result<()> {
        process::send(self.pid, Signal::SIGINT)?;
        if let Some(child) = self.child.take() {
            process::reap(child);
        }
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // The process may have ended already.
            let _ = process::send(self.pid, Signal::SIGKILL);
            process::reap(child);
        }
    }
}
