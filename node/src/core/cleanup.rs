//! Looks at everything because somebody asks, and says what there was to do.

use bus_schema::healing::Cleanup;

use super::Core;
use crate::cleanup::CleanupReply;

impl Core {
    pub(super) fn clean(&mut self, asked: CleanupReply) {
        self.asked = Some(asked);
        self.look.want();
    }

    /// After a step.
    pub(super) fn answer(&mut self, in_sync: bool) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        let mut cleanup = Cleanup {
            done: std::mem::take(&mut self.swept),
            failed: Vec::new(),
        };
        if !in_sync {
            let why = "this node isn't in sync with the log: nothing is taken away before it is";
            cleanup.failed.push(why.to_owned());
        } else if self.look.is_wanted() {
            let trouble = self.progress.borrow().trouble.clone();
            let trouble = trouble.unwrap_or_else(|| "the kernel isn't as it should be".to_owned());
            cleanup.failed.push(format!("{trouble}; it is tried again"));
        }
        // Who asked may have gone.
        asked.send(cleanup).ok();
    }
}
