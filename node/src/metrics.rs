//! A node's metrics, which Prometheus reads on a loopback port.
//!
//! Names and units follow prometheus.io/docs/practices/naming. Other modules record their own metrics
//! with the macros of `metrics`; all of them are described here.

use bus_schema::node::{Grade, LogState, NodeStatus};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};

use crate::outer_drops::Drops;
use node_core::resource::{OuterDrop, UplinkDrop};
use node_datapath::UplinkTraffic;

/// Counter of dropped packets, by reason.
const OUTER_DROPPED_METRIC: &str = "contiv_node_outer_dropped_total";

const UPLINK_PACKETS_METRIC: &str = "contiv_node_uplink_packets_total";
const UPLINK_BYTES_METRIC: &str = "contiv_node_uplink_bytes_total";
/// Counter of dropped packets, by reason.
const UPLINK_DROPPED_METRIC: &str = "contiv_node_uplink_dropped_total";

const CONNECTIONS_REFUSED_METRIC: &str = "contiv_node_connections_refused_total";

/// The increase of a counter of the kernel, which begins anew when its object is made anew.
pub fn increase(last: u64, now: u64) -> u64 {
    now.checked_sub(last).unwrap_or(now)
}

/// Describes the metrics for [`runtime::metrics::serve`].
pub fn describe() {
    describe_gauge!(
        "contiv_node_applied_revision",
        "The kernel reflects the log up to here."
    );
    describe_gauge!(
        "contiv_node_in_sync",
        "1 while the node follows its log, else 0."
    );
    describe_gauge!("contiv_node_endpoints", "Endpoints on this node.");
    describe_gauge!(
        "contiv_node_blocks",
        "Blocks of addresses leased to this node."
    );
    describe_gauge!(
        "contiv_node_alarms",
        "The alarms that `netctl node inspect` shows, by grade."
    );
    describe_counter!(
        "contiv_node_drift_total",
        "How often others changed our kernel objects and the change was reverted."
    );
    describe_counter!(
        "contiv_node_kernel_ops_total",
        "Changes made in the kernel, by result."
    );
    // Counters start with zero, not with a gap.
    describe_counter!(
        "contiv_node_dns_messages_total",
        "Messages to its name servers, by outcome."
    );
    counter!("contiv_node_drift_total").increment(0);
    describe_counter!(
        OUTER_DROPPED_METRIC,
        "Packets to VXLAN's outer port that weren't another node's and were dropped, by reason."
    );
    for reason in OuterDrop::ALL {
        counter!(OUTER_DROPPED_METRIC, "reason" => reason.name()).increment(0);
    }
    describe_gauge!(
        "contiv_node_conntrack_entries",
        "Entries of a tenant in conntrack's table; without a tenant: all of the host's table."
    );
    describe_gauge!(
        "contiv_node_conntrack_max",
        "The entries that conntrack's table can hold."
    );
    describe_counter!(
        CONNECTIONS_REFUSED_METRIC,
        "Packets that were dropped because their endpoint has as many connections as it may open."
    );
    counter!(CONNECTIONS_REFUSED_METRIC).increment(0);
    describe_uplinks();
    describe_histogram!(
        "contiv_docker_call_seconds",
        "The engine's calls to the driver."
    );
    describe_histogram!("contiv_cni_call_seconds", "CNI runtimes' calls.");
}

fn describe_uplinks() {
    describe_counter!(
        UPLINK_PACKETS_METRIC,
        "Packets that a tenant sent out of this node and got from outside, by direction."
    );
    describe_counter!(
        UPLINK_BYTES_METRIC,
        "Bytes that a tenant sent out of this node and got from outside, by direction."
    );
    describe_counter!(
        UPLINK_DROPPED_METRIC,
        "Packets to or from outside that were dropped or refused, by reason."
    );
    for reason in UplinkDrop::ALL {
        counter!(UPLINK_DROPPED_METRIC, "reason" => reason.name()).increment(0);
    }
    describe_gauge!(
        "contiv_node_uplink_addresses_free",
        "Addresses of the uplinks' pool that no tenant's way out has."
    );
}

/// Sets the gauges from the node's status on the bus.
#[expect(clippy::cast_precision_loss, reason = "revisions beyond 2^53 are none")]
pub fn status(status: &NodeStatus) {
    gauge!("contiv_node_applied_revision").set(status.applied.0 as f64);
    gauge!("contiv_node_in_sync").set(f64::from(status.log == LogState::InSync));
    gauge!("contiv_node_endpoints").set(status.endpoints as f64);
    gauge!("contiv_node_blocks").set(status.blocks as f64);
    for grade in [Grade::Wrong, Grade::Warning] {
        let alarms = status.alarms.iter().filter(|it| it.grade == grade);
        gauge!("contiv_node_alarms", "grade" => grade.to_string()).set(alarms.count() as f64);
    }
    let dns = status.dns.unwrap_or_default();
    for (outcome, messages) in [
        ("answered", dns.answered),
        ("forwarded", dns.forwarded),
        ("cached", dns.cached),
        ("failed", dns.failed),
        ("malformed", dns.malformed),
        ("refused", dns.refused),
    ] {
        counter!("contiv_node_dns_messages_total", "outcome" => outcome).absolute(messages);
    }
}

/// Counts a batch of changes by result.
pub fn kernel_ops(attempted: usize, failed: usize) {
    let done = attempted.saturating_sub(failed);
    counter!("contiv_node_kernel_ops_total", "result" => "done").increment(done as u64);
    counter!("contiv_node_kernel_ops_total", "result" => "failed").increment(failed as u64);
}

pub fn drift() {
    counter!("contiv_node_drift_total").increment(1);
}

/// Counts packets that were dropped since the last call.
pub fn outer_drops(drops: &Drops) {
    for (reason, packets) in drops {
        counter!(OUTER_DROPPED_METRIC, "reason" => reason.name()).increment(*packets);
    }
}

/// Sets the number of a tenant's conntrack entries; without a tenant: of the host's table.
#[expect(clippy::cast_precision_loss, reason = "no table has 2^53 entries")]
pub fn conntrack_entries(tenant: &str, entries: u64) {
    gauge!("contiv_node_conntrack_entries", "tenant" => tenant.to_owned()).set(entries as f64);
}

pub fn conntrack_max(max: u32) {
    gauge!("contiv_node_conntrack_max").set(f64::from(max));
}

/// Counts packets that were dropped since the last call.
pub fn refused_connections(packets: u64) {
    counter!(CONNECTIONS_REFUSED_METRIC).increment(packets);
}

/// Sets the number of free addresses of the uplinks' pool.
#[expect(clippy::cast_precision_loss, reason = "no pool has 2^53 addresses")]
pub fn uplinks(free_addresses: u64) {
    gauge!("contiv_node_uplink_addresses_free").set(free_addresses as f64);
}

/// Counts the packets of a tenant that passed its uplink since the last call.
pub fn uplink_traffic(tenant: &str, new: UplinkTraffic) {
    for (direction, packets, bytes) in [
        ("out", new.packets_out, new.bytes_out),
        ("in", new.packets_in, new.bytes_in),
    ] {
        let labels = [
            ("tenant", tenant.to_owned()),
            ("direction", direction.to_owned()),
        ];
        counter!(UPLINK_PACKETS_METRIC, &labels).increment(packets);
        counter!(UPLINK_BYTES_METRIC, &labels).increment(bytes);
    }
}

/// Counts packets that were dropped since the last call.
pub fn uplink_drops(reason: UplinkDrop, packets: u64) {
    counter!(UPLINK_DROPPED_METRIC, "reason" => reason.name()).increment(packets);
}
