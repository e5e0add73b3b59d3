//! A session on the bus: recognise the log, join, follow.
//!
//! Any error ends a session, and the next one begins by recognising the log. Meanwhile the other parts
//! of the node follow [`LogState`].

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, context::GetStreamErrorKind};
use bus_schema::command::{NodeJoin, NodeLeave};
use bus_schema::node::LogState;
use bus_schema::{ClusterId, Command, CommandId, Revision, subject};
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::connection::refusal;
use super::error::SessionError;
use super::leave::{Leave, LeaveError};
use super::publish::Publisher;
use super::serve::{AcceptLog, AcceptLogError};
use super::{Facts, endpoints_stream, feed, requester};
use crate::endpoint::{EndpointsHandle, Published};
use crate::healing::Healings;
use crate::identity::Identity;
use crate::requests::BusError;
use node_core::projection::{EndpointsView, Projection};
use node_core::recognise::{Verdict, recognise};
use runtime::pause;

/// The pause before the log is recognised again, while an operator has to act.
const RECOGNISE_PAUSE: Duration = Duration::from_secs(2);
/// The pause before endpoints are read and published again after an error.
const PUBLISH_RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a request of JetStream's API waits.
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(3);
const LEFT_BEFORE_IT_JOINED: &str = "this node was asked to leave before it joined the cluster: restart its netplugin, and it joins";

#[derive(Debug)]
pub(super) struct Session {
    pub me: Identity,
    pub facts: Facts,
    pub view: watch::Sender<EndpointsView>,
    pub log: watch::Sender<LogState>,
    pub endpoints: EndpointsHandle,
    pub leave: Leave,
    pub healings: Healings,
    pub accepts: mpsc::Receiver<AcceptLog>,
    pub published: watch::Sender<Published>,
    /// This node was a member since the process began: netmaster accepted its join, or the log, read to
    /// its end, had it as a member. It doesn't join again: a node that is removed, or leaves, stays out
    /// until netplugin is restarted.
    pub joined: AtomicBool,
}

impl Session {
    /// Returns the error that ended the session.
    pub(super) async fn run(&mut self, client: &Client) -> SessionError {
        match Box::pin(self.follow(client)).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn follow(&mut self, client: &Client) -> Result<Infallible, SessionError> {
        if let Some(reason) = refusal(client) {
            return self.wait(LogState::Disconnected { reason }).await;
        }
        let mut context = jetstream::new(client.clone());
        context.set_timeout(JETSTREAM_TIMEOUT);
        let mut stream = match context.get_stream(subject::LOG).await {
            Ok(stream) => Some(stream),
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(SessionError::read(error)),
        };
        let known = self.facts.snapshot();
        let log = match &mut stream {
            Some(stream) => Some(feed::log_facts(stream, &known).await?),
            None => None,
        };
        match (recognise(log.as_ref(), &known), stream, log) {
            (Verdict::Ours, Some(stream), Some(log)) => {
                // The log can be read whatever netmaster replies, and may hold what isn't known yet.
                self.set_log_state(LogState::CatchingUp);
                let mut end = log.end;
                if !self.has_joined()
                    && !self.leave.is_requested()
                    && let Some(joined) = self.join(client, &known).await?
                {
                    self.joined.store(true, Ordering::Relaxed);
                    // From this revision on this node is a member.
                    end = end.max(joined);
                }
                // Drop requests from the time when the log was foreign.
                while self.accepts.try_recv().is_ok() {}
                self.follow_log(client, &context, &stream, end).await
            }
            (Verdict::Foreign(reason), _, log) => {
                let cluster = log.and_then(|log| log.cluster);
                self.wait_for_accept(cluster, reason).await
            }
            _ => {
                let reason =
                    "the bus holds no cluster yet (stream LOG): run `netmaster init`".to_owned();
                self.wait(LogState::Disconnected { reason }).await
            }
        }
    }

    /// Joins the cluster and returns the revision at which this node is a member. A member follows the
    /// log also if netmaster doesn't reply, unless it had left: it takes endpoints again when netmaster
    /// has accepted the join.
    async fn join(
        &self,
        client: &Client,
        known: &Projection,
    ) -> Result<Option<Revision>, SessionError> {
        let is_member = needs_no_join(known, &self.me);
        let command = Command::NodeJoin(NodeJoin {
            node: self.me.node.clone(),
            machine: self.me.machine.clone(),
            vtep: self.me.vtep,
        });
        let id = CommandId(Uuid::new_v4());
        match requester::request_command(client, id, command, known.applied).await {
            Ok(revision) => Ok(Some(revision)),
            Err(BusError::Unreachable(reason)) if is_member => {
                tracing::warn!(
                    reason,
                    "netmaster doesn't answer; following the log as a member"
                );
                Ok(None)
            }
            Err(BusError::Unreachable(reason)) => {
                let reason = format!("can't join the cluster: {reason}");
                self.wait(LogState::Disconnected { reason })
                    .await
                    .map(|it| match it {})
            }
            Err(BusError::Rejected { rejection, .. }) => {
                let reason = rejection.to_string();
                self.wait(LogState::Refused { reason })
                    .await
                    .map(|it| match it {})
            }
        }
    }

    async fn follow_log(
        &self,
        client: &Client,
        context: &jetstream::Context,
        stream: &jetstream::stream::Stream,
        end: Revision,
    ) -> Result<Infallible, SessionError> {
        let has_read = watch::Sender::new(false);
        let caught_up = || {
            let facts = self.facts.snapshot();
            if needs_no_join(&facts, &self.me) {
                self.joined.store(true, Ordering::Relaxed);
            }
            if is_member(&facts, &self.me) {
                self.set_log_state(LogState::InSync);
            }
            has_read.send_replace(true);
        };
        let error = tokio::select! {
            error = feed::run(stream, &self.facts, end, caught_up) => error,
            never = self.keep_exchanging(context, &has_read) => match never {},
            error = self.wait_until_removed(has_read.subscribe()) => error,
            never = self.send_leave(client) => match never {},
        };
        Err(error)
    }

    fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Relaxed)
    }

    /// Has netmaster append this node's leave when the operator requests it.
    async fn send_leave(&self, client: &Client) -> Infallible {
        self.leave.requested().wait_for(|it| *it).await.ok();
        let command = Command::NodeLeave(NodeLeave {
            node: self.me.node.clone(),
            machine: self.me.machine.clone(),
        });
        let id = CommandId(Uuid::new_v4());
        while !self.leave.is_logged() {
            let applied = self.facts.snapshot().applied;
            match requester::request_command(client, id, command.clone(), applied).await {
                Ok(_) => self.leave.set_decision(Ok(())),
                Err(BusError::Rejected { rejection, .. }) => {
                    let refused = LeaveError::Refused(rejection.to_string());
                    self.leave.set_decision(Err(refused));
                    break;
                }
                Err(BusError::Unreachable(reason)) => {
                    tracing::warn!(reason, "netmaster hasn't accepted this node's leave yet");
                    pause(PUBLISH_RETRY_PAUSE).await;
                }
            }
        }
        std::future::pending().await
    }

    /// Reads and publishes endpoints. An error of theirs doesn't stop this node from following the log.
    async fn keep_exchanging(
        &self,
        context: &jetstream::Context,
        has_read: &watch::Sender<bool>,
    ) -> Infallible {
        self.published.send_replace(Published::unknown(None));
        loop {
            let error = self
                .exchange(context, has_read.subscribe())
                .await
                .to_string();
            tracing::warn!("{error}; trying again");
            self.published.send_replace(Published::unknown(Some(error)));
            pause(PUBLISH_RETRY_PAUSE).await;
        }
    }

    /// Reads endpoints until an error, and publishes this node's when it has read the log: before, it may
    /// have been removed, and its name be another machine's.
    async fn exchange(
        &self,
        context: &jetstream::Context,
        mut has_read: watch::Receiver<bool>,
    ) -> SessionError {
        let (own, stored) = oneshot::channel();
        let reader = endpoints_stream::read(context, &self.me.node, &self.view, own);
        let writer = async {
            if has_read.wait_for(|read| *read).await.is_err() || self.is_anothers_name() {
                return std::future::pending().await;
            }
            let Ok(stored) = stored.await else {
                return SessionError::endpoints("it ended");
            };
            let own = stored.values().flatten().cloned().collect();
            self.endpoints.set_published(own);
            let publisher = Publisher {
                context,
                me: &self.me,
                endpoints: &self.endpoints,
                facts: self.facts.subscribe(),
                leave: &self.leave,
                log: self.log.subscribe(),
                healings: &self.healings,
                published: &self.published,
            };
            publisher.run(stored).await
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

    /// Waits until the log, read to its end, doesn't have this node as a member; then the node stays out.
    /// If the node hasn't joined yet, this ends the session, and the next one joins.
    async fn wait_until_removed(&self, mut has_read: watch::Receiver<bool>) -> SessionError {
        if has_read.wait_for(|read| *read).await.is_err() {
            return SessionError::read("the feed ended");
        }
        if !self.has_joined() && !self.leave.is_requested() {
            return SessionError::read(format!(
                "node {} isn't a member of the cluster yet; it joins",
                self.me.node
            ));
        }
        let mut facts = self.facts.subscribe();
        let gone = facts.wait_for(|facts| !is_member(facts, &self.me));
        gone.await.ok();
        self.set_log_state(match self.has_joined() {
            true => LogState::Removed,
            false => LogState::Refused {
                reason: LEFT_BEFORE_IT_JOINED.to_owned(),
            },
        });
        std::future::pending().await
    }

    /// Changes nothing until an operator accepts the log, or until it is time to recognise it again.
    async fn wait_for_accept(
        &mut self,
        cluster: Option<ClusterId>,
        reason: String,
    ) -> Result<Infallible, SessionError> {
        self.set_log_state(LogState::Foreign { reason });
        let accept = tokio::select! {
            () = pause(RECOGNISE_PAUSE) => return Err(SessionError::Waiting),
            accept = self.accepts.recv() => accept,
        };
        let Some(AcceptLog {
            cluster: accepted,
            answer,
        }) = accept
        else {
            return Err(SessionError::Waiting);
        };
        let outcome = match cluster {
            Some(cluster) if cluster == accepted => {
                let forgotten = self.facts.reset().await;
                if forgotten.is_ok() {
                    self.joined.store(false, Ordering::Relaxed);
                    tracing::warn!(%cluster, "accepted the log; starting from its first event");
                }
                forgotten.map_err(AcceptLogError::Disk)
            }
            Some(cluster) => Err(AcceptLogError::OtherCluster(cluster)),
            None => Err(AcceptLogError::NoCluster),
        };
        // The requester may have stopped waiting.
        answer.send(outcome).ok();
        Err(SessionError::Waiting)
    }

    async fn wait(&self, state: LogState) -> Result<Infallible, SessionError> {
        self.set_log_state(state);
        pause(RECOGNISE_PAUSE).await;
        Err(SessionError::Waiting)
    }

    fn set_log_state(&self, state: LogState) {
        set_log_state(&self.log, state);
    }
}

/// Whether a join would change nothing.
fn needs_no_join(facts: &Projection, me: &Identity) -> bool {
    let fact = facts.nodes.get(&me.node);
    fact.is_some_and(|it| it.machine == me.machine && it.vtep == me.vtep && !it.left)
}

fn is_member(facts: &Projection, me: &Identity) -> bool {
    let fact = facts.nodes.get(&me.node);
    fact.is_some_and(|fact| fact.machine == me.machine)
}

/// Sets the state of the log and writes each new one to netplugin's log once. A node that was removed
/// stays so, also without the bus.
pub(super) fn set_log_state(log: &watch::Sender<LogState>, state: LogState) {
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
