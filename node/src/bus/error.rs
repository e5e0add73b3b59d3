use bus_schema::Revision;

/// The reason why a session ended; the next one begins.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error("can't read the log: {0}")]
    Read(String),
    #[error("{0}")]
    Endpoints(String),
    #[error("the log skipped from revision {0} to {1}")]
    Gap(Revision, Revision),
    /// The session has set the log's state already.
    #[error("waiting")]
    Waiting,
}

impl SessionError {
    pub(super) fn read(error: impl std::fmt::Display) -> Self {
        Self::Read(error.to_string())
    }

    /// An error of the stream ENDPOINTS.
    pub(super) fn endpoints(error: impl std::fmt::Display) -> Self {
        Self::Endpoints(format!("stream ENDPOINTS: {error}"))
    }
}
