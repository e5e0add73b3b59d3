//! `netmaster run`: its tasks, and how they end.
//!
//! ```text
//! watchdog ── the connection        feed::log ──▶ Registry ──▶ Shared(View) ◀── feed::{endpoints, statuses}
//! react ── Shared ▶ process::due ▶ Registry        gateway ── requests ▶ Registry, Shared
//! ```
//!
//! All of them run on one thread. SIGTERM and SIGINT stop the gateway, let requests in work end, and end
//! the process with 0; a failure after which a task can't go on ends it with an error.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors::journal::{JetStream, Journal};
use actors::shell::{External, Registry, Settings};
use anyhow::Context;
use async_nats::connection::State;
use bus_schema::command::Request;
use bus_schema::node::STATUS_EVERY_MS;
use bus_schema::{Command, CommandId, Reply};
use runtime::{now, pause};
use sd_notify::NotifyState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bus;
use crate::feed::{self, Shared};
use crate::gateway::{self, Desk};
use crate::soundness::Soundness;
use crate::view::View;
use crate::{metrics, process};

/// How long a reaction may take before it is due anew.
const REACTION_TIMEOUT: Duration = Duration::from_secs(5);
/// A live node is heard within this time.
const HEARD_WITHIN_MS: u64 = STATUS_EVERY_MS + 200;
/// How often reactions are due besides at every change.
const REACTION_INTERVAL: Duration = Duration::from_secs(1);
/// Changes of the view within this time are handled together.
const DEBOUNCE_TIME: Duration = Duration::from_millis(20);
/// Reactions in flight.
const MAX_REACTIONS: usize = 64;
/// How long the last answers may take to be sent when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The process can't go on with this log.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct GaveUp(String);

#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) nats: String,
    /// The name of this netmaster, which writes the events.
    pub(crate) name: String,
    /// Absent: no metrics.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) pause_after_append: Option<Duration>,
}

pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let stopped = runtime::shutdown().context("listening to signals")?;
    tokio::pin!(stopped);
    if let Some(at) = config.metrics {
        runtime::metrics::serve(at, metrics::describe, Some(metrics::GAUGE_IDLE_TIMEOUT));
    }
    let title = format!("netmaster {}", config.name);
    let client = tokio::select! {
        client = bus::connect(&config.nats, &title) => client?,
        () = &mut stopped => return Ok(()),
    };
    let since = now();
    let (give_up, mut gave_up) = mpsc::channel::<String>(1);
    let shared = Shared::new();
    let registry = registry(&client, &config, &shared, give_up);
    let mut tasks = tasks(&client, &config, &shared);
    let (ready, is_ready) = watch::channel(false);
    let ready = move || {
        ready.send_if_modified(|ready| !std::mem::replace(ready, true));
    };
    let log = feed::log(client.clone(), Rc::clone(&registry), shared.clone(), ready);
    tokio::pin!(log);
    let mut soundness = Soundness::new(client.clone(), Rc::clone(&registry), shared.clone());
    tokio::select! {
        e = &mut log => return Err(GaveUp(e.to_string()).into()),
        () = catch_up(&shared, &mut soundness, is_ready, since) => {}
        () = &mut stopped => return Ok(()),
    }
    tasks.spawn_local(soundness.watch());
    tasks.spawn_local(react(Rc::clone(&registry), shared.clone(), client.clone()));
    let desk = Rc::new(Desk::new(client.clone(), registry, shared.clone(), since));
    tasks.spawn_local(gateway::resume(Rc::clone(&desk)));
    let gateway = gateway::serve(desk, config.name.clone())
        .await
        .map_err(|e| anyhow::anyhow!("serving on the bus: {e}"))?;
    let revision = shared.read(|view| view.applied);
    tracing::info!(name = config.name, %revision, "serving");
    // Only systemd's Type=notify reads it.
    let _ = sd_notify::notify(&[NotifyState::Ready]);

    let result = tokio::select! {
        () = &mut stopped => Ok(()),
        e = &mut log => Err(GaveUp(e.to_string()).into()),
        Some(why) = gave_up.recv() => Err(GaveUp(why).into()),
    };
    gateway.drain().await;
    tasks.shutdown().await;
    // The last answers are sent; if the bus is away, nobody waits for them.
    let _ = timeout(FLUSH_TIMEOUT, client.flush()).await;
    result
}

/// The tasks that run from the start.
fn tasks(client: &async_nats::Client, config: &Config, shared: &Shared) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn_local(bus::watchdog(client.clone()));
    tasks.spawn_local(feed::endpoints(client.clone(), shared.clone()));
    tasks.spawn_local(feed::statuses(client.clone(), shared.clone()));
    if config.metrics.is_some() {
        tasks.spawn_local(metrics::watch(shared.clone()));
    }
    tasks
}

/// Ends when the log is read to its end and checked against what nodes have applied.
async fn catch_up(
    shared: &Shared,
    soundness: &mut Soundness,
    mut is_ready: watch::Receiver<bool>,
    since: u64,
) {
    // Its sender lives as long as the feed.
    let _ = is_ready.wait_for(|ready| *ready).await;
    hear_nodes(shared, since).await;
    // The second check proves the suspicion of the first one.
    soundness.check().await;
    soundness.check().await;
}

/// Ends when every member was heard once, or was silent for longer than a live one is: the revisions that
/// nodes have applied tell whether this is the log that they follow.
async fn hear_nodes(shared: &Shared, since: u64) {
    let mut changes = shared.changes();
    let left = Duration::from_millis((since + HEARD_WITHIN_MS).saturating_sub(now()));
    let heard = async {
        while !shared.read(View::has_heard_all) {
            // Its sender lives as long as `shared`.
            let _ = changes.changed().await;
        }
    };
    // Silent nodes are not waited for.
    let _ = timeout(left, heard).await;
}

fn registry(
    client: &async_nats::Client,
    config: &Config,
    shared: &Shared,
    give_up: mpsc::Sender<String>,
) -> Rc<Registry> {
    let log: Arc<dyn Journal> = Arc::new(JetStream::new(client.clone()));
    let shared = shared.clone();
    let settings = Settings {
        actor: config.name.clone(),
        give_up: Arc::new(move |why| {
            tracing::error!("{why}");
            // Full: the reason is in it already.
            let _ = give_up.try_send(why);
        }),
        fed: Rc::new(move |record| shared.apply(record)),
        pause_after_append: config.pause_after_append,
    };
    Registry::new(log, settings)
}

/// Gives the commands that are due, each once at a time, at every change and every second.
async fn react(registry: Rc<Registry>, shared: Shared, client: async_nats::Client) {
    let in_flight: Rc<RefCell<BTreeSet<CommandId>>> = Rc::default();
    let mut changes = shared.changes();
    let mut tick = interval(REACTION_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = changes.changed() => pause(DEBOUNCE_TIME).await,
        }
        changes.mark_unchanged();
        if client.connection_state() != State::Connected {
            continue;
        }
        for (id, command) in shared.read(process::due) {
            let room = in_flight.borrow().len() < MAX_REACTIONS;
            if room && in_flight.borrow_mut().insert(id) {
                let (registry, in_flight) = (Rc::clone(&registry), Rc::clone(&in_flight));
                actix::spawn(async move {
                    carry_out(&registry, id, command).await;
                    in_flight.borrow_mut().remove(&id);
                });
            }
        }
    }
}

async fn carry_out(registry: &Rc<Registry>, id: CommandId, command: Command) {
    let (noun, verb) = command.verb();
    let request = Request::new(id, command, REACTION_TIMEOUT, now());
    match registry.react(request, External::default()).await {
        Reply::Accepted { revision, .. } => {
            tracing::debug!("reaction {noun} {verb} is in the log at {revision}");
        }
        Reply::Rejected { rejection, .. } => {
            tracing::debug!("reaction {noun} {verb}: {rejection}");
        }
        Reply::Unknown { reason, .. } => tracing::warn!("reaction {noun} {verb}: {reason}"),
    }
}
