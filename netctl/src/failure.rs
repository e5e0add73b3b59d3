//! Why a command line didn't end well, and the exit code that says so to scripts.

use bus_schema::{CommandId, Rejection, Revision};
use serde_json::{Value, json};

pub(crate) const REJECTED: u8 = 1;
pub(crate) const UNREACHABLE: u8 = 2;
pub(crate) const UNKNOWN: u8 = 3;
pub(crate) const USAGE: u8 = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{text}")]
    Rejected {
        text: String,
        /// The log up to here was decided on.
        revision: Option<Revision>,
    },
    /// The domain's answer, where it has no variant: nothing of this name, nodes that lag.
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
    /// Who answers hasn't read the log as far as was asked for.
    #[error("netmaster hasn't caught up: {0}; try again")]
    Behind(String),
    #[error("it is unknown whether this was done: {reason}")]
    Unknown { id: CommandId, reason: String },
    #[error("{0}")]
    Usage(String),
    /// Something of this machine: its clock, its terminal.
    #[error("{0}")]
    Local(String),
    /// The answer is no, and the output says why: a connection is denied, a name isn't there, a
    /// cluster isn't converged.
    #[error("no")]
    Negative,
    #[error("nobody reads the output any more")]
    ClosedPipe,
}

impl Failure {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Rejected { .. } | Self::Refused(_) | Self::Local(_) | Self::Negative => REJECTED,
            Self::Unreachable(_) | Self::Behind(_) => UNREACHABLE,
            Self::Unknown { .. } => UNKNOWN,
            Self::Usage(_) => USAGE,
            Self::ClosedPipe => 0,
        }
    }

    /// Lines of the error text, the first one without the program's name.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.to_string()];
        lines.extend(self.revision().map(|it| format!("revision: {it}")));
        lines.extend(self.id().map(|it| format!("command id: {it}")));
        lines
    }

    /// The error for scripts.
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

/// Refused without asking anybody.
impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected {
            text: rejection.to_string(),
            revision: None,
        }
    }
}
