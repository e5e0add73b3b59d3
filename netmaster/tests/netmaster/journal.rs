//! The server treats batches and fences as decisions rely on.

use actors::journal::{AppendError, Fence, JetStream, Journal, NewRecord};
use bus_schema::{Revision, subject};
use bytes::Bytes;

use crate::support::Bus;

const CLUSTER: &str = "contiv.log._cluster.>";
const TENANT: &str = "contiv.log.default.intent.>";

fn entry(subject: &str, fence: Option<(&str, u64)>) -> NewRecord {
    NewRecord {
        subject: subject.to_owned(),
        payload: Bytes::from_static(b"payload"),
        fence: fence.map(|(filter, last)| Fence {
            filter: filter.to_owned(),
            last: Revision(last),
        }),
    }
}

/// A network, its tag and its leases: three aggregates, each fenced.
fn three(tenant: u64, cluster: u64) -> [NewRecord; 3] {
    let lease = "contiv.log.default.lease.web";
    [
        entry(
            "contiv.log.default.intent.network.web",
            Some((TENANT, tenant)),
        ),
        entry("contiv.log._cluster.vni.7", Some((CLUSTER, cluster))),
        entry(lease, Some((lease, 0))),
    ]
}

#[tokio::test]
async fn a_batch_is_appended_whole_or_not_at_all() {
    let bus = Bus::cluster().await;
    let log = JetStream::new(bus.client().await.client);
    // `init` left tenant-created at 2 (cluster) and tenant-opened at 3 (default).
    for (tenant, cluster) in [(2, 2), (3, 1), (0, 0)] {
        let refused = Journal::append(&log, &three(tenant, cluster)).await;
        assert_eq!(refused, Err(AppendError::Fenced), "{tenant} {cluster}");
        assert_eq!(log.end().await, Ok(Revision(3)));
    }
    let appended = Journal::append(&log, &three(3, 2)).await;
    assert_eq!(appended, Ok(Revision(6)));
    let again = Journal::append(&log, &three(3, 2)).await;
    assert_eq!(again, Err(AppendError::Fenced));
    assert_eq!(log.end().await, Ok(Revision(6)));
}

#[tokio::test]
async fn one_fence_covers_all_of_an_aggregates_messages_in_a_batch() {
    let bus = Bus::cluster().await;
    let log = JetStream::new(bus.client().await.client);
    let two = |last| {
        [
            entry("contiv.log._cluster.node.a", Some((CLUSTER, last))),
            entry("contiv.log._cluster.node.b", None),
        ]
    };
    assert_eq!(Journal::append(&log, &two(2)).await, Ok(Revision(5)));
    let refused = Journal::append(&log, &two(2)).await;
    assert_eq!(refused, Err(AppendError::Fenced));
    assert_eq!(log.end().await, Ok(Revision(5)));
}

#[tokio::test]
async fn a_single_message_is_fenced_on_its_aggregate_not_on_its_subject() {
    let bus = Bus::cluster().await;
    let log = JetStream::new(bus.client().await.client);
    let one = |last| [entry("contiv.log._cluster.node.new", Some((CLUSTER, last)))];
    let refused = Journal::append(&log, &one(0)).await;
    assert_eq!(refused, Err(AppendError::Fenced));
    assert_eq!(Journal::append(&log, &one(2)).await, Ok(Revision(4)));
}

#[tokio::test]
async fn loading_keeps_to_its_filter_its_start_and_its_limit() {
    let bus = Bus::cluster().await;
    let log = JetStream::new(bus.client().await.client);
    let revisions = async |filter: &str, after: u64, max: usize| {
        let records = Journal::load(&log, filter, Revision(after), max).await;
        let records = records.expect("the log answers");
        records.iter().map(|r| r.revision.0).collect::<Vec<_>>()
    };
    assert_eq!(revisions(subject::LOG_ALL, 0, 10).await, [1, 2, 3]);
    assert_eq!(revisions(subject::LOG_ALL, 0, 2).await, [1, 2]);
    assert_eq!(revisions(subject::LOG_ALL, 3, 10).await, Vec::<u64>::new());
    assert_eq!(revisions(subject::LOG_ALL, 99, 10).await, Vec::<u64>::new());
    assert_eq!(revisions(CLUSTER, 0, 10).await, [1, 2]);
    assert_eq!(revisions(TENANT, 0, 10).await, [3]);
    // More than are asked for one by one.
    for last in 2..32 {
        let last = if last == 2 { 2 } else { last + 1 };
        let one = [entry("contiv.log._cluster.node.new", Some((CLUSTER, last)))];
        Journal::append(&log, &one).await.expect("appended");
    }
    let all = |after| (after + 1..=33).collect::<Vec<_>>();
    for after in [3, 7, 15, 20, 21, 22, 30, 32, 33, 40] {
        assert_eq!(revisions(CLUSTER, after, 100).await, all(after), "{after}");
    }
    for max in [1, 11, 12, 13, 25] {
        assert_eq!(revisions(CLUSTER, 3, max).await, all(3)[..max], "{max}");
    }
    assert_eq!(revisions(TENANT, 3, 100).await, Vec::<u64>::new());
}
