//! The page on which nats-server shows its JetStream settings (`/jsz` of its `http` port): the one
//! place that tells whether it writes at once.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bus_url::BusUrl;

/// nats-server's usual one.
const PORT: u16 = 8222;
const PATIENCE: Duration = Duration::from_millis(500);
const LONGEST: u64 = 1 << 20;

/// Whether what a server acknowledges is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syncs {
    Always,
    Later,
    NotShown,
}

/// Asks the servers of the address and this machine, where the page is usually open.
pub(super) async fn syncs(url: &BusUrl) -> Syncs {
    let hosts = url.servers.iter().map(|server| server.host().to_owned());
    let mut found = Syncs::NotShown;
    for host in hosts.chain(["127.0.0.1".to_owned()]) {
        let Ok(Ok(text)) = tokio::time::timeout(PATIENCE, page(&host)).await else {
            continue;
        };
        match of(&text) {
            Syncs::Later => return Syncs::Later,
            Syncs::Always => found = Syncs::Always,
            Syncs::NotShown => {}
        }
    }
    found
}

async fn page(host: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((host, PORT)).await?;
    stream
        .write_all(b"GET /jsz?config=1 HTTP/1.0\r\n\r\n")
        .await?;
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text).await?;
    Ok(text)
}

fn of(answer: &str) -> Syncs {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let page: Value = serde_json::from_str(body).unwrap_or_default();
    match (
        page["config"].is_object(),
        page["config"]["sync_always"].as_bool(),
    ) {
        (false, _) => Syncs::NotShown,
        (true, Some(true)) => Syncs::Always,
        (true, _) => Syncs::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::{Syncs, of};

    #[test]
    fn what_the_page_says_of_syncing() {
        let page = |config: &str| format!("HTTP/1.0 200 OK\r\n\r\n{{\"config\": {config}}}");
        let both = r#"{"sync_interval": 120000000000, "sync_always": true}"#;
        assert_eq!(of(&page(both)), Syncs::Always);
        assert_eq!(
            of(&page(r#"{"sync_interval": 120000000000}"#)),
            Syncs::Later
        );
        for other in ["", "HTTP/1.0 404 Not Found\r\n\r\n", &page("null")] {
            assert_eq!(of(other), Syncs::NotShown, "{other}");
        }
    }
}
