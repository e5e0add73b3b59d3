//! The metrics that Prometheus reads from a netmaster.

use std::io::{Read, Write};
use std::net::TcpStream;

use bus_schema::command::{NetworkRemove, Removal};
use bus_schema::{Command, EndpointEvent, Revision, codec, subject};
use bytes::Bytes;

use crate::endpoints::endpoint;
use crate::support::{Bus, create, free_port, network, tenant, until};

/// The page at this port; empty: nobody serves it.
fn page(port: u16) -> String {
    let read = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page).map(|_| page)
    };
    read().unwrap_or_default()
}

/// The free and used addresses of network front.
fn addresses(port: u16) -> Vec<String> {
    let page = page(port);
    let series = page
        .lines()
        .filter(|it| it.starts_with("contiv_master_addresses{"));
    let mut values: Vec<String> = series
        .filter(|it| it.contains("network=\"front\"") && it.contains("group=\"\""))
        .filter_map(|it| {
            let state = it.split("state=\"").nth(1)?.split('"').next()?;
            Some(format!("{state} {}", it.split(' ').next_back()?))
        })
        .collect();
    values.sort();
    values
}

#[tokio::test]
async fn addresses_in_use_and_free_are_shown_until_their_network_is_removed() {
    let bus = Bus::cluster().await;
    let port = free_port();
    let at = format!("127.0.0.1:{port}");
    let master = bus.spawn_with("m1", &["--metrics", &at], &[]);
    master.says("serving").await;
    let api = bus.client().await;
    api.join("n1", "198.18.0.1").await;
    until("a network is created", async || {
        let command = create("default", "front", "20.1.1.0/24", None);
        matches!(
            api.send(&crate::support::request(command)).await,
            Ok(bus_schema::Reply::Accepted { .. })
        )
        .then_some(())
    })
    .await;
    until("all addresses are free", async || {
        (addresses(port) == ["free 253", "in_use 0"]).then_some(())
    })
    .await;

    let endpoint = endpoint();
    let to = subject::of_endpoint(&endpoint);
    let applied = Revision(1);
    let up = EndpointEvent::Up { endpoint, applied };
    let bytes = Bytes::from(codec::to_bytes(&up));
    api.client.publish(to, bytes).await.expect("connected");
    until("one address is in use", async || {
        (addresses(port) == ["free 252", "in_use 1"]).then_some(())
    })
    .await;

    api.accepted(Command::NetworkRemove(NetworkRemove {
        tenant: tenant("default"),
        network: network("front"),
        mode: Removal::Close,
    }))
    .await;
    until("the network's series are gone", async || {
        addresses(port).is_empty().then_some(())
    })
    .await;
    let revision = page(port).contains("contiv_master_applied_revision ");
    assert!(revision, "{}", page(port));
}
