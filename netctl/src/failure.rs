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
        /// The type of the [`Rejection`], such as `network-unknown`.
        kind: String,
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
    /// The bus refuses the token.
    #[error("{0}")]
    Unauthorized(String),
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
    /// The failure for a rejection that came with `text` beside it.
    pub(crate) fn rejected(
        rejection: &Rejection,
        text: Option<String>,
        revision: Option<Revision>,
    ) -> Self {
        let tagged = serde_json::to_value(rejection).unwrap_or_default();
        Self::Rejected {
            kind: tagged["type"].as_str().unwrap_or("rejected").to_owned(),
            text: rejection.told(text),
            revision,
        }
    }

    /// The type of the failure in JSON.
    fn kind(&self) -> &str {
        match self {
            Self::Rejected { kind, .. } => kind,
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Unauthorized(_) => "unauthorized",
            Self::Behind(_) => "behind",
            Self::Undecided(_) => "undecided",
            Self::Unknown { .. } => "outcome-unknown",
            Self::Usage(_) => "usage",
            Self::Local(_) => "local",
            Self::Negative => "negative",
            Self::ClosedPipe => "closed-pipe",
        }
    }

    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Rejected { .. } | Self::Refused(_) | Self::Local(_) | Self::Negative => {
                EXIT_REJECTED
            }
            Self::Unreachable(_) | Self::Unauthorized(_) | Self::Behind(_) => EXIT_UNREACHABLE,
            Self::Unknown { .. } => EXIT_UNKNOWN,
            Self::Undecided(_) => EXIT_UNDECIDED,
            Self::Usage(_) => EXIT_USAGE,
            Self::ClosedPipe => 0,
        }
    }

    /// Whether the same request may succeed later: after a restart of the bus or of netmaster.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Behind(_) => true,
            Self::Rejected { kind, .. } => kind == "not-initialised",
            _ => false,
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
        let text = self.to_string();
        let mut value = json!({
            "type": self.kind(),
            "text": text,
            // The name of the text in older versions.
            "error": text,
            "exitCode": self.code(),
        });
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
        Self::rejected(&rejection, None, None)
    }
}
