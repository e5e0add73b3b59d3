//! Requests before this node has read the log.

use super::*;

#[tokio::test]
async fn unknown_network_is_waited_for_until_the_log_is_read() {
    let bench = Bench::new(&BLOCK);
    // It was cut off from the bus.
    let unread = |in_sync| Kernel {
        generation: u64::MAX,
        was_in_sync: true,
        in_sync,
        ..Kernel::default()
    };
    bench.kernel.send_replace(unread(false));
    let known = bench.facts.send_replace(Projection::default());
    let started = tokio::time::Instant::now();
    let error = bench.handle.attach(attach("e1", None)).await.unwrap_err();
    assert!(matches!(&error, AttachError::LogUnread(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("hasn't read the cluster's log to its end")
    );
    assert!(
        started.elapsed() >= REQUEST_TIMEOUT,
        "{:?}",
        started.elapsed()
    );

    let attaching = bench.handle.clone();
    let attaching = tokio::spawn(async move { attaching.attach(attach("e1", None)).await });
    bench.facts.send_replace(known);
    bench.kernel.send_replace(unread(true));
    attaching.await.unwrap().unwrap();
}
