//! Recognises the log that the node followed. An empty log is never mistaken for an empty cluster.
//!
//! Pure. A log is foreign if it has another cluster's id, ends before the applied revision, or holds
//! another event at it: the node goes on forwarding and changes nothing until `netctl node accept-log`.

use bus_schema::{ClusterId, EventId, Revision};

use crate::projection::Projection;

/// The facts by which a log is recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFacts {
    /// The cluster of its first event; absent when it has none, or the first is no such event.
    pub cluster: Option<ClusterId>,
    /// Its last revision.
    pub end: Revision,
    /// The id of the event at the revision that this node applied last; absent when there is no
    /// event or one that can't be read.
    pub at_applied: Option<EventId>,
}

/// The result for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The node continues at the applied revision.
    Ours,
    /// It has no cluster yet, and this node followed none either.
    Empty,
    Foreign(String),
}

pub fn recognise(log: Option<&LogFacts>, known: &Projection) -> Verdict {
    let Some(cluster) = known.cluster else {
        return match log {
            Some(log) if log.cluster.is_some() => Verdict::Ours,
            _ => Verdict::Empty,
        };
    };
    let foreign = |reason: String| {
        Verdict::Foreign(format!(
            "{reason}; this node changes nothing until `netctl node accept-log NODE --yes`, or until its own log is back"
        ))
    };
    let Some(log) = log else {
        return foreign(format!(
            "the bus has no log, this node follows cluster {cluster}"
        ));
    };
    match log.cluster {
        None => foreign(format!(
            "the log is empty, this node follows cluster {cluster}"
        )),
        Some(other) if other != cluster => foreign(format!(
            "the log is of cluster {other}, this node follows cluster {cluster}"
        )),
        Some(_) if log.end < known.applied => foreign(format!(
            "the log ends at revision {}, this node has applied {}",
            log.end, known.applied
        )),
        Some(_) if known.applied_event.is_some() && log.at_applied != known.applied_event => {
            foreign(format!(
                "the log holds another event at revision {}",
                known.applied
            ))
        }
        Some(_) => Verdict::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn cluster(n: u128) -> ClusterId {
        ClusterId(Uuid::from_u128(n))
    }

    fn event(n: u128) -> Option<EventId> {
        Some(EventId(Uuid::from_u128(n)))
    }

    fn known() -> Projection {
        Projection {
            cluster: Some(cluster(1)),
            applied: Revision(7),
            applied_event: event(70),
            ..Projection::default()
        }
    }

    fn log() -> LogFacts {
        LogFacts {
            cluster: Some(cluster(1)),
            end: Revision(9),
            at_applied: event(70),
        }
    }

    #[test]
    fn new_node_follows_any_cluster_and_waits_for_one() {
        let new = Projection::default();
        assert_eq!(recognise(Some(&log()), &new), Verdict::Ours);
        assert_eq!(recognise(None, &new), Verdict::Empty);
        let empty = LogFacts {
            cluster: None,
            end: Revision(0),
            at_applied: None,
        };
        assert_eq!(recognise(Some(&empty), &new), Verdict::Empty);
    }

    #[test]
    fn own_log_is_recognised() {
        assert_eq!(recognise(Some(&log()), &known()), Verdict::Ours);
        let unread = Projection {
            applied_event: None,
            ..known()
        };
        assert_eq!(recognise(Some(&log()), &unread), Verdict::Ours);
    }

    #[test]
    fn shorter_log_is_foreign_whatever_was_applied_last() {
        let unread = Projection {
            applied_event: None,
            ..known()
        };
        let shorter = LogFacts {
            end: Revision(6),
            at_applied: None,
            ..log()
        };
        let verdict = recognise(Some(&shorter), &unread);
        assert!(matches!(verdict, Verdict::Foreign(_)), "{verdict:?}");
    }

    #[test]
    fn other_log_is_foreign() {
        let other = LogFacts {
            cluster: Some(cluster(2)),
            ..log()
        };
        let shorter = LogFacts {
            end: Revision(6),
            at_applied: None,
            ..log()
        };
        let rewritten = LogFacts {
            at_applied: event(71),
            ..log()
        };
        let emptied = LogFacts {
            cluster: None,
            end: Revision(0),
            at_applied: None,
        };
        for log in [
            Some(&other),
            Some(&shorter),
            Some(&rewritten),
            Some(&emptied),
            None,
        ] {
            let verdict = recognise(log, &known());
            assert!(matches!(verdict, Verdict::Foreign(_)), "{log:?}");
        }
    }
}
