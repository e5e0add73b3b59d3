use std::time::Duration;

/// Waits for `time`: between two tries, or two heartbeats.
#[expect(
    clippy::disallowed_methods,
    reason = "a retry and a heartbeat: the pause is the point"
)]
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
