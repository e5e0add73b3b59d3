//! The result of one check of `netctl doctor`.

use bus_schema::node::Grade;

/// One check: its grade, its subject, and the finding with the remedy. The derived order puts the worst
/// grade first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CheckResult {
    pub(super) grade: Grade,
    pub(super) of: String,
    pub(super) text: String,
}

pub(super) fn result(grade: Grade, of: impl Into<String>, text: impl Into<String>) -> CheckResult {
    CheckResult {
        grade,
        of: of.into(),
        text: text.into(),
    }
}
