//! The places for requests in work. Each kind of requests has its own, so that a flood of one kind, such as
//! reads that wait, leaves the others theirs: a node can join and lease, and an operator can command.

use bus_schema::Query;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The kinds of requests that don't take places from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// An operator's command.
    Command,
    /// A node asks for a block of addresses, which may wait until other nodes cede one.
    Lease,
    /// A node gives a block back, or its block is revoked: leases wait for that.
    Release,
    /// A node joins or leaves.
    Join,
    /// A query that is answered at once.
    Read,
    /// A query that waits for nodes.
    Wait,
}

impl RequestKind {
    const ALL: [Self; 6] = [
        Self::Command,
        Self::Lease,
        Self::Release,
        Self::Join,
        Self::Read,
        Self::Wait,
    ];

    pub(super) fn of_command((noun, verb): (&str, &str)) -> Self {
        match (noun, verb) {
            ("block", "lease") => Self::Lease,
            ("block", _) => Self::Release,
            ("node", "join" | "leave") => Self::Join,
            _ => Self::Command,
        }
    }

    pub(super) fn of_query(verb: (&str, &str)) -> Self {
        match verb == (Query::Wait { revision: None }).verb() {
            true => Self::Wait,
            false => Self::Read,
        }
    }

    /// Whether the request is a [`bus_schema::Command`].
    pub(super) fn is_command(self) -> bool {
        matches!(
            self,
            Self::Command | Self::Lease | Self::Release | Self::Join
        )
    }

    /// Requests of this kind in work at a time; more are answered "busy" at once. Each waits for the
    /// log, so this is some seconds of the log's work. Together they are bounded, too: a place costs a
    /// few kilobytes.
    const fn places(self) -> u32 {
        match self {
            Self::Command | Self::Lease | Self::Release => 1_024,
            Self::Join => 512,
            Self::Read => 1_024,
            Self::Wait => 512,
        }
    }
}

#[derive(Debug)]
pub(super) struct Places([Semaphore; RequestKind::ALL.len()]);

impl Default for Places {
    fn default() -> Self {
        let places = |kind: RequestKind| usize::try_from(kind.places()).unwrap_or(usize::MAX);
        Self(RequestKind::ALL.map(|kind| Semaphore::new(places(kind))))
    }
}

impl Places {
    fn of(&self, kind: RequestKind) -> &Semaphore {
        let [command, lease, release, join, read, wait] = &self.0;
        match kind {
            RequestKind::Command => command,
            RequestKind::Lease => lease,
            RequestKind::Release => release,
            RequestKind::Join => join,
            RequestKind::Read => read,
            RequestKind::Wait => wait,
        }
    }

    /// A place until it is dropped; `None`: all are taken.
    pub(super) fn take(&self, kind: RequestKind) -> Option<SemaphorePermit<'_>> {
        self.of(kind).try_acquire().ok()
    }

    /// Waits until no request is in work.
    pub(super) async fn all_free(&self) {
        for kind in RequestKind::ALL {
            // It fails only when the semaphore is closed, which it never is.
            let free = self.of(kind).acquire_many(kind.places()).await;
            if let Ok(free) = free {
                free.forget();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::Command;

    use super::*;

    #[test]
    fn kinds_take_no_places_from_each_other() {
        let places = Places::default();
        let mut taken = Vec::new();
        while let Some(place) = places.take(RequestKind::Wait) {
            taken.push(place);
        }
        assert_eq!(taken.len(), 512);
        for kind in RequestKind::ALL {
            assert_eq!(places.take(kind).is_some(), kind != RequestKind::Wait);
        }
        taken.clear();
        assert!(places.take(RequestKind::Wait).is_some());
    }

    #[test]
    fn every_verb_has_its_kind() {
        let kinds = Command::VERBS.iter().map(|it| RequestKind::of_command(*it));
        let count = |wanted| kinds.clone().filter(|it| *it == wanted).count();
        let of_nodes = [RequestKind::Lease, RequestKind::Release, RequestKind::Join];
        assert_eq!(of_nodes.map(count), [1, 3, 2]);
        let waits = Query::VERBS.iter().map(|it| RequestKind::of_query(*it));
        assert_eq!(waits.filter(|it| *it == RequestKind::Wait).count(), 1);
    }
}
