//! Publishing endpoints and healings.

use super::*;

/// Gives the node a network with a block.
fn give_a_block(node: &Node) {
    node.facts_handle.change(|facts| {
        let fact = crate::endpoint::fixture::network(&[("10.0.0.16/28", "a")]);
        facts.tenants = crate::endpoint::fixture::facts(fact).tenants;
        node_core::projection::Touched::default()
    });
}

#[tokio::test]
async fn bus_gets_the_endpoints_after_one_that_is_too_long_for_its_stream() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let streams = &master.context;
    let mut endpoints = streams.get_stream(subject::ENDPOINTS).await.unwrap();
    let mut config = endpoints.info().await.unwrap().config.clone();
    config.max_message_size = 1_000;
    streams.update_stream(config).await.unwrap();
    let node = Node::start(server.url(), Projection::default());
    node.wait_until_in_sync().await;
    give_a_block(&node);
    let aliases = (0..64).map(|it| format!("{it:030}")).collect();
    attach_with(&node, "long", aliases).await;
    attach(&node).await;
    wait_until("the bus has the second endpoint", async || {
        matches!(
            last_event(&master, "new").await,
            Some(EndpointEvent::Up { .. })
        )
    })
    .await;
    let mut published = node.published.subscribe();
    let both = published.wait_for(|it| it.too_long.len() == 1 && it.trouble.is_none());
    let both = tokio::time::timeout(Duration::from_secs(10), both).await;
    let alarm = crate::status::too_long(&both.expect("it is refused").unwrap()).unwrap();
    assert_eq!(alarm.code, "limit");
    assert!(alarm.text.contains("long: "), "{alarm:?}");
    assert!(last_event(&master, "long").await.is_none());
}

#[tokio::test]
async fn bus_gets_the_journals_endpoints_and_loses_all_others() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let local = endpoint("old", "10.0.0.9");
    let mut theirs = to_published(&local, &NodeName::new("b").unwrap(), me().vtep);
    theirs.name = Some("db".to_owned());
    for endpoint in [to_published(&local, &me().node, me().vtep), theirs] {
        let event = EndpointEvent::Up {
            endpoint: endpoint.clone(),
            applied: Revision(1),
        };
        let to = subject::of_endpoint(&endpoint);
        master.put(to, codec::to_bytes(&event)).await;
    }
    let node = Node::start(server.url(), Projection::default());
    node.wait_until_in_sync().await;
    give_a_block(&node);
    attach(&node).await;
    wait_until("the bus has the journal's endpoints", async || {
        let old = last_event(&master, "old").await;
        let new = last_event(&master, "new").await;
        matches!(old, Some(EndpointEvent::Down { .. }))
            && matches!(new, Some(EndpointEvent::Up { .. }))
    })
    .await;
    let own = || {
        let endpoints = &node.endpoints;
        OwnEndpoints::of(
            &endpoints.snapshots().borrow(),
            &endpoints.kernel().borrow(),
        )
    };
    let mut published = node.published.subscribe();
    let all = published.wait_for(|it| it.missing_count(&own()) == 0);
    let all = tokio::time::timeout(Duration::from_secs(10), all).await;
    all.expect("nothing is left to be published").unwrap();
    let nothing = Published::unknown(None);
    assert_eq!(
        nothing.missing_count(&own()),
        1,
        "what isn't known to be published"
    );
    assert_eq!(
        Published::all(OwnEndpoints::default(), true).missing_count(&own()),
        0,
        "withdrawn"
    );
    // The view holds it back until the facts are at its revision, which no task folds here.
    assert!(node.view.borrow().iter().all(|it| it.node != me().node));
}

#[tokio::test]
async fn healings_are_published_once_also_those_without_the_bus() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.healings.note(vec![("fdb", "f1".to_owned())]);
    node.wait_until_in_sync().await;
    let published = async |counts: &[(&str, u64)], what: &str| {
        let context = master.context.clone();
        let stream = context.get_stream(subject::ENDPOINTS).await.unwrap();
        let subject = subject::healed_by(&me().node);
        let expected: std::collections::BTreeMap<String, u64> = counts
            .iter()
            .map(|(kind, n)| ((*kind).to_owned(), *n))
            .collect();
        loop {
            let message = stream.get_last_raw_message_by_subject(&subject).await;
            let event = message
                .ok()
                .and_then(|it| codec::from_bytes(&it.payload).ok());
            if let Some(EndpointEvent::Healed { kinds, last, .. }) = event
                && kinds == expected
                && last.what == what
            {
                break;
            }
            pause(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(10);
    let first = tokio::time::timeout(limit, published(&[("fdb", 1)], "f1")).await;
    first.expect("what happened before the bus was there is told");
    node.healings
        .note(vec![("fdb", "f2".to_owned()), ("route", "r".to_owned())]);
    let second = published(&[("fdb", 1), ("route", 1)], "r");
    let second = tokio::time::timeout(limit, second).await;
    second.expect("only what is new is told");
}
