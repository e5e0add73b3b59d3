//! The connection to a server of the bus, with a watchdog.
//!
//! async-nats reconnects by itself, but takes long to notice a server that fell silent; so a
//! watchdog sends JetStream a request each second and reconnects after three without an answer. Every
//! new connection increments the epoch, and the session begins again.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use bus_schema::subject;
use bus_schema::url::{self, Credentials};
use runtime::pause;
use tokio::sync::watch;

/// The oldest server version with atomic batches and TTLs of messages.
const MIN_SERVER_VERSION: (u64, u64) = (2, 12);
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The number of unanswered probes after which the watchdog reconnects.
const MAX_SILENT_PROBES: u32 = 3;
const CONNECT_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The state of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    /// The number of connections so far.
    pub epoch: u64,
    /// The reason why it is down, and the remedy; absent: connected.
    pub trouble: Option<String>,
}

/// Connects, however long it takes. `link` has the reason meanwhile.
pub(super) async fn connect(url: &str, name: &str, link: &watch::Sender<Link>) -> Client {
    loop {
        let reason = match try_connect(url, name, link).await {
            Ok(client) => match refusal(&client) {
                None => {
                    up(link);
                    return client;
                }
                Some(reason) => {
                    client.drain().await.ok();
                    reason
                }
            },
            Err(error) => format!(
                "can't reach nats-server at {}: {error}; start it, or set CONTIV_NATS_URL",
                url::without_credentials(url)
            ),
        };
        down(link, reason);
        pause(CONNECT_RETRY_PAUSE).await;
    }
}

async fn try_connect(
    url: &str,
    name: &str,
    link: &watch::Sender<Link>,
) -> Result<Client, async_nats::ConnectError> {
    let events = link.clone();
    let options = match url::credentials(url) {
        Some(Credentials::Token(token)) => ConnectOptions::with_token(token.to_owned()),
        Some(Credentials::Password { user, password }) => {
            ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        }
        None => ConnectOptions::new(),
    };
    let addresses = url::without_credentials(url);
    let servers: Vec<&str> = addresses.split(',').collect();
    options
        .name(name)
        .connection_timeout(Duration::from_secs(2))
        .ping_interval(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(4)))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50 << attempts.min(5)).min(CONNECT_RETRY_PAUSE)
        })
        .event_callback(move |event| {
            let events = events.clone();
            async move { on_event(&event, &events) }
        })
        .connect(servers)
        .await
}

fn on_event(event: &Event, link: &watch::Sender<Link>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to the bus");
            up(link);
        }
        Event::Disconnected => {
            down(
                link,
                "the connection to nats-server is lost; this node continues with its last facts"
                    .to_owned(),
            );
        }
        other => tracing::debug!(event = %other, "bus"),
    }
}

fn up(link: &watch::Sender<Link>) {
    link.send_modify(|link| {
        link.epoch += 1;
        link.trouble = None;
    });
}

pub(super) fn down(link: &watch::Sender<Link>, reason: String) {
    link.send_if_modified(|link| {
        let changed = link.trouble.as_ref() != Some(&reason);
        link.trouble = Some(reason);
        changed
    });
}

/// The reason why this server can't be used, and the remedy.
pub(super) fn refusal(client: &Client) -> Option<String> {
    let info = client.server_info();
    let mut parts = info
        .version
        .split(['.', '-'])
        .map(|it| it.parse().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < MIN_SERVER_VERSION {
        return Some(format!(
            "nats-server {} is too old: upgrade it to {}.{} or newer",
            info.version, MIN_SERVER_VERSION.0, MIN_SERVER_VERSION.1
        ));
    }
    if !info.jetstream {
        return Some(subject::NO_JETSTREAM.to_owned());
    }
    None
}

/// Sends JetStream a request each second, and reconnects after three without an answer.
pub(super) async fn watchdog(client: Client, link: watch::Sender<Link>) {
    let mut silent = 0;
    loop {
        pause(PROBE_INTERVAL).await;
        let asked = client.request("$JS.API.INFO", "".into());
        match tokio::time::timeout(PROBE_INTERVAL, asked).await {
            Ok(Ok(_)) => silent = 0,
            _ => silent += 1,
        }
        if silent >= MAX_SILENT_PROBES {
            silent = 0;
            down(&link, "nats-server has fallen silent".to_owned());
            if let Err(error) = client.force_reconnect().await {
                tracing::warn!(%error, "can't reconnect to the bus");
            }
        }
    }
}
