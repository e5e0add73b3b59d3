//! What is asked for before this node has read the log.

use super::*;

#[tokio::test]
async fn what_is_unknown_before_the_log_is_read_is_waited_for_and_not_said_to_be_missing() {
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
    assert!(started.elapsed() >= DEADLINE, "{:?}", started.elapsed());

    let attaching = bench.handle.clone();
    let attaching = tokio::spawn(async move { attaching.attach(attach("e1", None)).await });
    bench.facts.send_replace(known);
    bench.kernel.send_replace(unread(true));
    attaching.await.unwrap().unwrap();
}
