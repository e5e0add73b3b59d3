//! Follows the engine: its networks are kept as the log has them, and containers' names are read
//! from it.
//!
//! ```text
//! run ─ session ┬ events of the engine ──▶ sync_networks, or describe one container (a task each)
//!               ├ projection, log state ─▶ sync_networks: plan, remove, create
//!               ├ every TICK_INTERVAL ───▶ ping, sync_networks
//!               └ every SWEEP_INTERVAL ──▶ describe_all: all containers, release leftovers
//! ```
//!
//! A session ends when the connection to the engine does; then the next one begins, for ever. No
//! driver call waits for a session.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use bus_schema::Revision;
use bus_schema::healing::Cleanup;
use bus_schema::node::{Alarm, EngineStatus, Grade, LogState};
use bus_schema::surroundings::EngineSubnet;
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::client::{Client, EngineError, EngineEvent, Member};
use super::details::{self, Details};
use super::driver::{Driver, endpoint_id};
use super::endpoints::Endpoints;
use super::plan::{DRIVER_NAME, EngineNetwork, WantedNetwork, is_contiv, plan};
use super::signals::Signals;
use super::{meaning, refused, resolver, swarm};
use crate::cleanup::CleanupReply;
use crate::endpoint::{Description, LocalEndpoint, Owner};
use crate::healing::Healings;
use crate::surroundings::ResolverFiles;
use node_core::projection::Projection;
use runtime::send_if_changed;

/// Pause between two attempts to connect. An engine takes about a second to start; an attempt costs
/// one `connect`.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);
const TICK_INTERVAL: Duration = Duration::from_secs(2);
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Limits concurrent inspections of containers; each may wait for a container's start.
const MAX_INSPECTIONS: usize = 8;

#[derive(Debug)]
pub(super) struct Engine<E> {
    pub socket: PathBuf,
    pub files: ResolverFiles,
    pub driver: Arc<Driver<E>>,
    pub projection: watch::Receiver<Projection>,
    pub log: watch::Receiver<LogState>,
    pub status: watch::Sender<Option<EngineStatus>>,
    pub alarms: watch::Sender<Vec<Alarm>>,
    pub subnets: watch::Sender<Vec<EngineSubnet>>,
    /// The node was in sync once in this process, so networks that the projection lacks are removed.
    pub in_sync: bool,
    /// Our networks that this engine had in this process: a missing one was removed by somebody else.
    pub seen_networks: BTreeSet<String>,
    pub healings: Healings,
    pub signals: Arc<Signals>,
    pub cleanups: mpsc::Receiver<CleanupReply>,
}

/// The state of one connection to the engine.
pub(super) struct EngineSession {
    pub(super) client: Client,
    pub(super) found: Vec<EngineNetwork>,
    /// They end with the session.
    tasks: JoinSet<()>,
    inspections: Arc<Semaphore>,
}

impl EngineSession {
    fn new(client: Client, found: Vec<EngineNetwork>) -> Self {
        Self {
            client,
            found,
            tasks: JoinSet::new(),
            inspections: Arc::new(Semaphore::new(MAX_INSPECTIONS)),
        }
    }
}

impl<E: Endpoints> Engine<E> {
    pub(super) async fn run(mut self) {
        let mut last_error = None;
        loop {
            let Err(error) = self.session(&mut last_error).await;
            let error = error.to_string();
            if last_error.as_ref() != Some(&error) {
                tracing::warn!(socket = %self.socket.display(), %error, "not connected to the engine");
                last_error = Some(error);
            }
            self.report(|status| status.answers = false);
            #[expect(clippy::disallowed_methods, reason = "the pause between two attempts")]
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    /// Serves one connection, until it fails.
    async fn session(
        &mut self,
        last_error: &mut Option<String>,
    ) -> Result<Infallible, EngineError> {
        let client = Client::connect(&self.socket).await?;
        let version = client.version().await?;
        tracing::info!(?version, "the engine answers");
        *last_error = None;
        // Subscribe before the first list, so that no change is missed between the two.
        let mut events = std::pin::pin!(client.events());
        let found = client.networks().await?;
        let mut session = EngineSession::new(client, found);
        self.learn_meanings(&session.found);
        self.signals.forget_unread();
        session.tasks.spawn(swarm::revive(session.client.clone()));
        self.describe_all(&mut session, true).await?;
        self.sync_networks(&mut session).await?;
        session
            .tasks
            .spawn(refused::start_refused(session.client.clone()));
        self.report(|status| {
            status.answers = true;
            status.version.clone_from(&version);
        });
        let mut tick = tokio::time::interval(TICK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                event = events.next() => {
                    let event = event.ok_or(EngineError::EventsEnded)??;
                    self.handle(&mut session, event).await?;
                }
                changed = self.projection.changed() => {
                    changed.map_err(|_| EngineError::EventsEnded)?;
                    self.sync_networks(&mut session).await?;
                }
                changed = self.log.changed() => {
                    changed.map_err(|_| EngineError::EventsEnded)?;
                    self.sync_networks(&mut session).await?;
                }
                Some(asked) = self.cleanups.recv() => {
                    session.found = session.client.networks().await?;
                    let done = self.describe_all(&mut session, false).await?;
                    self.sync_networks(&mut session).await?;
                    // The caller may be gone.
                    asked.send(Cleanup { done, failed: Vec::new() }).ok();
                }
                _ = tick.tick() => {
                    let sweeps = swept.elapsed() >= SWEEP_INTERVAL;
                    if sweeps {
                        swept = Instant::now();
                    }
                    self.tick(&mut session, sweeps).await?;
                }
            }
        }
    }

    /// Checks the connection and tries again what failed; `sweeps` includes all containers.
    async fn tick(&mut self, session: &mut EngineSession, sweeps: bool) -> Result<(), EngineError> {
        session.client.ping().await?;
        while session.tasks.try_join_next().is_some() {}
        if sweeps {
            session.found = session.client.networks().await?;
            self.describe_all(session, false).await?;
        }
        self.sync_networks(session).await
    }

    async fn handle(
        &mut self,
        session: &mut EngineSession,
        event: EngineEvent,
    ) -> Result<(), EngineError> {
        match event {
            EngineEvent::Connected { network, container } => {
                self.describe_container(session, network, container);
            }
            EngineEvent::Renamed { container } | EngineEvent::HealthChanged { container } => {
                self.describe_again(session, &container);
            }
            EngineEvent::Killed { container, signal } => {
                self.signals.note(&container, signal);
                self.describe_again(session, &container);
            }
            EngineEvent::Started { container } | EngineEvent::Ended { container } => {
                self.signals.forget(&container);
            }
            EngineEvent::NetworkChanged => {
                session.found = session.client.networks().await?;
                self.sync_networks(session).await?;
            }
            EngineEvent::Other => {}
        }
        Ok(())
    }

    /// Describes the container's endpoints.
    fn describe_again(&self, session: &mut EngineSession, container: &String) {
        for endpoint in self.driver.endpoints.list() {
            if let (true, Owner::Docker { network_id }) = (
                endpoint.container.as_ref() == Some(container),
                endpoint.owner,
            ) {
                self.describe_container(session, network_id, container.clone());
            }
        }
    }

    /// Adds networks to the map on disk that it lost, or that were created without netplugin.
    fn learn_meanings(&self, found: &[EngineNetwork]) {
        let projection = self.projection.borrow();
        for network in found.iter().filter(|it| is_contiv(&it.driver)) {
            let subnet = network
                .pools
                .first()
                .and_then(|(subnet, _)| subnet.parse().ok());
            match meaning::resolve(&projection, &network.options, subnet) {
                Ok(meaning) => {
                    if let Err(error) = self.driver.networks.insert(&network.id, meaning) {
                        tracing::warn!(%error, "can't save the map of Docker networks");
                    }
                }
                Err(error) => {
                    tracing::debug!(network = network.name, %error, "a Docker network belongs to no known network");
                }
            }
        }
    }

    /// Creates and removes networks so that they follow the log, and publishes alarms for failures.
    async fn sync_networks(&mut self, session: &mut EngineSession) -> Result<(), EngineError> {
        self.in_sync |= matches!(*self.log.borrow_and_update(), LogState::InSync);
        let (plan, applied) = {
            let projection = self.projection.borrow_and_update();
            let plan = plan(&projection, &session.found, self.in_sync);
            (plan, projection.applied)
        };
        let has_changes = !plan.remove.is_empty() || !plan.create.is_empty();
        let mut alarms = plan.alarms;
        let ours = session.found.iter().filter(|it| it.driver == DRIVER_NAME);
        self.seen_networks.extend(ours.map(|it| it.name.clone()));
        alarms.extend(self.remove_networks(&session.client, plan.remove).await?);
        let failures = self.create_networks(&session.client, plan.create).await?;
        let is_complete = failures.is_empty();
        alarms.extend(failures);
        if has_changes {
            session.found = session.client.networks().await?;
        }
        alarms.extend(resolver::alarm(&self.files.read()));
        let subnets = subnets_of_others(&session.found);
        send_if_changed(&self.subnets, subnets);
        send_if_changed(&self.alarms, alarms);
        if is_complete {
            self.report(|status| status.applied = applied);
        }
        Ok(())
    }

    /// Removes networks; returns an alarm for each that the engine keeps.
    async fn remove_networks(
        &mut self,
        client: &Client,
        networks: Vec<EngineNetwork>,
    ) -> Result<Vec<Alarm>, EngineError> {
        let mut alarms = Vec::new();
        for network in networks {
            self.seen_networks.remove(&network.name);
            match client.remove(&network.id).await {
                Ok(()) => tracing::info!(network = network.name, "removed the Docker network"),
                Err(error) if error.is_refusal() => alarms.push(network_in_use(&network, &error)),
                Err(error) => return Err(error),
            }
        }
        Ok(alarms)
    }

    /// Creates networks; returns an alarm for each that the engine refuses.
    async fn create_networks(
        &self,
        client: &Client,
        networks: Vec<WantedNetwork>,
    ) -> Result<Vec<Alarm>, EngineError> {
        let mut alarms = Vec::new();
        for wanted in networks {
            match client.create(&wanted).await {
                Ok(()) => {
                    tracing::info!(network = wanted.name, "created the Docker network");
                    if self.seen_networks.contains(&wanted.name) {
                        let what = format!("docker network {}", wanted.name);
                        self.healings.note(vec![("docker-network", what)]);
                    }
                }
                Err(error) if error.is_refusal() => alarms.push(not_created(&wanted, &error)),
                Err(error) => return Err(error),
            }
        }
        Ok(alarms)
    }

    fn describe_container(&self, session: &mut EngineSession, network: String, container: String) {
        let (client, describing) = (session.client.clone(), self.describing(session));
        session.tasks.spawn(async move {
            let member = match client.members(&network).await {
                Ok(members) => members
                    .into_iter()
                    .flatten()
                    .find(|member| member.container == container),
                Err(error) => {
                    tracing::warn!(network, container, %error, "can't read a container's name");
                    None
                }
            };
            if let Some(member) = member {
                describing.describe(member).await;
            }
        });
    }

    fn describing(&self, session: &EngineSession) -> Describing<E> {
        Describing {
            client: session.client.clone(),
            driver: Arc::clone(&self.driver),
            inspections: Arc::clone(&session.inspections),
            signals: Arc::clone(&self.signals),
        }
    }

    pub(super) fn describe(&self, session: &mut EngineSession, member: Member) {
        let describing = self.describing(session);
        session
            .tasks
            .spawn(async move { describing.describe(member).await });
    }

    fn report(&self, change: impl FnOnce(&mut EngineStatus)) {
        self.status.send_if_modified(|status| {
            let old = status.clone();
            change(status.get_or_insert(EngineStatus {
                answers: false,
                applied: Revision::default(),
                version: None,
            }));
            *status != old
        });
    }
}

pub(super) fn differs(endpoint: &LocalEndpoint, member: &Member) -> bool {
    endpoint.name.as_ref() != Some(&member.name)
        || endpoint.container.as_ref() != Some(&member.container)
}

/// Publishes the names of containers.
struct Describing<E> {
    client: Client,
    driver: Arc<Driver<E>>,
    inspections: Arc<Semaphore>,
    signals: Arc<Signals>,
}

impl<E: Endpoints> Describing<E> {
    /// The name at once, since peers wait for it; aliases when the container's start has finished.
    async fn describe(&self, member: Member) {
        let Ok(id) = endpoint_id(&member.endpoint) else {
            return;
        };
        let mut description = Description {
            name: member.name,
            aliases: None,
            container: member.container,
        };
        let publish = |description| self.driver.endpoints.describe(id.clone(), description);
        if let Err(error) = publish(description.clone()).await {
            tracing::debug!(%id, %error, "the endpoint is gone: its name is ignored");
            return;
        }
        match self.details(&description.container, &member.endpoint).await {
            Ok(Some(details)) => {
                description.aliases = Some(details.aliases);
                match publish(description).await {
                    // An endpoint that is gone leaves no sandbox behind.
                    Ok(()) => {
                        self.driver.sandboxes.note(&id, &details.sandbox);
                        self.driver
                            .ensure_fallback_route(&id, &details.sandbox)
                            .await;
                    }
                    Err(error) => {
                        tracing::debug!(%id, %error, "the endpoint is gone: its aliases are ignored");
                    }
                }
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%id, %error, "can't read a container's aliases"),
        }
    }

    async fn details(
        &self,
        container: &str,
        endpoint: &str,
    ) -> Result<Option<Details>, EngineError> {
        // A container that was sent a signal has started: its inspection waits for nothing.
        let waits = !self.signals.any(container);
        let _permit = match waits {
            true => self.inspections.acquire().await.ok(),
            false => None,
        };
        let Some(inspected) = self.client.inspect(container).await? else {
            return Ok(None);
        };
        let stored = stored(&inspected);
        let started_at = inspected
            .state
            .as_ref()
            .and_then(|it| it.started_at.as_deref());
        let signals = self
            .signals
            .since(container, started_at.unwrap_or_default());
        let details = details::details(&inspected, endpoint, stored.as_deref(), &signals);
        Ok(Some(details))
    }
}

/// The engine's own file about a container; `None` if it can't be read.
fn stored(inspected: &ContainerInspectResponse) -> Option<String> {
    let beside = Path::new(inspected.hosts_path.as_ref()?);
    std::fs::read_to_string(beside.with_file_name("config.v2.json")).ok()
}

/// The subnets of networks that aren't Contiv's.
fn subnets_of_others(found: &[EngineNetwork]) -> Vec<EngineSubnet> {
    let others = found.iter().filter(|it| !is_contiv(&it.driver));
    let subnets = others.flat_map(|it| it.pools.iter().map(|(subnet, _)| (&it.name, subnet)));
    let mut subnets: Vec<EngineSubnet> = subnets
        .filter_map(|(network, subnet)| {
            Some(EngineSubnet {
                network: network.clone(),
                subnet: subnet.parse().ok()?,
            })
        })
        .collect();
    subnets.sort();
    subnets
}

fn network_in_use(network: &EngineNetwork, error: &EngineError) -> Alarm {
    let id = network.short_id();
    Alarm::new(
        Grade::Warning,
        "docker-network-held",
        format!(
            "netplugin must remove its Docker network `{}` ({id}), but the engine keeps it: {error}; stop its containers (`docker ps --filter network={id}`)",
            network.name
        ),
    )
}

fn not_created(wanted: &WantedNetwork, error: &EngineError) -> Alarm {
    Alarm::new(
        Grade::Wrong,
        "docker-network-failed",
        format!(
            "can't create the Docker network `{}`, trying again every {} s: {error}",
            wanted.name,
            TICK_INTERVAL.as_secs()
        ),
    )
}
