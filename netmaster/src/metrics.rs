//! What Prometheus reads of a netmaster, on a loopback port.
//!
//! Names and units as prometheus.io/docs/practices/naming advises.

use std::time::Duration;

use bus_schema::{Reply, Revision};
use metrics::{describe_gauge, describe_histogram, gauge, histogram};

/// What the names mean, for [`telemetry::serve`].
pub(crate) fn describe() {
    describe_gauge!(
        "contiv_master_applied_revision",
        "The log is read up to here."
    );
    describe_histogram!(
        "contiv_master_command_seconds",
        "Commands, from the request to its answer: accepted, rejected or unknown."
    );
    describe_histogram!(
        "contiv_master_query_seconds",
        "Queries, from the request to its answer."
    );
}

pub(crate) fn command(verb: (&'static str, &'static str), reply: &Reply, took: Duration) {
    let result = match reply {
        Reply::Accepted { .. } => "accepted",
        Reply::Rejected { .. } => "rejected",
        Reply::Unknown { .. } => "unknown",
    };
    let (noun, verb) = verb;
    histogram!("contiv_master_command_seconds", "noun" => noun, "verb" => verb, "result" => result)
        .record(took);
}

pub(crate) fn query(took: Duration) {
    histogram!("contiv_master_query_seconds").record(took);
}

#[expect(clippy::cast_precision_loss, reason = "revisions beyond 2^53 are none")]
pub(crate) fn applied(revision: Revision) {
    gauge!("contiv_master_applied_revision").set(revision.0 as f64);
}
