//! Records the times at which revisions were read and applied on this node, for `netctl command show`:
//! the newest ones, in memory only.
//!
//! Pure; times are arguments, in microseconds since 1970-01-01 UTC.

use std::collections::VecDeque;

use bus_schema::Revision;
use bus_schema::healing::Step;

/// Limits the remembered revisions, of about 100 bytes each.
const MAX_REMEMBERED_REVISIONS: usize = 1_024;

#[derive(Debug, Default)]
pub struct Ring {
    steps: VecDeque<Step>,
    /// Number of the newest revisions that aren't applied yet.
    open: usize,
}

/// The changes of a batch in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Work {
    pub ops: u64,
    /// The last change, in the syntax of `ip` and `nft`.
    pub last: Option<String>,
}

impl Ring {
    pub fn read(&mut self, revision: Revision, now: u64) {
        if self.steps.len() == MAX_REMEMBERED_REVISIONS {
            self.steps.pop_front();
        }
        self.steps.push_back(Step {
            revision,
            read: now,
            applied: None,
            ops: 0,
            last: None,
        });
        self.open = (self.open + 1).min(MAX_REMEMBERED_REVISIONS);
    }

    /// Marks all revisions up to this one as applied by this batch.
    pub fn applied(&mut self, revision: Revision, work: &Work, now: u64) {
        let first = self.steps.len() - self.open;
        for step in self.steps.range_mut(first..) {
            if step.revision > revision {
                break;
            }
            step.applied = Some(now);
            step.ops = work.ops;
            step.last.clone_from(&work.last);
            self.open -= 1;
        }
    }

    /// Forgets all revisions, when the log is another one.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn of(&self, revisions: &[Revision]) -> Vec<Step> {
        let steps = self.steps.iter();
        steps
            .filter(|it| revisions.contains(&it.revision))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revisions(all: std::ops::RangeInclusive<u64>) -> Vec<Revision> {
        all.map(Revision).collect()
    }

    #[test]
    fn revision_is_applied_once_by_the_batch_that_reached_it() {
        let mut ring = Ring::default();
        let work = |ops, last: &str| Work {
            ops,
            last: Some(last.to_owned()),
        };
        ring.read(Revision(7), 70);
        ring.read(Revision(8), 80);
        ring.read(Revision(9), 90);
        ring.applied(Revision(8), &work(3, "a"), 100);
        ring.applied(Revision(8), &work(5, "b"), 110);
        ring.applied(Revision(9), &work(1, "c"), 120);
        let found = ring.of(&revisions(7..=9));
        let seen = found.iter().map(|it| (it.applied, it.ops));
        assert_eq!(
            seen.collect::<Vec<_>>(),
            [(Some(100), 3), (Some(100), 3), (Some(120), 1)]
        );
        assert_eq!(found[2].last.as_deref(), Some("c"));
    }

    #[test]
    fn oldest_revisions_are_forgotten() {
        let mut ring = Ring::default();
        for revision in 1..=MAX_REMEMBERED_REVISIONS as u64 + 5 {
            ring.read(Revision(revision), revision);
        }
        assert_eq!(ring.of(&revisions(1..=5)), []);
        ring.applied(Revision(6), &Work::default(), 9_999);
        let found = ring.of(&revisions(5..=7));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].applied, Some(9_999));
        assert_eq!(found[1].applied, None);
    }
}
