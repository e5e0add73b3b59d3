//! Requests come in here: the NATS service `netmaster`, with one endpoint for each verb.
//!
//! A task answers each request, a bounded number of them at a time. Nothing is answered while
//! disconnected: the reply would wait in the client and arrive late.

mod arrival;
mod command;
mod desk;
mod lease;
mod node;
mod places;
mod query;
mod removal;
mod removals;
mod request;
mod searches;

pub(crate) use desk::Desk;
pub(crate) use removal::resume;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Error;
use async_nats::service::endpoint::Endpoint;
use async_nats::service::{Service, ServiceExt};
use bus_schema::{Command, Query, subject};
use futures::StreamExt;
use runtime::now;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::places::RequestKind;

/// How long requests in work may take when the process ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The service while it is served.
pub(crate) struct Gateway {
    service: Service,
    desk: Rc<Desk>,
    endpoints: JoinSet<()>,
}

/// Starts to serve, as `name`. Must run inside an actix `System`.
pub(crate) async fn serve(desk: Rc<Desk>, name: String) -> Result<Gateway, Error> {
    let (read, log) = (
        desk.shared.changes(),
        Arc::clone(desk.registry.log().journal()),
    );
    let refusals = desk.registry.refusals();
    let service = desk
        .client
        .service_builder()
        // The statistics of each endpoint name this netmaster, the revision that it has read, and the
        // reason why the log takes nothing or nothing is decided.
        .stats_handler(move |_, _| {
            let revision = *read.borrow();
            let unwritten = log.unwritten().filter(|(end, _)| *end >= revision);
            let unwritten = unwritten.map(|(_, reason)| reason);
            let refuses = refusals.borrow().as_ref().map(ToString::to_string);
            json!({
                "netmaster": name,
                "revision": revision,
                "at": now(),
                "unwritten": unwritten,
                "refuses": refuses,
            })
        })
        .description("Contiv: intent, addresses and nodes of a cluster")
        .queue_group(subject::SERVICE)
        .start(subject::SERVICE, env!("CARGO_PKG_VERSION"))
        .await?;
    let group = service.group(subject::API);
    let mut endpoints = JoinSet::new();
    endpoints.spawn_local(Rc::clone(&desk).watch_for_standstills());
    let commands = Command::VERBS.iter();
    let commands = commands.map(|it| (it, RequestKind::of_command(*it)));
    let queries = Query::VERBS.iter();
    let queries = queries.map(|it| (it, RequestKind::of_query(*it)));
    for ((noun, verb), kind) in commands.chain(queries) {
        let endpoint = group
            .endpoint_builder()
            .name(format!("{noun}-{verb}"))
            .add(format!("{noun}.{verb}"))
            .await?;
        endpoints.spawn_local(listen(Rc::clone(&desk), endpoint, kind));
    }
    Ok(Gateway {
        service,
        desk,
        endpoints,
    })
}

impl Gateway {
    /// Takes no more requests and answers those in work.
    pub(crate) async fn drain(mut self) {
        if let Err(e) = self.service.stop().await {
            tracing::warn!("leaving the service: {e}");
        }
        let finished = self.desk.places.all_free();
        if timeout(DRAIN_TIMEOUT, finished).await.is_err() {
            tracing::warn!("requests were still in work after {DRAIN_TIMEOUT:?}");
        }
        self.endpoints.abort_all();
    }
}

async fn listen(desk: Rc<Desk>, mut endpoint: Endpoint, kind: RequestKind) {
    while let Some(incoming) = endpoint.next().await {
        let desk = Rc::clone(&desk);
        actix::spawn(async move { request::answer(&desk, &incoming, kind).await });
    }
}
