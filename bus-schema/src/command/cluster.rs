use serde::{Deserialize, Serialize};

/// Goes on with the log as it is, although nodes have applied more than it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAccept {}
