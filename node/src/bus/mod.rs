//! The node's end of the bus: the log comes in, requests go out, endpoints and status are told.
//!
//! ```text
//! connection ─▶ session: recognise ▶ join ▶ feed ────▶ Facts (watch)
//!     ▲              └── publish ◀── journal's endpoints; everybody's ▶ EndpointsView (watch)
//!  watchdog          serve: contiv.node.<me>.{status,drain,steps,…}
//!                    asks ◀── BusHandle              status ▶ contiv.status.<me>
//!                    hearing: contiv.status.* ▶ EndpointsView: who is silent
//! ```
//!
//! Nothing is published while disconnected. The daemon starts it; dropping the tasks ends it.

mod asks;
mod connection;
mod facts;
mod farewell;
mod feed;
mod handle;
mod hearing;
mod own;
mod publish;
mod serve;
mod session;
mod status;

#[cfg(test)]
mod tests;

pub use facts::Facts;
pub use farewell::{Farewell, NotSaid};
pub use handle::{Ask, AskError, BusHandle};
pub use own::{Own, Published, public};
pub use session::Identity;

use std::sync::atomic::AtomicBool;

use async_nats::Client;
use bus_schema::node::{LogState, NodeStatus};
use runtime::pause;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::endpoint::EndpointsHandle;
use crate::healing::Healings;
use crate::inquiry::Question;
use connection::Link;
use node_core::projection::EndpointsView;
use serve::Service;
use session::{Session, say};

/// Requests to accept a log; one is enough.
const ACCEPTS: usize = 1;

/// What the bus works on.
#[derive(Debug)]
pub struct Parts {
    /// `nats://TOKEN@HOST:PORT`
    pub url: String,
    pub me: Identity,
    pub facts: Facts,
    pub view: watch::Sender<EndpointsView>,
    pub log: watch::Sender<LogState>,
    pub endpoints: EndpointsHandle,
    pub farewell: Farewell,
    pub healings: Healings,
    /// What is asked about this node's rules.
    pub questions: mpsc::Sender<Question>,
    pub status: watch::Receiver<NodeStatus>,
    pub asks: mpsc::Receiver<Ask>,
    /// What the bus has of this node's endpoints.
    pub published: watch::Sender<Published>,
}

/// Runs for ever; dropping it ends everything it started.
pub async fn run(parts: Parts) {
    let mut tasks = JoinSet::new();
    let (link, mut linked) = watch::channel(Link {
        epoch: 0,
        trouble: Some("connecting to the bus".to_owned()),
    });
    let (connected, client) = watch::channel(None);
    tasks.spawn(asks::serve(
        parts.asks,
        client,
        parts.log.subscribe(),
        parts.facts.subscribe(),
    ));
    let client = connect(&parts.url, &parts.me, &link, &parts.log).await;
    connected.send_replace(Some(client.clone()));
    tasks.spawn(connection::watchdog(client.clone(), link.clone()));
    tasks.spawn(status::publish(
        client.clone(),
        parts.status.clone(),
        linked.clone(),
    ));
    tasks.spawn(hearing::run(
        client.clone(),
        parts.me.node.clone(),
        parts.facts.subscribe(),
        parts.view.clone(),
    ));
    let (accept, accepted) = mpsc::channel(ACCEPTS);
    let service = Service {
        me: parts.me.node.clone(),
        endpoints: parts.endpoints.clone(),
        questions: parts.questions,
        facts: parts.facts.subscribe(),
        folded: parts.facts.clone(),
        status: parts.status,
        log: parts.log.subscribe(),
        accept,
    };
    tasks.spawn(service.run(client.clone()));
    let mut session = Session {
        me: parts.me,
        facts: parts.facts,
        view: parts.view,
        log: parts.log,
        endpoints: parts.endpoints,
        farewell: parts.farewell,
        healing: parts.healings,
        accept: accepted,
        published: parts.published,
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
                    say(log, LogState::Disconnected { reason });
                }
            }
        }
    }
}

/// Works while the connection stands, and says so when it doesn't.
async fn one_session(session: &mut Session, client: &Client, linked: &mut watch::Receiver<Link>) {
    let link = linked.borrow_and_update().clone();
    let log = session.log.clone();
    if let Some(reason) = link.trouble {
        say(&log, LogState::Disconnected { reason });
        linked.changed().await.ok();
        return;
    }
    tokio::select! {
        error = session.run(client) => {
            if !matches!(error, feed::FeedError::Waiting) {
                say(&log, LogState::Disconnected { reason: error.to_string() });
                pause(std::time::Duration::from_millis(250)).await;
            }
        }
        _ = linked.changed() => {}
    }
}
