//! The metrics that Prometheus reads. Their names and meanings belong to each daemon.

use std::net::SocketAddr;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use metrics_util::MetricKindMask;

/// Bounds of the histograms: from the time of a warm cache to one that an operator notices.
const BUCKETS_SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Serves the metrics at `at` until the process ends; `describe` registers their meanings. A gauge that
/// isn't set for `idle` disappears, so that a removed object isn't shown for ever; `None`: gauges stay.
/// A port that is taken doesn't stop the daemon: it logs a warning. It must be called on a tokio runtime.
pub fn serve(at: SocketAddr, describe: fn(), idle: Option<Duration>) {
    let builder = PrometheusBuilder::new().with_http_listener(at);
    let built = builder
        .idle_timeout(MetricKindMask::GAUGE, idle)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKETS_SECONDS)
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

/// `ADDRESS:PORT`, such as `example`, or `none`.
pub fn address(text: &str, example: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "none" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| format!("`{text}` is no ADDRESS:PORT, such as {example}, nor `none`")),
    }
}
