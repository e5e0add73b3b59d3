//! A bus that lacks a stream.

use super::*;

#[tokio::test]
async fn node_without_the_endpoints_stream_follows_the_log_and_names_the_stream() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let streams = &master.context;
    let mut endpoints = streams.get_stream(subject::ENDPOINTS).await.unwrap();
    let config = endpoints.info().await.unwrap().config.clone();
    streams.delete_stream(subject::ENDPOINTS).await.unwrap();
    let node = Node::start(server.url(), Projection::default());
    node.wait_until_in_sync().await;
    let mut published = node.published.subscribe();
    let limit = Duration::from_secs(20);
    let names = |it: &Published| {
        let trouble = it.trouble.as_deref().unwrap_or_default();
        trouble.contains("stream ENDPOINTS") && trouble.contains("netmaster init")
    };
    let told = tokio::time::timeout(limit, published.wait_for(names)).await;
    told.expect("the stream is named").unwrap();
    node.wait_until_applied(master.append(tenant("blue")).await)
        .await;
    assert_eq!(*node.log.borrow(), LogState::InSync);

    streams.create_stream(config).await.unwrap();
    let well = published.wait_for(|it| it.trouble.is_none());
    let well = tokio::time::timeout(limit, well).await;
    well.expect("it publishes again").unwrap();
}
