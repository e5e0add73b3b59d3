//! Checks whether the log is whole. While it isn't, the registry decides nothing, and the gateway answers
//! only the queries that a repair needs.

use std::rc::Rc;
use std::time::{Duration, Instant};

use actors::shell::Registry;
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::{self, stream::Info};
use bus_schema::subject;
use runtime::now;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::feed::Shared;
use crate::view::log::{Applied, lacks};

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Soundness {
    client: Client,
    context: jetstream::Context,
    registry: Rc<Registry>,
    shared: Shared,
    /// The suspects of one interval ago: most often the feed is a moment behind a node's.
    suspects: Applied,
}

impl Soundness {
    pub(crate) fn new(client: Client, registry: Rc<Registry>, shared: Shared) -> Self {
        Self {
            context: jetstream::new(client.clone()),
            client,
            registry,
            shared,
            suspects: Applied::new(),
        }
    }

    /// Runs until the process ends.
    pub(crate) async fn watch(mut self) {
        let mut tick = interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.check().await;
        }
    }

    pub(crate) async fn check(&mut self) {
        if self.client.connection_state() != State::Connected {
            return;
        }
        self.check_copy().await;
        self.check_nodes().await;
        if self.registry.log().journal().unwritten().is_some() {
            // In a cluster where nobody changes anything, only an append shows that it is over.
            let _ = self.registry.prove(Instant::now(), ANSWER_TIMEOUT).await;
        }
        let damage = self.shared.read(|view| view.damage(now()));
        if damage != self.registry.refusal() {
            match &damage {
                Some(why) => tracing::error!("{why}"),
                None => tracing::info!("the log is whole: deciding again"),
            }
        }
        self.registry.refuse(damage);
    }

    /// Asks the log's leader whether its copy is whole. Without an answer the last one holds.
    async fn check_copy(&self) {
        let asked = self.context.get_stream(subject::LOG);
        let Ok(Ok(stream)) = timeout(ANSWER_TIMEOUT, asked).await else {
            return;
        };
        let Info { state, cluster, .. } = stream.cached_info();
        let leader = cluster.as_ref().and_then(|it| it.leader.clone());
        let server = leader.unwrap_or_else(|| self.client.server_info().server_name);
        let lacks = lacks(state.messages, state.first_sequence, state.last_sequence);
        self.shared.change(|view| {
            view.log.server = Some(server);
            view.log.lacks = lacks;
        });
    }

    async fn check_nodes(&mut self) {
        let mut suspects = self.shared.read(|view| view.suspects(now()));
        let before = std::mem::replace(&mut self.suspects, suspects.clone());
        suspects.retain(|node, applied| before.get(node) == Some(applied));
        if suspects.is_empty() {
            return;
        }
        if let Ok(proof) = self.registry.prove(Instant::now(), ANSWER_TIMEOUT).await {
            self.shared
                .change(|view| view.proved(suspects, proof.before()));
        }
    }
}
