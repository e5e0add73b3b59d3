//! The pages of nats-server's `http` port: `/jsz` shows its JetStream settings, the one place that
//! tells whether it writes at once; `/healthz` says which stream it can't write, and why.

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
    let mut found = Syncs::NotShown;
    for (_, text) in pages(url, "/jsz?config=1").await {
        match of(&text) {
            Syncs::Later => return Syncs::Later,
            Syncs::Always => found = Syncs::Always,
            Syncs::NotShown => {}
        }
    }
    found
}

/// What the servers say is wrong with them: each one's address, and its own words.
pub(super) async fn health(url: &BusUrl) -> Vec<String> {
    let pages = pages(url, "/healthz").await.into_iter();
    pages
        .filter_map(|(host, text)| {
            let wrong = sickness(&text)?;
            Some(format!(
                "nats-server at {host}: {wrong}; where its disk was full, make room and restart it, it writes nothing before"
            ))
        })
        .collect()
}

/// A page of each server that shows it, and whose.
pub(super) async fn pages(url: &BusUrl, path: &str) -> Vec<(String, String)> {
    let mut hosts: Vec<String> = url.servers.iter().map(|it| it.host().to_owned()).collect();
    if !hosts.iter().any(|host| host == "127.0.0.1") {
        hosts.push("127.0.0.1".to_owned());
    }
    let mut found = Vec::new();
    for host in hosts {
        if let Ok(Ok(text)) = tokio::time::timeout(PATIENCE, page(&host, path)).await {
            found.push((host, text));
        }
    }
    found
}

/// The `error` of a health page, where it has one.
fn sickness(answer: &str) -> Option<String> {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let page: Value = serde_json::from_str(body).unwrap_or_default();
    page["error"].as_str().map(str::to_owned)
}

async fn page(host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((host, PORT)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
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
    use super::{Syncs, of, sickness};

    /// As nats-server 2.15.1 answered with a full disk.
    #[test]
    fn the_health_page_says_which_stream_is_not_written() {
        let page = "HTTP/1.0 503 Service Unavailable\r\n\r\n{\"status\":\"unavailable\",\"error\":\"JetStream stream '$G \\u003e LOG' write error: write 1.blk: no space left on device\"}";
        let error = sickness(page).expect("an error");
        assert!(
            error.contains("LOG' write error") && error.contains("no space"),
            "{error}"
        );
        let well = "HTTP/1.0 200 OK\r\n\r\n{\"status\":\"ok\"}";
        assert_eq!(sickness(well), None);
        assert_eq!(sickness(""), None);
    }

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
