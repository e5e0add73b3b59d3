//! The connection to NATS, and the watchdog that checks it.
//!
//! A client of an isolated server sees no disconnect for half a minute, so the watchdog sends the
//! server a message each second, and forces a new connection after three seconds without an answer.

use std::time::Duration;

use actors::journal::check_server;
use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use bus_schema::url::{self, Credentials};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often the server must answer.
const WATCHDOG_INTERVAL: Duration = Duration::from_secs(1);
/// Intervals without an answer after which the connection is given up.
const MAX_SILENT_TICKS: u32 = 3;
/// How long `init` waits for the bus.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(
        "`{url}` is no address of a NATS server: give nats://TOKEN@HOST:PORT with --nats or CONTIV_NATS_URL"
    )]
    Address { url: String },
    #[error(
        "no NATS server answers at {at}: {reason}. Is nats-server running, and is --nats (or CONTIV_NATS_URL) right?"
    )]
    Unreachable { at: String, reason: String },
    #[error(
        "the NATS server at {at} refuses this token: compare nats://TOKEN@… in --nats (or CONTIV_NATS_URL) with the server's configuration"
    )]
    Refused { at: String },
    #[error(transparent)]
    Server(#[from] actors::journal::ServerError),
}

fn options(name: &str, url: &str) -> ConnectOptions {
    let options = match url::credentials(url) {
        Some(Credentials::Token(token)) => ConnectOptions::with_token(token.to_owned()),
        Some(Credentials::Password { user, password }) => {
            ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
        }
        None => ConnectOptions::new(),
    };
    options
        .name(name)
        .connection_timeout(Duration::from_secs(2))
        .request_timeout(Some(Duration::from_secs(5)))
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| {
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            Duration::from_millis(50).saturating_mul(2_u32.saturating_pow(attempts.min(5)))
        })
        .max_reconnects(None)
}

/// The servers in a comma-separated list of addresses, without credentials.
fn servers(url: &str) -> Result<Vec<ServerAddr>, ConnectError> {
    let url = url::without_credentials(url);
    let invalid = || ConnectError::Address { url: url.clone() };
    url.split(',')
        .map(|one| one.parse().map_err(|_| invalid()))
        .collect()
}

/// Connects, and refuses a server that can't carry the log.
pub(crate) async fn connect_once(url: &str, name: &str) -> Result<Client, ConnectError> {
    let at = url::without_credentials(url);
    let addresses = servers(url)?;
    let connecting = options(name, url).connect(addresses);
    let client = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(client)) => client,
        Ok(Err(e)) if is_refusal(e.kind()) => return Err(ConnectError::Refused { at }),
        Ok(Err(e)) => {
            let reason = e.to_string();
            return Err(ConnectError::Unreachable { at, reason });
        }
        Err(_) => {
            let reason = "no answer".to_owned();
            return Err(ConnectError::Unreachable { at, reason });
        }
    };
    check_server(&client.server_info())?;
    Ok(client)
}

fn is_refusal(kind: ConnectErrorKind) -> bool {
    matches!(
        kind,
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
    )
}

/// Connects, however long that takes; what waiting doesn't heal is an error at once.
pub(crate) async fn connect(url: &str, name: &str) -> Result<Client, ConnectError> {
    let mut tick = interval(WATCHDOG_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = false;
    loop {
        tick.tick().await;
        match connect_once(url, name).await {
            Err(e @ ConnectError::Unreachable { .. }) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("{e} Trying on.");
                }
            }
            connected_or_hopeless => return connected_or_hopeless,
        }
    }
}

/// Runs until the process ends. It also logs an error after a reconnect to a server that can't carry the
/// log (the checks of the log refuse to decide on it).
pub(crate) async fn watchdog(client: Client) {
    let mut tick = interval(WATCHDOG_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = 0;
    let mut connected = true;
    loop {
        tick.tick().await;
        let state = client.connection_state();
        if (state == State::Connected) != connected {
            connected = state == State::Connected;
            if connected {
                tracing::info!("connected to the bus again");
                if let Err(e) = check_server(&client.server_info()) {
                    tracing::error!("{e}");
                }
            } else {
                tracing::warn!("the bus is away: commands wait for it, trying on");
            }
        }
        if !connected {
            silent = 0;
            continue;
        }
        if timeout(WATCHDOG_INTERVAL, client.flush())
            .await
            .is_ok_and(|r| r.is_ok())
            && answers(&client).await
        {
            silent = 0;
            continue;
        }
        silent += 1;
        if silent >= MAX_SILENT_TICKS {
            tracing::warn!("the bus was silent for {silent} s: connecting anew");
            silent = 0;
            // It fails only when the client is being dropped.
            let _ = client.force_reconnect().await;
        }
    }
}

/// Whether the server delivers a message to an inbox of our own.
async fn answers(client: &Client) -> bool {
    use futures::StreamExt;
    let round_trip = async {
        let inbox = client.new_inbox();
        let mut echo = client.subscribe(inbox.clone()).await.ok()?;
        client.publish(inbox, bytes::Bytes::new()).await.ok()?;
        echo.next().await
    };
    timeout(WATCHDOG_INTERVAL, round_trip)
        .await
        .is_ok_and(|m| m.is_some())
}
