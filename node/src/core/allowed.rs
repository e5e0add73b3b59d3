//! What may be done to the kernel at which time.

use std::collections::BTreeSet;

use crate::reconcile::Op;
use crate::resource::Key;

/// What may be done now.
#[derive(Debug)]
pub(super) struct Allowed {
    /// False while the log is replayed: only what is new and local is put.
    pub(super) changes: bool,
    /// Of what this process never wanted.
    pub(super) deletes_of_others: bool,
}

impl Allowed {
    pub(super) fn of(&self, ops: Vec<Op>, wanted: &BTreeSet<Key>) -> Vec<Op> {
        let deletable =
            |key: &Key| self.changes && (self.deletes_of_others || wanted.contains(key));
        let kept: BTreeSet<Key> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Delete(resource) => Some(resource.key()),
                _ => None,
            })
            .filter(|key| !deletable(key))
            .collect();
        ops.into_iter()
            .filter(|op| match op {
                // A device that must be made anew stays as it is while it may not be deleted.
                Op::Put(resource) | Op::Delete(resource) => !kept.contains(&resource.key()),
                Op::Change { .. } => self.changes,
                Op::Forget { .. } => self.changes && (self.deletes_of_others || kept.is_empty()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::diff;
    use crate::resource::{Address, Place, Resource, State, Up};

    fn address(text: &str) -> Resource {
        Resource::Address(Address {
            place: Place::Host,
            device: "lo".to_owned(),
            address: text.parse().unwrap(),
        })
    }

    fn ops(changes: bool, deletes_of_others: bool, wanted: &[Resource]) -> Vec<String> {
        let up = Resource::Up(Up {
            place: Place::Host,
            device: "lo".to_owned(),
        });
        let observed: State = [address("10.0.0.1"), address("10.0.0.2")]
            .into_iter()
            .collect();
        let desired: State = [address("10.0.0.1"), up].into_iter().collect();
        let allowed = Allowed {
            changes,
            deletes_of_others,
        };
        let wanted = wanted.iter().map(Resource::key).collect();
        let ops = allowed.of(diff(&observed, &desired), &wanted);
        ops.iter()
            .map(|op| op.to_string()[..1].to_owned())
            .collect()
    }

    #[test]
    fn nothing_of_others_is_deleted_before_the_first_sweep() {
        assert_eq!(ops(true, false, &[]), ["+"]);
        assert_eq!(ops(true, false, &[address("10.0.0.2")]), ["-", "+"]);
        assert_eq!(ops(true, true, &[]), ["-", "+"]);
    }

    #[test]
    fn while_the_log_is_replayed_things_are_only_added() {
        assert_eq!(ops(false, true, &[address("10.0.0.2")]), ["+"]);
    }
}
