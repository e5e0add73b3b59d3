//! The ways in which a command line fails, and their exit codes.

use bus_schema::{CommandId, Rejection, Revision};
use serde_json::{Value, json};

pub(crate) const EXIT_REJECTED: u8 = 1;
pub(crate) const EXIT_UNREACHABLE: u8 = 2;
pub(crate) const EXIT_UNKNOWN: u8 = 3;
/// `trace` can't compute a result: 1 would be a denial.
pub(crate) const EXIT_UNDECIDED: u8 = 4;
pub(crate) const EXIT_USAGE: u8 = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{text}")]
    Rejected {
        text: String,
        /// The decision rests on the log up to this revision.
        revision: Option<Revision>,
    },
    /// A refusal without a variant of [`Rejection`]: an unknown name, nodes that lag.
    #[error("{0}")]
    Refused(String),
    /// The question has no answer: an end isn't known, or the node that decides doesn't answer.
    #[error("{0}")]
    Undecided(String),
    #[error("{0}")]
    Unreachable(String),
    /// The netmaster that answers hasn't read the log up to the wanted revision.
    #[error("netmaster hasn't caught up: {0}; try again")]
    Behind(String),
    #[error("it is unknown whether this was done: {reason}")]
    Unknown { id: CommandId, reason: String },
    #[error("{0}")]
    Usage(String),
    /// A failure of this machine: a file, the terminal.
    #[error("{0}")]
    Local(String),
    /// A negative result, which the output explains: a connection is denied, a name doesn't exist, a
    /// cluster hasn't converged.
    #[error("no")]
    Negative,
    #[error("the output was closed")]
    ClosedPipe,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Rejected { .. } | Self::Refused(_) | Self::Local(_) | Self::Negative => {
                EXIT_REJECTED
            }
            Self::Unreachable(_) | Self::Behind(_) => EXIT_UNREACHABLE,
            Self::Unknown { .. } => EXIT_UNKNOWN,
            Self::Undecided(_) => EXIT_UNDECIDED,
            Self::Usage(_) => EXIT_USAGE,
            Self::ClosedPipe => 0,
        }
    }

    /// The lines of the error text, without the program's name.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.to_string()];
        lines.extend(self.revision().map(|it| format!("revision: {it}")));
        lines.extend(self.id().map(|it| format!("command id: {it}")));
        lines
    }

    /// The error as JSON, for scripts.
    pub(crate) fn value(&self) -> Value {
        let mut value = json!({ "error": self.to_string(), "exitCode": self.code() });
        if let Some(revision) = self.revision() {
            value["revision"] = json!(revision);
        }
        if let Some(id) = self.id() {
            value["commandId"] = json!(id);
        }
        value
    }

    fn revision(&self) -> Option<Revision> {
        match self {
            Self::Rejected { revision, .. } => *revision,
            _ => None,
        }
    }

    /// The command whose outcome is unknown.
    pub(crate) fn id(&self) -> Option<CommandId> {
        match self {
            Self::Unknown { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// A rejection that netctl finds by itself.
impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected {
            text: rejection.to_string(),
            revision: None,
        }
    }
}
