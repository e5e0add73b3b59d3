//! What Prometheus reads of a netmaster, on a loopback port.
//!
//! Names and units as prometheus.io/docs/practices/naming advises.

use std::net::SocketAddr;
use std::time::Duration;

use bus_schema::{Reply, Revision};
use metrics::{describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// From what a warm cache takes to what an operator notices.
const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Lets whoever can connect to `at` read them, until the process ends. A daemon that does its
/// work isn't stopped by a port that is taken: it says so.
pub(crate) fn serve(at: SocketAddr) {
    let builder = PrometheusBuilder::new().with_http_listener(at);
    let built = builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::build);
    match built {
        Ok((recorder, exporter)) => {
            // A second daemon in one process (tests) adds to the first one's.
            let _ = metrics::set_global_recorder(recorder);
            describe();
            tokio::spawn(async move {
                if let Err(error) = exporter.await {
                    tracing::warn!(%at, ?error, "no metrics: name another address with --metrics");
                }
            });
        }
        Err(error) => tracing::warn!(%at, %error, "no metrics"),
    }
}

/// `ADDRESS:PORT`, or `none`.
pub(crate) fn address(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "none" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            format!("`{text}` is no ADDRESS:PORT, such as 127.0.0.1:9467, nor `none`")
        }),
    }
}

fn describe() {
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
