//! The engine's side of Docker: its networks follow the log, and it tells what containers are
//! called.
//!
//! ```text
//! run ─ session ┬ events of the engine ─▶ settle / learn one member (a task each)
//!               ├ projection, log state ─▶ settle: plan, remove, create
//!               └ every TICK ─▶ ping, settle what failed; every SWEEP ─▶ learn all, release leftovers
//! ```
//!
//! A session ends when the engine goes away, and the next begins when it is back, for ever. No
//! driver call waits for anything here.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus_schema::Revision;
use bus_schema::healing::Cleanup;
use bus_schema::node::{Alarm, EngineStatus, Grade, LogState};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::client::{Client, EngineError, EngineEvent, Member};
use super::driver::{Driver, endpoint_id};
use super::endpoints::Endpoints;
use super::plan::{DRIVER, Found, Plan, is_contiv, plan};
use super::{pool, resolver, swarm};
use crate::cleanup::Asked;
use crate::endpoint::{Description, LocalEndpoint, Owner};
use crate::healing::Healings;
use node_core::projection::Projection;

/// An engine takes about a second to start; looking costs one `connect`.
const RECONNECT: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(30);
/// Inspections of containers at once; each may wait for a container's start.
const INSPECTIONS: usize = 8;

/// Files that say whether the engine asks our DNS.
#[derive(Debug, Clone)]
pub struct ResolverFiles {
    pub resolv_conf: PathBuf,
    pub systemd_resolved: PathBuf,
    pub daemon_json: PathBuf,
}

#[derive(Debug)]
pub(super) struct Engine<E> {
    pub socket: PathBuf,
    pub files: ResolverFiles,
    pub driver: Arc<Driver<E>>,
    pub projection: watch::Receiver<Projection>,
    pub log: watch::Receiver<LogState>,
    pub status: watch::Sender<Option<EngineStatus>>,
    pub alarms: watch::Sender<Vec<Alarm>>,
    /// The log was in-sync once in this process: what the projection lacks is really gone.
    pub in_sync: bool,
    /// Networks of ours that this engine had: who misses one had it taken away.
    pub had: BTreeSet<String>,
    pub healings: Healings,
    pub cleanups: mpsc::Receiver<Asked>,
}

/// What one connection to the engine knows.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) found: Vec<Found>,
    /// Dropped with the session, which ends them.
    tasks: JoinSet<()>,
    inspections: Arc<Semaphore>,
}

impl<E: Endpoints> Engine<E> {
    pub(super) async fn run(mut self) {
        let mut said = None;
        loop {
            let Err(error) = self.session(&mut said).await;
            let error = error.to_string();
            if said.as_ref() != Some(&error) {
                tracing::warn!(socket = %self.socket.display(), %error, "the engine is away");
                said = Some(error);
            }
            self.report(|status| status.answers = false);
            #[expect(clippy::disallowed_methods, reason = "the pause between two attempts")]
            tokio::time::sleep(RECONNECT).await;
        }
    }

    /// Until the engine goes away.
    async fn session(&mut self, said: &mut Option<String>) -> Result<Infallible, EngineError> {
        let client = Client::connect(&self.socket).await?;
        let version = client.version().await?;
        tracing::info!(?version, "the engine answers");
        *said = None;
        // Before the first list, so that no change falls between the two.
        let mut events = std::pin::pin!(client.events());
        let mut session = Session {
            found: client.networks().await?,
            client,
            tasks: JoinSet::new(),
            inspections: Arc::new(Semaphore::new(INSPECTIONS)),
        };
        self.adopt(&session.found);
        session.tasks.spawn(swarm::revive(session.client.clone()));
        self.learn_all(&mut session, true).await?;
        self.settle(&mut session).await?;
        self.report(|status| {
            status.answers = true;
            status.version.clone_from(&version);
        });
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut swept = Instant::now();
        loop {
            tokio::select! {
                event = events.next() => {
                    let event = event.ok_or(EngineError::EventsEnded)??;
                    self.follow(&mut session, event).await?;
                }
                changed = self.projection.changed() => {
                    changed.map_err(|_| EngineError::EventsEnded)?;
                    self.settle(&mut session).await?;
                }
                changed = self.log.changed() => {
                    changed.map_err(|_| EngineError::EventsEnded)?;
                    self.settle(&mut session).await?;
                }
                Some(asked) = self.cleanups.recv() => {
                    session.found = session.client.networks().await?;
                    let done = self.learn_all(&mut session, false).await?;
                    self.settle(&mut session).await?;
                    // Who asked may have gone.
                    asked.send(Cleanup { done, failed: Vec::new() }).ok();
                }
                _ = tick.tick() => {
                    session.client.ping().await?;
                    while session.tasks.try_join_next().is_some() {}
                    if swept.elapsed() >= SWEEP {
                        swept = Instant::now();
                        session.found = session.client.networks().await?;
                        self.learn_all(&mut session, false).await?;
                    }
                    self.settle(&mut session).await?;
                }
            }
        }
    }

    async fn follow(
        &mut self,
        session: &mut Session,
        event: EngineEvent,
    ) -> Result<(), EngineError> {
        match event {
            EngineEvent::Connected { network, container } => {
                self.learn_one(session, network, container);
            }
            EngineEvent::Renamed { container } => {
                for endpoint in self.driver.endpoints.list() {
                    if let (true, Owner::Docker { network_id }) = (
                        endpoint.container.as_ref() == Some(&container),
                        endpoint.owner,
                    ) {
                        self.learn_one(session, network_id, container.clone());
                    }
                }
            }
            EngineEvent::NetworkChanged => {
                session.found = session.client.networks().await?;
                self.settle(session).await?;
            }
            EngineEvent::Other => {}
        }
        Ok(())
    }

    /// Networks that the map on disk lost, or that were made while netplugin was away.
    fn adopt(&self, found: &[Found]) {
        let projection = self.projection.borrow();
        for network in found.iter().filter(|it| is_contiv(&it.driver)) {
            let subnet = network
                .pools
                .first()
                .and_then(|(subnet, _)| subnet.parse().ok());
            match pool::resolve(&projection, &network.options, subnet) {
                Ok(meaning) => {
                    if let Err(error) = self.driver.networks.insert(&network.id, meaning) {
                        tracing::warn!(%error, "can't save the map of Docker networks");
                    }
                }
                Err(error) => {
                    tracing::debug!(network = network.name, %error, "a Docker network of nothing known");
                }
            }
        }
    }

    /// Makes the engine's networks those of the log, as far as it lets us, and says so.
    async fn settle(&mut self, session: &mut Session) -> Result<(), EngineError> {
        self.in_sync |= matches!(*self.log.borrow_and_update(), LogState::InSync);
        let (plan, applied) = {
            let projection = self.projection.borrow_and_update();
            let plan = plan(&projection, &session.found, self.in_sync);
            (plan, projection.applied)
        };
        let worked = !plan.remove.is_empty() || !plan.create.is_empty();
        let Plan {
            remove,
            create,
            mut alarms,
        } = plan;
        let ours = session.found.iter().filter(|it| it.driver == DRIVER);
        self.had.extend(ours.map(|it| it.name.clone()));
        for network in remove {
            self.had.remove(&network.name);
            match session.client.remove(&network.id).await {
                Ok(()) => tracing::info!(network = network.name, "removed the Docker network"),
                Err(error) if error.is_refusal() => alarms.push(held(&network, &error)),
                Err(error) => return Err(error),
            }
        }
        let mut done = true;
        for wanted in create {
            match session.client.create(&wanted).await {
                Ok(()) => {
                    tracing::info!(network = wanted.name, "created the Docker network");
                    if self.had.contains(&wanted.name) {
                        let what = format!("docker network {}", wanted.name);
                        self.healings.note(vec![("docker-network", what)]);
                    }
                }
                Err(error) if error.is_refusal() => {
                    done = false;
                    alarms.push(Alarm::new(
                        Grade::Wrong,
                        "docker-network-failed",
                        format!(
                            "can't create the Docker network `{}`, trying again every {} s: {error}",
                            wanted.name,
                            TICK.as_secs()
                        ),
                    ));
                }
                Err(error) => return Err(error),
            }
        }
        if worked {
            session.found = session.client.networks().await?;
        }
        alarms.extend(self.resolver_alarm());
        self.alarms.send_if_modified(|old| {
            let differs = *old != alarms;
            *old = alarms;
            differs
        });
        if done {
            self.report(|status| status.applied = applied);
        }
        Ok(())
    }

    fn resolver_alarm(&self) -> Option<Alarm> {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        resolver::alarm(
            &text(&self.files.resolv_conf),
            &text(&self.files.systemd_resolved),
            &text(&self.files.daemon_json),
        )
    }

    fn learn_one(&self, session: &mut Session, network: String, container: String) {
        let (client, driver) = (session.client.clone(), Arc::clone(&self.driver));
        let inspections = Arc::clone(&session.inspections);
        session.tasks.spawn(async move {
            let member = match client.members(&network).await {
                Ok(members) => members
                    .into_iter()
                    .flatten()
                    .find(|member| member.container == container),
                Err(error) => {
                    tracing::warn!(network, container, %error, "can't learn a container's name");
                    None
                }
            };
            if let Some(member) = member {
                describe(&client, &driver, &inspections, member).await;
            }
        });
    }

    pub(super) fn describe(&self, session: &mut Session, member: Member) {
        let (client, driver) = (session.client.clone(), Arc::clone(&self.driver));
        let inspections = Arc::clone(&session.inspections);
        session
            .tasks
            .spawn(async move { describe(&client, &driver, &inspections, member).await });
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

/// The name at once, since peers wait for it; aliases when the container's start has finished.
async fn describe<E: Endpoints>(
    client: &Client,
    driver: &Driver<E>,
    inspections: &Semaphore,
    member: Member,
) {
    let Ok(id) = endpoint_id(&member.endpoint) else {
        return;
    };
    let mut description = Description {
        name: member.name,
        aliases: None,
        container: member.container,
    };
    let tell = |description: Description| driver.endpoints.describe(id.clone(), description);
    if let Err(error) = tell(description.clone()).await {
        tracing::debug!(%id, %error, "a name came for an endpoint that is gone");
        return;
    }
    let Ok(_permit) = inspections.acquire().await else {
        return;
    };
    match client
        .aliases(&description.container, &member.endpoint)
        .await
    {
        Ok(aliases) => {
            description.aliases = Some(aliases);
            if let Err(error) = tell(description).await {
                tracing::debug!(%id, %error, "aliases came for an endpoint that is gone");
            }
        }
        Err(error) => tracing::debug!(%id, %error, "can't learn a container's aliases"),
    }
}

fn held(network: &Found, error: &EngineError) -> Alarm {
    let name = &network.name;
    Alarm::new(
        Grade::Warning,
        "docker-network-held",
        format!(
            "network {name} is removed, but the engine keeps its Docker network: {error}; stop its containers (`docker ps --filter network={name}`)"
        ),
    )
}
