//! Why a command line didn't end well, and the exit code that says so to scripts.

use bus_schema::{CommandId, Rejection};

pub(crate) const REJECTED: u8 = 1;
pub(crate) const UNREACHABLE: u8 = 2;
pub(crate) const UNKNOWN: u8 = 3;
pub(crate) const USAGE: u8 = 64;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Rejected(String),
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
            Self::Rejected(_) | Self::Refused(_) | Self::Local(_) | Self::Negative => REJECTED,
            Self::Unreachable(_) | Self::Behind(_) => UNREACHABLE,
            Self::Unknown { .. } => UNKNOWN,
            Self::Usage(_) => USAGE,
            Self::ClosedPipe => 0,
        }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection.to_string())
    }
}
