//! A log that can't be relied on: netmaster decides and answers nothing until it is whole or accepted.

use bus_schema::command::LogAccept;
use bus_schema::{Answer, Command, Event, Query, Rejection, Reply, Revision};

use crate::support::{Api, Bus, create_tenant, request, until};

fn is_damaged(rejection: &Rejection) -> bool {
    matches!(rejection, Rejection::LogDamaged { .. })
}

/// Nodes say that they have applied so much until a command about this tenant is refused.
async fn refused(api: &Api, tenant: &str, nodes: &[&str], applied: Revision) -> Rejection {
    let refused = until("netmaster refuses", async || {
        for node in nodes {
            api.status(node, applied).await;
        }
        match api.send(&request(create_tenant(tenant))).await {
            Ok(Reply::Rejected { rejection, .. }) => Some(rejection),
            // Nobody serves yet, or not yet decided.
            Ok(_) | Err(_) => None,
        }
    });
    let why = refused.await;
    assert!(is_damaged(&why), "{why}");
    why
}

#[tokio::test]
async fn nodes_that_applied_more_than_the_log_holds_stop_netmaster_until_it_is_accepted() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    api.join("n1", "198.18.0.1").await;
    let seen = api.join("n2", "198.18.0.2").await;
    let ahead = Revision(1_000);
    let why = refused(&api, "default", &["n1", "n2"], ahead).await;
    let text = why.to_string();
    for part in ["n1", "n2", "1000", "cluster accept-log"] {
        assert!(text.contains(part), "{text}");
    }
    let server = bus_server(&why);
    assert!(server.is_some_and(|it| !it.is_empty()), "{why:?}");
    let asked = api.ask(&request(Query::TenantList)).await;
    assert!(
        matches!(&asked, Answer::Rejected { rejection, .. } if is_damaged(rejection)),
        "{asked:?}"
    );
    // The requests that a repair needs.
    let nodes = api.query(seen, Query::NodeList { node: None }).await;
    assert!(matches!(nodes, Answer::Nodes { .. }), "{nodes:?}");
    let (_, events) = api.accepted(Command::LogAccept(LogAccept {})).await;
    assert!(
        matches!(&events[..], [Event::LogAccepted(it)] if it.ahead.len() == 2),
        "{events:?}"
    );
    for node in ["n1", "n2"] {
        api.status(node, ahead).await;
    }
    api.accepted(create_tenant("blue")).await;
    // One that starts knows it from the log.
    let _other = bus.master("m2").await;
    for i in 0..10 {
        api.accepted(create_tenant(&format!("t{i}"))).await;
    }
}

fn bus_server(why: &Rejection) -> Option<&String> {
    match why {
        Rejection::LogDamaged { server, .. } => server.as_ref(),
        _ => None,
    }
}

#[tokio::test]
async fn one_node_alone_ahead_gets_an_alarm_and_stops_nobody() {
    let bus = Bus::cluster().await;
    let _master = bus.master("m1").await;
    let api = bus.client().await;
    api.join("n1", "198.18.0.1").await;
    let seen = api.join("n2", "198.18.0.2").await;
    until("the alarm", async || {
        api.status("n1", Revision(1_000)).await;
        api.status("n2", seen).await;
        let Answer::Nodes { nodes, .. } = api.query(seen, Query::NodeList { node: None }).await
        else {
            panic!("no nodes");
        };
        let alarms = nodes.into_iter().map(|it| {
            let status = it.status.map(|it| it.alarms).unwrap_or_default();
            (it.node.to_string(), status)
        });
        let alarms: Vec<_> = alarms.filter(|(_, it)| !it.is_empty()).collect();
        let (node, alarms) = alarms.first()?.clone();
        assert_eq!(
            (node.as_str(), alarms[0].code.as_str()),
            ("n1", "ahead-of-log")
        );
        Some(())
    })
    .await;
    api.accepted(create_tenant("blue")).await;
}

#[tokio::test]
async fn a_log_that_cannot_deliver_a_revision_is_refused_and_cannot_be_accepted() {
    let mut bus = Bus::cluster().await;
    let first = bus.master("m1").await;
    let api = bus.client().await;
    for i in 0..30 {
        api.accepted(create_tenant(&format!("t{i}"))).await;
    }
    first.kill();
    // With its index it knows how many messages there were, and finds the bad one when it is read.
    bus.down_gently().await;
    bus.flip_a_byte_of("t7");
    bus.up().await;
    let _second = bus.master("m2").await;
    let api = bus.client().await;
    refused(&api, "t7", &[], Revision(0)).await;
    let accept = api.command(Command::LogAccept(LogAccept {})).await;
    assert!(
        matches!(&accept, Reply::Rejected { rejection, .. } if is_damaged(rejection)),
        "{accept:?}"
    );
}

#[tokio::test]
async fn a_log_cut_off_at_a_flipped_byte_is_refused_by_a_netmaster_that_starts() {
    let mut bus = Bus::cluster().await;
    let first = bus.master("m1").await;
    let api = bus.client().await;
    api.join("n1", "198.18.0.1").await;
    api.join("n2", "198.18.0.2").await;
    let mut end = Revision(0);
    for i in 0..30 {
        (end, _) = api.accepted(create_tenant(&format!("t{i}"))).await;
    }
    first.kill();
    // Without its index the server reads the log anew, and ends it before the bad message.
    bus.down();
    bus.flip_a_byte_of("t7");
    bus.up().await;
    let _second = bus.spawn("m2", &[]);
    let api = bus.client().await;
    refused(&api, "t7", &["n1", "n2"], end).await;
}
