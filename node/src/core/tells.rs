//! What the core is told at its start, and where it tells what it did.

use std::time::Duration;

use bus_schema::Revision;
use tokio::sync::watch;

use crate::endpoint::Kernel;
use crate::healing::Healings;
use node_datapath::ForeignDrop;

/// How it is noticed that others changed something in the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Watching {
    /// By what the kernel tells of changes.
    pub listens: bool,
    /// Between two looks at everything, for what nobody told.
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

/// What the core tells: how far the kernel follows the log, and what it couldn't do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    pub applied: Revision,
    /// Absent: all is as desired.
    pub trouble: Option<String>,
    /// Others' firewalls that drop what is ours.
    pub foreign_drops: Vec<ForeignDrop>,
}

/// Where the core tells what it did.
#[derive(Debug)]
pub struct Tells {
    pub kernel: watch::Sender<Kernel>,
    pub progress: watch::Sender<Progress>,
    pub healings: Healings,
}
