//! Connections to the bus.

use std::time::Duration;

use async_nats::{Client, ConnectErrorKind, ConnectOptions};

use crate::bus_url::BusUrl;
use crate::failure::Failure;

/// Timeout of a connection with the server's greeting, for all addresses of all servers together.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Connects to the bus.
pub(crate) async fn connect(url: &BusUrl) -> Result<Client, Failure> {
    connect_with(url, url.options()).await
}

pub(crate) async fn connect_with(url: &BusUrl, options: ConnectOptions) -> Result<Client, Failure> {
    // Each server gets its share, so that one whose host vanished leaves time for the next.
    let servers = u32::try_from(url.servers.len()).unwrap_or(1).max(1);
    let connecting = options
        .name("netctl")
        .connection_timeout(CONNECT_TIMEOUT / servers)
        .connect(url.servers.clone());
    let failed = |reason: &str| {
        Failure::Unreachable(format!(
            "can't reach the bus at {url}: {reason}; is nats-server running there? (--netmaster or CONTIV_NATS_URL names another)"
        ))
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Err(_) => Err(failed("no answer")),
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(match error.kind() {
            ConnectErrorKind::AuthorizationViolation => Failure::Unauthorized(format!(
                "the bus at {url} refuses this token: nats.conf on its host has the right one, for CONTIV_NATS_URL=nats://TOKEN@HOST:PORT"
            )),
            _ => failed(&error_chain(&error)),
        }),
    }
}

/// The text of an error with those of its sources.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
