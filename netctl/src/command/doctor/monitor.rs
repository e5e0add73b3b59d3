//! The pages of nats-server's `http` port. `/jsz` shows the JetStream settings; only there one can see
//! whether it syncs each write. `/healthz` names the stream that it can't write, with the reason.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bus_url::BusUrl;

/// nats-server's usual monitoring port.
const MONITOR_PORT: u16 = 8222;
const PAGE_TIMEOUT: Duration = Duration::from_millis(500);
const MAX_PAGE_BYTES: u64 = 1 << 20;

/// Whether acknowledged messages are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SyncSetting {
    Always,
    Later,
    NotShown,
}

/// Asks the servers of the address, and this machine, where the page is usually open.
pub(super) async fn syncs(url: &BusUrl) -> SyncSetting {
    let mut found = SyncSetting::NotShown;
    for (_, text) in pages(url, "/jsz?config=1").await {
        match sync_setting(&text) {
            SyncSetting::Later => return SyncSetting::Later,
            SyncSetting::Always => found = SyncSetting::Always,
            SyncSetting::NotShown => {}
        }
    }
    found
}

/// The errors of the servers' health pages, each with the server's address and a remedy.
pub(super) async fn health(url: &BusUrl) -> Vec<String> {
    let pages = pages(url, "/healthz").await.into_iter();
    pages
        .filter_map(|(host, text)| {
            let wrong = health_error(&text)?;
            Some(format!(
                "nats-server at {host}: {wrong}; if its disk was full, make room and restart it: it writes nothing until then"
            ))
        })
        .collect()
}

/// The page of each server that serves it, with the server's host.
pub(super) async fn pages(url: &BusUrl, path: &str) -> Vec<(String, String)> {
    let mut hosts: Vec<String> = url.servers.iter().map(|it| it.host().to_owned()).collect();
    if !hosts.iter().any(|host| host == "127.0.0.1") {
        hosts.push("127.0.0.1".to_owned());
    }
    let mut found = Vec::new();
    for host in hosts {
        if let Ok(Ok(text)) = tokio::time::timeout(PAGE_TIMEOUT, page(&host, path)).await {
            found.push((host, text));
        }
    }
    found
}

/// The `error` of a health page, if any.
fn health_error(answer: &str) -> Option<String> {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let page: Value = serde_json::from_str(body).unwrap_or_default();
    page["error"].as_str().map(str::to_owned)
}

async fn page(host: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((host, MONITOR_PORT)).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
        .await?;
    let mut text = String::new();
    stream
        .take(MAX_PAGE_BYTES)
        .read_to_string(&mut text)
        .await?;
    Ok(text)
}

fn sync_setting(answer: &str) -> SyncSetting {
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let page: Value = serde_json::from_str(body).unwrap_or_default();
    match (
        page["config"].is_object(),
        page["config"]["sync_always"].as_bool(),
    ) {
        (false, _) => SyncSetting::NotShown,
        (true, Some(true)) => SyncSetting::Always,
        (true, _) => SyncSetting::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::{SyncSetting, health_error, sync_setting};

    /// The answer of nats-server 2.15.1 with a full disk.
    #[test]
    fn health_page_names_the_stream_that_is_not_written() {
        let page = "HTTP/1.0 503 Service Unavailable\r\n\r\n{\"status\":\"unavailable\",\"error\":\"JetStream stream '$G \\u003e LOG' write error: write 1.blk: no space left on device\"}";
        let error = health_error(page).expect("an error");
        assert!(
            error.contains("LOG' write error") && error.contains("no space"),
            "{error}"
        );
        let healthy = "HTTP/1.0 200 OK\r\n\r\n{\"status\":\"ok\"}";
        assert_eq!(health_error(healthy), None);
        assert_eq!(health_error(""), None);
    }

    #[test]
    fn settings_page_shows_the_sync_setting() {
        let page = |config: &str| format!("HTTP/1.0 200 OK\r\n\r\n{{\"config\": {config}}}");
        let both = r#"{"sync_interval": 120000000000, "sync_always": true}"#;
        assert_eq!(sync_setting(&page(both)), SyncSetting::Always);
        assert_eq!(
            sync_setting(&page(r#"{"sync_interval": 120000000000}"#)),
            SyncSetting::Later
        );
        for other in ["", "HTTP/1.0 404 Not Found\r\n\r\n", &page("null")] {
            assert_eq!(sync_setting(other), SyncSetting::NotShown, "{other}");
        }
    }
}
