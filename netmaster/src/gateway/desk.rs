//! The state that all requests share.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::shell::{External, Proof, Registry};
use async_nats::Client;
use async_nats::client::RequestErrorKind;
use async_nats::connection::State;
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, NodeName, Reply, Revision, codec, subject};
use bytes::Bytes;
use runtime::{now, pause};
use tokio::time::timeout;

use super::arrival::{Arrivals, TICK_MS, bounded, since_boot};
use super::places::Places;
use super::removals::Removals;
use super::searches::Searches;
use crate::feed::Shared;

#[derive(Debug)]
pub(crate) struct Desk {
    pub(super) client: Client,
    pub(super) registry: Rc<Registry>,
    pub(super) shared: Shared,
    /// When this netmaster began to listen to nodes, in milliseconds since 1970.
    pub(super) since: u64,
    pub(super) places: Places,
    arrivals: Cell<Arrivals>,
    pub(super) searches: Searches,
    pub(super) removals: Removals,
}

impl Desk {
    pub(crate) fn new(client: Client, registry: Rc<Registry>, shared: Shared, since: u64) -> Self {
        Self {
            client,
            registry,
            shared,
            since,
            places: Places::default(),
            arrivals: Cell::new(Arrivals::new(since_boot())),
            searches: Searches::default(),
            removals: Removals::default(),
        }
    }

    /// Has the command decided and carried out.
    pub(super) async fn execute(&self, request: Request<Command>) -> Reply {
        self.registry.execute(request, External::default()).await
    }

    /// Brings the view to an end of the log that is proved for a request that arrived at `arrived`, at
    /// most until `deadline` in milliseconds since 1970. An error is the reason of a failure.
    pub(super) async fn prove(&self, arrived: Instant, deadline: u64) -> Result<Proof, String> {
        let left = Duration::from_millis(deadline.saturating_sub(now()));
        let proof = self.registry.prove(arrived, left).await;
        let proof = proof.map_err(|e| e.to_string())?;
        if self.shared.reach(proof.end, deadline).await {
            return Ok(proof);
        }
        let (read, end) = (self.revision(), proof.end);
        Err(format!(
            "this netmaster has read the log up to {read}, not yet {end}"
        ))
    }

    /// Asks a node, for at most `within`. An error is the reason why there is no answer.
    pub(super) async fn ask_node(
        &self,
        node: &NodeName,
        request: &NodeRequest,
        within: Duration,
    ) -> Result<NodeReply, String> {
        if self.client.connection_state() != State::Connected {
            return Err("the bus is away".to_owned());
        }
        let subject = subject::of_node(node, request.verb());
        let payload = Bytes::from(codec::to_bytes(request));
        match timeout(within, self.client.request(subject, payload)).await {
            Ok(Ok(message)) => {
                let reply = codec::from_bytes::<NodeReply>(&message.payload);
                let reply = reply.map_err(|e| e.to_string())?;
                Ok(reply.of_older_node("netmaster"))
            }
            Ok(Err(e)) if e.kind() == RequestErrorKind::NoResponders => {
                Err("its netplugin doesn't run, or lost the bus".to_owned())
            }
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.shared.read(|view| view.applied)
    }

    /// Sets the request's deadline by this machine's clock, at most a minute from now.
    pub(super) fn arrived<T>(&self, request: Request<T>) -> Request<T> {
        let waited = self.arrivals.get().waited(since_boot());
        let mut request = request.arrived(now().saturating_sub(waited));
        request.deadline = bounded(request.deadline, now());
        request
    }

    pub(super) async fn watch_for_standstills(self: Rc<Self>) {
        loop {
            pause(Duration::from_millis(TICK_MS)).await;
            let mut arrivals = self.arrivals.get();
            arrivals.tick(since_boot());
            self.arrivals.set(arrivals);
        }
    }
}
