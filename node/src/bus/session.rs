//! One life of the connection: know the log again, join, follow.
//!
//! Any trouble ends a session, and the next one starts by looking whether the log is still ours.
//! What the node does meanwhile follows from [`LogState`].

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, context::GetStreamErrorKind};
use bus_schema::command::{NodeJoin, NodeLeave};
use bus_schema::node::LogState;
use bus_schema::{ClusterId, Command, CommandId, MachineId, NodeName, Revision, subject};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::connection::refusal;
use super::farewell::Farewell;
use super::feed::{self, FeedError};
use super::own::Published;
use super::serve::Accept;
use super::{AskError, Facts, asks, publish};
use crate::endpoint::EndpointsHandle;
use crate::healing::Healings;
use node_core::projection::{EndpointsView, Projection};
use node_core::recognise::{Verdict, recognise};
use runtime::pause;

/// Between two looks at what an operator has to put right.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Between two attempts to publish.
const TELL_AGAIN: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(3);
const LEFT_BEFORE_IT_JOINED: &str = "this node was asked to leave before it joined the cluster: restart its netplugin, and it joins";

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Identity {
    pub node: NodeName,
    pub machine: MachineId,
    pub vtep: IpAddr,
}

#[derive(Debug)]
pub(super) struct Session {
    pub me: Identity,
    pub facts: Facts,
    pub view: watch::Sender<EndpointsView>,
    pub log: watch::Sender<LogState>,
    pub endpoints: EndpointsHandle,
    pub farewell: Farewell,
    pub healing: Healings,
    pub accept: mpsc::Receiver<Accept>,
    pub published: watch::Sender<Published>,
    /// This node was a member since the process began: netmaster let it in, or the log, read to its
    /// end, had it as a member. It doesn't ask to join again: a node that is removed, or leaves, stays
    /// out until netplugin is restarted.
    pub joined: AtomicBool,
}

impl Session {
    /// Ends with what went wrong.
    pub(super) async fn run(&mut self, client: &Client) -> FeedError {
        match Box::pin(self.follow(client)).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow(&mut self, client: &Client) -> Result<Infallible, FeedError> {
        if let Some(reason) = refusal(client) {
            return self.wait(LogState::Disconnected { reason }).await;
        }
        let mut context = jetstream::new(client.clone());
        context.set_timeout(TIMEOUT);
        let mut stream = match context.get_stream(subject::LOG).await {
            Ok(stream) => Some(stream),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(FeedError::read(error)),
        };
        let known = self.facts.snapshot();
        let log = match &mut stream {
            Some(stream) => Some(feed::log_facts(stream, &known).await?),
            None => None,
        };
        match (recognise(log.as_ref(), &known), stream, log) {
            (Verdict::Ours, Some(stream), Some(log)) => {
                // The log can be read, whatever netmaster says: what isn't known yet may be in it.
                self.say(LogState::CatchingUp);
                let mut end = log.end;
                if !self.has_joined()
                    && !self.farewell.is_asked()
                    && let Some(joined) = self.join(client, &known).await?
                {
                    self.joined.store(true, Ordering::Relaxed);
                    // Behind it this node is a member.
                    end = end.max(joined);
                }
                // Asked for while the log was foreign, which it isn't any more.
                while self.accept.try_recv().is_ok() {}
                self.work(client, &context, &stream, end).await
            }
            (Verdict::Foreign(reason), _, log) => {
                let cluster = log.and_then(|log| log.cluster);
                self.foreign(cluster, reason).await
            }
            _ => {
                let reason =
                    "the bus holds no cluster yet (stream LOG): run `netmaster init`".to_owned();
                self.wait(LogState::Disconnected { reason }).await
            }
        }
    }

    /// Becomes a member, or stays one: the revision at which it is. A member goes on without an
    /// answer, unless it had left: it takes endpoints again when netmaster has let it in.
    async fn join(
        &self,
        client: &Client,
        known: &Projection,
    ) -> Result<Option<Revision>, FeedError> {
        let is_member = needs_no_join(known, &self.me);
        let command = Command::NodeJoin(NodeJoin {
            node: self.me.node.clone(),
            machine: self.me.machine.clone(),
            vtep: self.me.vtep,
        });
        let id = CommandId(Uuid::new_v4());
        match asks::ask_command(client, id, command, known.applied).await {
            Ok(revision) => Ok(Some(revision)),
            Err(AskError::Unreachable(reason)) if is_member => {
                tracing::warn!(
                    reason,
                    "netmaster doesn't answer; following the log as a member"
                );
                Ok(None)
            }
            Err(AskError::Unreachable(reason)) => {
                let reason = format!("can't join the cluster: {reason}");
                self.wait(LogState::Disconnected { reason })
                    .await
                    .map(|it| match it {})
            }
            Err(AskError::Rejected { rejection, .. }) => {
                let reason = rejection.to_string();
                self.wait(LogState::Refused { reason })
                    .await
                    .map(|it| match it {})
            }
        }
    }

    async fn work(
        &self,
        client: &Client,
        context: &jetstream::Context,
        stream: &jetstream::stream::Stream,
        end: Revision,
    ) -> Result<Infallible, FeedError> {
        let has_read = watch::Sender::new(false);
        let caught_up = || {
            let facts = self.facts.snapshot();
            if needs_no_join(&facts, &self.me) {
                self.joined.store(true, Ordering::Relaxed);
            }
            if is_member(&facts, &self.me) {
                self.say(LogState::InSync);
            }
            has_read.send_replace(true);
        };
        let error = tokio::select! {
            error = feed::run(stream, &self.facts, end, caught_up) => error,
            never = self.keep_told(context, &has_read) => match never {},
            error = self.removed(has_read.subscribe()) => error,
            never = self.leave(client) => match never {},
        };
        Err(error)
    }

    fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// Says in the log that this node leaves, when its operator asks for it.
    async fn leave(&self, client: &Client) -> Infallible {
        self.farewell.asked().wait_for(|asked| *asked).await.ok();
        let command = Command::NodeLeave(NodeLeave {
            node: self.me.node.clone(),
            machine: self.me.machine.clone(),
        });
        let id = CommandId(Uuid::new_v4());
        while !self.farewell.is_logged() {
            let applied = self.facts.snapshot().applied;
            match asks::ask_command(client, id, command.clone(), applied).await {
                Ok(_) => self.farewell.decided(Ok(())),
                Err(AskError::Rejected { rejection, .. }) => {
                    self.farewell.decided(Err(rejection.to_string()));
                    break;
                }
                Err(AskError::Unreachable(reason)) => {
                    tracing::warn!(reason, "netmaster doesn't know yet that this node leaves");
                    pause(TELL_AGAIN).await;
                }
            }
        }
        std::future::pending().await
    }

    /// Reads and publishes endpoints; trouble with them doesn't stop this node from following the
    /// log.
    async fn keep_told(
        &self,
        context: &jetstream::Context,
        has_read: &watch::Sender<bool>,
    ) -> Infallible {
        self.published.send_replace(Published::unknown(None));
        loop {
            let error = self.told(context, has_read.subscribe()).await.to_string();
            tracing::warn!("{error}; trying again");
            self.published.send_replace(Published::unknown(Some(error)));
            pause(TELL_AGAIN).await;
        }
    }

    /// Publishes when the log is read: before, this node may have been removed, and its name be
    /// another machine's.
    async fn told(
        &self,
        context: &jetstream::Context,
        mut has_read: watch::Receiver<bool>,
    ) -> FeedError {
        let (mine, on_bus) = oneshot::channel();
        let reader = publish::read(context, &self.me.node, &self.view, mine);
        let writer = async {
            if has_read.wait_for(|read| *read).await.is_err() || self.is_anothers_name() {
                return std::future::pending().await;
            }
            let Ok(on_bus) = on_bus.await else {
                return FeedError::endpoints("it ended");
            };
            let mine = on_bus.values().flatten().cloned().collect();
            self.endpoints.tell_published(mine);
            let publisher = publish::Publisher {
                me: &self.me,
                endpoints: &self.endpoints,
                facts: self.facts.subscribe(),
                farewell: &self.farewell,
                log: self.log.subscribe(),
                healing: &self.healing,
                published: &self.published,
            };
            publish::publish(context, on_bus, publisher).await
        };
        tokio::select! {
            error = reader => error,
            error = writer => error,
        }
    }

    fn is_anothers_name(&self) -> bool {
        let facts = self.facts.snapshot();
        let named = facts.nodes.get(&self.me.node);
        named.is_some_and(|fact| fact.machine != self.me.machine)
    }

    /// Waits until the log, once read, doesn't have this node as a member, which then stays out. A
    /// node that has yet to join ends this session, and the next one joins.
    async fn removed(&self, mut has_read: watch::Receiver<bool>) -> FeedError {
        if has_read.wait_for(|read| *read).await.is_err() {
            return FeedError::read("the feed ended");
        }
        if !self.has_joined() && !self.farewell.is_asked() {
            return FeedError::read(format!(
                "node {} isn't a member of the cluster yet; it joins",
                self.me.node
            ));
        }
        let mut facts = self.facts.subscribe();
        let gone = facts.wait_for(|facts| !is_member(facts, &self.me));
        gone.await.ok();
        self.say(match self.has_joined() {
            true => LogState::Removed,
            false => LogState::Refused {
                reason: LEFT_BEFORE_IT_JOINED.to_owned(),
            },
        });
        std::future::pending().await
    }

    /// Changes nothing until an operator accepts the log, and looks again now and then.
    async fn foreign(
        &mut self,
        cluster: Option<ClusterId>,
        reason: String,
    ) -> Result<Infallible, FeedError> {
        self.say(LogState::Foreign { reason });
        let accept = tokio::select! {
            () = pause(LOOK_AGAIN) => return Err(FeedError::Waiting),
            accept = self.accept.recv() => accept,
        };
        let Some(Accept {
            cluster: accepted,
            answer,
        }) = accept
        else {
            return Err(FeedError::Waiting);
        };
        let outcome = match cluster {
            Some(cluster) if cluster == accepted => {
                let forgotten = self.facts.reset().await;
                if forgotten.is_ok() {
                    self.joined.store(false, Ordering::Relaxed);
                    tracing::warn!(%cluster, "accepted the log; starting from its first event");
                }
                forgotten.map_err(|error| {
                    format!("it can't remove what it knows of its own log from its disk: {error}")
                })
            }
            Some(cluster) => Err(format!("the log on the bus is of cluster {cluster}")),
            None => Err("the bus holds no cluster: run `netmaster init` first".to_owned()),
        };
        // Who asked may have stopped waiting.
        answer.send(outcome).ok();
        Err(FeedError::Waiting)
    }

    async fn wait(&self, state: LogState) -> Result<Infallible, FeedError> {
        self.say(state);
        pause(LOOK_AGAIN).await;
        Err(FeedError::Waiting)
    }

    fn say(&self, state: LogState) {
        say(&self.log, state);
    }
}

/// Whether netmaster would change nothing if this node joined.
fn needs_no_join(facts: &Projection, me: &Identity) -> bool {
    let fact = facts.nodes.get(&me.node);
    fact.is_some_and(|it| it.machine == me.machine && it.vtep == me.vtep && !it.left)
}

fn is_member(facts: &Projection, me: &Identity) -> bool {
    let fact = facts.nodes.get(&me.node);
    fact.is_some_and(|fact| fact.machine == me.machine)
}

/// Tells everybody, and the operator once. A node that was removed stays so, also without the bus.
pub(super) fn say(log: &watch::Sender<LogState>, state: LogState) {
    log.send_if_modified(|known| {
        if *known == state || *known == LogState::Removed {
            return false;
        }
        match &state {
            LogState::CatchingUp => tracing::info!("following the log"),
            LogState::InSync => tracing::info!("in sync with the log"),
            LogState::Disconnected { reason } => tracing::warn!("{reason}"),
            LogState::Foreign { reason } => tracing::error!("foreign log: {reason}"),
            LogState::Refused { reason } => tracing::error!("not a member: {reason}"),
            LogState::Removed => tracing::error!("{}", LogState::REMOVED),
        }
        *known = state;
        true
    });
}

pub(super) fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    match error.kind() {
        GetStreamErrorKind::JetStream(error) => {
            error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND
        }
        _ => false,
    }
}
