//! Tests that one asker takes nothing from the others.

use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::client::{Client, question, world};
use crate::relayed::{ManualResolver, received_address};

const FLOODING: &str = "20.1.1.1";
const OTHER: &str = "20.1.1.2";

fn a(name: &str) -> Vec<u8> {
    question(name, RecordType::A, None)
}

/// Waits until the server has read all that this client has sent: it reads in order.
fn await_read(client: &Client) {
    client.udp.send(&a("web.")).unwrap();
    assert_eq!(received_address(client), "20.1.1.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_queries_of_one_asker_leave_others_their_share() {
    let (resolver, address) = ManualResolver::new();
    let world = world(&[address]).await;
    let flooding = Client::at(FLOODING, &world.default);
    let other = Client::at(OTHER, &world.default);
    for number in 0..300 {
        flooding.udp.send(&a(&format!("h{number}.test."))).unwrap();
    }
    other.udp.send(&a("www.example.")).unwrap();
    let query = loop {
        let query = resolver.query();
        if query.0.queries[0].name().to_ascii() == "www.example." {
            break query;
        }
    };
    resolver.answers(&query, "192.0.2.7");
    assert_eq!(received_address(&other), "192.0.2.7");
    assert!(world.dns.counters().failed > 0, "the flood has a limit");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_one_asker_leave_others_their_share() {
    let world = world(&[]).await;
    let _idle: Vec<Client> = (0..80)
        .map(|_| Client::at(FLOODING, &world.default))
        .collect();
    let other = Client::at(OTHER, &world.default);
    let since = Instant::now();
    let reply = Message::from_vec(&other.by_tcp(&a("web."))).unwrap();
    assert_eq!(reply.answers[0].data.to_string(), "20.1.1.1");
    // Half of the time after which an idle connection ends.
    let took = since.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn resolver_that_is_silent_about_one_name_is_waited_for_about_others() {
    let (resolver, address) = ManualResolver::new();
    let world = world(&[address]).await;
    let client = Client::new(&world.default);
    let reply = client.ask(&a("dead.example."));
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    while resolver.query_if_any().is_some() {}

    client.udp.send(&a("slow.example.")).unwrap();
    // A resolver that counts as silent is asked once, and waited for less.
    resolver.query();
    resolver.answers(&resolver.query(), "192.0.2.7");
    assert_eq!(received_address(&client), "192.0.2.7");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_questions_share_one_query() {
    let (resolver, address) = ManualResolver::new();
    let world = world(&[address]).await;
    let clients = [
        Client::at(FLOODING, &world.default),
        Client::at(OTHER, &world.default),
        Client::new(&world.blue),
    ];
    clients[0].udp.send(&a("www.example.")).unwrap();
    let query = resolver.query();
    for client in &clients[1..] {
        client.udp.send(&a("WWW.example.")).unwrap();
        await_read(client);
    }
    resolver.answers(&query, "192.0.2.7");
    assert_eq!(received_address(&clients[0]), "192.0.2.7");
    for client in &clients[1..] {
        let reply = Message::from_vec(&client.receive().expect("an answer")).unwrap();
        assert_eq!(reply.queries[0].name().to_ascii(), "WWW.example.");
        assert_eq!(reply.answers[0].data.to_string(), "192.0.2.7");
    }
    assert!(resolver.query_if_any().is_none(), "one query for all");
    assert_eq!(world.dns.counters().forwarded, 3);
}
