//! The reconciler's settings, and the channels on which it reports.

use std::time::Duration;

use bus_schema::Revision;
use tokio::sync::watch;

use crate::endpoint::Kernel;
use crate::healing::Healings;
use node_core::step::Trouble;
use node_datapath::ForeignDrop;

/// How changes of others in the kernel are noticed.
#[derive(Debug, Clone, Copy)]
pub struct Watching {
    /// By the kernel's notifications.
    pub listens: bool,
    /// From one resync to the next, for changes without a notification.
    pub resync: Duration,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            listens: true,
            resync: Duration::from_secs(30),
        }
    }
}

/// How far the kernel follows the log, and why no further.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub applied: Revision,
    /// Absent: the kernel is as desired.
    pub trouble: Option<Trouble>,
    /// Chains of the host firewall that drop our packets.
    pub foreign_drops: Vec<ForeignDrop>,
}

/// The channels on which the reconciler reports.
#[derive(Debug)]
pub struct Reports {
    pub kernel: watch::Sender<Kernel>,
    pub progress: watch::Sender<Progress>,
    pub healings: Healings,
}
