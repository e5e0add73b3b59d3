//! The metrics that Prometheus reads from a netmaster, on a loopback port.
//!
//! Names and units as prometheus.io/docs/practices/naming advises.

use std::time::Duration;

use bus_schema::{GroupName, Reply, Revision};
use metrics::{describe_gauge, describe_histogram, gauge, histogram};

use crate::feed::Shared;
use crate::view::PoolCount;
use runtime::pause;

/// How often gauges are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(3);
/// A gauge that isn't set for so long describes a removed object.
pub(crate) const GAUGE_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Describes the metrics, for [`runtime::metrics::serve`].
pub(crate) fn describe() {
    describe_gauge!(
        "contiv_master_applied_revision",
        "The log is read up to here."
    );
    describe_gauge!(
        "contiv_master_addresses",
        "IPv4 addresses of networks, and of groups with a pool of their own: in_use or free."
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

pub(crate) fn applied(revision: Revision) {
    gauge!("contiv_master_applied_revision").set(number(revision.0));
}

/// Sets the gauges every few seconds. Counting the addresses visits all endpoints, so it runs only where
/// metrics are served.
pub(crate) async fn watch(shared: Shared) {
    loop {
        let (revision, pools) = shared.read(|view| (view.applied, view.pool_counts()));
        applied(revision);
        for pool in &pools {
            addresses(pool);
        }
        pause(GAUGE_INTERVAL).await;
    }
}

/// The label `group` is empty for the network's own addresses.
fn addresses(PoolCount { pool, count }: &PoolCount) {
    let free = count.assignable.saturating_sub(count.in_use);
    for (state, value) in [("in_use", count.in_use), ("free", free)] {
        let labels = [
            ("tenant", pool.tenant.to_string()),
            ("network", pool.network.to_string()),
            (
                "group",
                pool.group
                    .as_ref()
                    .map_or_else(String::new, GroupName::to_string),
            ),
            ("state", state.to_owned()),
        ];
        gauge!("contiv_master_addresses", &labels).set(number(value));
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "no revision and no count of addresses is beyond 2^53"
)]
fn number(value: u64) -> f64 {
    value as f64
}
