//! The node's connection to the bus: it reads the log, sends requests, and publishes endpoints and
//! status.
//!
//! ```text
//! connection ─▶ session: recognise ▶ join ▶ feed ────▶ Facts (watch)
//!     ▲              └── publish ◀── journal's endpoints
//!  watchdog          endpoints_stream: all nodes' ▶ EndpointsView (watch)
//!                    serve: contiv.node.<me>.{status,drain,steps,…}
//!                    requester ◀── BusHandle         status ▶ contiv.status.<me>
//!                    silence: contiv.status.* ▶ EndpointsView: silent nodes
//! ```
//!
//! Nothing is published while disconnected. The daemon starts it; dropping the tasks ends it.

mod connection;
mod endpoints_stream;
mod error;
mod facts;
mod feed;
mod leave;
mod publish;
mod requester;
mod serve;
mod session;
mod silence;
mod status;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use leave::{Leave, LeaveError};

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_nats::Client;
use bus_schema::node::{LogState, NodeStatus};
use runtime::pause;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::endpoint::{EndpointsHandle, Published};
use crate::healing::Healings;
use crate::identity::Identity;
use crate::inquiry::Question;
use crate::requests::BusRequest;
use connection::Link;
use error::SessionError;
use node_core::projection::EndpointsView;
use serve::Service;
use session::{Session, set_log_state};

/// The number of queued requests to accept a log; one is enough.
const MAX_QUEUED_ACCEPTS: usize = 1;

/// The pause between an error and the next session.
const SESSION_PAUSE: Duration = Duration::from_millis(250);

/// The configuration and the channels of the bus.
#[derive(Debug)]
pub struct BusConfig {
    /// `nats://TOKEN@HOST:PORT`
    pub url: String,
    pub me: Identity,
    pub facts: Facts,
    pub view: watch::Sender<EndpointsView>,
    pub log: watch::Sender<LogState>,
    pub endpoints: EndpointsHandle,
    pub leave: Leave,
    pub healings: Healings,
    /// Requests about this node's rules, which `inquiry` answers.
    pub questions: mpsc::Sender<Question>,
    pub status: watch::Receiver<NodeStatus>,
    pub requests: mpsc::Receiver<BusRequest>,
    /// This node's endpoints as the bus has acknowledged them.
    pub published: watch::Sender<Published>,
}

/// Runs for ever; dropping it ends everything it started.
pub async fn run(config: BusConfig) {
    let mut tasks = JoinSet::new();
    let (link, mut linked) = watch::channel(Link {
        epoch: 0,
        trouble: Some("connecting to the bus".to_owned()),
    });
    let (connected, client) = watch::channel(None);
    tasks.spawn(requester::serve(
        config.requests,
        client,
        config.log.subscribe(),
        config.facts.subscribe(),
    ));
    let client = connect(&config.url, &config.me, &link, &config.log).await;
    connected.send_replace(Some(client.clone()));
    tasks.spawn(connection::watchdog(client.clone(), link.clone()));
    tasks.spawn(status::publish(
        client.clone(),
        config.status.clone(),
        linked.clone(),
    ));
    tasks.spawn(silence::run(
        client.clone(),
        config.me.node.clone(),
        config.facts.subscribe(),
        config.view.clone(),
    ));
    let (accept, accepts) = mpsc::channel(MAX_QUEUED_ACCEPTS);
    let service = Service {
        me: config.me.node.clone(),
        endpoints: config.endpoints.clone(),
        questions: config.questions,
        facts: config.facts.clone(),
        status: config.status,
        log: config.log.subscribe(),
        accept,
    };
    tasks.spawn(service.run(client.clone()));
    let mut session = Session {
        me: config.me,
        facts: config.facts,
        view: config.view,
        log: config.log,
        endpoints: config.endpoints,
        leave: config.leave,
        healings: config.healings,
        accepts,
        published: config.published,
        joined: AtomicBool::new(false),
    };
    loop {
        one_session(&mut session, &client, &mut linked).await;
    }
}

async fn connect(
    url: &str,
    me: &Identity,
    link: &watch::Sender<Link>,
    log: &watch::Sender<LogState>,
) -> Client {
    let mut linked = link.subscribe();
    let name = format!("netplugin {}", me.node);
    let connecting = connection::connect(url, &name, link);
    tokio::pin!(connecting);
    loop {
        tokio::select! {
            client = &mut connecting => return client,
            _ = linked.changed() => {
                if let Some(reason) = linked.borrow().trouble.clone() {
                    set_log_state(log, LogState::Disconnected { reason });
                }
            }
        }
    }
}

/// Runs a session while connected; else sets the log's state to disconnected.
async fn one_session(session: &mut Session, client: &Client, linked: &mut watch::Receiver<Link>) {
    let link = linked.borrow_and_update().clone();
    let log = session.log.clone();
    if let Some(reason) = link.trouble {
        set_log_state(&log, LogState::Disconnected { reason });
        linked.changed().await.ok();
        return;
    }
    tokio::select! {
        error = session.run(client) => {
            if !matches!(error, SessionError::Waiting) {
                set_log_state(&log, LogState::Disconnected { reason: error.to_string() });
                pause(SESSION_PAUSE).await;
            }
        }
        _ = linked.changed() => {}
    }
}
