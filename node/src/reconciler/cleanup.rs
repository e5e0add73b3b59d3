//! A resync that a request asks for, and its result.

use bus_schema::healing::Cleanup;

use super::Reconciler;
use crate::cleanup::CleanupReply;

/// A request, and the ops that were executed since.
#[derive(Debug)]
pub(super) struct Cleaning {
    asked: CleanupReply,
    pub(super) done: Vec<String>,
}

impl Reconciler {
    pub(super) fn clean(&mut self, asked: CleanupReply) {
        let done = Vec::new();
        self.cleaning = Some(Cleaning { asked, done });
        self.memory.want_resync();
    }

    /// After a step.
    pub(super) fn answer_cleanup(&mut self, in_sync: bool) {
        let Some(Cleaning { asked, done }) = self.cleaning.take() else {
            return;
        };
        let mut cleanup = Cleanup {
            done,
            failed: Vec::new(),
        };
        if !in_sync {
            let why = "this node isn't in sync with the log: nothing is deleted before it is";
            cleanup.failed.push(why.to_owned());
        } else if self.memory.wants_resync() {
            let trouble = self.reports.progress.borrow().trouble.clone();
            let trouble = trouble.map_or_else(
                || "the kernel isn't as it should be".to_owned(),
                |trouble| trouble.to_string(),
            );
            cleanup.failed.push(format!("{trouble}; it is tried again"));
        }
        // The requester may have gone.
        asked.send(cleanup).ok();
    }
}
