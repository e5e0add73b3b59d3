//! Why a node's kernel doesn't reflect the log.

use bus_schema::Revision;

use crate::reconcile::Op;

/// An op that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedOp {
    pub op: Op,
    /// The kernel's words.
    pub reason: String,
}

/// Why the kernel isn't as desired. The node reports it as the alarm `datapath`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("{} of {attempted} changes failed: {}", .failures.len(), list(.failures))]
    Refused {
        attempted: usize,
        failures: Vec<FailedOp>,
    },
    /// The kernel couldn't be read, or its connections couldn't be ended.
    #[error("{0}")]
    Kernel(String),
    #[error(
        "this node's tenants are in domains of the other kind; they move when it is in sync with the log"
    )]
    OtherKind,
    #[error(
        "the endpoint journal lost records: nothing in the kernel is changed until this node has found out which endpoints it has"
    )]
    JournalIncomplete,
    #[error(
        "the rules in this node's kernel{} may be newer than the facts on its disk: they stay as they are, and nothing is attached, until it is in sync with the log",
        .newest.map_or_else(String::new, |it| format!(" of revision {it}"))
    )]
    NewerRules { newest: Option<Revision> },
}

fn list(failures: &[FailedOp]) -> String {
    let lines = failures
        .iter()
        .map(|it| format!("{}: {}", it.op, it.reason));
    lines.collect::<Vec<_>>().join("; ")
}
